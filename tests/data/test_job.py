import random
import sys
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from icm_client.coherence.constraints import Asymmetry
from icm_client.coherence.problem import NoConstraint
from icm_client.data import Task
from icm_client.data.constraint_spec import ConstraintSpec
from icm_client.data.items import Item
from icm_client.data.job import Job
from icm_client.data.values import JsonValue
from icm_client.errors import InputError, TaskError

Rows = list[Mapping[str, JsonValue] | str]

PAIRS = Task.model_validate(
    {
        "template": "{q}\n1: {one}\n2: {two}\nThe first is better:",
        "labels": ["True", "False"],
        "exchange": ["one", "two"],
    }
)
COMPARISONS: Rows = [
    {"q": "sum", "one": "4", "two": "5", "better": "True"},
    {"q": "product", "one": "6", "two": "9", "better": "False"},
    {"q": "rest", "one": "0", "two": "1", "better": "False"},
]


def claims(questions: int = 12) -> Rows:
    draw = random.Random(0)
    rows: Rows = []
    for number in range(questions):
        right = draw.randrange(3)
        rows += [
            {
                "id": f"{number}.{answer}",
                "question": f"question {number}",
                "claim": f"claim {answer}",
                "answer": answer,
                "then": f"{number}.{(answer + 1) % 3}",
                "label": str(answer == right),
            }
            for answer in range(3)
        ]
    return rows


def claim_task(constraint: Mapping[str, object] | None) -> Task:
    return Task.model_validate(
        {
            "template": "{question}\n{claim}\nThis is",
            "labels": ["True", "False"],
            "constraint": constraint,
        }
    )


# no constraint


def test_without_a_constraint_every_row_is_an_item() -> None:
    job = Job.prepare(claims(), claim_task(None))
    assert job.items == tuple(Item(row, exchanged=False) for row in range(36))
    assert job.row_items.tolist() == list(range(36))
    assert job.prompts == job.task.render_all(job.dataset)
    assert job.constraint == NoConstraint()
    assert job.notices == ()


# pairs in both orders


def test_a_pair_is_shown_in_both_orders() -> None:
    job = Job.prepare(COMPARISONS, PAIRS, gold="better")
    assert job.items[:3] == (Item(0, False), Item(0, True), Item(1, False))
    assert job.prompts[:2] == (
        "sum\n1: 4\n2: 5\nThe first is better:",
        "sum\n1: 5\n2: 4\nThe first is better:",
    )
    assert len(job.prompts) == len(set(job.prompts)) == 6
    assert job.row_items.tolist() == [0, 2, 4]
    # Sorted, "False" is 0 and "True" is 1.
    assert job.constraint == Asymmetry(((0, 1), (2, 3), (4, 5)), true=1, false=0)
    assert job.notices == ("each of 3 pairs is shown in both orders: 6 prompts",)


def test_the_rows_keep_their_own_order_of_fields() -> None:
    job = Job.prepare(COMPARISONS, PAIRS)
    assert [row.fields["one"] for row in job.dataset.rows] == ["4", "6", "0"]


def test_both_orders_are_shown_without_the_rule_too() -> None:
    job = Job.prepare(COMPARISONS, PAIRS, constraint=ConstraintSpec(kind="none"))
    assert job.constraint == NoConstraint()
    assert job.prompts == Job.prepare(COMPARISONS, PAIRS).prompts
    assert job.notices == ()


def test_a_text_compared_with_itself_is_warned_about() -> None:
    rows = [*COMPARISONS, {"q": "odd", "one": "7", "two": "7"}]
    (said,) = Job.prepare(rows, PAIRS).warnings
    assert said.startswith("1 row compares a text with itself")


def test_rows_that_hold_both_orders_already_are_warned_about() -> None:
    rows = [*COMPARISONS, {"q": "sum", "one": "5", "two": "4"}]
    (said,) = Job.prepare(rows, PAIRS).warnings
    assert said.startswith("2 rows have the same prompt as an earlier row")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"exchange": ["one"]}, "`exchange` takes the two fields that change places, not 'one'"),
        ({"exchange": ["one", "one"]}, "`exchange` takes the two fields that change places"),
        ({"exchange": ["one", "tow"]}, "names 'tow', which the template does not use; it uses "),
        ({"exchange": ["one", "tow"]}, "Did you mean 'two'?"),
        ({"constraint": {"kind": "same-answer", "group": "q"}}, "leave out one of the two"),
        (
            {"constraint": {"kind": "asymmetry", "group": "q"}},
            "the rows hold both orders: not both",
        ),
        ({"constraint": {"kind": "asymmetry"}, "exchange": None}, "both orders: name one"),
    ],
)
def test_an_exchange_that_makes_no_sense_is_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(TaskError) as caught:
        Task.model_validate(PAIRS.model_dump() | settings)
    assert said in str(caught.value)


# constraints


def test_a_run_names_another_constraint_than_the_task() -> None:
    task = claim_task({"kind": "mutual-exclusion", "group": "question", "answer": "answer"})
    assert len(Job.prepare(claims(), task).constraint.groups) == 12
    none = Job.prepare(claims(), task, constraint=ConstraintSpec(kind="none"))
    assert none.constraint == NoConstraint()
    wrong = ConstraintSpec(kind="at-most-one", group=("question",), true="true")
    with pytest.raises(TaskError, match="`true` is 'true', which is none of the labels"):
        Job.prepare(claims(), task, constraint=wrong)


def test_a_prior_and_a_constraint_go_together() -> None:
    spec = ConstraintSpec(kind="at-most-one", group=("question",))
    job = Job.prepare(claims(), claim_task(None), prior={"True": 0.25}, constraint=spec)
    assert job.prior is not None
    assert job.prior.tolist() == [0.75, 0.25]
    assert job.task.rules[0] == spec
    assert job.notices == ("the constraint 'at-most-one' joins 36 of 36 rows in 12 groups",)


