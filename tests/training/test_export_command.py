"""`icm-client export` as a user meets it."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result
from exported_runs import reviews_run, with_result

from icm_client.cli.export import export_command
from icm_client.cli.main import cli
from icm_client.errors import InputError
from icm_client.record.archive import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return reviews_run(tmp_path)


def export(*arguments: str) -> Result:
    return CliRunner().invoke(export_command, arguments)


def test_it_writes_the_file_and_its_card_and_says_where(run: Run) -> None:
    done = export(run.name, "--to", "sft", "-o", "train.jsonl")
    assert done.exit_code == 0, done.output
    assert "Wrote 16 records of 16 rows to train.jsonl." in done.stdout
    assert "How they were made: train.jsonl.md" in done.stdout
    assert len(Path("train.jsonl").read_bytes().splitlines()) == 16
    assert Path("train.jsonl.md").read_text().startswith("# Labels of")


@pytest.mark.parametrize("name", ["beginning", "folder"])
def test_a_run_is_named_by_its_beginning_or_its_folder(run: Run, name: str) -> None:
    said = run.name[:6] if name == "beginning" else str(run.path.relative_to(Path.cwd()))
    done = export(said, "--to", "chat", "-o", "train.jsonl", "--json")
    assert done.exit_code == 0, done.output
    printed: dict[str, Any] = orjson.loads(done.stdout)
    assert (printed["format"], printed["rows"], printed["records"]) == ("chat", 16, 16)


def test_labels_that_are_not_to_be_trusted_are_written_with_a_loud_warning(run: Run) -> None:
    finding = {"severity": "fatal", "message": "They hardly predict each other.", "advice": ""}
    with_result(run, lambda result: result.update(verdict="do not trust", findings=[finding]))
    done = export(run.name, "--to", "sft", "-o", "train.jsonl", "--json")
    assert done.exit_code == 0
    assert "WARNING: DO NOT TRUST THESE LABELS. They hardly predict each other." in done.stderr
    printed = orjson.loads(done.stdout)
    assert printed["verdict"] == "do not trust"
    assert printed["warnings"][0] in done.stderr
    assert Path("train.jsonl").exists()


def test_rows_that_are_left_out_are_counted(run: Run) -> None:
    done = export(run.name, "--to", "csv", "-o", "sure.csv", "--min-confidence", "0.99")
    assert done.exit_code == 0, done.output
    assert "Left out, confidence under 0.99:" in done.stdout


def test_labels_that_are_not_to_be_trusted_have_no_most_confident_rows(run: Run) -> None:
    with_result(run, lambda result: result.update(verdict="do not trust", findings=[]))
    done = export(run.name, "--to", "csv", "-o", "sure.csv", "--min-confidence", "0.9")
    assert isinstance(done.exception, InputError)
    assert "Without --min-confidence all rows are exported" in str(done.exception)
    assert not Path("sure.csv").exists()


def test_an_unknown_run_is_an_input_error(run: Run) -> None:
    done = export(f"{run.name}x", "--to", "sft", "-o", "train.jsonl")
    assert isinstance(done.exception, InputError)
    assert "Did you mean" in str(done.exception)


def test_the_help_says_what_dpo_makes_of_a_classification() -> None:
    shown = CliRunner().invoke(cli, ["export", "--help"]).output
    said = " ".join(shown.split())
    assert "dpo takes the label's text as chosen and each other label's as rejected" in said
    assert "\n  sft           JSON Lines: prompt, completion (trl)\n" in shown, "a line a format"
