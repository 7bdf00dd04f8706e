from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icm_client.coherence.constraints import AtMostOne, SameAnswer
from icm_client.coherence.objective import (
    LeaveOneOut,
    inconsistency,
    mutual_predictability,
    utility,
)
from icm_client.coherence.problem import UNLABELLED, FloatArray, IntArray, Query


def test_each_contradiction_counts_twice_as_printed() -> None:
    # Items 0, 1, 2 true: pairs (0, 1), (0, 2), (1, 2), each in both orders: 6.
    assert inconsistency(np.array([1, 1, 1]), AtMostOne(((0, 1, 2),), true=1)) == 6
    assert inconsistency(np.array([1, 1, UNLABELLED]), AtMostOne(((0, 1, 2),), true=1)) == 2


@given(st.lists(st.integers(UNLABELLED, 2), min_size=8, max_size=8).map(np.array))
def test_inconsistency_is_the_double_sum(labels: IntArray) -> None:
    rule = SameAnswer(((0, 1, 2), (3, 4, 5, 6)))
    double_sum = sum(
        not rule.consistent(i, int(labels[i]), j, int(labels[j]))
        for group in rule.groups
        for i in group
        for j in group
        if UNLABELLED not in (labels[i], labels[j])
    )
    assert inconsistency(labels, rule) == double_sum


def test_predictability_is_the_sum_of_log_probs() -> None:
    log_probs = np.array([[-0.5, -3.0], [-4.0, -0.25], [-1.0, -2.0]])
    assert mutual_predictability(log_probs, np.array([0, 1, 0])) == -1.75
    assert mutual_predictability(np.zeros((0, 2)), np.zeros(0, dtype=np.int64)) == 0


def test_utility_by_hand() -> None:
    assert utility(50, -1.75, 2) == pytest.approx(-89.5)  # 50 * -1.75 - 2


class Scripted:
    """`log P(y | x_i, C) = -i - y / 10 - len(C) / 100`."""

    def __init__(self) -> None:
        self.calls = 0

    async def __call__(self, queries: Sequence[Query]) -> FloatArray:
        self.calls += 1
        return np.array(
            [[-q.target - y / 10 - len(q.context) / 100 for y in (0, 1)] for q in queries]
        )


async def test_each_labelled_item_adds_its_log_prob_at_its_own_label_once() -> None:
    score = Scripted()
    P = LeaveOneOut(score, np.array([2, 0, 3, 1]), "tree", None)  # noqa: N806
    # Items 1 (label 1), 2 (label 0), 3 (label 1), two demos each:
    # -1 - 0.1 - 0.02, -2 - 0.02 and -3 - 0.1 - 0.02: -6.26.
    labels = np.array([UNLABELLED, 1, 0, 1])
    assert await P(labels) == pytest.approx(-6.26)
    assert await P(labels.copy()) == pytest.approx(-6.26)
    assert score.calls == 1  # a labelling is evaluated once
    assert await P(np.array([UNLABELLED, 1, 1, 1])) == pytest.approx(-6.36)
    assert score.calls == 2


async def test_no_labelled_item_asks_nothing() -> None:
    score = Scripted()
    assert await LeaveOneOut(score, np.arange(3), "tree", None)(np.full(3, UNLABELLED)) == 0
    assert score.calls == 0
