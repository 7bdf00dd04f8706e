import time
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icm_client.coherence.assignment import ENUMERATED, JointAssignment, assign_jointly
from icm_client.coherence.constraints import (
    AllOf,
    Asymmetry,
    AtMostOne,
    ExactlyOne,
    Implication,
    MutualExclusion,
    SameAnswer,
    inconsistent_pairs,
)
from icm_client.coherence.problem import NO_CONSTRAINT, UNLABELLED, Constraint, FloatArray, Groups
from icm_client.errors import InputError

SEEDS = st.integers(0, 2**32 - 1)
RULES: list[Constraint] = [
    Asymmetry(((0, 3), (2, 1)), 1, 0),
    MutualExclusion(((0, 1, 2), (3, 4, 5)), ("a", "b", "a", "x", "y", "z"), 1),
    SameAnswer(((5, 2), (3, 4, 0))),
    AtMostOne(((3, 1, 2, 0),), 1),
    ExactlyOne(((0, 1, 2), (4, 5)), 1),
    Implication(frozenset({(0, 1), (1, 2), (4, 3)}), 1),
    AllOf(
        (
            MutualExclusion(((0, 1, 2), (3, 4, 5)), ("a", "b", "a", "x", "y", "z"), 1),
            SameAnswer(((0, 2), (1, 4))),  # which joins the two questions
        )
    ),
]


def random_scores(n: int, n_labels: int, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).normal(size=(n, n_labels))


def check_allowed(scores: FloatArray, rule: Constraint) -> None:
    labels, _ = assign_jointly(scores, rule)
    assert inconsistent_pairs(labels, rule) == []
    for group in rule.groups:
        assert rule.allows(group, labels[list(group)].tolist())


def test_a_pair_by_hand() -> None:
    # Each alone would be true: 0.4 over 0 and 0.3 over 0.1. Opposite: true-false sums to 0.5,
    # false-true to 0.3. Item 2 stands in no group.
    scores = np.array([[0.0, 0.4], [0.1, 0.3], [-1.0, -2.0]])
    assert assign_jointly(scores, Asymmetry(((0, 1),), 1, 0)).labels.tolist() == [1, 0, 0]
    # Exchanged, the same pair is given in the other order.
    assert assign_jointly(scores, Asymmetry(((1, 0),), 1, 0)).labels.tolist() == [1, 0, 0]


def test_exclusion_by_hand() -> None:
    # All three would be true, by 2, 3 and 2. Answer "a" (items 0 and 2) gains 4, "b" gains 3.
    scores = np.array([[0.0, 2.0], [0.0, 3.0], [0.0, 2.0]])
    rule = MutualExclusion(((0, 1, 2),), ("a", "b", "a"), 1)
    assert assign_jointly(scores, rule).labels.tolist() == [1, 0, 1]
    # And where none would be, none need be.
    assert assign_jointly(-scores, rule).labels.tolist() == [0, 0, 0]


