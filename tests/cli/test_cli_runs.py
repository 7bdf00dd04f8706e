"""`icm-client runs` as a user meets it."""

import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import orjson
import pytest
from click.testing import CliRunner, Result
from rich.text import Text
from terminals import PROGRAM, in_terminal

import icm_client.runs.server
from icm_client import Task, rows_from
from icm_client.cli.main import cli
from icm_client.cli.runs import _age, runs_group
from icm_client.data.job import Job
from icm_client.endpoints import ServerIdentity
from icm_client.errors import InputError, RunError
from icm_client.record.archive import list_runs
from icm_client.record.description import RunDescription
from icm_client.record.folder import RunFolder
from icm_client.testing import PlantedConcept

TASK = Task(template="Review: {text}\nSentiment:", labels=("positive", "negative"))
SERVER = ServerIdentity("vllm", "base-model", 4096, "f" * 32)


def described(seed: int) -> RunDescription:
    job = Job.prepare(rows_from([f"row {n}" for n in range(4)]), TASK)
    return RunDescription.of(job, {"demos": 64}, seed, SERVER)


def write_run(seed: int, command: list[str] | None = None, *, done: bool = True) -> str:
    """A run in `runs`: seed 0 labels all rows positive, others the first one negative."""

    def write(path: Path) -> None:
        words = ["negative" if seed else "positive", *["positive"] * 3]
        lines = (
            orjson.dumps({"id": n + 1, "label": word, "text": f"row {n}"})
            for n, word in enumerate(words)
        )
        path.write_bytes(b"\n".join(lines) + b"\n")

    with RunFolder.open(described(seed), command=command) as folder:
        if done:
            counts = {"positive": 3 if seed else 4, "negative": 1 if seed else 0}
            found = {"verdict": "check", "coherence": 0.5, "accuracy": None, "counts": counts}
            folder.finish(found, write)
        else:
            folder.stop("20 requests were allowed")
    return folder.name


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Path:
    return tmp_path


@click.group()
def program() -> None:
    """The program, with a command that says how it was called."""


@program.command("label", context_settings={"ignore_unknown_options": True})
@click.argument("rest", nargs=-1, type=click.UNPROCESSED)
def _label(rest: tuple[str, ...]) -> None:
    click.echo(f"{Path.cwd()} {' '.join(rest)}")
    assert click.get_current_context().find_root().obj[0] == "label", "what is kept as command"
    if "--fail" in rest:
        raise InputError("as it was told to")
    if "--budget" in rest:
        click.get_current_context().exit(3)


program.add_command(runs_group)


