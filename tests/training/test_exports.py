"""Exports, read back by the programs that they are for, and the cards beside them."""

import csv
import gzip
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import orjson
import pytest
import yaml  # type: ignore[import-untyped]
from exported_runs import (
    PAIRS,
    REVIEWS,
    pair_rows,
    pairs_run,
    review_rows,
    reviews_run,
    with_result,
)

from icm_client.data import rows_from
from icm_client.data.items import items_of, render_items
from icm_client.errors import InputError, RunError
from icm_client.record.archive import Run, read_run
from icm_client.training.exports import EXPORT_FORMATS, Export, ExportFormat, export_run

GOLD = re.compile(r"gold|accuracy", re.IGNORECASE)


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return reviews_run(tmp_path_factory.mktemp("reviews"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return pairs_run(tmp_path_factory.mktemp("pairs"))


def found_in(run: Run) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in (run.path / "labels.jsonl").read_bytes().splitlines()]


def lines(export: Export) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in export.path.read_bytes().splitlines()]


def datasets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Hugging Face's library, which keeps what it read in a folder of the test's."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf" / "datasets"))
    return pytest.importorskip("datasets")


def loaded(module: Any, tmp_path: Path, kind: str, **options: Any) -> Any:
    return module.load_dataset(kind, split="train", cache_dir=str(tmp_path / "cache"), **options)


def test_sft_has_the_searchs_prompts_and_the_found_labels(reviews: Run, tmp_path: Path) -> None:
    done = export_run(reviews, "sft", tmp_path / "train.jsonl")
    prompts = REVIEWS.render_all(rows_from(review_rows(), gold="gold"))
    labels = [record["label"] for record in found_in(reviews)]
    assert lines(done) == [
        {"prompt": prompt, "completion": f" {label}"}
        for prompt, label in zip(prompts, labels, strict=True)
    ]
    assert (done.rows, done.records, done.left_out) == (16, 16, {})


def test_sft_has_a_pair_in_both_orders_with_opposite_labels(pairs: Run, tmp_path: Path) -> None:
    done = export_run(pairs, "sft", tmp_path / "train.jsonl")
    data = rows_from(pair_rows())
    items = items_of(PAIRS, data)
    found = lines(done)
    assert [line["prompt"] for line in found] == list(render_items(PAIRS, data, items))
    for one, other in zip(found[::2], found[1::2], strict=True):
        assert {one["completion"], other["completion"]} == {" True", " False"}
    assert (done.rows, done.records) == (13, 26)


def test_chat_keeps_openais_rules(reviews: Run, tmp_path: Path) -> None:
    """Rules: https://platform.openai.com/docs/guides/supervised-fine-tuning#formatting-your-data."""
    done = export_run(reviews, "chat", tmp_path / "train.jsonl")
    raw = done.path.read_bytes()
    assert raw.endswith(b"\n")
    assert b"\r" not in raw
    assert len(lines(done)) >= 10
    for line in lines(done):
        assert set(line) == {"messages"}
        assert [set(message) for message in line["messages"]] == [{"role", "content"}] * 2
        assert [message["role"] for message in line["messages"]] == ["user", "assistant"]
        assert all(isinstance(m["content"], str) and m["content"] for m in line["messages"])
    assert not done.warnings


def test_fewer_examples_than_openai_takes_are_warned_of(reviews: Run, tmp_path: Path) -> None:
    confident = sorted(record["confidence"] for record in found_in(reviews))[-9]
    done = export_run(reviews, "chat", tmp_path / "few.jsonl", min_confidence=confident)
    assert any("no fewer than 10" in warning for warning in done.warnings)


def test_dpo_of_pairs_prefers_what_the_label_prefers(pairs: Run, tmp_path: Path) -> None:
    for to in ("dpo", "reward"):
        done = export_run(pairs, to, tmp_path / f"{to}.jsonl")
        words = [record["label"] for record in found_in(pairs)]
        assert words[:12] == ["True", "False"] * 6, "as planted"
        assert lines(done) == [
            {
                "prompt": f"question {n}?\n",
                "chosen": f"good answer {n}",
                "rejected": f"bad answer {n}",
            }
            for n in range(12)
        ]
        (missing,) = done.left_out.values()
        assert (done.rows, missing) == (12, 1), "a pair of the same two answers says nothing"


