"""`icm-client ask` as a user meets it: keys in a terminal, files, and the command to go on with."""

import os
import pty
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import click
import orjson
import pytest
from click.testing import CliRunner, Result
from terminals import PROGRAM

import icm_client.runs.server
from icm_client import Task, label, rows_from
from icm_client.cli.ask import _tell
from icm_client.cli.main import cli
from icm_client.data.job import Job
from icm_client.errors import InputError
from icm_client.record.archive import Run, find_run
from icm_client.record.checks import Checks
from icm_client.runs.labels_file import read_pins
from icm_client.testing import PlantedConcept

TASK = Task(template="Review: {text}\nSentiment:", labels=("positive", "negative"))
ASKED = ("--template", r"Review: {text}\nSentiment:", "--labels", "positive,negative")
ROWS = [
    {"id": f"r{n}", "text": f"words of row {n}", "gold": "pn"[n * 7 % 5 % 2]} for n in range(32)
]
LEFT = "\x1b[D"


def concept() -> PlantedConcept:
    planted = dict(
        zip(
            TASK.render_all(rows_from(ROWS)), ["pn".index(row["gold"]) for row in ROWS], strict=True
        )
    )
    return PlantedConcept(planted, TASK.label_texts)


@pytest.fixture
def run() -> Run:
    """A run that the command has made, so that it can be run again."""
    return labelled()


def labelled(*more: str, pins: str | None = None) -> Run:
    Path("rows.jsonl").write_bytes(b"\n".join(map(orjson.dumps, ROWS)))
    command = ("label", "rows.jsonl", "-o", "labels.jsonl", "--store", "store", *ASKED, *more)
    found = anyio.run(
        partial(
            label,
            "rows.jsonl",
            task=TASK,
            endpoint=concept(),
            store="store",
            runs="runs",
            command=command,
            pins=pins,
        )
    )
    assert found.run is not None
    return find_run(found.run.name)


def ask(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["ask", "latest", *arguments])


def in_terminal(keys: Sequence[str], *arguments: str) -> tuple[str, list[int]]:
    """Press a key each time that one is awaited.

    Returns:
        What was written, and how many answers were on the disk as each key was awaited.
    """
    master, terminal = pty.openpty()
    child = subprocess.Popen(
        [*PROGRAM, "ask", "latest", *arguments],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=os.environ | {"TERM": "xterm", "PYTHONIOENCODING": "utf-8"},
    )
    os.close(terminal)
    written, awaited, saved = b"", 0, []
    (folder,) = [path for path in Path("runs").iterdir() if path.is_dir()]
    with suppress(OSError):  # as a terminal says that nobody is left to write to it
        while chunk := os.read(master, 65536):
            written += chunk
            while awaited < min(written.count(b"q quit"), len(keys)):
                saved.append(len(Checks(folder).read()))
                os.write(master, keys[awaited].encode())
                awaited += 1
    os.close(master)
    assert child.wait() == 0, written
    return written.decode(), saved


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_a_key_answers_a_row_and_every_answer_is_saved_at_once(run: Run) -> None:
    keys = ["1", "2", LEFT, "1", "s", "x2", LEFT, "q"]
    written, saved = in_terminal(keys, "--budget", "8", "--by", "Ada")
    assert saved == [0, 1, 2, 2, 2, 2, 3, 3]
    rows = [line.split(",")[0] for line in written.splitlines() if " of 8: row " in line]
    ids = [line.rpartition(" ")[2] for line in rows]
    assert [line[0] for line in rows] == list("12323454"), "left goes back, and s on"
    checks = {check.id: check for check in Checks(run.path).read()}
    assert {row_id: check.label for row_id, check in checks.items()} == {
        ids[0]: "positive",
        ids[1]: "positive",
        ids[5]: "negative",
    }, "x is no key, and what was said again counts"
    assert {check.by for check in checks.values()} == {"Ada"}
    assert "(you said positive)" not in written.split(" of 8: row ")[3]
    assert "3 of 8 rows answered" in written
    assert f"--pin runs/{run.name}/checked.jsonl" in written.replace("\r\n", "")
    written, _ = in_terminal(["q"])
    assert ids[0] not in written, "the next time other rows are asked about"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
