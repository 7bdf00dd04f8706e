import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from icm_client.data import Task, rows_from
from icm_client.data.constraint_spec import ConstraintSpec
from icm_client.data.sanity import one_to_one, refuse_gold_keys, same_split, single_labels
from icm_client.errors import TaskError

SOLUTIONS = Path(__file__).parent / "grade_school_math" / "claims.jsonl"
Rows = list[dict[str, object]]


def a_task(constraint: Mapping[str, object], *, gold: str | None = None) -> Task:
    template = "Question: {question}\nClaim: {claim}\nI think this claim is"
    return Task(
        template=template,
        labels=("True", "False"),
        gold=gold,
        constraint=ConstraintSpec.model_validate(constraint),
    )


def check(rows: Rows, **constraint: object) -> None:
    refuse_gold_keys(a_task(constraint), rows_from(rows, gold="label"))


def refused(rows: Rows, **constraint: object) -> str:
    with pytest.raises(TaskError) as caught:
        check(rows, **constraint)
    return str(caught.value)


def real_claims() -> Rows:
    """15 problems with four solutions each; some right in none of the four, one right in three."""
    return [json.loads(line) for line in SOLUTIONS.read_text("utf-8").splitlines()]


def made_claims(questions: int = 60, seed: int = 0) -> Rows:
    """Five claims a question; right answers are one answer, wrong ones are drawn from the same."""
    draw = random.Random(seed)
    rows: Rows = []
    for number in range(questions):
        right = draw.randrange(12)
        for _ in range(5):
            answer = right if draw.random() < 0.4 else draw.randrange(12)
            label = str(answer == right)
            rows.append(
                {"question": f"q{number}", "claim": f"c{len(rows)}", "qid": number}
                | {"answer": answer, "label": label}
            )
    return rows


def with_key(rows: Rows, key: Callable[[dict[str, object]], object]) -> Rows:
    """Add the field `key`, made by a function of the row."""
    return [row | {"key": key(row)} for row in rows]


# the gold field itself


@pytest.mark.parametrize(
    "constraint",
    [
        {"kind": "mutual-exclusion", "group": "question", "answer": "label"},
        {"kind": "same-answer", "group": ["question", "label"]},
        {"kind": "implication", "implies": "label"},
        {"kind": "rules:f", "group": "label"},
    ],
)
def test_the_gold_field_is_refused(constraint: dict[str, object]) -> None:
    said = "`label` holds the gold labels; a rule made from them would give the search the answers"
    assert said in refused(made_claims(), **constraint)


def test_each_of_several_rules_is_looked_at() -> None:
    sound = {"kind": "mutual-exclusion", "group": "question", "answer": "answer"}
    leaks = {"kind": "same-answer", "group": ["question", "label"]}
    task = Task(template="{claim}", labels=("True", "False"), constraint=[sound, leaks])  # type: ignore[arg-type]
    with pytest.raises(TaskError, match="`label` holds the gold labels"):
        refuse_gold_keys(task, rows_from(made_claims(), gold="label"))


def test_the_tasks_own_gold_field_is_refused_when_the_run_names_another() -> None:
    rows = rows_from(with_key(made_claims(), lambda row: row["label"]), gold="label")
    task = a_task({"kind": "same-answer", "group": "key"}, gold="key")
    with pytest.raises(TaskError, match="`key` holds the gold labels"):
        refuse_gold_keys(task, rows)


# fields that are sound


SOUND: list[dict[str, object]] = [
    {"kind": "mutual-exclusion", "group": "question", "answer": "answer"},
    {"kind": "same-answer", "group": "question", "answer": "answer"},
    {"kind": "same-answer", "group": ["question", "answer"]},
    {"kind": "at-most-one", "group": "question"},
]


@pytest.mark.parametrize("constraint", SOUND)
def test_the_answers_of_real_solutions_are_sound(constraint: dict[str, object]) -> None:
    check(real_claims(), **constraint)


