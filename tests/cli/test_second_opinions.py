"""`icm-client runs score` and `runs vote` as a user meets them."""

from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest
from click.testing import CliRunner, Result
from rich.text import Text
from several_runs import ROWS, gold, mistaken, model, rows, run_of
from terminals import PROGRAM, in_terminal

import icm_client.runs.server
from icm_client.cli.main import cli
from icm_client.endpoints import ServerIdentity
from icm_client.errors import InputError
from icm_client.record.archive import Run, find_run


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    """Three runs in the folder that the commands look into; the last one's model deceives."""

    async def made() -> list[Run]:
        models = [mistaken(0.1, 1), mistaken(0.15, 2), mistaken(0.5, 3)]
        return [await run_of(tmp_path, model(one), name="runs", rows=rows()) for one in models]

    return anyio.run(made)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["runs", *arguments])


def test_both_are_listed_with_the_other_commands() -> None:
    shown = run("--help").output
    assert "score   Show how coherent a run's labels are for another model" in shown
    assert "vote    Let runs over the same rows vote" in shown


def test_a_vote_names_the_deceiver_and_shows_contested_rows_first(runs: list[Run]) -> None:
    names = [one.name for one in runs]
    done = run("vote", *names, "-o", "voted.jsonl")
    assert done.exit_code == 0, done.output
    assert f"Warning: the run {names[2]} contradicts the others" in done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "64 rows, by a weighted majority"
    assert lines[2].split()[:4] == ["run", "model", "verdict", "coherence"]
    last = next(line for line in lines if names[2] in line)
    assert last.split()[:5] == ["3", names[2], "planted-concept", "trust", last.split()[4]]
    assert last.split()[5] == "none"
    assert any(line.startswith("the vote, 3") for line in lines)
    assert "rows are contested by runs with a vote" in done.stdout
    assert lines[-1] == "labels in voted.jsonl"
    assert len(Path("voted.jsonl").read_bytes().splitlines()) == ROWS


def test_a_vote_as_json(runs: list[Run]) -> None:
    names = [one.name for one in runs]
    done = run("vote", *names, "--json")
    found: dict[str, Any] = orjson.loads(done.stdout)
    assert found["command"] == "runs vote"
    assert (found["rows"], found["method"]) == (ROWS, "weighted-majority")
    assert [one["run"] for one in found["runs"]] == names
    assert [one["counts"] for one in found["runs"]] == [True, True, False]
    assert found["runs"][2]["standing"]["contradicted"]
    assert found["judged_by"] == "gold"
    assert {"first", "second", "first_alone", "second_alone", "p"} == found["comparisons"][0].keys()
    sure = [row["confidence"] for row in found["contested"]]
    assert sure == sorted(sure)
    assert set(found["contested"][0]["votes"]) == set(names)
    assert any("contradicts the others" in one for one in found["warnings"])


def test_a_narrow_terminal_has_the_names_and_no_line_too_long(runs: list[Run]) -> None:
    shown = in_terminal([*PROGRAM, "runs", "vote", *(one.name for one in runs)], 60)
    lines = Text.from_ansi(shown.replace("\r", "")).plain.splitlines()
    table = lines[: next(n for n, line in enumerate(lines) if "contested" in line)]
    assert all(any(one.name in line for line in lines) for one in runs)
    assert max(len(line.rstrip()) for line in table) <= 60


def test_a_vote_of_one_is_refused(runs: list[Run]) -> None:
    refused = run("vote", runs[0].name)
    assert isinstance(refused.exception, InputError)
    assert "two runs or more" in str(refused.exception)
    refused = run("vote", runs[0].name, runs[1].name, "-o", "-")
    assert "name a file" in str(refused.exception)
    refused = run("vote", runs[0].name, runs[1].name, "-o", "nowhere/voted.csv")
    assert "there is no folder" in str(refused.exception)


def test_another_model_s_opinion(runs: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    other = model(gold())
    monkeypatch.setattr(icm_client.runs.server, "EmbeddedEndpoint", lambda: other)
    done = run("score", runs[0].name, "-o", "opinion.csv")
    assert done.exit_code == 0, done.output
    assert "planted-concept finds these labels coherent, and disputes 6 of 64 labels" in done.stdout
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["model", "U", "coherence"]
    assert lines[-1] == "all rows in opinion.csv"
    table = Path("opinion.csv").read_text("utf-8").splitlines()
    assert table[0] == "id,label,agrees,log_odds,probability,other,text"
    assert sum(",False," in line for line in table) == 6
    deceived = orjson.loads(run("score", runs[2].name, "--json").stdout)
    assert deceived["finds"] == "incoherent"
    assert deceived["disputed"] > ROWS / 4
    assert len(deceived["rows"]) == ROWS
    assert deceived["own"]["coherence"] > 0.9
    assert ServerIdentity(**deceived["server"]) == other.identity
    assert find_run(runs[2].name).result == runs[2].result  # it stays as it is


def test_a_run_whose_labels_are_gone_is_said_to_have_none(runs: list[Run]) -> None:
    (runs[0].path / "labels.jsonl").unlink()
    done = run("score", runs[0].name)
    assert isinstance(done.exception, InputError)
    assert "this run has no labels yet" in str(done.exception)
