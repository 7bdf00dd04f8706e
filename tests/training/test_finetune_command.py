"""`icm-client finetune`: a run's labels to a model, tested on rows that the run did not label."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner
from tiny_model import BAD, GOOD, make_tiny_model, tiny_pairs

from icm_client.cli.main import cli
from icm_client.data import LabelledRow, Row, Task, write_labels
from icm_client.record.run_labels import read_labels
from icm_client.training.examples import examples_of

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TASK = Task(
    template="Review: the {text}\nSentiment:", labels=("positive", "negative"), gold="label"
)
PAIRS = Task(
    template="{thing}\n{one}\n{two}\nSentiment:",
    labels=("positive", "negative"),
    exchange=("one", "two"),
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


def run_folder(folder: Path, task: Task, rows: list[dict[str, Any]], labels: list[str]) -> Path:
    """What a run leaves there that is read."""
    folder.mkdir(parents=True)
    others = dict.fromkeys(("created", "data", "rows", "seed", "server", "versions"), "")
    record = {"icm_client_run": 1, "name": folder.name, "task": task.model_dump(mode="json")}
    record |= others | {"settings": {}}
    (folder / "run.json").write_bytes(orjson.dumps(record))
    (folder / "result.json").write_bytes(orjson.dumps({"verdict": "do not trust"}))
    log_probs = dict.fromkeys(task.labels, -0.7)
    labelled = [
        LabelledRow(Row(number, row, number), label, 0.9, log_probs, "exact")
        for number, (row, label) in enumerate(zip(rows, labels, strict=True), start=1)
    ]
    write_labels(folder / "labels.jsonl", labelled)
    return folder


def review_run(folder: Path) -> Path:
    words = [(f"{thing} was {w}", w in GOOD) for thing in ("film", "book") for w in (*GOOD, *BAD)]
    rows = [{"text": text, "label": "shelf 3"} for text, _ in words]
    labels = ["positive" if good else "negative" for _, good in words]
    return run_folder(folder, TASK, rows, labels)


def test_a_rows_field_may_have_the_name_of_our_column(tmp_path: Path) -> None:
    task = Task(template="{label} {confidence} {text}:", labels=("yes", "no"))
    rows = [{"text": f"t{n}", "label": f"shelf {n}", "confidence": n} for n in range(2)]
    found = read_labels(run_folder(tmp_path / "run", task, rows, ["yes", "no"]))
    assert [(example.prompt, example.label) for example in examples_of(found)] == [
        ("shelf 0 0 t0:", " yes"),
        ("shelf 1 1 t1:", " no"),
    ]


def test_a_run_becomes_a_model_that_labels_other_rows(tiny: Path, tmp_path: Path) -> None:
    run = review_run(tmp_path / "runs" / "reviews-1")
    test = tmp_path / "test.jsonl"
    rows = [
        {"text": f"{thing} was {word}", "label": "positive" if word in GOOD else "negative"}
        for thing in ("meal", "trip")
        for word in (*GOOD, *BAD)
    ]
    test.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    options = ["--model", str(tiny), "--lr", "0.01", "--epochs", "12", "--batch-size", "4"]
    command = ["finetune", "reviews-1", *options, "--test", str(test)]
    result = CliRunner().invoke(cli, [*command, "--json"])
    assert result.exit_code == 0, result.output
    found = orjson.loads(result.stdout)
    assert found["examples"] == 12
    assert Path(found["model"]).resolve().parent == run / "models"
    assert found["after"]["rows"] == 12
    assert found["after"]["accuracy"] > 0.8
    assert found["before"]["accuracy"] < 0.8
    assert "verdict on these labels is: do not trust" in result.stderr
    again = CliRunner().invoke(cli, command)  # trained and scored already
    assert again.exit_code == 0, again.output
    assert f"{found['after']['accuracy']:.1%} of 12 rows" in again.stdout
    script = [sys.executable, str(ROOT / "scripts" / "finetune.py"), *command[1:], "--json"]
    printed = subprocess.run(script, capture_output=True, check=True)
    assert orjson.loads(printed.stdout) == found


def test_a_run_on_pairs_becomes_a_reward_model(tiny: Path, tmp_path: Path) -> None:
    pairs = tiny_pairs()
    rows = [
        {"thing": prompt, "one": one, "two": two}
        for n, (prompt, good, bad) in enumerate(pairs)
        for one, two in [(good, bad) if n % 2 else (bad, good)]
    ]
    labels = ["positive" if n % 2 else "negative" for n in range(len(pairs))]
    run_folder(tmp_path / "runs" / "pairs-1", PAIRS, rows[:27], labels[:27])
    test = tmp_path / "test.jsonl"
    with_gold = [{**row, "better": label} for row, label in zip(rows, labels, strict=True)][27:]
    test.write_bytes(b"\n".join(map(orjson.dumps, with_gold)))
    options = ["--model", str(tiny), "--lr", "0.01", "--epochs", "5", "--objective", "reward"]
    result = CliRunner().invoke(
        cli, ["finetune", "pairs-1", *options, "--test", str(test), "--gold", "better", "--json"]
    )
    assert result.exit_code == 0, result.output
    found = orjson.loads(result.stdout)
    assert found["pairs"] == 9
    assert found["pair_accuracy"] > 0.7


def test_rows_that_were_trained_on_are_no_test(tiny: Path, tmp_path: Path) -> None:
    review_run(tmp_path / "runs" / "reviews-1")
    test = tmp_path / "test.jsonl"
    rows = [{"text": f"film was {word}", "label": "positive"} for word in ("good", "very good")]
    test.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    result = CliRunner().invoke(
        cli, ["finetune", "reviews-1", "--model", str(tiny), "--test", str(test)]
    )
    assert "1 of its 2 rows are among those" in str(result.exception)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--backend", "served", "--model", "m"], "no service to train with"),
        (["--backend", "served", "--endpoint", "http://127.0.0.1:9"], "one of the service's"),
        (["--backend", "served", "--lr", "0.1"], "A service chooses --lr itself"),
        (["--gold", "label"], "--gold names a field"),
        (["--objective", "reward"], "exchange = "),
    ],
)
def test_impossible_options_are_refused(
    options: list[str], said: str, tiny: Path, tmp_path: Path
) -> None:
    review_run(tmp_path / "runs" / "reviews-1")
    model = [] if "--backend" in options else ["--model", str(tiny)]
    result = CliRunner().invoke(cli, ["finetune", "reviews-1", *model, *options])
    assert result.exit_code != 0
    assert said in f"{result.output} {result.exception}"


def test_a_run_without_labels_is_refused(tmp_path: Path) -> None:
    run = review_run(tmp_path / "runs" / "reviews-1")
    (run / "labels.jsonl").unlink()
    result = CliRunner().invoke(cli, ["finetune", str(run)])
    assert "this run has no labels yet" in str(result.exception)
    shutil.rmtree(run)


def test_the_command_line_does_not_wait_for_torch() -> None:
    code = "import sys, icm_client.cli.main; print({'torch', 'transformers'} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert printed.stdout.strip() == b"set()"
