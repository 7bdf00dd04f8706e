"""Intervals against formulas, and draws that are the same for two methods."""

import numpy as np
import pytest

from icm_client.coherence.problem import FloatArray
from icm_client.stats.bootstrap import (
    bootstrap_interval,
    gap_recovered,
    mean_over_seeds,
    paired_interval,
)


def rows(n_rows: int, right: int, *, seeds: int = 1) -> FloatArray:
    correct = np.zeros((seeds, n_rows))
    correct[:, :right] = 1
    return correct


def test_one_seed_has_the_interval_of_a_proportion() -> None:
    correct = rows(400, 300)
    low, high = bootstrap_interval(correct, np.arange(400))
    half = 1.96 * (0.75 * 0.25 / 400) ** 0.5
    assert low == pytest.approx(0.75 - half, abs=0.006)
    assert high == pytest.approx(0.75 + half, abs=0.006)


def test_rows_that_belong_together_are_drawn_together() -> None:
    correct = rows(400, 300)
    alone = bootstrap_interval(correct, np.arange(400))
    in_fours = bootstrap_interval(correct, np.arange(400) // 4)
    # A quarter of the independent rows: twice as wide.
    ratio = (in_fours.high - in_fours.low) / (alone.high - alone.low)
    assert ratio == pytest.approx(2.0, rel=0.1)


def test_a_row_that_several_seeds_test_is_no_more_than_one_row() -> None:
    units = np.arange(100)
    one = bootstrap_interval(rows(100, 60), units)
    ten = bootstrap_interval(rows(100, 60, seeds=10), units)
    assert ten == pytest.approx(one, abs=0.02)


def test_seeds_that_differ_widen_the_interval() -> None:
    units = np.arange(1000)
    alike = np.tile(np.arange(1000) % 2, (4, 1)).astype(float)
    apart = np.zeros((4, 1000))
    apart[:2] = 1
    assert mean_over_seeds(alike) == mean_over_seeds(apart) == 0.5
    assert bootstrap_interval(alike, units).low > 0.46
    assert bootstrap_interval(apart, units) == (0.0, 1.0)


def test_a_difference_is_taken_within_each_draw() -> None:
    units = np.arange(200)
    worse, better = rows(200, 100), rows(200, 110)
    low, high = paired_interval(better, worse, units)
    assert 0.0 < low < 0.05 < high < 0.1  # by themselves the two intervals overlap
    assert bootstrap_interval(better, units).low < bootstrap_interval(worse, units).high
    assert paired_interval(worse, worse, units) == (0.0, 0.0)


def test_rows_that_no_seed_tests_change_nothing() -> None:
    tested = rows(50, 30)
    with_train = np.full((1, 90), np.nan)
    with_train[:, 40:] = tested
    assert mean_over_seeds(with_train) == 0.6
    assert bootstrap_interval(with_train, np.arange(90)) == bootstrap_interval(
        tested, np.arange(50)
    )


def test_each_seed_may_have_test_rows_of_its_own() -> None:
    correct = np.full((2, 20), np.nan)
    correct[0, :10], correct[1, 10:] = 1.0, 0.0
    assert mean_over_seeds(correct) == 0.5
    low, high = bootstrap_interval(correct, np.arange(20))
    assert (low, high) == (0.0, 1.0)


def test_the_same_figures_have_the_same_interval() -> None:
    correct = rows(64, 50, seeds=3)
    assert bootstrap_interval(correct, np.arange(64)) == bootstrap_interval(correct, np.arange(64))


def seeds(*right: int) -> FloatArray:
    """Each seed tests ten rows of its own; the first so many are right."""
    correct = np.full((len(right), 10 * len(right)), np.nan)
    for seed, many in enumerate(right):
        correct[seed, 10 * seed : 10 * seed + 10] = np.arange(10) < many
    return correct


def test_the_share_of_a_gap_by_hand_and_its_ends() -> None:
    units = np.arange(20)
    zero, one = seeds(2, 4), seeds(8, 10)  # 30% and 90%
    assert gap_recovered(seeds(4, 5), zero, one, units).share == pytest.approx(0.25)
    assert gap_recovered(seeds(1, 2), zero, one, units).share == pytest.approx(-0.25)
    assert gap_recovered(seeds(10, 10), zero, one, units).share == pytest.approx(7 / 6)
    assert gap_recovered(zero, zero, one, units) == (0.0, (0.0, 0.0))
    assert gap_recovered(one, zero, one, units) == (1.0, (1.0, 1.0))


def test_where_the_upper_end_is_no_better_there_is_no_gap() -> None:
    units = np.arange(30)
    worse, zero = seeds(1, 2, 2), seeds(1, 2, 3)
    equal = seeds(3, 2, 1)  # the same mean, but summed in this order it rounds to another one
    assert 0 < mean_over_seeds(zero) - mean_over_seeds(equal) < 1e-15
    for lower, upper in ((zero, worse), (zero, equal), (equal, zero)):
        found = gap_recovered(worse, lower, upper, units)
        assert found.gap == "none"
        assert found == (None, None)


def test_a_share_of_a_clear_gap_has_the_interval_of_a_proportion() -> None:
    found = gap_recovered(rows(800, 480), rows(800, 400), rows(800, 560), np.arange(800))
    half = 1.96 * (0.5 * 0.5 / 160) ** 0.5  # of the 160 rows that make the gap, a half
    assert found.share == pytest.approx(0.5)
    assert found.interval == pytest.approx((0.5 - half, 0.5 + half), abs=0.01)
    assert found.gap == "clear"


def test_a_gap_that_a_fortieth_of_the_draws_does_not_have_is_unclear() -> None:
    units = np.arange(8)
    # Draws of eight rows miss three of them in (5/8)^8 = 2.3%, and two of them in 10%.
    clear = gap_recovered(rows(8, 3), rows(8, 2), rows(8, 5), units)
    assert clear.interval == (0.0, 1.0)
    unclear = gap_recovered(rows(8, 3), rows(8, 2), rows(8, 4), units)
    assert unclear.gap == "unclear"
    assert unclear == (0.5, None)