@pytest.mark.parametrize("constraint", SOUND)
def test_answers_that_are_right_here_and_wrong_there_are_sound(
    constraint: dict[str, object],
) -> None:
    check(made_claims(), **constraint)


def test_same_answer_in_one_field_is_sound_though_each_value_has_one_label() -> None:
    rows = with_key(made_claims(), lambda row: f"{row['qid']}: {row['answer']}")
    check(rows, kind="same-answer", group="key")


def test_what_is_said_in_several_batches_is_sound() -> None:
    # Each batch has a true statement twice and a false one twice; the second repeats the first.
    rows: Rows = [
        {"question": f"batch {batch}", "claim": f"{said} {max(batch, 1)}", "label": label}
        for batch in range(20)
        for said, label in [("so", "True"), ("not so", "False")] * 2
    ]
    rows = with_key(rows, lambda row: row["claim"])
    check(rows, kind="same-answer", group="key")


def test_yes_and_no_are_sound_though_they_split_every_question_as_gold_does() -> None:
    draw = random.Random(1)
    rows: Rows = []
    for number in range(60):
        right = draw.choice(["yes", "no"])
        for answer in ["yes", "no", "yes", "no"]:
            rows.append(
                {"question": number, "claim": len(rows), "said": answer}
                | {"label": str(answer == right)}
            )
    check(rows, kind="same-answer", group="question", answer="said")
    check(rows, kind="mutual-exclusion", group="question", answer="said")


def test_a_field_in_the_template_may_tell_what_it_tells() -> None:
    rows = [
        {"question": n, "claim": claim, "label": label}
        for n in range(40)
        for claim, label in [("I do not know", "True"), ("I do", "False"), (f"{n}", "False")]
    ]
    check(rows, kind="same-answer", group="question", answer="claim")


def test_nothing_is_refused_without_gold() -> None:
    rows = rows_from(with_key(made_claims(), lambda row: row["label"]))
    refuse_gold_keys(a_task({"kind": "same-answer", "group": "key"}), rows)


def test_a_few_rows_prove_nothing() -> None:
    rows = with_key(made_claims(2), lambda row: f"{row['label']} {row['claim']}")
    check(rows, kind="same-answer", group="question", answer="key")


# fields made from gold


def test_gold_under_other_names_is_refused() -> None:
    rows = with_key(made_claims(2), lambda row: {"True": "A", "False": "B"}[str(row["label"])])
    for constraint in (
        {"kind": "same-answer", "group": "key"},
        {"kind": "mutual-exclusion", "group": "question", "answer": "key"},
        {"kind": "rules:f", "group": ["question", "key"]},
    ):
        message = refused(rows, **constraint)
        assert (
            "`key` gives the gold labels away: its values pair off with the gold labels" in message
        )
        assert "Name a field that comes from the rows' own text" in message


def test_values_that_are_always_right_or_always_wrong_are_refused() -> None:
    rows = with_key(made_claims(), lambda row: f"{row['label']}-{int(str(row['claim'])[1:]) % 5}")
    for constraint in (
        {"kind": "mutual-exclusion", "group": "question", "answer": "key"},
        {"kind": "same-answer", "group": ["question", "key"]},
    ):
        said = "every value that comes up in several groups has a single gold label (10 of 10)"
        assert said in refused(rows, **constraint)
    said = "every value that several rows share has a single gold label (10 of 10)"
    assert said in refused(rows, kind="at-most-one", group="key")


def test_gold_within_each_question_is_refused() -> None:
    rows = with_key(made_claims(), lambda row: f"{row['question']}-{row['label']}")
    for constraint in (
        {"kind": "same-answer", "group": "key"},
        {"kind": "same-answer", "group": "question", "answer": "key"},
        {"kind": "mutual-exclusion", "group": "qid", "answer": "key"},
    ):
        message = refused(rows, **constraint)
        assert "rows share a value exactly where they share a gold label" in message


