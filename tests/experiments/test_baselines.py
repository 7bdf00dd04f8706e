"""Label sets and predictions, one by one."""

from collections.abc import Sequence

import numpy as np
import pytest

from icm_client import Task
from icm_client.coherence.problem import UNLABELLED, FloatArray, Query
from icm_client.data.constraint_spec import ConstraintSpec
from icm_client.data.job import Job
from icm_client.experiments.baselines import (
    calibrated,
    confident_labels,
    in_context,
    item_labels,
    longer_wins,
    majority,
    random_labels,
    with_errors,
)

PAIRS = Task(
    template="{one}\n{other}\nClaim: the first is better.\nI think this claim is",
    labels=("True", "False"),
    exchange=("other", "one"),
)
FALSE, TRUE = 0, 1


def pairs(*texts: tuple[str, str], task: Task = PAIRS) -> Job:
    return Job.prepare([{"one": one, "other": other} for one, other in texts], task)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_gold_with_errors_has_as_many_errors_as_asked_for_and_true_labels_elsewhere() -> None:
    gold = np.array([0, 1, 2] * 20)
    for wrong in (0, 7, 60):
        labels = with_errors(gold, wrong, 3, rng())
        assert (labels != gold).sum() == wrong
        assert set(labels.tolist()) <= {0, 1, 2}
    assert not np.array_equal(with_errors(gold, 7, 3, rng(1)), with_errors(gold, 7, 3, rng(2)))


def test_random_labels_have_every_label() -> None:
    labels = random_labels(300, 3, rng())
    assert np.bincount(labels).min() > 70


def test_majority_is_the_label_that_most_rows_have() -> None:
    assert majority(np.array([2, 0, 2]), 3) == 2
    assert majority(np.array([1, 0]), 3) == 0


def test_pseudo_labels_are_the_most_confident_rows_of_each_label() -> None:
    log_odds = np.array([3.0, 1.0, -0.1, 0.2, -5.0, 0.1, -0.2])
    scores = np.column_stack([log_odds, np.zeros(7)])
    # four rows for label 0 (the two surest stay), three for label 1 (the two surest stay)
    assert confident_labels(scores).tolist() == [0, 0, -1, -1, 1, -1, 1]
    assert confident_labels(scores, 1.0).tolist() == [0, 0, 1, 0, 1, 0, 1]


def test_the_longer_text_wins_whichever_way_round_the_fields_are_named() -> None:
    job = pairs(("long text", "short"), ("short", "long text"), ("even", "same"))
    longer = longer_wins(job, [0, 1], rng())
    assert longer is not None
    assert longer.tolist() == [TRUE, FALSE]
    ties = [longer_wins(job, [2], rng(seed)) for seed in range(9)]
    assert {int(tie[0]) for tie in ties if tie is not None} == {TRUE, FALSE}


def test_rows_that_are_no_pairs_have_no_longer_one() -> None:
    alone = Job.prepare([{"text": "a"}, {"text": "b"}], Task(template="{text}:", labels=("x", "y")))
    assert longer_wins(alone, [0], rng()) is None
    ruleless = Task(**{**PAIRS.model_dump(), "constraint": ConstraintSpec(kind="none")})
    assert longer_wins(pairs(("a", "b"), ("c", "d"), task=ruleless), [0], rng()) is None


def test_the_other_order_of_a_pair_has_the_label_that_agrees() -> None:
    job = pairs(("a", "b"), ("c", "d"), ("e", "f"))
    labels = item_labels(job, np.array([TRUE, UNLABELLED, FALSE]))
    assert labels.tolist() == [TRUE, FALSE, UNLABELLED, UNLABELLED, FALSE, TRUE]


def test_without_a_rule_nothing_says_what_agrees() -> None:
    ruleless = Task(**{**PAIRS.model_dump(), "constraint": ConstraintSpec(kind="none")})
    job = pairs(("a", "b"), ("c", "d"), task=ruleless)
    assert item_labels(job, np.array([TRUE, FALSE])).tolist() == [TRUE, -1, FALSE, -1]


def test_calibration_removes_label_bias() -> None:
    biased = np.log([[0.9, 0.1], [0.8, 0.2]])
    assert biased.argmax(axis=1).tolist() == [0, 0]
    assert calibrated(biased, None).argmax(axis=1).tolist() == [0, 1]
    shares = np.exp(calibrated(biased, np.array([0.95, 0.05])))
    assert shares.argmax(axis=1).tolist() == [0, 0]


async def test_contexts_are_balanced_and_hold_labelled_items_only() -> None:
    labels = np.array([0] * 6 + [1] * 3 + [UNLABELLED] * 5)
    targets = np.array([10, 12])
    asked: list[Query] = []

    async def score(queries: Sequence[Query]) -> FloatArray:
        asked.extend(queries)
        # The first target is always label 1, the second label 0, whatever stands in front.
        odds = np.where([query.target == 10 for query in queries], -2.0, 2.0)
        return np.column_stack([-np.logaddexp(0, -odds), -np.logaddexp(0, odds)])

    scores = await in_context(
        labels,
        targets,
        score,
        n_labels=2,
        demos=64,
        contexts=4,
        prior=None,
        rng=rng(),
    )
    assert scores.argmax(axis=1).tolist() == [1, 0]
    assert [query.target for query in asked] == [10, 12] * 4
    for query in asked:
        assert sorted(demo.label for demo in query.context) == [0, 0, 0, 1, 1, 1]
        assert all(labels[demo.item] == demo.label for demo in query.context)
    assert len({query.context for query in asked}) == 4


async def test_a_target_that_has_a_label_is_a_mistake() -> None:
    async def score(queries: Sequence[Query]) -> FloatArray:
        raise AssertionError(queries)

    with pytest.raises(ValueError, match="stand in its own context"):
        await in_context(
            np.array([0, 1]),
            np.array([1]),
            score,
            n_labels=2,
            demos=2,
            contexts=1,
            prior=None,
            rng=rng(),
        )
