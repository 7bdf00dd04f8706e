"""Reliability: the sums by hand, and what the order of rows must not change."""

import numpy as np
import pytest

from icm_client.stats.calibration_curve import reliability, wilson


def test_the_error_by_hand() -> None:
    confidence = np.array([0.5, 0.6, 0.8, 1.0])
    right = np.array([True, False, True, True])
    found = reliability(confidence, right, bins=2)
    assert [(one.rows, one.accuracy) for one in found.bins] == [(2, 0.5), (2, 1.0)]
    assert [one.confidence for one in found.bins] == pytest.approx([0.55, 0.9])
    assert found.error == pytest.approx(0.5 * 0.05 + 0.5 * 0.1)
    assert (found.rows, found.accuracy) == (4, 0.75)
    assert found.confidence == pytest.approx(0.725)


def test_bins_hold_equally_many_rows_however_confidences_crowd() -> None:
    confidence = 1 - np.geomspace(1e-9, 0.5, 200)
    found = reliability(confidence, np.ones(200, dtype=bool))
    assert [one.rows for one in found.bins] == [20] * 10


def test_rows_of_one_confidence_stay_together_and_their_order_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.choice([0.5, 0.7, 0.9], 300)
    right = rng.random(300) < confidence
    found = reliability(confidence, right)
    assert [one.confidence for one in found.bins] == pytest.approx([0.5, 0.7, 0.9])
    order = rng.permutation(300)
    shuffled = reliability(confidence[order], right[order])
    assert shuffled.error == pytest.approx(found.error)
    assert [one.rows for one in shuffled.bins] == [one.rows for one in found.bins]


def test_calibrated_confidences_have_little_error_and_boasting_ones_have_it_all() -> None:
    rng = np.random.default_rng(1)
    confidence = rng.uniform(0.5, 1.0, 20_000)
    assert reliability(confidence, rng.random(20_000) < confidence).error < 0.02
    boasting = reliability(np.full(20_000, 0.99), rng.random(20_000) < 0.6)
    assert boasting.error == pytest.approx(0.39, abs=0.02)


def test_few_rows_make_few_bins() -> None:
    confidence = np.linspace(0.5, 1, 44)
    assert len(reliability(confidence, np.ones(44, dtype=bool)).bins) == 2
    assert len(reliability(confidence[:1], np.ones(1, dtype=bool)).bins) == 1


def test_the_interval_is_wilson_s() -> None:
    # 8 of 10, 95%: computed by hand from the formula
    assert wilson(0.8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    low, high = wilson(1.0, 5)
    assert 0.5 < low < 0.6
    assert high == 1.0


def test_nothing_to_compare_is_refused() -> None:
    none = np.array([])
    with pytest.raises(ValueError, match="at least one row"):
        reliability(none, none.astype(bool))
    with pytest.raises(ValueError, match="one bin"):
        reliability(np.ones(3), np.ones(3, dtype=bool), bins=0)