def run(*arguments: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(program, ["runs", *arguments], input=answer)


def as_json(*arguments: str) -> Any:
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return orjson.loads(done.stdout)


def test_no_runs_is_no_error() -> None:
    assert run("list").stdout == "No runs in runs.\n"
    found = as_json("list")
    assert (found["runs"], found["notes"]) == ([], [])


def test_the_list_tells_names_and_states_and_warns_of_what_is_no_run(folder: Path) -> None:
    done, stopped = write_run(0), write_run(1, done=False)
    assert run("show", "latest").stdout.split()[:2] == ["run", stopped]
    (folder / "runs" / "mine").mkdir()
    shown = run("list")
    assert shown.exit_code == 0
    lines = {line.split()[0]: line for line in shown.stdout.splitlines()}
    assert "done" in lines[done]
    assert "50.0%" in lines[done]
    assert "check" in lines[done]
    assert "stopped" in lines[stopped]
    assert "mine" in shown.stderr
    found = as_json("list")
    assert {each["name"]: each["state"] for each in found["runs"]} == {
        done: "done",
        stopped: "stopped",
    }
    assert len(found["notes"]) == 1
    assert len(as_json("list", "--runs", str(folder / "runs"))["runs"]) == 2


@pytest.mark.parametrize(
    ("columns", "shown_there"),
    [
        (26, ["name", "state"]),
        (40, ["name", "state", "age", "verdict"]),
        (60, ["name", "state", "age", "verdict", "rows", "accuracy"]),
        (80, ["name", "state", "age", "verdict", "rows", "accuracy", "coherence", "seed"]),
        (
            200,
            ["name", "state", "age", "verdict", "rows", "accuracy", "coherence", "seed", "model"],
        ),
    ],
)
def test_the_list_has_the_columns_that_the_terminal_has_room_for(
    columns: int, shown_there: list[str]
) -> None:
    names = [write_run(0), write_run(1, done=False)]
    shown = in_terminal([*PROGRAM, "runs", "list"], columns)
    lines = [line.rstrip() for line in Text.from_ansi(shown.replace("\r", "")).plain.splitlines()]
    assert lines[0].split() == shown_there
    assert {line.split()[0] for line in lines[1:]} == set(names)
    assert max(map(len, lines)) <= columns


def test_runs_that_are_compared_fit_a_narrow_terminal_too() -> None:
    names = [write_run(0), write_run(1)]
    shown = in_terminal([*PROGRAM, "runs", "agree", *names], 60)
    lines = Text.from_ansi(shown.replace("\r", "")).plain.splitlines()
    assert lines[0].split() == ["run", "seed", "model", "coherence", "accuracy"]
    assert [line.split()[1] for line in lines[1:3]] == names
    assert max(len(line.rstrip()) for line in lines) <= 60


def test_ages_are_told_in_the_largest_unit_that_says_enough() -> None:
    now = datetime(2026, 5, 1, 12, tzinfo=UTC)
    passed = {-5: "0 s", 40: "40 s", 90: "1 min", 3 * 3600: "3 h", 3 * 86400: "3 d"}
    for seconds, words in passed.items():
        assert _age(now, now - timedelta(seconds=seconds)) == words
    assert _age(now, now - timedelta(days=90)) == "2026-01-31"


def test_show_tells_everything_about_one_run() -> None:
    name = write_run(1, ["label", "rows.jsonl"], done=False)
    shown = run("show", name).stdout
    for fact in ("20 requests were allowed", "icm-client label rows.jsonl", "base-model", "demos"):
        assert fact in shown
    found = as_json("show", name)
    assert found["run"]["settings"] == {"demos": 64}
    assert found["result"] is None
    assert found["reason"] == "20 requests were allowed"
    assert as_json("show", f"runs/{name}", "--runs", "elsewhere")["run"] == found["run"]
    missing = run("show", "row-1")
    assert isinstance(missing.exception, InputError)


def test_resume_runs_the_command_again_where_it_was_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = write_run(0, ["label", "rows.jsonl", "--api-key", "CANARY", "-o", "out"], done=False)
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    base = str(folder / "runs")
    done = run("resume", name, "--runs", base)
    assert done.exit_code == 0
    assert done.stdout == f"{folder} rows.jsonl -o out\n"
    assert "not given again: --api-key" in done.stderr
    assert Path.cwd() == elsewhere
    assert run("resume", name, "--runs", base, "--json").stdout.endswith("-o out --json\n")


def test_a_run_of_the_program_is_resumed_to_the_same_labels(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole program, over a concept that is planted instead of the embedded server."""
    dataset = rows_from([f"words of row {n}" for n in range(32)])
    (folder / "rows.jsonl").write_bytes(
        b"".join(orjson.dumps(dict(row.fields)) + b"\n" for row in dataset.rows)
    )
    planted = {prompt: n * 7 % 5 % 2 for n, prompt in enumerate(TASK.render_all(dataset))}
    endpoint = PlantedConcept(planted, TASK.label_texts, strength=3.0)
    monkeypatch.setattr(icm_client.runs.server, "EmbeddedEndpoint", lambda: endpoint)
    asked = ["--template", r"Review: {text}\nSentiment:", "--labels", "positive,negative"]
    command = ["label", "rows.jsonl", "-o", "labels.jsonl", *asked]
    first = CliRunner().invoke(cli, command, obj=tuple(command), catch_exceptions=False)
    assert first.exit_code == 0
    labels, requests = (folder / "labels.jsonl").read_bytes(), endpoint.usage.requests
    (run,) = list_runs(folder / "runs").runs
    assert run.state == "done"
    assert (run.path / "labels.jsonl").read_bytes() == labels
    (folder / "labels.jsonl").unlink()
    again = CliRunner().invoke(cli, ["runs", "resume", run.name, "--json"], catch_exceptions=False)
    assert again.exit_code == 0
    assert orjson.loads(again.stdout)["cost"]["from_server"] == 0
    assert (folder / "labels.jsonl").read_bytes() == labels
    assert endpoint.usage.requests == requests
    (resumed,) = list_runs(folder / "runs").runs
    assert resumed.record["command"] == command


def test_resume_ends_as_the_command_ends() -> None:
    assert run("resume", write_run(0, ["label", "--budget"])).exit_code == 3
    failed = run("resume", write_run(1, ["label", "--fail"]))
    assert isinstance(failed.exception, InputError)


def test_resume_says_why_it_cannot(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called = run("resume", write_run(0))
    assert "make the same call again" in str(called.exception)
    gone = folder / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    name = write_run(0, ["label", "rows.jsonl"])
    (gone / "runs").rename(folder / "moved")
    monkeypatch.chdir(folder)
    gone.rmdir()
    lost = run("resume", name, "--runs", "moved")
    assert "icm-client label rows.jsonl" in str(lost.exception)


def test_diff_tells_settings_and_rows() -> None:
    one, other = write_run(0), write_run(1)
    shown = run("diff", one, other).stdout
    assert "row 1" in shown
    assert "1 of the 4 rows that both runs labelled have different labels" in shown
    found = as_json("diff", one, other)
    assert found["settings"] == {"seed": [0, 1]}
    assert found["labels"] == [
        {"id": 1, "first": "positive", "second": "negative", "id_in_second": 1}
    ]


def test_runs_over_other_rows_are_not_compared_by_their_numbers(folder: Path) -> None:
    one, other = write_run(0), write_run(1)
    path = folder / "runs" / other / "labels.jsonl"
    lines = path.read_text("utf-8").splitlines()
    path.write_text("\n".join(lines[::-1]).replace('"id":', '"id":10'), "utf-8")
    shown = run("diff", one, other).stdout
    assert "row 1, there 101" in shown
    assert "1 of the 4 rows" in shown
    agreed = as_json("agree", one, other)["pairs"][0]
    assert (agreed["rows"], agreed["share"]) == (4, 0.75)
    path.write_text("\n".join(lines).replace("row ", "line "), "utf-8")
    for command in ("diff", "agree"):
        refused = run(command, one, other)
        assert isinstance(refused.exception, InputError)
        assert "over different data" in str(refused.exception)


def test_runs_over_rows_that_imply_others_by_long_ids_are_compared(folder: Path) -> None:
    one, other = write_run(0), write_run(1)
    for name in (one, other):
        path = folder / "runs" / name / "labels.jsonl"
        lines = [
            line.replace('"id":', f'"then":[{2**64 + n}],"id":')
            for n, line in enumerate(path.read_text("utf-8").splitlines())
        ]
        path.write_text("\n".join(lines), "utf-8")
        record = folder / "runs" / name / "run.json"
        content = orjson.loads(record.read_bytes())
        content["task"]["constraint"] = {"kind": "implication", "implies": "then"}
        record.write_bytes(orjson.dumps(content))
    assert as_json("agree", one, other)["pairs"][0]["rows"] == 4
    assert "1 of the 4 rows" in run("diff", one, other).stdout


def test_two_names_of_one_run_remove_it_once() -> None:
    name = write_run(0)
    assert as_json("rm", "latest", name, f"runs/{name}", "--yes")["removed"] == [name]


def test_a_command_with_spaces_and_quotes_is_shown_as_it_can_be_pasted() -> None:
    asked = ["label", "my rows.jsonl", "--template", "It's {text}:", "-o", "out.jsonl"]
    shown = run("show", write_run(0, asked, done=False)).stdout.splitlines()
    command = next(line for line in shown if "icm-client label" in line)
    assert shlex.split(command) == ["icm-client", *asked]
    assert "  icm-client runs resume " in shown[-1]


def test_rm_asks_first(folder: Path) -> None:
    name, other = write_run(0), write_run(1)
    path = folder / "runs" / name
    refused = run("rm", name, answer="n\n")
    assert refused.exit_code == 1
    assert path.exists()
    assert run("rm", name, answer="y\n").exit_code == 0
    assert not path.exists()
    assert as_json("rm", other, "--yes")["removed"] == [other]
    assert list((folder / "runs").iterdir()) == []


def test_rm_refuses_a_run_under_way(folder: Path) -> None:
    name = write_run(0)
    with RunFolder.open(described(0)):
        assert as_json("show", name)["state"] == "running"
        refused = run("rm", name, "--yes")
        assert isinstance(refused.exception, RunError)
    assert (folder / "runs" / name).exists()
