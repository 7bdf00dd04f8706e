"""--json has one shape: an object that says which command of which version it is from, or an error.

A script can tell what it reads, and that a command failed, without knowing the command.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import orjson
import pytest
from whole_program import Run, whole_program

import icm_client
import icm_client.runs.server
from icm_client import Task, label_sync, rows_from
from icm_client.cli.main import cli
from icm_client.record.archive import list_runs
from icm_client.testing import PlantedConcept

TASK = Task(template="Review: {text}\nSentiment:", labels=("positive", "negative"))
ROWS = [
    {"id": n, "text": f"words of row {n}", "gold": TASK.labels[n * 7 % 5 % 2]} for n in range(70)
]
ASKED = ("--template", r"Review: {text}\nSentiment:", "--labels", "positive,negative")
PAIRS = [{"prompt": f"q {n}", "response_1": "a", "response_2": f"b {n}"} for n in range(40)]

NO_RESULT = {("serve",), ("tasks", "convert"), ("view",)}
"""Two serve until Ctrl-C, the third prints rows."""


def commands(group: click.Group, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of each command that has --json; `tasks` is one itself, and a group."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*before, name))
        if isinstance(command, click.Command) and any(
            "--json" in one.opts for one in command.params
        ):
            yield (*before, name)


EVERY = tuple(commands(cli))


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> PlantedConcept:
    """What stands where the embedded server would."""
    prompts = TASK.render_all(rows_from(ROWS, gold="gold"))
    planted = {
        prompt: TASK.labels.index(str(row["gold"]))
        for prompt, row in zip(prompts, ROWS, strict=True)
    }
    concept = PlantedConcept(planted, TASK.label_texts, strength=4.0, context_length=1000)
    monkeypatch.setattr(icm_client.runs.server, "EmbeddedEndpoint", lambda: concept)
    return concept


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return whole_program(monkeypatch, capsys)


@pytest.fixture
def folder(model: PlantedConcept, tmp_path: Path) -> Path:
    """Rows, pairs, and two runs."""
    for name, rows in (("rows.jsonl", ROWS), ("pairs.jsonl", PAIRS)):
        (tmp_path / name).write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    for seed in (0, 1):
        label_sync(
            "rows.jsonl", task=TASK, endpoint=model, gold="gold", seed=seed, store="s", runs="runs"
        )
    return tmp_path


def test_every_command_with_a_result_prints_it_as_json() -> None:
    without = set(_all(cli)) - set(EVERY)
    assert without == NO_RESULT


def _all(group: click.Group, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from _all(command, (*before, name))
        else:
            yield (*before, name)


CALLS: dict[tuple[str, ...], Sequence[str]] = {
    ("ablate",): ("rows.jsonl", "--dry-run", *ASKED),
    ("ask",): ("latest", "--budget", "3"),
    ("check",): ("http://127.0.0.1:9",),
    ("eval",): ("rows.jsonl", "--dry-run", "--gold", "gold", *ASKED),
    ("export",): ("latest", "--to", "sft", "-o", "out.jsonl"),
    ("label",): ("rows.jsonl", "-o", "out.jsonl", "--store", "s", *ASKED),
    ("predict",): ("latest", "rows.jsonl", "-o", "out.jsonl", "--limit", "10"),
    ("report",): ("latest",),
    ("reward",): ("pairs.jsonl", "--dry-run", "--first", "10", "--task", "pairwise-preference"),
    ("runs", "agree"): ("{0}", "{1}"),
    ("runs", "diff"): ("{0}", "{1}"),
    ("runs", "list"): (),
    ("runs", "rm"): ("{0}", "--yes"),
    ("runs", "show"): ("latest",),
    ("salience",): ("rows.jsonl", *ASKED),
    ("store", "check"): ("--store", "s"),
    ("store", "export"): ("all.jsonl", "--store", "s"),
    ("store", "info"): ("--store", "s"),
    ("store", "prune"): ("--store", "s", "--older-than", "30d"),
    ("stress",): ("rows.jsonl", "--dry-run", *ASKED),
    ("tasks",): (),
    ("tasks", "init"): ("rows.jsonl", *ASKED),
    ("tasks", "show"): ("sentiment",),
    ("why",): ("latest", "1", "--dry-run"),
}


@pytest.mark.parametrize("words", CALLS, ids=" ".join)
def test_a_result_begins_with_its_command_and_the_version(
    words: tuple[str, ...], run: Run, folder: Path
) -> None:
    names = [one.name for one in list_runs(folder / "runs").runs]
    arguments = [
        one.format(*names) if one[0] == "{" and one[1:2].isdigit() else one for one in CALLS[words]
    ]
    ended = run(*words, *arguments, "--json")
    document = orjson.loads(ended.out)
    assert list(document)[:2] == ["command", "version"]
    assert document["command"] == " ".join(words)
    assert document["version"] == icm_client.__version__
    assert "error" not in document


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_an_error_is_an_object_too_and_in_words_on_standard_error(
    words: tuple[str, ...], run: Run
) -> None:
    ended = run(*words, "--no-such-option", "--json")
    assert ended.code == 2
    assert orjson.loads(ended.out) == {
        "command": " ".join(words),
        "version": icm_client.__version__,
        "error": orjson.loads(ended.out)["error"],
        "type": "NoSuchOption",
        "status": 2,
        "goes_on": False,
    }
    assert "--no-such-option" in orjson.loads(ended.out)["error"]
    assert "No such option" in ended.err


def test_an_error_of_ours_has_its_class_and_status(run: Run, folder: Path) -> None:
    ended = run("label", "nowhere.jsonl", *ASKED, "-o", "out.jsonl", "--json")
    told = orjson.loads(ended.out)
    assert (ended.code, told["status"], told["type"]) == (2, 2, "RowError")
    assert told["error"] in ended.err
    assert str(folder) not in ended.out


def test_what_is_printed_before_an_error_stays_the_only_document(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two documents after each other are no JSON."""
    monkeypatch.setattr("icm_client.runs.result.Labels.write", _fails)
    ended = run("label", "rows.jsonl", *ASKED, "-o", "out.jsonl", "--store", "s", "--json")
    assert ended.code == 1
    assert orjson.loads(ended.out)["rows"] == len(ROWS)
    assert folder.is_dir()


def _fails(*_: object, **__: object) -> None:
    raise icm_client.InputError("out.jsonl: no space left on the device")


def test_without_json_an_error_prints_nothing_on_standard_output(run: Run) -> None:
    assert run("runs", "show", "nothing").out == ""