def test_gold_beside_real_solutions_is_refused_where_there_are_enough_questions() -> None:
    constraint = {"kind": "mutual-exclusion", "group": "question", "answer": "key"}
    rows = with_key(real_claims(), lambda row: f"{row['question']}-{row['label']}")
    # A right solution beside two wrong ones tells something: 5 of the 15 problems have those.
    check(rows, **constraint)
    again = [row | {"question": f"Again: {row['question']}"} for row in rows]
    twice = with_key(rows + again, lambda row: f"{row['question']}-{row['label']}")
    assert "in every one of 10 groups" in refused(twice, **constraint)


# the signs, counted by hand


def test_one_to_one_needs_two_values_of_two_rows() -> None:
    assert one_to_one(["a", "a", "b", "b"], ["T", "T", "F", "F"])
    assert one_to_one(["a", "a", "b", "b", None, "c"], ["T", "T", "F", "F", "T", None])
    assert one_to_one(["a", "a", "b"], ["T", "T", "F"]) is None
    assert one_to_one(["a", "a", "b", "b", "a"], ["T", "T", "F", "F", "F"]) is None
    assert one_to_one(["a", "a", "b", "b", "c"], ["T", "T", "F", "F", "F"]) is None
    assert one_to_one(["a", "b", "c"], ["T", "F", "F"]) is None
    assert one_to_one(list("aaaabb"), list("TTFFUU")) is None
    assert one_to_one([], []) is None


def test_single_labels_by_hand() -> None:
    # Two labels, half the rows each: a value in n units agrees by chance with 2 * (1/2)^n. Eleven
    # values in two units each: (1/2)^11 = 0.00049. Ten: 0.00098, both under 0.001. Nine: 0.00195.
    def seen(values: int) -> str | None:
        keys = [number for number in range(values) for _ in range(2)]
        gold = ["T" if number % 2 else "F" for number in keys]
        # Even out the shares with values that come up once.
        spare = gold.count("F") - gold.count("T")
        keys += range(-spare, 0)
        return single_labels(keys, range(len(keys)), gold + ["T"] * spare)

    assert seen(11) == "11 of 11"
    assert seen(10) == "10 of 10"
    assert seen(9) is None


def test_values_of_one_label_only_do_not_show_that_labels_are_single() -> None:
    keys = ["I do not know"] * 50 + list(range(50))
    gold = ["T"] * 50 + ["F"] * 50
    assert single_labels(keys, range(100), gold) is None


def test_rows_of_one_group_are_one_unit() -> None:
    keys, gold = list("aabb") * 20, ["T", "T", "F", "F"] * 20
    assert single_labels(keys, ["x", "x", "y", "y"] * 20, gold) is None
    assert single_labels(keys, range(80), gold) == "2 of 2"


def test_one_value_with_two_labels_shows_that_labels_are_not_single() -> None:
    keys, gold = list("aabb") * 20, ["T", "T", "F", "F"] * 20
    assert single_labels(keys, range(80), ["F", *gold[1:]]) is None


def test_same_split_by_hand() -> None:
    def seen(golds: str, true: str | None, groups: int = 10, *, beside: str = "") -> str | None:
        """Split `groups` groups by gold; the group `beside` is all wrong, with these values."""
        keys = [f"{group}{label}" for group in range(groups) for label in golds]
        units = [group for group in range(groups) for _ in golds]
        return same_split(
            [*keys, *beside],
            [*units, *[-1] * len(beside)],
            [*(list(golds) * groups), *["F"] * len(beside)],
            true,
        )

    assert seen("FFT", "T")  # two wrong ones that could have differed
    assert seen("FFT", "T", groups=9) is None
    assert seen("FFT", "T", beside="xxx")
    assert seen("FFT", "T", beside="xyz") is None
    assert seen("FFT", "T", beside="xy") is None
    assert seen("TTF", "T") is None  # two right ones are the same answer
    assert seen("FT", "T") is None
    assert seen("FFF", "T") is None
    assert seen("TTF", None) is None
    assert seen("TTFF", None)