def test_where_none_would_be_true_the_one_that_costs_least_is() -> None:
    scores = np.array([[3.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    assert assign_jointly(scores, ExactlyOne(((0, 1, 2),), 1)).labels.tolist() == [0, 1, 0]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@given(n_labels=st.integers(2, 3), seed=SEEDS)
def test_no_allowed_labelling_scores_higher(rule: Constraint, n_labels: int, seed: int) -> None:
    scores = random_scores(6, n_labels, seed)
    labels, by_confidence = assign_jointly(scores, rule)
    assert by_confidence == 0
    for group in rule.groups:
        items = list(group)
        sums = {
            option: scores[items, option].sum()
            for option in product(range(n_labels), repeat=len(items))
            if rule.allows(items, option)
        }
        assert sums[tuple(labels[items].tolist())] == pytest.approx(max(sums.values()))
    alone = sorted(set(range(6)) - {item for group in rule.groups for item in group})
    np.testing.assert_array_equal(labels[alone], scores[alone].argmax(axis=1))


def test_without_a_rule_each_item_has_its_best_label() -> None:
    scores = random_scores(50, 3)
    scores[7] = np.nan
    labels, by_confidence = assign_jointly(scores, NO_CONSTRAINT)
    assert labels[7] == UNLABELLED
    assert by_confidence == 0
    there = np.arange(50) != 7
    np.testing.assert_array_equal(labels[there], scores[there].argmax(axis=1))


def test_an_item_without_a_score_has_no_label_and_binds_no_other() -> None:
    scores = np.array([[0.0, 2.0], [np.nan, 1.0], [0.0, 1.0]])
    rule = AtMostOne(((0, 1, 2),), 1)
    assert assign_jointly(scores, rule).labels.tolist() == [1, UNLABELLED, 0]
    scores[0] = np.nan
    assert assign_jointly(scores, rule).labels.tolist() == [UNLABELLED, UNLABELLED, 1]
    # The one that must be true may be the one without a score.
    exactly = ExactlyOne(((0, 1, 2),), 1)
    assert assign_jointly(scores - [0, 9], exactly).labels.tolist() == [-1, -1, 0]
    assert assign_jointly(np.full((3, 2), np.nan), rule).labels.tolist() == [UNLABELLED] * 3


def test_of_equal_labellings_the_first_is_taken_each_time() -> None:
    pairs = Asymmetry(((0, 1),), 1, 0)
    assert assign_jointly(np.zeros((2, 2)), pairs).labels.tolist() == [0, 1]
    large = ExactlyOne((tuple(range(20)),), 1)
    first = assign_jointly(np.zeros((20, 2)), large).labels
    np.testing.assert_array_equal(first, assign_jointly(np.zeros((20, 2)), large).labels)


@pytest.mark.parametrize("n_labels", [2, 5])
def test_a_large_group_is_labelled_by_confidence_and_counted(n_labels: int) -> None:
    whole = tuple(range(13))
    assert n_labels ** len(whole) > ENUMERATED
    groups: Groups = (whole, (13, 14))
    rules: list[Constraint] = [
        AtMostOne(groups, 1),
        SameAnswer(groups),
        ExactlyOne(groups, 1),
        MutualExclusion(groups, tuple(i % 4 for i in range(15)), 1),
        Implication(frozenset({(i, i + 1) for i in range(12)}), 1),
    ]
    for rule in rules:
        for seed in range(10):
            scores = random_scores(15, n_labels, seed)
            assert assign_jointly(scores, rule).by_confidence == 1
            check_allowed(scores, rule)


def test_the_most_confident_stands_and_the_others_agree() -> None:
    # Item 4 is surest, and of label 0; all others would be 1, and summed they win by far.
    scores = np.tile([0.0, 1.0], (13, 1))
    scores[4] = 1.5, 0.0
    assert assign_jointly(scores, SameAnswer((tuple(range(13)),))).labels.tolist() == [0] * 13
    # Small enough to try all, the sum decides.
    assert assign_jointly(scores[:12], SameAnswer((tuple(range(12)),))).labels.tolist() == [1] * 12


def test_where_confidence_leads_to_nothing_allowed_the_least_confident_gives_way() -> None:
    # None would be true; one must be: item 6, which is the least sure.
    scores = np.tile([2.0, 0.0], (13, 1))
    scores[6] = 0.5, 0.0
    labels, _ = assign_jointly(scores, ExactlyOne((tuple(range(13)),), 1))
    assert np.flatnonzero(labels).tolist() == [6]


class Never(Constraint):
    def __init__(self, *groups: tuple[int, ...]) -> None:
        self._groups = groups

    @property
    def groups(self) -> Groups:
        return self._groups

    def consistent(self, _i: int, _y_i: int, _j: int, _y_j: int, /) -> bool:
        return False


def test_a_group_that_is_allowed_nothing_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="no labels at all for items 1, 3:"):
        JointAssignment(Never((1, 3)), 2)  # before there are scores
    with pytest.raises(InputError, match=r"for items .*\.\.\. \(13\)"):
        assign_jointly(np.zeros((13, 2)), Never(tuple(range(13))))


class NoWhole(Constraint):
    """Pairs may be anything, the whole group nothing."""

    groups = (tuple(range(20)),)

    def consistent(self, _i: int, _y_i: int, _j: int, _y_j: int, /) -> bool:
        return True

    def allows(self, _items: object, _labels: object, /) -> bool:
        return False


def test_a_search_through_a_large_group_gives_up() -> None:
    with pytest.raises(InputError, match="no labels were found"):
        assign_jointly(np.zeros((20, 2)), NoWhole())


def test_what_is_allowed_is_asked_once_a_group() -> None:
    asked = []

    class Counting(Constraint):
        groups = ((0, 1), (2, 3))

        def consistent(self, i: int, y_i: int, _j: int, y_j: int, /) -> bool:
            asked.append(i)
            return y_i != y_j

    assign = JointAssignment(Counting(), 2)
    before = len(asked)
    for seed in range(5):
        assert len(set(assign(random_scores(4, 2, seed)).labels[:2].tolist())) == 2
    assert len(asked) == before


def test_a_hundred_thousand_items_in_pairs_take_seconds() -> None:
    n = 100_000
    rule = Asymmetry(tuple((i, i + 1) for i in range(0, n, 2)), 1, 0)
    started = time.perf_counter()
    labels, _ = assign_jointly(random_scores(n, 2), rule)
    assert time.perf_counter() - started < 10  # about half a second on an idle core; N^2 takes days
    assert (labels[::2] != labels[1::2]).all()
