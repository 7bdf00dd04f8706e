"""What looks wrong before a run is said, and what is usual is not."""

import pytest

from icm_client import Task, rows_from
from icm_client.data.job import Job
from icm_client.data.sanity import gold_notices, nearly_the_same, sanity_warnings

REVIEWS = ["good film", "bad film", "fine film", "dull film"]


def task(*labels: str, template: str = "{text}\nLabel:") -> Task:
    return Task(template=template, labels=labels)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("positive", "postive"),
        ("positive", "positives"),
        ("positive", "psoitive"[:1] + "ostiive"),
        ("not relevant", "Not-Relevant"),
        ("neutral", "neutral."),
        ("negative", "negativo"),
    ],
)
def test_a_slip_in_a_label_is_seen(one: str, other: str) -> None:
    assert nearly_the_same(one, other)
    assert nearly_the_same(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("True", "False"),
        ("positive", "negative"),
        ("A", "B"),
        ("A+", "A-"),
        ("C", "C++"),
        ("class 1", "class 2"),
        ("legal", "illegal"),
        ("moral", "amoral"),
        ("male", "female"),
        ("good", "food"),
        ("entailment", "not entailment"),
        ("+", "-"),
    ],
)
def test_labels_that_are_meant_are_left_alone(one: str, other: str) -> None:
    assert not nearly_the_same(one, other)


def test_labels_that_are_nearly_the_same_or_very_long_are_told() -> None:
    asked = task("positive", "postive", "the reviewer would not watch this film a second time")
    alike, long = sanity_warnings(asked, rows_from(REVIEWS))
    assert "'positive' and 'postive' are nearly the same" in alike
    assert "'the reviewer would not" in long
    assert sanity_warnings(task("positive", "negative"), rows_from(REVIEWS)) == ()


def test_cells_that_stand_for_nothing_are_counted_with_their_line() -> None:
    rows = [*REVIEWS, "N/A", "nan", " - "]
    (told,) = sanity_warnings(task("positive", "negative"), rows_from(rows))
    assert told.startswith("3 rows have nothing but 'N/A' or the like in the field 'text'")
    assert "the first in line 5" in told


def test_only_columns_that_the_template_uses_count_and_none_may_be_an_answer() -> None:
    noted = [{"text": text, "note": "n/a"} for text in REVIEWS]
    assert sanity_warnings(task("positive", "negative"), rows_from(noted)) == ()
    answers = [{"answer": word} for word in ("none", "some", "none", "all", "none", "some", "all")]
    asked = task("right", "wrong", template="{answer}:")
    assert sanity_warnings(asked, rows_from(answers)) == ()


def test_a_label_that_no_gold_has_is_worth_knowing() -> None:
    asked = task("positive", "negative")
    rows = [{"text": text, "gold": "positive"} for text in REVIEWS]
    (told,) = gold_notices(asked, rows_from(rows, gold="gold"))
    assert told.startswith("no row has the gold label 'negative'")
    rows[0]["gold"] = "negative"
    assert gold_notices(asked, rows_from(rows, gold="gold")) == ()
    assert gold_notices(asked, rows_from(REVIEWS)) == ()


def test_what_must_be_mended_and_what_is_worth_knowing_are_told_apart() -> None:
    rows = [{"text": text, "gold": gold} for text, gold in zip(REVIEWS, "pnp ", strict=True)]
    job = Job.prepare(rows_from([*rows, rows[0]], gold="gold"), task("p", "n"), gold="gold")
    assert ["same prompt" in warning for warning in job.warnings] == [True]
    assert ["1 of 5 rows have no label" in notice for notice in job.notices] == [True]
