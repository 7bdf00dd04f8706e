"""The released code's departures by hand, over 4 items of which 0 and 1 are one comparison."""

import math
from collections.abc import Sequence
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icm_client.coherence.anneal import anneal
from icm_client.coherence.anneal_official import (
    OfficialSettings,
    fix,
    mean_log_odds,
    temperature_after,
    ways_out,
)
from icm_client.coherence.batches import Within
from icm_client.coherence.calibration import log_softmax
from icm_client.coherence.consistency_fix import Change, Evaluate, Fixed
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
from icm_client.coherence.problem import (
    NO_CONSTRAINT,
    UNLABELLED,
    Constraint,
    FloatArray,
    IntArray,
    Problem,
    Query,
)
from icm_client.errors import InputError

ORDERS = Asymmetry(((0, 1),), true=1, false=0)
NEARLY = 1e-4
"""What 1e-5, added to each probability, may change in a sum done by hand without it."""

LOG_PROBS = np.array([[-2.0, -0.5], [-0.6, -1.0], [-0.25, -1.5], [-1.0, -0.75]])


class Table:
    """`log P(y | x_i, C) = log_probs[i, y]`, whatever the context."""

    def __init__(self, log_probs: FloatArray = LOG_PROBS) -> None:
        self.log_probs = log_probs

    async def __call__(self, queries: Sequence[Query]) -> FloatArray:
        return self.log_probs[[query.target for query in queries]]


async def test_every_departure_by_hand() -> None:
    chance = Mock(spec=np.random.Generator)
    # The order, first labels, the only pair.
    chance.permutation.side_effect = [np.arange(4), np.array([1, 1]), np.array([0])]
    chance.choice.side_effect = [2, 2, 1, 3]
    chance.random.side_effect = [0.999, 0.8, 0.87]
    result = await anneal(
        Problem(4, 2, constraint=ORDERS),
        Table(),
        rng=chance,
        settings=OfficialSettings(initial=1, alpha=2.0, iterations=4),
    )
    # Log-odds of 1 over 0: +1.5, -0.4, -1.25, +0.25. The mean counts, signed by the labels.
    # The first of the batch is item 0, and its group with it: both 1, as scripted.
    # U = 2 * (1.5 - 0.4) / 2 - 1 = 0.1.
    # Fix: (0, 1): (-1.5 - 0.4) / 2 = -0.95; (1, 0): (1.5 + 0.4) / 2 = 0.95, U = 1.9. D = (1, 0).
    first, second, third, fourth = result.steps
    # n = 1, no flips: T = 10. Item 2: 0. Dhat: (1.9 + 1.25) / 3 = 1.05, U = 2.1, Delta = +0.2:
    # exp would be 1.02; clamped at 1 > 0.999: accepted, flips = 1.
    assert (first.T, first.proposal, first.accepted) == (10, 0, True)
    assert (first.U, first.Delta) == pytest.approx((2.1, 0.2), abs=NEARLY)
    # n = 2: T = 10 / (1 + 2 ln 2) = 4.190598. Item 2 again, and again 0: skipped, no draw, no flip.
    assert (second.n, second.item, second.proposal, second.fix) == (2, 2, 0, ())
    assert (second.T, second.alpha, second.U) == pytest.approx((4.190598, 2.0, 2.1), abs=NEARLY)
    assert (second.Delta, second.accepted) == (0.0, True)
    # n = 3: item 1 is 0 already: skipped too, T as before.
    assert (third.T, third.item, third.Delta) == (second.T, 1, 0.0)
    # n = 4: item 3: 1. Dhat: (3.15 + 0.25) / 4 = 0.85, U = 1.7, Delta = -0.4;
    # exp(-0.4 / 4.190598) = 0.909 > 0.8: accepted.
    assert (fourth.T, fourth.accepted) == (second.T, True)
    assert (fourth.U, fourth.Delta) == pytest.approx((1.7, -0.4), abs=NEARLY)
    assert result.labels.tolist() == [1, 0, 0, 1]
    assert result.utility == pytest.approx(1.7, abs=NEARLY)