@pytest.mark.usefixtures("run")
def test_keys_of_many_characters_answer_nothing() -> None:
    shift_left, f10, delete = "\x1b[1;2D", "\x1b[21~", "\x1b[3~"
    written, saved = in_terminal([shift_left + f10 + delete + "s", "q"])
    assert saved == [0, 0]
    assert "0 of 20 rows answered" in written


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_what_is_pinned_is_not_written_down_as_somebody_s_answer() -> None:
    Path("old.csv").write_text("id,label\nr3,positive\n", "utf-8")
    run = labelled("--pin", "old.csv", pins="old.csv")
    in_terminal(["q"])
    assert not Checks(run.path).path.exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_a_row_cannot_order_the_terminal_about(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {**row, "id": f"{row['id']}\x9b6n", "text": f"{row['text']}\x1b[6n\t.\r"} for row in ROWS
    ]
    monkeypatch.setattr(sys.modules[__name__], "ROWS", rows)
    labelled()
    written, _ = in_terminal(["q"])
    assert "\x1b[6n" not in written
    assert "\x9b" not in written
    assert "\\x9b6n, among the surest" in written
    assert re.search(r"words of row \d+\\x1b\[6n(\t| +)\.\\r\r?\n", written)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_ctrl_d_ends_it_and_what_was_said_stays(run: Run) -> None:
    written, _ = in_terminal(["1", "\x04"])
    assert "1 of 20 rows answered" in written
    assert len(Checks(run.path).read()) == 1


def test_without_a_terminal_it_says_what_to_do_instead(run: Run) -> None:  # noqa: ARG001 - it is there
    refused = ask()
    assert refused.exit_code == 2
    assert "here is none" in refused.output
    assert "-o tasks.json" in refused.output


def test_label_studio_gets_these_rows_alone_in_this_order(run: Run) -> None:
    listed = document("--budget", "6", "-o", "tasks.json")
    tasks = orjson.loads(Path("tasks.json").read_bytes())
    assert [task["data"]["icm_id"] for task in tasks] == [row["id"] for row in listed["rows"]]
    assert {tuple(task) for task in tasks} == {("data",)}, "who sees the label found agrees to it"
    assert '<Choice value="negative"/>' in Path("tasks.json.xml").read_text()
    assert "not asked about" in Path("tasks.json.md").read_text()
    assert "gold" not in tasks[0]["data"] or run.record["task"].get("gold") is None
    wrong = ask("-o", "tasks.csv")
    assert isinstance(wrong.exception, InputError)
    assert ".json (Label Studio) or .jsonl" in str(wrong.exception)


def test_lines_that_nobody_has_filled_in_are_no_pins(run: Run) -> None:  # noqa: ARG001
    done = ask("--budget", "4", "-o", "rows.todo.jsonl")
    assert done.output.startswith("Wrote 4 rows to rows.todo.jsonl.")
    lines = [orjson.loads(line) for line in Path("rows.todo.jsonl").read_bytes().splitlines()]
    job = Job.prepare(ROWS, TASK)
    with pytest.raises(InputError, match="is none of the labels"):
        read_pins("rows.todo.jsonl", job)
    Path("done.jsonl").write_bytes(
        b"\n".join(orjson.dumps({**line, "label": "positive"}) for line in lines)
    )
    pinned = read_pins("done.jsonl", job)
    assert pinned is not None
    assert (pinned == job.labels.index("positive")).sum() == 4


def test_the_command_that_is_told_keeps_what_was_said(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(icm_client.runs.server, "EmbeddedEndpoint", concept)
    said: dict[str, str] = {}
    before = run
    for _ in range(2):  # what was said in the first round is kept in the second
        listed = document("--budget", "3")
        assert not said.keys() & {row["id"] for row in listed["rows"]}, "pinned: not asked again"
        for row in listed["rows"]:
            said[row["id"]] = next(word for word in TASK.labels if word != row["found"])
            Checks(before.path).add(row["id"], said[row["id"]])
        if before is not run:  # one of the first round is corrected
            first = next(iter(said))
            said[first] = next(word for word in TASK.labels if word != said[first])
            Checks(before.path).add(first, said[first])
        program, *arguments = shlex.split(listed["again"])
        assert program == "icm-client"
        done = CliRunner().invoke(cli, arguments, obj=tuple(arguments))
        assert done.exit_code == 0, done.output
        labels = {
            row["id"]: row["label"]
            for row in map(orjson.loads, Path("labels.jsonl").read_bytes().splitlines())
        }
        assert {row_id: labels[row_id] for row_id in said} == said
        again = find_run("latest")
        assert again.name != before.name
        before = again
    assert len(said) == 6


def test_what_the_command_lacks_is_told_with_it(capsys: pytest.CaptureFixture[str]) -> None:
    run = labelled("--api-key", "secret")
    listed = document()
    assert "secret" not in listed["again"]
    (lacks,) = listed["again_lacks"]
    assert "--api-key" in lacks
    Checks(run.path).add("r1", "positive")
    _tell(run, [], {})
    assert capsys.readouterr().out.endswith(f"{listed['again']}\n{lacks}\n")


def document(*arguments: str) -> Any:
    done = ask(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return orjson.loads(done.stdout)


def test_when_every_row_has_an_answer_there_is_nothing_to_ask(run: Run) -> None:
    for row in ROWS:
        Checks(run.path).add(row["id"], "positive")
    done = ask("--json")
    assert isinstance(done.exception, InputError)
    assert "each of its rows" in str(done.exception)
    assert click.unstyle(str(done.exception)).startswith(f"the run {run.name}")
