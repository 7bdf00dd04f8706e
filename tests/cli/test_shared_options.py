"""What says which task is asked, how a file is read, and how many rows are taken, is said alike."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from whole_program import Run, whole_program, without_server

import icm_client.runs.server
from icm_client import Task
from icm_client.testing import PlantedConcept

TASK = Task(template="Kritik: {text}\nUrteil:", labels=("gut", "schlecht"))
ASKED = ("--template", r"Kritik: {text}\nUrteil:", "--labels", "gut,schlecht")
READ = ("--format", "csv", "--encoding", "latin-1", "--delimiter", ";", "--quote", "none")
WORDS = [f'größter "Film", Nummer {number}' for number in range(40)]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return whole_program(monkeypatch, capsys)


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    without_server(monkeypatch)


@pytest.fixture(autouse=True)
def rows(tmp_path: Path) -> None:
    """A file that nothing shows how to read: a table in Latin-1 under a name without an end."""
    lines = [f"{words};{TASK.labels[n * 7 % 5 % 2]}" for n, words in enumerate(WORDS)]
    (tmp_path / "kritiken").write_bytes("\n".join(["text;gold", *lines]).encode("latin-1"))


def told(run: Run, *arguments: str) -> dict[str, Any]:
    ended = run(*arguments, "--json")
    assert ended.code == 0, ended.err
    found: dict[str, Any] = orjson.loads(ended.out)
    return found


def test_label_reads_it(run: Run) -> None:
    found = told(run, "label", "kritiken", *READ, *ASKED, "--limit", "30", "--dry-run")
    assert found["rows"] == 30
    assert found["first_prompt"].startswith('Kritik: größter "Film", Nummer ')


@pytest.mark.parametrize("option", ["--limit", "--rows"])
def test_eval_and_ablate_read_it(run: Run, option: str) -> None:
    asked = ("kritiken", *READ, *ASKED, "--gold", "gold", option, "30", "--dry-run")
    assert told(run, "eval", *asked)["train"] == [15, 15, 15]
    initial = told(run, "ablate", *asked, "--only", "initial")["variants"]
    assert max(int(one["variant"]) for one in initial) == 30


def test_salience_reads_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = {
        TASK.template.replace("{text}", words): n * 7 % 5 % 2 for n, words in enumerate(WORDS)
    }
    concept = PlantedConcept(planted, TASK.label_texts, strength=3.0)
    monkeypatch.setattr(icm_client.runs.server, "EmbeddedEndpoint", lambda: concept)
    found = told(run, "salience", "kritiken", *READ, *ASKED, "--limit", "30")
    assert found["verdict"] in ("likely", "unclear", "unlikely")


def test_a_tab_is_written_as_in_a_template(run: Run, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("text\tgold\na b\tgut\nc d\tgut\n", "utf-8")
    found = told(
        run, *("label", "t.txt", "--format", "csv", "--delimiter", r"\t", *ASKED, "--dry-run")
    )
    assert found["first_prompt"] == "Kritik: a b\nUrteil:"


@pytest.mark.parametrize("command", ["label", "salience", "eval", "ablate", "check"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ASKED[:2], "--template and --labels go together"),
        ((*ASKED, "--task", "sentiment"), "--task and --template exclude each other"),
        (("--delimiter", ";;", *ASKED), "the delimiter must be one character"),
        (("--encoding", "latin-17", *ASKED), "there is no encoding 'latin-17'"),
    ],
)
def test_what_does_not_go_together_is_refused_alike(
    run: Run, command: str, options: tuple[str, ...], message: str
) -> None:
    data = ("--data", "kritiken") if command == "check" else ("kritiken",)
    ended = run(command, *data, *options)
    assert ended.code == 2
    assert message in ended.err


def test_without_a_task_the_ways_to_one_are_named(run: Run) -> None:
    for command in ("salience", "eval", "ablate"):
        ended = run(
            command, "kritiken", "--format", "csv", *(("--out", "o")[: 2 * (command == "ablate")])
        )
        assert ended.code == 2
        assert "--template" in ended.err
        assert "icm-client tasks init" in ended.err
