"""A wrong labelling must not look right: what the terminal says of one."""

from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner

import icm_client.runs.server
from icm_client import Task
from icm_client.cli.main import cli
from icm_client.testing import PlantedConcept

WORDS = ("negative", "positive")
TASK = Task(template="Review: {text}\nSentiment:", labels=WORDS)
PROMPTS = [TASK.template.replace("{text}", f"words of row {i}") for i in range(60)]
ASKED = (
    "--template",
    r"Review: {text}\nSentiment:",
    "--labels",
    "negative,positive",
    "--no-record",
)


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """60 rows whose concept the model has, and a model that would rather say `positive`."""
    planted = {prompt: number * 7 % 5 % 2 for number, prompt in enumerate(PROMPTS)}
    concept = PlantedConcept(planted, TASK.label_texts, strength=3, meaning=2, bias=[0, 5])
    monkeypatch.setattr(icm_client.runs.server, "EmbeddedEndpoint", lambda: concept)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(orjson.dumps({"text": f"words of row {i}"}) for i in range(60)))
    return path


@pytest.mark.slow
def test_the_collapse_of_the_paper_preset_without_rules_is_found_and_shown(rows: Path) -> None:
    options = ("--preset", "paper", "--steps", "400", "-o", "out.jsonl")
    ended = CliRunner().invoke(cli, ["label", str(rows), *ASKED, *options])
    assert ended.exit_code == 0, ended.exception
    labels = [orjson.loads(line)["label"] for line in Path("out.jsonl").read_bytes().splitlines()]
    assert set(labels) == {"positive"}
    *_, before, last = ended.stderr.splitlines()
    assert before.startswith("Warning: 'positive' was given to 100% of the rows.")
    assert "--preset fast" in before
    assert last.startswith("Warning: The labels are not to be trusted")
    assert "one label for nearly all rows" in last


def test_the_fast_preset_finds_the_concept_where_the_paper_preset_collapses(rows: Path) -> None:
    ended = CliRunner().invoke(cli, ["label", str(rows), *ASKED, "-o", "out.jsonl"])
    assert ended.exit_code == 0, ended.exception
    labels = [orjson.loads(line)["label"] for line in Path("out.jsonl").read_bytes().splitlines()]
    right = [WORDS[number * 7 % 5 % 2] for number in range(60)]
    assert sum(a == b for a, b in zip(labels, right, strict=True)) >= 55
    assert "was given to" not in ended.stderr


def test_the_verdict_is_the_first_line_of_the_result(rows: Path) -> None:
    ended = CliRunner().invoke(cli, ["label", str(rows), *ASKED, "-o", "out.jsonl"])
    assert ended.stdout.splitlines()[0].split() == ["verdict", "trust"]
    assert "verdict" not in ended.stderr


@pytest.mark.slow
def test_a_verdict_that_is_not_trust_is_said_before_its_reasons(rows: Path) -> None:
    options = ("--preset", "paper", "--steps", "400", "-o", "out.jsonl")
    ended = CliRunner().invoke(cli, ["label", str(rows), *ASKED, *options])
    assert ended.stdout.splitlines()[0].split() == ["verdict", "do", "not", "trust"]
    warnings = [line for line in ended.stderr.splitlines() if line.startswith(("Warn", "Note"))]
    assert warnings[0].startswith("Warning: the verdict on these labels is: do not trust.")
    assert warnings[1].startswith("Warning: No confidence is given: the verdict is")


@pytest.mark.slow
def test_json_has_verdict_severities_and_where_starts_ended(rows: Path) -> None:
    command = ["label", str(rows), *ASKED, "-o", "out.jsonl", "--json", "--preset", "paper"]
    told = orjson.loads(CliRunner().invoke(cli, [*command, "--steps", "400"]).stdout)
    assert told["verdict"] == "do not trust"
    assert told["confidence"] is None
    assert "estimated from the labels themselves" in told["no_confidence"]
    assert told["starts"] == []
    assert told["label_mass"] == pytest.approx(1)
    for finding in told["findings"]:
        assert finding["fatal"] == (finding["severity"] == "fatal")
    fast = orjson.loads(CliRunner().invoke(cli, command[:-2]).stdout)
    assert fast["verdict"] == "trust"
    assert [start["agreement"] for start in fast["starts"]] == [[1.0]]