def test_dpo_of_a_classification_rejects_the_other_labels(reviews: Run, tmp_path: Path) -> None:
    done = export_run(reviews, "dpo", tmp_path / "dpo.jsonl")
    for line, record in zip(lines(done), found_in(reviews), strict=True):
        assert line["chosen"] == f" {record['label']}"
        assert {line["chosen"], line["rejected"]} == set(REVIEWS.label_texts)


def test_trl_recognizes_the_formats(
    reviews: Run, pairs: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = datasets(monkeypatch, tmp_path)
    utils = pytest.importorskip("trl.data_utils")
    for run, to in ((reviews, "sft"), (reviews, "chat"), (reviews, "dpo"), (pairs, "reward")):
        done = export_run(run, to, tmp_path / f"{to}.jsonl")  # type: ignore[arg-type]
        data = loaded(module, tmp_path, "json", data_files=str(done.path))
        assert data.to_list() == lines(done)
        assert utils.is_conversational(data[0]) == (to == "chat")
        # Where the prompt is explicit, trl finds no other; what it cannot read it would refuse.
        assert utils.maybe_extract_prompt(dict(data[0])) == data[0]
        if to in ("dpo", "reward"):
            unpaired = utils.unpair_preference_dataset(data)
            assert len(unpaired) == 2 * len(data)
            assert set(unpaired.column_names) == {"prompt", "completion", "label"}


@pytest.mark.parametrize("to", ["csv", "parquet"])
def test_tables_hold_all_columns_of_a_row_but_gold(
    reviews: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    module = datasets(monkeypatch, tmp_path)
    done = export_run(reviews, to, tmp_path / f"train.{to}")  # type: ignore[arg-type]
    data = loaded(module, tmp_path, to, data_files=str(done.path)).to_list()
    assert list(data[0]) == [
        "id",
        "label",
        "confidence",
        "log_prob_positive",
        "log_prob_negative",
        "exactness",
        "prompt",
        "completion",
        "text",
        "row_label",
        "stars",
    ]
    for row, record, given in zip(data, found_in(reviews), review_rows(), strict=True):
        assert row["prompt"] == f"Review: {given['text']}\nSentiment:"
        assert (row["completion"], row["label"]) == (f" {record['label']}", record["label"])
        assert (row["row_label"], row["stars"]) == (given["label"], given["stars"])
        assert row["confidence"] == pytest.approx(record["confidence"])


def test_a_field_that_is_called_prompt_keeps_a_column(pairs: Run, tmp_path: Path) -> None:
    done = export_run(pairs, "csv", tmp_path / "pairs.csv")
    with done.path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["row_prompt"] == "question 0?"
    assert rows[0]["prompt"].startswith("Prompt: question 0?\nA: good answer 0\nB: bad answer 0\n")
    assert len(rows) == 13


def test_a_dataset_folder_is_loaded_by_its_path_and_its_card_has_metadata(
    reviews: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = datasets(monkeypatch, tmp_path)
    done = export_run(reviews, "hf", tmp_path / "labelled")
    data = loaded(module, tmp_path, str(done.path))
    assert len(data) == 16
    assert {"prompt", "completion", "label"} <= set(data.column_names)
    assert sorted(path.name for path in done.path.iterdir()) == ["README.md", "data"]
    _, head, body = (done.path / "README.md").read_text("utf-8").split("---\n", 2)
    facts = yaml.safe_load(head)
    files = [{"split": "train", "path": "data/train.parquet"}]
    assert facts["configs"] == [{"config_name": "default", "data_files": files}]
    assert (facts["license"], facts["size_categories"]) == ("unknown", ["n<1K"])
    assert body.strip().startswith("# Labels of")


def test_label_studio_gets_tasks_with_predictions_and_an_interface(
    reviews: Run, tmp_path: Path
) -> None:
    done = export_run(reviews, "label-studio", tmp_path / "tasks.json")
    tasks = orjson.loads(done.path.read_bytes())
    interface = ET.fromstring((tmp_path / "tasks.json.xml").read_text("utf-8"))  # noqa: S314 - our own
    (text,), (choices,) = interface.iter("Text"), interface.iter("Choices")
    assert [choice.get("value") for choice in choices] == list(REVIEWS.labels)
    assert len(tasks) == done.records == 16
    for task, record, given in zip(tasks, found_in(reviews), review_rows(), strict=True):
        assert task["data"] == {
            "icm_id": given["id"],
            "icm_prompt": f"Review: {given['text']}\nSentiment:",
            "text": given["text"],
            "row_label": given["label"],
            "stars": given["stars"],
        }
        assert text.get("value") == "$icm_prompt"
        (prediction,) = task["predictions"]
        assert prediction["score"] == record["confidence"]
        (result,) = prediction["result"]
        assert (result["from_name"], result["to_name"]) == (choices.get("name"), text.get("name"))
        assert result["value"] == {"choices": [record["label"]]}
    assert "the labeling interface is the `.xml` file" in done.card.read_text("utf-8")


def test_argilla_gets_a_folder_with_suggestions(reviews: Run, tmp_path: Path) -> None:
    done = export_run(reviews, "argilla", tmp_path / "argilla")
    records = orjson.loads((done.path / "records.json").read_bytes())
    settings = orjson.loads((done.path / ".argilla/settings.json").read_bytes())
    (question,), (field,) = settings["questions"], settings["fields"]
    assert [option["value"] for option in question["settings"]["options"]] == list(REVIEWS.labels)
    for record, found in zip(records, found_in(reviews), strict=True):
        assert record["fields"] == {field["name"]: f"Review: {found['text']}\nSentiment:"}
        assert record["suggestions"][question["name"]] == {
            "value": found["label"],
            "score": found["confidence"],
            "agent": "icm-client",
        }
    assert orjson.loads((done.path / ".argilla/dataset.json").read_bytes())["name"] == reviews.name
    assert done.card == done.path / "README.md"


@pytest.mark.parametrize("to", EXPORT_FORMATS)
def test_gold_is_not_exported_by_default(
    reviews: Run, pairs: Run, tmp_path: Path, to: ExportFormat
) -> None:
    run = pairs if to == "reward" else reviews
    done = export_run(run, to, tmp_path / ("out.json" if to == "label-studio" else "out"))
    data = {"hf": done.path / "data/train.parquet", "argilla": done.path / "records.json"}
    assert b"gold" not in data.get(to, done.path).read_bytes()
    card = done.card.read_text("utf-8")
    assert GOLD.findall(card.replace("It holds no field that was named as gold.", "")) == []


@pytest.mark.parametrize("to", ["csv", "parquet", "hf"])
def test_gold_is_a_column_on_request(
    reviews: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: ExportFormat
) -> None:
    module = datasets(monkeypatch, tmp_path)
    done = export_run(reviews, to, tmp_path / "out", with_gold=True)
    where = {} if to == "hf" else {"data_files": str(done.path)}
    data = loaded(module, tmp_path, str(done.path) if to == "hf" else to, **where)
    assert data["gold"][:] == [row["gold"] for row in review_rows()]
    assert data.column_names[-1] == "gold"
    card = done.card.read_text("utf-8")
    assert "accuracy against gold" in card
    assert "It holds gold labels." in card


def test_uncertain_rows_are_left_out_and_the_card_says_so(reviews: Run, tmp_path: Path) -> None:
    confidences = sorted(record["confidence"] for record in found_in(reviews))
    least = confidences[6]
    done = export_run(reviews, "sft", tmp_path / "sure.jsonl", min_confidence=least)
    assert done.rows == sum(confidence >= least for confidence in confidences) == 10
    kept = [f" {r['label']}" for r in found_in(reviews) if r["confidence"] >= least]
    assert [line["completion"] for line in lines(done)] == kept
    assert done.left_out == {f"confidence under {least:g}": 6}
    card = done.card.read_text("utf-8")
    assert f"Left out, confidence under {least:g}: 6 rows." in card
    assert "easy rows are over-represented" in card


def test_the_card_says_how_the_labels_were_made(reviews: Run, tmp_path: Path) -> None:
    card = export_run(reviews, "sft", tmp_path / "train.jsonl").card.read_text("utf-8")
    result = reviews.result or {}
    for facts in (
        reviews.name,
        "preset | fast",
        "planted-concept (planted)",
        reviews.record["server"]["fingerprint"],
        "seed | 0",
        f"coherence | {result['coherence']:.1%}",
        "```text\nReview: {text}\nSentiment:\n```",
        "`' positive'`, `' negative'`",
        f"| positive | {result['counts']['positive']} |",
        f"| python | {reviews.record['versions']['python']} |",
        "Verdict: ",
        "## Licence",
    ):
        assert facts in card, facts
    assert str(Path.cwd()) not in card
    assert str(reviews.path.parent) not in card


@pytest.mark.parametrize(
    ("start", "words"), [("random", "random"), ("0a1b2c3d", "given by the user")]
)
def test_the_card_names_the_initial_labels(tmp_path: Path, start: str, words: str) -> None:
    run = reviews_run(tmp_path)
    path = run.path / "run.json"
    record = orjson.loads(path.read_bytes())
    record["settings"]["start"] = start
    path.write_bytes(orjson.dumps(record))
    done = export_run(read_run(run.name, run.path.parent), "sft", tmp_path / "a.jsonl")
    assert f"| initial labels | {words} |" in done.card.read_text("utf-8")


@pytest.mark.parametrize(
    ("facts", "verdict"),
    [
        ({"verdict": "do not trust", "findings": []}, "do not trust"),
        ({"verdict": "check", "findings": [{"severity": "check"}]}, "check"),
        ({"verdict": "trust", "findings": [{"severity": "note"}]}, "trust"),
        ({"findings": [{"severity": "fatal"}, {"severity": "note"}]}, "do not trust"),
        ({"findings": [{"fatal": True}]}, "do not trust"),
        ({"findings": [{"fatal": False}]}, "check"),
        ({"findings": [{"severity": "note"}]}, "trust"),
        ({"findings": []}, "trust"),
    ],
)
def test_the_verdict_is_the_runs_or_follows_from_its_findings(
    tmp_path: Path, facts: dict[str, Any], verdict: str
) -> None:
    for finding in facts["findings"]:
        finding |= {"code": "seen", "message": "Seen | this.", "advice": "Do that."}

    def change(result: dict[str, Any]) -> None:
        result.pop("verdict", None)
        result |= facts

    run = with_result(reviews_run(tmp_path), change)
    done = export_run(run, "sft", tmp_path / "train.jsonl")
    assert done.verdict == verdict
    assert done.records == 16, "nothing is refused"
    card = done.card.read_text("utf-8")
    assert f"Verdict: {verdict}." in card
    assert card.count("Seen \\| this. Do that.") == len(facts["findings"])
    loud = [warning for warning in done.warnings if warning.startswith("DO NOT TRUST")]
    assert len(loud) == (verdict == "do not trust")
    assert ("DO NOT TRUST THESE LABELS" in card) == (verdict == "do not trust")


def test_lines_are_compressed_where_the_name_says_so(reviews: Run, tmp_path: Path) -> None:
    plain = export_run(reviews, "sft", tmp_path / "train.jsonl").path.read_bytes()
    packed = export_run(reviews, "sft", tmp_path / "train.jsonl.gz").path.read_bytes()
    assert gzip.decompress(packed) == plain


WRONG: dict[str, tuple[str, ExportFormat, dict[str, Any], str]] = {
    "no pairs": ("a.jsonl", "reward", {}, "--to dpo takes the label as chosen"),
    "gold in sft": ("a.jsonl", "sft", {"with_gold": True}, "no place for gold"),
    "confidence": ("a.jsonl", "sft", {"min_confidence": 1.5}, "between 0 and 1"),
    "nobody": ("a.jsonl", "sft", {"min_confidence": 1.0}, "the most confident one has"),
    "name": ("a.parquet", "sft", {}, "writes jsonl"),
    "other name": ("a.jsonl", "csv", {}, "writes csv"),
    "no folder": ("none/a.jsonl", "sft", {}, "create it first"),
    "folder": (".", "sft", {}, "this is a folder"),
    "full folder": (".", "hf", {}, "is there already"),
    "argilla's folder": (".", "argilla", {}, "is there already"),
    "standard output": ("-", "sft", {}, "a card is written beside the labels: name a file, not -"),
    "lines": ("a.jsonl", "label-studio", {}, "Label Studio imports files that end in .json"),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_impossible_request_is_refused_before_anything_is_written(
    reviews: Run, tmp_path: Path, case: str
) -> None:
    name, to, options, words = WRONG[case]
    (tmp_path / "there.txt").write_text("before")
    with pytest.raises(InputError, match=words):
        export_run(reviews, to, name if name == "-" else tmp_path / name, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["there.txt"]


@pytest.mark.parametrize("older", [False, True])
def test_labels_that_are_not_to_be_trusted_are_not_exported_by_confidence(
    tmp_path: Path, *, older: bool
) -> None:
    """64 claims, 48% right: a mean confidence of 99.8%. Runs of before have such numbers still."""
    run = with_result(reviews_run(tmp_path), lambda result: result.update(verdict="do not trust"))
    if not older:
        lines = [{**record, "confidence": None} for record in found_in(run)]
        (run.path / "labels.jsonl").write_bytes(b"\n".join(map(orjson.dumps, lines)))
    for least in (0.0, 0.9):
        with pytest.raises(InputError, match='"do not trust": no row can be kept'):
            export_run(run, "csv", tmp_path / "sure.csv", min_confidence=least)
    assert not (tmp_path / "sure.csv").exists()
    done = export_run(run, "csv", tmp_path / "all.csv")
    assert done.rows == 16
    with done.path.open(newline="") as file:
        cells = {row["confidence"] for row in csv.DictReader(file)}
    assert (cells == {""}) != older


def test_gold_that_the_run_never_saw_cannot_be_written(pairs: Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no gold labels"):
        export_run(pairs, "csv", tmp_path / "a.csv", with_gold=True)


def test_the_error_of_a_run_without_labels_says_how_to_continue(tmp_path: Path) -> None:
    run = reviews_run(tmp_path)
    (run.path / "result.json").unlink()
    with pytest.raises(InputError, match="icm-client runs resume"):
        export_run(read_run(run.name, run.path.parent), "sft", tmp_path / "a.jsonl")


def test_a_damaged_labels_file_is_no_export(tmp_path: Path) -> None:
    run = reviews_run(tmp_path)
    path = run.path / "labels.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(RunError):
        export_run(run, "sft", tmp_path / "a.jsonl")
    assert not (tmp_path / "a.jsonl").exists()


def test_an_earlier_export_stays_where_the_new_one_fails(
    reviews: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    export_run(reviews, "sft", path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match="No space left"):
        export_run(reviews, "sft", path)
    with pytest.raises(InputError, match="No space left"):
        export_run(reviews, "hf", tmp_path / "folder")
    assert path.read_bytes() == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.jsonl", "a.jsonl.md"]


def test_the_same_run_gives_the_same_bytes(reviews: Run, tmp_path: Path) -> None:
    for to in ("sft", "csv", "parquet"):
        one = export_run(reviews, to, tmp_path / f"one.{to}x")
        other = export_run(reviews, to, tmp_path / f"other.{to}x")
        assert one.path.read_bytes() == other.path.read_bytes()
        assert one.card.read_bytes() == other.card.read_bytes()