def test_a_key_made_from_gold_stops_the_run() -> None:
    rows: Rows = [{**row, "key": f"is {row['label']}"} for row in claims() if isinstance(row, dict)]
    task = claim_task({"kind": "mutual-exclusion", "group": "question", "answer": "key"})
    with pytest.raises(InputError, match="`key` gives the gold labels away"):
        Job.prepare(rows, task, gold="label")


# gold takes no part


def poisoned(rows: Rows, how: str) -> Rows:
    """Shuffle the gold labels, or draw new ones, or make them all one."""
    draw = random.Random(7)
    golds = [row["label"] for row in rows if isinstance(row, Mapping)]
    match how:
        case "shuffled":
            draw.shuffle(golds)
        case "drawn":
            golds = [draw.choice(["True", "False"]) for _ in golds]
        case "one":
            golds = ["True"] * len(golds)
    return [
        {**row, "label": gold}
        for row, gold in zip(rows, golds, strict=True)
        if isinstance(row, Mapping)
    ]


def everything_the_search_gets(job: Job) -> object:
    numbers = range(len(job.labels))
    answers = [
        (i, a, j, b, job.constraint.consistent(i, a, j, b))
        for group in job.constraint.groups
        for i, j in combinations(group, 2)
        for a in numbers
        for b in numbers
    ]
    rows = [(row.id, dict(row.fields)) for row in job.dataset.rows]
    return (
        job.items,
        job.prompts,
        job.labels,
        job.label_texts,
        job.constraint.groups,
        answers,
        rows,
    )


OWN_RULE = """
def f(row_i, label_i, row_j, label_j):
    assert "label" not in row_i and "label" not in row_j
    return not (label_i == label_j == "True" and row_i["answer"] != row_j["answer"])
"""


@pytest.mark.parametrize("how", ["shuffled", "drawn", "one"])
@pytest.mark.parametrize(
    "constraint",
    [
        None,
        {"kind": "mutual-exclusion", "group": "question", "answer": "answer"},
        {"kind": "same-answer", "group": "answer"},
        {"kind": "at-most-one", "group": "question"},
        {"kind": "exactly-one", "group": ["question"]},
        {"kind": "implication", "implies": "then"},
        {"kind": "own_rule_for_poison:f", "group": "question"},
    ],
)
def test_gold_changes_nothing_that_the_search_gets(
    constraint: Mapping[str, object] | None,
    how: str,
    tmp_path: Path,
) -> None:
    (tmp_path / "own_rule_for_poison.py").write_text(OWN_RULE)
    task, rows = claim_task(constraint), claims()
    other = poisoned(rows, how)
    assert other != rows
    clean = Job.prepare(rows, task, gold="label")
    poison = Job.prepare(other, task, gold="label")
    assert clean.dataset.gold != poison.dataset.gold
    assert everything_the_search_gets(clean) == everything_the_search_gets(poison)
    if constraint is not None:
        assert clean.constraint.groups
    sys.modules.pop("own_rule_for_poison", None)


def test_gold_changes_nothing_of_pairs_in_both_orders() -> None:
    other: Rows = [{**row, "better": "True"} for row in COMPARISONS if isinstance(row, Mapping)]
    clean = Job.prepare(COMPARISONS, PAIRS, gold="better")
    poison = Job.prepare(other, PAIRS, gold="better")
    assert everything_the_search_gets(clean) == everything_the_search_gets(poison)
    assert np.array_equal(clean.row_items, poison.row_items)


def test_spaces_at_a_rows_end_are_left_out_like_the_templates() -> None:
    task = Task(template="{text}", labels=("yes", "no"))
    job = Job.prepare(["a lemon  ", "a\ttiger\t", " b\n"], task)
    assert job.prompts == ("a lemon", "a\ttiger", " b\n")
    assert job.dataset.rows[0].fields == {"text": "a lemon  "}
    pair = PAIRS.model_copy(update={"template": "{q}: {one} or {two}"})
    shown = Job.prepare([{"q": "q", "one": "a ", "two": "b"}] * 2, pair).prompts
    assert shown[:2] == ("q: a  or b", "q: b or a")


WORDS = ("negative", "positive")
REVIEWS = Task(template="Review: {text}\nSentiment:", labels=WORDS)
ONE_TRUE = claim_task({"kind": "mutual-exclusion", "group": "question", "answer": "claim"})


def test_a_sample_of_rows_holds_whole_groups_in_their_order() -> None:
    rows: Rows = [{"question": f"q{n // 2}", "claim": f"claim {n}"} for n in range(12)]
    some = Job.prepare(rows, ONE_TRUE, limit=7).dataset
    questions = [str(row.fields["question"]) for row in some.rows]
    assert len(questions) == 6
    assert questions == sorted(questions)
    assert all(questions.count(question) == 2 for question in questions)
    assert Job.prepare(rows, ONE_TRUE, limit=7).dataset == some
    with pytest.raises(InputError, match="in whole groups, fit into 1"):
        Job.prepare(rows, ONE_TRUE, limit=1)


def test_a_sample_keeps_each_rows_gold() -> None:
    rows: Rows = [{"text": f"words of row {n}", "gold": WORDS[n * 7 % 5 % 2]} for n in range(20)]
    some = Job.prepare(rows, REVIEWS, gold="gold", limit=5).dataset
    assert len(some.rows) == 5
    for row, gold in zip(some.rows, some.gold or (), strict=True):
        number = int(str(row.fields["text"]).split()[-1])
        assert gold == WORDS[number * 7 % 5 % 2]
