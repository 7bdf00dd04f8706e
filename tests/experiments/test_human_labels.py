"""Human labels: words, ratings, lists of them, and what is refused."""

import numpy as np
import pytest

from icm_client import Task
from icm_client.data import JsonValue
from icm_client.data.job import Job
from icm_client.errors import InputError, RowError
from icm_client.experiments.baselines import (
    annotator_agreement,
    one_annotator_each,
    read_human_labels,
)

TASK = Task(template="Review: {text}\nSentiment:", labels=("positive", "negative"))
NEGATIVE, POSITIVE = 0, 1  # in alphabetical order


def job_of(*said: JsonValue, task: Task = TASK) -> Job:
    rows: list[dict[str, JsonValue]] = [
        {"text": f"row {n}", "gold": task.labels[0], "who": value} for n, value in enumerate(said)
    ]
    return Job.prepare(rows, task, gold="gold")


def test_words_ratings_and_lists_of_either() -> None:
    human = read_human_labels(
        job_of("positive", " Negative", 2, -0.5, [1, -3, 0], ["positive", None], 0, None), "who"
    )
    assert human == (
        (POSITIVE,),
        (NEGATIVE,),
        (POSITIVE,),
        (NEGATIVE,),
        (POSITIVE, NEGATIVE),
        (POSITIVE,),
        (),
        (),
    )


def test_which_label_a_rating_above_0_stands_for_can_be_said() -> None:
    assert read_human_labels(job_of(1, -1), "who", "negative") == ((NEGATIVE,), (POSITIVE,))


def test_one_annotator_is_drawn_of_those_who_said_something() -> None:
    human = ((POSITIVE, NEGATIVE), (POSITIVE,), ())
    drawn = [one_annotator_each(human, np.random.default_rng(seed)).tolist() for seed in range(20)]
    assert {row[0] for row in drawn} == {POSITIVE, NEGATIVE}
    assert {tuple(row[1:]) for row in drawn} == {(POSITIVE, -1)}
    assert drawn[0] == one_annotator_each(human, np.random.default_rng(0)).tolist()


def test_agreement_is_the_mean_annotator_of_the_mean_row() -> None:
    job = job_of([1, 1, 1, -1], [1], 0)  # all gold: positive
    assert annotator_agreement(job, read_human_labels(job, "who")) == (0.75 + 1) / 2


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("positve", "'positve', which is none of the labels .*Did you mean 'positive'"),
        (True, "true or false"),
        ({"a": 1}, "an object"),
        ([[1]], "a list"),
    ],
)
def test_a_value_that_says_nothing_is_refused_with_its_row(said: JsonValue, message: str) -> None:
    with pytest.raises(RowError, match=message) as refused:
        read_human_labels(job_of("positive", said), "who")
    assert refused.value.line == 2


def test_ratings_need_two_labels() -> None:
    three = Task(template="{text}:", labels=("a", "b", "c"))
    assert read_human_labels(job_of("b", "c", task=three), "who") == ((1,), (2,))
    with pytest.raises(RowError, match="there are 3"):
        read_human_labels(job_of("b", 1, task=three), "who")


def test_labels_that_differ_by_case_only_are_told_apart() -> None:
    cased = Task(template="{text}:", labels=("us", "US"))
    assert read_human_labels(job_of("us", "US", task=cased), "who") == ((1,), (0,))


def test_a_field_that_cannot_be_used_is_refused() -> None:
    job = job_of(1, 1)
    with pytest.raises(InputError, match="is the gold field"):
        read_human_labels(job, "gold")
    with pytest.raises(InputError, match="would read the human labels"):
        read_human_labels(job, "text")
    with pytest.raises(InputError, match=r"no row has the field 'whom'.*Did you mean 'who'"):
        read_human_labels(job, "whom")
    with pytest.raises(InputError, match=r"none of the labels.*Did you mean 'positive'"):
        read_human_labels(job, "who", "posit")
    with pytest.raises(InputError, match="no row has a human label"):
        read_human_labels(job_of(0, None), "who")
