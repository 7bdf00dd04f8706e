"""`icm-client report`, `figures` and `runs agree` as a user meets them."""

from functools import partial
from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest
from click.testing import CliRunner, Result

from icm_client import Task, label, rows_from
from icm_client.cli.main import cli
from icm_client.errors import InputError
from icm_client.testing import PlantedConcept

TASK = Task(template="Review: {text}\nSentiment:", labels=("positive", "negative"))


def rows(n: int = 32) -> list[dict[str, str]]:
    return [{"text": f"words of row {i}", "gold": TASK.labels[i * 7 % 5 % 2]} for i in range(n)]


def find(base: Path, seed: int, *, gold: bool = True, reversed_names: bool = False) -> str:
    """Label the rows for real, by a planted concept; return the run's name."""
    data = rows_from(rows(), gold="gold" if gold else None)
    classes = [TASK.labels.index(row["gold"]) for row in rows()]
    if reversed_names:
        classes = [1 - each for each in classes]
    concept = PlantedConcept(
        dict(zip(TASK.render_all(data), classes, strict=True)), TASK.label_texts, noise=0.1
    )
    found = anyio.run(
        partial(
            label, data, task=TASK, endpoint=concept, seed=seed, runs=base, store=base / "store"
        )
    )
    assert found.run is not None
    return found.run.name


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Path:
    (tmp_path / "runs").mkdir()
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments))


def as_json(*arguments: str) -> Any:
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return orjson.loads(done.stdout)


def test_a_report_goes_into_the_run_s_folder_or_where_it_is_told(folder: Path) -> None:
    name = find(folder / "runs", 0)
    done = run("report", name[:-4])
    assert done.output == f"Report in {Path('runs', name, 'report.html')}\n"
    page = Path("runs", name, "report.html").read_text()
    assert "Verdict" in page
    assert "words of row 31" in page
    assert run("report", f"runs/{name}", "-o", "x.html").exit_code == 0, "a folder is named too"
    assert Path("x.html").read_text() == page
    lost = run("report", name, "-o", "nowhere/x.html")
    assert isinstance(lost.exception, InputError)
    assert "no folder nowhere" in str(lost.exception)


def test_gold_can_be_named_afterwards(folder: Path) -> None:
    name = find(folder / "runs", 0, gold=False)
    assert run("report", name, "-o", "without.html").exit_code == 0
    assert run("report", name, "-o", "told.html", "--gold", "gold").exit_code == 0
    assert "Accuracy" not in Path("without.html").read_text()
    assert "Accuracy" in Path("told.html").read_text()
    wrong = run("report", name, "--gold", "golden")
    assert "Did you mean 'gold'?" in str(wrong.exception)


def test_a_browser_is_opened_where_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def remember(url: str) -> bool:
        opened.append(url)
        return True

    monkeypatch.setattr("webbrowser.open", remember)
    name = find(folder / "runs", 0)
    assert run("report", name, "--open").exit_code == 0
    assert opened == [(folder / "runs" / name / "report.html").as_uri()]


def test_figures_are_listed_as_they_are_written(folder: Path) -> None:
    done = run("figures", find(folder / "runs", 0), "--out", "figures")
    assert done.exit_code == 0, done.output
    written = [Path(line) for line in done.stdout.split()]
    assert {path.stem for path in written} >= {"utility", "balance", "log_odds", "reliability"}
    assert all(path.is_file() for path in written)


def test_runs_agree_over_seeds_and_over_names(folder: Path) -> None:
    base = folder / "runs"
    names = [find(base, 0), find(base, 1), find(base, 0, reversed_names=True)]
    found = as_json("runs", "agree", *names)
    assert [one["name"] for one in found["runs"]] == names
    by_pair = {(one["first"], one["second"]): one for one in found["pairs"]}
    assert len(by_pair) == 3
    seeds = by_pair[names[0], names[1]]
    assert seeds["rows"] == 32
    assert seeds["share"] == 1
    assert seeds["kappa"] == 1
    other = by_pair[names[0], names[2]]
    assert other["share"] == 0
    assert other["exchanged_share"] == 1
    assert other["names"] == {"negative": "positive", "positive": "negative"}
    shown = run("runs", "agree", *names).stdout
    assert "100.0%" in shown
    assert "negative as positive" in shown


def test_one_run_agrees_with_nothing(folder: Path) -> None:
    alone = run("runs", "agree", find(folder / "runs", 0))
    assert isinstance(alone.exception, InputError)
    assert "two runs" in str(alone.exception)
