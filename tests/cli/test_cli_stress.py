"""`icm-client stress` as a user meets it."""

from pathlib import Path

import click
import orjson
import pytest
from click.testing import CliRunner, Result

import icm_client.runs.server
from icm_client import Task
from icm_client.cli.stress import stress_command
from icm_client.data.job import Job
from icm_client.errors import InputError
from icm_client.experiments.stress_rows import impossible, salient, undisturbed
from icm_client.testing import PlantedConcept

WORDS = ("negative", "positive")
TASK = Task(template="Review: {text}\nSentiment:", labels=WORDS)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """44 rows with gold, and a task beside them."""
    lines = [{"text": f"words of row {i}", "gold": WORDS[i * 7 % 5 % 2]} for i in range(44)]
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(map(orjson.dumps, lines)))
    (tmp_path / "task.toml").write_text(
        'template = "Review: {text}\\nSentiment:"\nlabels = ["negative", "positive"]\n',
        encoding="utf-8",
    )
    return tmp_path / "rows.jsonl"


@pytest.fixture
def endpoint(rows: Path, monkeypatch: pytest.MonkeyPatch) -> PlantedConcept:
    job = Job.prepare(rows, TASK, gold="gold")
    made = [undisturbed(job), *salient(job, 0)[0], *impossible(job, 0)[0]]
    classes = {
        prompt: number * 7 % 5 % 2
        for trouble in made
        for number, prompt in enumerate(Job.prepare(trouble.dataset, trouble.task).prompts)
    }
    concept = PlantedConcept(classes, TASK.label_texts)
    monkeypatch.setattr(icm_client.runs.server, "EmbeddedEndpoint", lambda: concept)
    return concept


def stress(*arguments: str | Path) -> Result:
    return CliRunner().invoke(stress_command, [*map(str, arguments)])


def test_a_dry_run_lists_the_troubles_and_sends_nothing(
    rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(icm_client.runs.server, "EmbeddedEndpoint", lambda: pytest.fail("sent"))
    lines = stress(rows, "--gold", "gold", "--dry-run").stdout.splitlines()
    assert lines[0] == "undisturbed   44 rows"
    assert "opinion       44 rows, x1, x2, x4" in lines
    assert "no-answer     44 rows, neutral, letters" in lines
    assert lines[-1] == "24 sets of rows, seeds: 1; 24 runs"
    told = orjson.loads(
        stress(rows, "--dry-run", "--json", "--seeds", "2", "--only", "imbalance").stdout
    )
    assert told["runs"] == 16
    assert told["troubles"][1] == {
        "kind": "imbalance",
        "trouble": "imbalance",
        "strength": "2%",
        "rows": None,  # the undisturbed run's labels decide
    }


def test_at_most_128_rows_are_drawn_unless_more_are_asked_for(rows: Path) -> None:
    lines = [{"text": f"words of row {i}"} for i in range(150)]
    rows.write_bytes(b"\n".join(map(orjson.dumps, lines)))
    drawn = stress(rows, "--dry-run")
    assert drawn.stdout.startswith("undisturbed   128 rows\n")
    assert "Note: 128 of 150 rows were drawn: --limit takes more.\n" in drawn.stderr
    assert stress(rows, "--dry-run", "--limit", "150").stdout.startswith("undisturbed   150 rows")


@pytest.mark.usefixtures("endpoint")
def test_the_table_says_what_labels_and_verdict_do(rows: Path) -> None:
    ended = stress(rows, "--gold", "gold", "--out", "out", "--only", "imbalance,impossible")
    assert ended.exit_code == 0, ended.exception
    live = ended.stderr.splitlines()
    assert len(live) == 12
    assert live[0].startswith("1/12 undisturbed, seed 0: right 100.0%, ")
    assert "accuracy" in ended.stdout
    assert "The labels were wrong in " in ended.stdout
    assert ended.stdout.endswith("Written: out/stress.json, out/stress.csv\n")
    written = orjson.loads(Path("out/stress.json").read_bytes())
    assert written["compared_with"] == "gold"
    assert [run["kind"] for run in written["runs"]].count("imbalance") == 7
    table = Path("out/stress.csv").read_text().splitlines()
    assert table[0].startswith("kind,name,strength,seed,rows,right,before,auroc,follows")
    assert len(table) == 13


@pytest.mark.usefixtures("endpoint")
def test_without_gold_agreement_is_reported(rows: Path) -> None:
    printed = stress(rows, "--only", "impossible", "-q")
    assert printed.exit_code == 0, printed.exception
    assert "agreement" in printed.stdout
    assert not printed.stderr
    ended = stress(rows, "--only", "impossible", "--json", "--preset", "bootstrap")
    told = orjson.loads(ended.stdout)
    assert told["command"] == "stress"
    assert told["compared_with"] == "undisturbed"
    assert told["runs"][0]["right"] == 1.0
    assert told["runs"][-1]["right"] is None
    assert told["wrong"] == 4
    assert told["false_trust"] == len(told["trusted_wrongly"]) / 4
    assert told["settings"]["rounds"] == 2
    assert told["summary"][0].startswith("The labels were wrong in 4 of 5 runs")


def test_what_cannot_be_done_is_refused(rows: Path) -> None:
    assert "there is no 'salinet'" in stress(rows, "--only", "salinet").stderr
    labels = stress(rows, "--dry-run", "--init", "labels.jsonl")
    assert labels.exit_code == click.UsageError.exit_code
    assert "--init takes a kind here" in labels.stderr
    trained = stress(rows, "--preset", "folds")
    assert isinstance(trained.exception, InputError)
