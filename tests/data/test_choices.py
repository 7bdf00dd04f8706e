"""Public files of questions with choices become claims, and no claim says which is right."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icm_client import label
from icm_client.data import Task, made_rows
from icm_client.data.job import Job
from icm_client.data.layouts import Raw
from icm_client.data.values import Unusable
from icm_client.testing import PlantedConcept

ARC: list[Raw] = [
    {
        "id": "Mercury_7",
        "question": "Which gas do plants take in?",
        "choices": {"text": ["oxygen", "carbon dioxide", "neon"], "label": ["A", "B", "C"]},
        "answerKey": "B",
    },
    {
        "id": "MCAS_9",
        "question": "How many legs has a spider?",
        # The label decides: "2" is also the text of another choice.
        "choices": {"text": ["2", "8", "6", "4"], "label": ["1", "2", "3", "4"]},
        "answerKey": "2",
    },
]
HELLASWAG: list[Raw] = [
    {
        "ind": 24,
        "activity_label": "Cooking",
        "ctx_a": "A man is at a stove.",
        "ctx_b": "he",
        "ctx": "A man is at a stove. he",
        "endings": ["sings.", "breaks an egg.", "flies.", "is a pan."],
        "split": "val",
        "label": "1",
    },
    {  # the same text again, with an ending that the other has too
        "ind": 25,
        "ctx": "A man is at a stove. he",
        "endings": ["stirs the soup.", "flies.", "sits on it.", "is late."],
        "split": "val",
        "label": "0",
    },
]
PIQA: list[Raw] = [
    {"goal": "Open a jar.", "sol1": "Hit it.", "sol2": "Warm the lid.", "label": 1},
    {"goal": "Open a jar.", "sol1": "Use a rubber glove.", "sol2": "Hit it.", "label": 0},
]
WINOGRANDE: list[Raw] = [
    {
        "sentence": "Ian ate the soup because _ was hungry.",
        "option1": "Ian",
        "option2": "Dennis",
        "answer": "1",
    },
    {
        "sentence": "The cup did not fit the box because the _ was too small.",
        "option1": "cup",
        "option2": "box",
        "answer": "2",
    },
]
MMLU: list[Raw] = [
    {"question": "What is 1 + 1?", "subject": "sums", "choices": ["1", "2", "3"], "answer": "B"},
    {"question": "What is 1 + 1?", "subject": "sums", "choices": ["0", "2"], "answer": "B"},
]
BOOLQ: list[Raw] = [
    {"question": "is a banana a berry", "passage": "Botanists say so.", "answer": True},
    {"question": "is a banana a berry", "passage": "Grocers deny it.", "answer": False},
]
FILES = {
    "arc": ARC,
    "hellaswag": HELLASWAG,
    "piqa": PIQA,
    "winogrande": WINOGRANDE,
    "multiple-choice": MMLU,
}


def lines(path: Path, rows: list[Raw]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def made(*rows: Raw, loader: str = "multiple-choice") -> list[dict[str, Any]]:
    every = (row for _, row in made_rows(loader, enumerate(rows, 1)))
    return [dict(row) for row in every if isinstance(row, Mapping)]


def refused(row: Raw, loader: str = "multiple-choice") -> str:
    """Why the loader can make nothing of a row."""
    every = (row for _, row in made_rows(loader, [(1, row)]))
    return next(str(row) for row in every if isinstance(row, Unusable))


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("arc", {"carbon dioxide", "8"}),
        ("hellaswag", {"breaks an egg.", "stirs the soup."}),
        ("piqa", {"Warm the lid.", "Use a rubber glove."}),
        ("winogrande", {"Ian", "box"}),
        ("multiple-choice", {"2"}),
    ],
)
def test_a_file_becomes_a_claim_a_choice_of_which_one_is_true(
    name: str, right: set[str], tmp_path: Path
) -> None:
    job = Job.prepare(lines(tmp_path / "rows.jsonl", FILES[name]), name)
    rows = job.dataset.rows
    assert {
        row.fields["claim"]
        for row, gold in zip(rows, job.dataset.gold or (), strict=True)
        if gold == "True"
    } == right
    groups = [
        {rows[item].fields["question_id"] for item in group} for group in job.constraint.groups
    ]
    assert len(groups) == 2
    assert all(len(ids) == 1 for ids in groups)
    assert len({row.id for row in rows}) == len(rows) == sum(map(len, job.constraint.groups))
    assert not {"label", "answer", "answerKey"} & {*rows[0].fields}


@pytest.mark.parametrize("name", FILES)
def test_the_answer_changes_nothing_but_the_label(name: str) -> None:
    (first, *_) = FILES[name]
    (key,) = {"label", "answer", "answerKey"} & {*first}
    seen = set()
    for answer in {"arc": "ABC", "hellaswag": "0123", "piqa": [0, 1], "winogrande": "12"}.get(
        name, [0, 1, 2]
    ):
        claims = made({**first, key: answer})
        assert [claim.pop("label") for claim in claims].count("True") == 1
        seen.add(json.dumps(claims))
    assert len(seen) == 1


def test_ids_name_the_question_and_the_claims_place() -> None:
    assert [claim["id"] for claim in made(*ARC)][:4] == [
        "Mercury_7-c1",
        "Mercury_7-c2",
        "Mercury_7-c3",
        "MCAS_9-c1",
    ]
    assert {claim["id"] for claim in made(*PIQA)} == {"q1-c1", "q1-c2", "q2-c1", "q2-c2"}
    of_numbers = made({**MMLU[0], "id": 7})
    assert {claim["question_id"] for claim in of_numbers} == {"7"}


def test_what_else_a_row_has_stays() -> None:
    assert {claim["subject"] for claim in made(*MMLU)} == {"sums"}
    choices = {claim["claim"]: claim["choice"] for claim in made(ARC[0])}
    assert choices == {"oxygen": "A", "carbon dioxide": "B", "neon": "C"}


def test_a_choice_that_is_there_twice_is_one_claim() -> None:
    claims = made({"question": "q", "choices": ["a", "b", "a"], "answer": 2})
    assert {(claim["claim"], claim["label"]) for claim in claims} == {("a", "True"), ("b", "False")}


@pytest.mark.parametrize(
    "answer",
    ["C", "c", 2, "2", 2.0, "three"],
    ids=["letter", "small", "int", "text", "float", "own"],
)
def test_an_answer_is_a_letter_a_number_or_the_choice_itself(answer: object) -> None:
    claims = made({"question": "q", "choices": ["one", "two", "three"], "answer": answer})
    assert [claim["claim"] for claim in claims if claim["label"] == "True"] == ["three"]


@pytest.mark.parametrize("answer", [None, "", -1, "-1"])
def test_a_row_without_an_answer_has_no_gold(answer: object) -> None:
    for row in ({**MMLU[0], "answer": answer}, {**PIQA[0], "label": answer}):
        assert {claim["label"] for claim in made(row)} == {None}
    del (bare := dict(PIQA[0]))["label"]
    assert all("label" not in claim for claim in made(bare))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"question": "q", "choices": ["1", "0"], "answer": "1"},
            "the answer '1' may be two of the choices: name it as '0', '1', by its letter from A",
        ),
        ({**PIQA[0], "label": 2}, "the answer '2' is none of the choices: name it as '0', '1'"),
        ({**ARC[0], "answerKey": "oxygen"}, "is none of the choices: name it as 'A', 'B', 'C'"),
        ({"question": "q", "choices": "a, b", "answer": 0}, "must be a list of two texts or more"),
        ({"question": "q", "choices": ["a"], "answer": 0}, "must be a list of two texts or more"),
        ({"question": "q", "choices": ["a", ""], "answer": 0}, "the field 'choice 2' is empty"),
        ({"question": "q", "choices": '["a", ', "answer": 0}, "the choices are not JSON"),
        (
            {"question": "q", "choices": {"text": ["a", "b"], "label": ["A", "A"]}},
            "the choices' labels must be one a choice, all different",
        ),
        ({**WINOGRANDE[0], "sentence": "No blank."}, "the field 'sentence' has no blank (_)"),
        ({**ARC[0], "id": " "}, "the id must be text or a whole number"),
    ],
)
def test_what_cannot_be_read_is_said(row: Raw, said: str) -> None:
    assert said in refused(row)


def test_boolq_is_answered_yes_or_no(tmp_path: Path) -> None:
    job = Job.prepare(lines(tmp_path / "rows.jsonl", BOOLQ), "boolq")
    assert job.dataset.gold == ("yes", "no")
    assert job.prompts[0] == ("Passage: Botanists say so.\nQuestion: is a banana a berry\nAnswer:")
    said = refused({**BOOLQ[0], "answer": "maybe"}, loader="boolq")
    assert said == "the field 'answer' must be true or false, not 'maybe'"


def csv(path: Path) -> Path:
    path.write_text(
        'question,choices,answer\nWhat is 1 + 1?,"[""1"", ""2"", ""3""]",B\n'
        'What is 1 + 1?,"[""0"", ""2""]",B\n',
        "utf-8",
    )
    return path


def classes(_: Path) -> Any:
    letters = datasets.ClassLabel(names=["A", "B", "C", "D"])
    rows = [{**row, "answer": 1} for row in MMLU]
    return datasets.Dataset.from_list(rows).cast_column("answer", letters)


def parquet(path: Path) -> Path:
    pq.write_table(pa.Table.from_pylist([dict(row) for row in MMLU]), path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


def read_by_pandas(path: Path) -> Any:
    """Lists are arrays there."""
    return pd.read_parquet(parquet(path))


@pytest.mark.parametrize("form", [csv, classes, parquet, read_by_pandas])
def test_other_forms_of_the_same_questions_give_the_same_claims(
    form: Callable[[Path], Any], tmp_path: Path
) -> None:
    expected = Job.prepare(lines(tmp_path / "rows.jsonl", MMLU), "multiple-choice")
    found = Job.prepare(form(tmp_path / "rows.csv"), "multiple-choice")
    assert found.prompts == expected.prompts
    assert found.dataset.gold == expected.dataset.gold


async def test_at_most_one_claim_of_a_question_is_found_true(tmp_path: Path) -> None:
    task = Task.builtin("arc")
    rows = [
        {"question": f"Question {n}?", "choices": [f"{n}{c}" for c in "wxyz"], "answer": n % 4}
        for n in range(16)
    ]
    job = Job.prepare(rows, task)
    classes_of = [task.labels.index(str(word)) for word in job.dataset.gold or ()]
    concept = PlantedConcept(dict(zip(job.prompts, classes_of, strict=True)), task.label_texts)
    found = await label(rows, task=task, endpoint=concept, store=tmp_path / "store")
    true = [row.row.fields["question_id"] for row in found.rows if row.label == "True"]
    assert len(true) == len(set(true))
    assert found.accuracy is not None
    assert found.accuracy > 0.9


def test_the_released_codes_rule_for_solutions_can_be_said_too() -> None:
    rows = [
        {"question": "q", "claim": claim, "answer": claim[-1]} for claim in ("A: 1", "so 1", "A: 2")
    ]
    given = Task.builtin("gsm8k-verification").rules
    same = type(given[0])(kind="same-answer", group=("question",), answer="answer")
    rule = Job.prepare(rows, "gsm8k-verification", constraint=[*given, same]).constraint
    true, false = 1, 0  # alphabetical
    assert not rule.consistent(0, true, 1, false)
    assert not rule.consistent(0, true, 2, true)
    assert rule.consistent(0, true, 1, true)
    # Alone, the built-in task lets a wrong solution end in the right number.
    own = Job.prepare(rows, "gsm8k-verification").constraint
    assert own.consistent(0, true, 1, false)