async def test_a_contradiction_counts_once() -> None:
    result = await anneal(
        Problem(4, 2, constraint=ORDERS, start=np.array([1, 1, 0, UNLABELLED])),
        Table(),
        rng=np.random.default_rng(0),
        settings=OfficialSettings(iterations=0, fixes=0),
    )
    # (1.5 - 0.4 + 1.25) / 3 = 0.783333; one pair: 30 * 0.783333 - 1 = 22.5.
    assert result.utility == pytest.approx(22.5, abs=30 * NEARLY)


def test_predictability_by_hand() -> None:
    # Labels 1, 1, 0: -0.5 + 2.0 = 1.5; -1.0 + 0.6 = -0.4; -0.25 + 1.5 = 1.25: mean 2.35 / 3.
    assert mean_log_odds(LOG_PROBS[:3], np.array([1, 1, 0])) == pytest.approx(2.35 / 3, abs=NEARLY)
    # Three labels of 0.5, 0.3, 0.2: log 0.5 - log 0.5 = 0, log 0.3 - log 0.7 = -0.847298.
    three = np.log([[0.5, 0.3, 0.2]])
    assert mean_log_odds(three, np.array([0])) == pytest.approx(0, abs=1e-12)
    assert mean_log_odds(three, np.array([1])) == pytest.approx(-0.847298, abs=NEARLY)


