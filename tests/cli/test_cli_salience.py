"""`icm-client salience` as a user meets it."""

from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner, Result

import icm_client.runs.server
from icm_client import Task
from icm_client.cli.main import cli
from icm_client.errors import InputError, TaskError
from icm_client.testing import PlantedConcept

WORDS = ("negative", "positive")
TASK = Task(template="Review: {text}\nSentiment:", labels=WORDS)
ROWS = 60


def classes(n_rows: int) -> list[int]:
    return [number * 7 % 5 % 2 for number in range(n_rows)]


@pytest.fixture(autouse=True)
def own_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    (tmp_path / "task.toml").write_text(
        'template = "Review: {text}\\nSentiment:"\nlabels = ["positive", "negative"]\n'
        'gold = "gold"\n',
        encoding="utf-8",
    )


def write_rows(folder: Path, n_rows: int = ROWS, gold: list[int] | None = None) -> Path:
    held = classes(n_rows) if gold is None else gold
    lines = [{"text": f"words of row {i}", "gold": WORDS[held[i]]} for i in range(n_rows)]
    (folder / "rows.jsonl").write_bytes(b"\n".join(map(orjson.dumps, lines)))
    return folder / "rows.jsonl"


def serve(monkeypatch: pytest.MonkeyPatch, n_rows: int = ROWS, **formula: float) -> PlantedConcept:
    planted = {
        TASK.template.replace("{text}", f"words of row {i}"): held
        for i, held in enumerate(classes(n_rows))
    }
    concept = PlantedConcept(planted, TASK.label_texts, **formula)  # type: ignore[arg-type]
    monkeypatch.setattr(icm_client.runs.server, "EmbeddedEndpoint", lambda: concept)
    return concept


def salience(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["salience", *map(str, arguments)])


def test_a_salient_concept_is_likely_in_words_and_figures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    serve(monkeypatch, strength=3.0, meaning=1.0)
    ended = salience(write_rows(tmp_path))
    assert ended.exit_code == 0, ended.exception
    lines = ended.stdout.splitlines()
    assert lines[0].startswith("Likely: a run will probably do much better than chance")
    assert [line.split()[0] for line in lines[1:4]] == ["first", "second", "words"]
    assert lines[-1].startswith("This probe: 24 of 60 rows, ")
    told = ended.stderr.splitlines()
    assert told[0].startswith("Sample: 24 of 60 rows, about ")
    assert "more than 5%, because fewer than 24 rows tell nothing" in told[0]
    assert told[-1].startswith("Reading the rows given labels, and given these exchanged, 2 of 2")


def test_noise_is_unlikely_and_the_exit_status_is_0(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    serve(monkeypatch, strength=0.0, meaning=0.0, noise=1.5)
    ended = salience(write_rows(tmp_path), "--json")
    assert ended.exit_code == 0
    found = orjson.loads(ended.stdout)
    assert found["verdict"] == "unlikely"
    low, high = found["interval"]
    assert 0 <= low <= found["score"] <= high <= 1
    assert set(found["features"]) == {"first", "second", "words"}
    assert ended.stderr == ""


def test_gold_changes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    serve(monkeypatch, strength=1.0, meaning=0.5)
    first = salience(write_rows(tmp_path), "--json", "--store", "one.sqlite3")
    turned = [1 - held for held in classes(ROWS)]
    second = salience(write_rows(tmp_path, gold=turned), "--json", "--store", "two.sqlite3")
    names = ("score", "interval", "features", "requests", "planned_tokens")
    one, two = orjson.loads(first.stdout), orjson.loads(second.stdout)
    assert [one[name] for name in names] == [two[name] for name in names]


def test_the_same_command_asks_nothing_twice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    concept = serve(monkeypatch)
    rows = write_rows(tmp_path)
    first = orjson.loads(salience(rows, "--json").stdout)
    asked = concept.usage.requests
    again = orjson.loads(salience(rows, "--json").stdout)
    assert concept.usage.requests == asked == first["requests"]
    assert (again["requests"], again["score"]) == (0, first["score"])
    other = orjson.loads(salience(rows, "--json", "--seed", "1").stdout)
    assert other["score"] != first["score"]


def test_of_many_rows_no_more_than_a_twentieth_of_a_run_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    serve(monkeypatch, n_rows=1500)
    found = orjson.loads(salience(write_rows(tmp_path, 1500), "--json").stdout)
    assert found["sampled"] > 24
    assert found["share"] <= 0.05
    assert found["computed_tokens"] <= 1.02 * found["planned_tokens"]


def test_too_few_rows_and_too_many_labels_are_refused_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(icm_client.runs.server, "EmbeddedEndpoint", lambda: pytest.fail("sent"))
    few = salience(write_rows(tmp_path, 20))
    assert isinstance(few.exception, InputError)
    assert "20 rows are too few for a probe" in str(few.exception)
    (tmp_path / "three.toml").write_text(
        'template = "Review: {text}"\nlabels = ["good", "bad", "okay"]\n', encoding="utf-8"
    )
    three = salience(write_rows(tmp_path), "--task", "three.toml")
    assert isinstance(three.exception, TaskError)
    assert "the task has 3" in str(three.exception)
    (tmp_path / "task.toml").unlink()
    none = salience(tmp_path / "rows.jsonl")
    assert isinstance(none.exception, TaskError)
    assert "no task" in str(none.exception)