@given(st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_of_two_labels_predictability_is_the_signed_log_odds(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    log_probs, labels = log_softmax(rng.normal(size=(n, 2))), rng.integers(2, size=n)
    signed = np.where(labels == 1, 1, -1) * (log_probs[:, 1] - log_probs[:, 0])
    assert mean_log_odds(log_probs, labels) == pytest.approx(signed.mean(), abs=5e-3)


def test_log_odds_saturate() -> None:
    """Table: log-odds of a label, and with 1e-5 added to both probabilities."""
    true = [1.0, 4.0, 6.0, 8.0, 10.0, 11.513, 14.0, 20.0, 60.0]
    odds = np.array(true)
    log_probs = np.stack([-np.logaddexp(0, odds), -np.logaddexp(0, -odds)], axis=1)
    counted = [mean_log_odds(row[np.newaxis], np.array([1])) for row in log_probs]
    # E.g. 8: p = 0.99966465, q = 0.00033535; log(0.99967465 / 0.00034535) = 7.9706.
    assert counted == pytest.approx(
        [1.0, 3.9995, 5.9960, 7.9706, 9.8009, 10.8198, 11.4331, 11.5127, 11.5129], abs=1e-4
    )
    assert mean_log_odds(log_probs, np.zeros(9, dtype=np.int64)) == pytest.approx(
        -np.mean(counted), abs=1e-9
    )
    # A label that the model gives no probability at all counts too, and is no infinity.
    assert mean_log_odds(np.array([[0.0, -np.inf]]), np.array([1])) == pytest.approx(
        -11.5129, abs=1e-4
    )


def test_temperature_falls_with_the_flips() -> None:
    # 10; 10 / (1 + 2 * 0.693147); 10 / (1 + 2 ln 11) = 10 / 5.795791; 10 / 17.013402.
    falling = [temperature_after(flips, 10, 0.01) for flips in (0, 1, 10, 3000)]
    assert falling == pytest.approx([10, 4.190598, 1.725390, 0.587772], abs=1e-5)
    assert temperature_after(3000, 10, 2.0) == 2.0


@pytest.mark.parametrize(
    ("delta", "draw", "accepted"),
    [
        (0.0, math.nextafter(1.0, 0.0), True),  # exp(0) = 1: always
        (-1.0, 0.606, True),  # exp(-0.5) = 0.60653
        (-1.0, 0.607, False),
        (1e308, math.nextafter(1.0, 0.0), True),  # exp of it would overflow
        (-1e308, 0.0, False),
    ],
)
def test_what_is_accepted(delta: float, draw: float, accepted: bool) -> None:
    chance = Mock(spec=np.random.Generator)
    chance.random.return_value = draw
    policy = OfficialSettings().policy(Problem(1, 2), chance)
    assert policy.accepts(delta, 2.0) is accepted
    chance.random.assert_called_once()  # also where U rises


def table(log_probs: FloatArray, constraint: Constraint, alpha: float) -> Evaluate:
    async def evaluate(labels: IntArray) -> float:
        there = np.flatnonzero(labels != UNLABELLED)
        pairs = len(inconsistent_pairs(labels, constraint))
        return alpha * mean_log_odds(log_probs[there], labels[there]) - pairs

    return evaluate


async def fixed(
    labels: list[int],
    constraint: Constraint = ORDERS,
    log_probs: FloatArray = LOG_PROBS,
    *,
    M: int = 10,  # noqa: N803
    last_first: bool = False,
) -> Fixed:
    chance = Mock(spec=np.random.Generator)
    chance.permutation.side_effect = lambda n: np.arange(n)[:: -1 if last_first else 1]
    evaluate = table(log_probs, constraint, 30.0)
    return await fix(
        np.array(labels), Problem(len(labels), 2, constraint), evaluate, M=M, rng=chance
    )


async def test_the_first_way_out_is_taken_even_where_utility_falls() -> None:
    # Log-odds +1.5 and +2: D = (1, 1): U = 30 * 1.75 - 1 = 51.5.
    # (0, 1): 30 * 0.25 = 7.5; (1, 0): 30 * -0.25 = -7.5. Algorithm 2 would leave the contradiction.
    log_probs = np.array([[-2.0, -0.5], [-3.0, -1.0]])
    result = await fixed([1, 1], log_probs=log_probs)
    assert result.labels.tolist() == [0, 1]
    assert result.changes == (Change(0, 1, 0),)


async def test_a_later_way_out_is_taken_where_utility_is_not_lower_than_the_last_ones() -> None:
    # Two comparisons, both (1, 1); of the first nothing is known.
    # Log-odds 0, 0, -1, +1: after the first, U = 30 * 0 - 1 = -1.
    # Second pair: (0, 1): 30 * 2 / 4 = 15 >= -1: taken.
    rule = Asymmetry(((0, 1), (2, 3)), true=1, false=0)
    log_probs = log_softmax(np.array([[0, 0], [0, 0], [0, -1.0], [0, 1.0]]))
    assert (await fixed([1, 1, 1, 1], rule, log_probs)).labels.tolist() == [0, 1, 0, 1]
    # Log-odds +3, +3 for items 2, 3: first U = 30 * 6 / 4 - 1 = 44; the second pair can only end
    # at 30 * 0 = 0 < 44: not taken, and its contradiction stays.
    log_probs = log_softmax(np.array([[0, 0], [0, 0], [0, 3.0], [0, 3.0]]))
    assert (await fixed([1, 1, 1, 1], rule, log_probs)).labels.tolist() == [0, 1, 1, 1]
    # The other pair first: U = 30 * 0 - 1 = -1. Then (0, 1) has U = 0: taken.
    result = await fixed([1, 1, 1, 1], rule, log_probs, last_first=True)
    assert inconsistent_pairs(result.labels, rule) == []


async def test_a_later_way_out_of_equal_utility_is_taken() -> None:
    async def alike(_: IntArray) -> float:
        return 0.5

    rule = Asymmetry(((0, 1), (2, 3)), true=1, false=0)
    rng = np.random.default_rng(0)
    result = await fix(np.ones(4, dtype=np.int64), Problem(4, 2, rule), alike, M=10, rng=rng)
    assert inconsistent_pairs(result.labels, rule) == []
    assert len(result.changes) == 2


async def test_both_alike_or_one_of_two_true_by_hand() -> None:
    # A chain 0 -> 1 -> 2 of which nothing is known: all log-odds 0, alpha * P = 0.
    # (1, 0, 0): (0, 1) breaks. Both alike: (0, 0, 0): U = 0; (1, 1, 0): U = -1.
    nothing = np.full((4, 2), math.log(0.5))
    rule = Implication(frozenset({(0, 1), (1, 2)}), true=1)
    assert (await fixed([1, 0, 0], rule, nothing)).labels.tolist() == [0, 0, 0]
    # At most one of 4, all true: 6 pairs. Each way out turns one of two false:
    # 3 pairs are left, then 1, then none.
    at_most = AtMostOne(((0, 1, 2, 3),), true=1)
    result = await fixed([1, 1, 1, 1], at_most, nothing)
    assert result.labels.sum() == 1
    assert len(result.changes) == 3


async def test_a_round_goes_on_to_the_next_pair_where_one_has_no_way_out_that_is_taken() -> None:
    # Log-odds 0, 0 | +3, +3 | 0, 0. The first pair taken ends at U = 30 * 6 / 6 - 2 = 28. Of the
    # second no way out reaches that (0 and less); the third ends at 30 - 1 = 29. Trying the pairs
    # in order, a fix of two rounds has tried all three.
    rule = Asymmetry(((0, 1), (2, 3), (4, 5)), true=1, false=0)
    log_probs = log_softmax(np.array([[0, 0], [0, 0], [0, 3.0], [0, 3.0], [0, 0], [0, 0]]))
    result = await fixed([1] * 6, rule, log_probs, M=2)
    assert result.labels.tolist() == [0, 1, 1, 1, 0, 1]


async def test_of_the_first_labels_a_way_out_is_taken_only_where_utility_is_not_lower() -> None:
    # Log-odds +1.5 and +2: U(1, 1) = 51.5, as above; both ways out are lower.
    log_probs = np.array([[-2.0, -0.5], [-3.0, -1.0], [-0.5, -0.5], [-0.5, -0.5]])
    result = await anneal(
        Problem(4, 2, constraint=ORDERS, start=np.array([1, 1, UNLABELLED, UNLABELLED])),
        Table(log_probs),
        rng=np.random.default_rng(0),
        settings=OfficialSettings(iterations=0),
    )
    assert result.labels.tolist() == [1, 1, UNLABELLED, UNLABELLED]


async def test_at_most_m_rounds_are_made() -> None:
    rule = Asymmetry(((0, 1), (2, 3)), true=1, false=0)
    assert (await fixed([1, 1, 1, 1], rule, M=0)).changes == ()
    assert len(inconsistent_pairs((await fixed([1, 1, 1, 1], rule, M=1)).labels, rule)) == 1


@pytest.mark.parametrize(
    ("rule", "n_labels", "wanted"),
    [
        (ORDERS, 2, {(0, 1), (1, 0)}),
        (ORDERS, 3, {(0, 1), (1, 0)}),  # not the tie
        (AtMostOne(((0, 1),), 1), 2, {(0, 1), (1, 0)}),  # not (0, 0)
        (ExactlyOne(((0, 1),), 1), 2, {(0, 1), (1, 0)}),
        (MutualExclusion(((0, 1),), ("a", "b"), 1), 2, {(0, 1), (1, 0)}),
        (MutualExclusion(((0, 1),), ("a", "b"), 1), 3, {(0, 1), (1, 0), (1, 2), (2, 1)}),
        (Implication(frozenset({(0, 1)}), 1), 2, {(0, 0), (1, 1)}),  # not (0, 1)
        (SameAnswer(((0, 1),)), 3, {(0, 0), (1, 1), (2, 2)}),
        (NO_CONSTRAINT, 2, {(0, 0), (0, 1), (1, 0), (1, 1)}),  # of a rule that is the user's own
    ],
)
def test_ways_out(rule: Constraint, n_labels: int, wanted: set[tuple[int, int]]) -> None:
    alike, broken = np.array([1, 1]), np.array([1, 0])
    D = alike if not rule.consistent(0, 1, 1, 1) else broken  # noqa: N806 - the paper's
    assert set(ways_out(rule, D, 0, 1, n_labels)) == wanted
    assert set(ways_out(Within(rule, rule.groups), D, 0, 1, n_labels)) == wanted


def test_of_several_rules_the_one_that_is_broken_says_how_it_ends() -> None:
    # Items 0 and 1 give one answer, item 2 another.
    question = MutualExclusion(((0, 1, 2),), ("a", "a", "b"), 1)
    rule = AllOf((question, SameAnswer(((0, 1),))))
    for each in (rule, Within(rule, rule.groups)):
        assert set(ways_out(each, np.array([1, 0, 0]), 0, 1, 2)) == {(0, 0), (1, 1)}
        assert set(ways_out(each, np.array([1, 1, 1]), 0, 2, 2)) == {(0, 1), (1, 0)}


def order_of(rule: Constraint, seed: int) -> list[int]:
    policy = OfficialSettings().policy(Problem(8, 2, rule), np.random.default_rng(seed))
    return [int(item) for item in policy.order()]


def test_a_batch_keeps_groups_whole_and_in_their_own_order() -> None:
    rule = SameAnswer(((0, 1, 2), (4, 5, 6)))
    for seed in range(20):
        order = order_of(rule, seed)
        assert sorted(order) == list(range(8))
        for group in rule.groups:
            at = order.index(group[0])
            assert tuple(order[at : at + 3]) == group
    orders = {tuple(order_of(rule, seed)) for seed in range(20)}
    assert len(orders) > 10


@given(st.integers(1, 30), st.integers(0, 12), st.integers(2, 4), st.integers(0, 2**32 - 1))
def test_first_labels_are_balanced_over_the_first_whole_groups(
    n: int, initial: int, n_labels: int, seed: int
) -> None:
    groups = tuple((i, i + 2) for i in range(0, n - 2, 4))
    problem = Problem(n, n_labels, SameAnswer(groups))
    policy = OfficialSettings(initial=initial).policy(problem, np.random.default_rng(seed))
    labels = policy.first_labels(np.arange(n))
    there = np.flatnonzero(labels != UNLABELLED)
    assert min(initial, n) <= len(there) <= initial + 1
    counts = np.bincount(labels[there], minlength=n_labels)
    assert counts.max() - counts.min() <= 1
    for i, j in groups:
        assert (labels[i] == UNLABELLED) == (labels[j] == UNLABELLED)
    if len(there):
        # Items 0, 2, 1, 3, 4, 6, 5, 7, ...: a group stands where its first item does.
        assert set(there.tolist()) <= set(range(initial + 3))


async def test_the_result_is_a_function_of_the_seed() -> None:
    runs = [
        await anneal(
            Problem(4, 2, constraint=ORDERS),
            Table(),
            rng=np.random.default_rng(seed),
            settings=OfficialSettings(iterations=30, initial=2),
        )
        for seed in (0, 0, 1)
    ]
    assert runs[0].steps == runs[1].steps != runs[2].steps


def test_numbers_that_no_search_can_work_with_are_refused() -> None:
    for name in ("T0", "T_min", "alpha", "max_demos", "batch"):
        with pytest.raises(InputError, match=f"{name} must be over 0"):
            OfficialSettings(**{name: 0})  # type: ignore[arg-type]
    for name in ("initial", "iterations", "fixes"):
        with pytest.raises(InputError, match=f"{name} must be at least 0, not -1"):
            OfficialSettings(**{name: -1})  # type: ignore[arg-type]
