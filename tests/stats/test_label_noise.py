"""Wrong labels among given ones, told from scores that are made here."""

import numpy as np
import pytest

from icm_client.coherence.problem import FloatArray, IntArray
from icm_client.stats.label_noise import SUPPORTED, estimate_noise, follows_given


def scored(
    n: int, k: int, flipped: float, seed: int, apart: float = 5.0
) -> tuple[FloatArray, IntArray, IntArray]:
    """Scores with long tails around each true label, and given labels of which some are wrong."""
    rng = np.random.default_rng(seed)
    true = np.arange(n) % k
    given = true.copy()
    wrong = rng.permutation(n)[: round(flipped * n)]
    given[wrong] = (true[wrong] + rng.integers(1, k, len(wrong))) % k
    scores = apart * np.eye(k)[true] / np.sqrt(2) + rng.standard_t(4, (n, k))
    return scores, given, true


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("flipped", [0.0, 0.1, 0.2])
def test_the_share_is_near_the_truth_and_the_flips_come_first(k: int, flipped: float) -> None:
    """Counting disputes alone would say far more: rows are misread, too."""
    for seed in range(3):
        scores, given, true = scored(240, k, flipped, seed)
        found = estimate_noise(scores, given)
        assert found is not None
        assert found.apart
        assert abs(found.share - flipped) < 0.04
        wrong = given != true
        first = np.argsort(-found.wrong)[: round(0.24 * len(given))]
        assert wrong[first].sum() >= 0.85 * wrong.sum()
        assert np.allclose(found.matrix.sum(axis=1), 1)
        assert np.allclose(found.predicted.sum(axis=1), 1)


def test_intervals_hold_the_truth() -> None:
    held = 0
    for seed in range(12):
        scores, given, true = scored(200, 2, 0.1, seed)
        found = estimate_noise(scores, given)
        assert found is not None
        held += found.interval.low <= (given != true).mean() <= found.interval.high
    assert held >= 10


def test_noise_of_one_label_alone_stands_in_its_row() -> None:
    scores, given, true = scored(400, 2, 0.0, 0)
    ones = np.flatnonzero(true == 1)
    given[ones[:40]] = 0
    found = estimate_noise(scores, given)
    assert found is not None
    assert found.matrix[1, 0] == pytest.approx(0.2, abs=0.06)
    assert found.matrix[0, 1] < 0.04


def test_offsets_and_scale_of_the_scores_make_no_difference() -> None:
    scores, given, _ = scored(200, 3, 0.1, 4)
    one, other = (estimate_noise(x, given) for x in (scores, 0.1 * scores + [0.0, 2.0, -1.0]))
    assert one is not None
    assert other is not None
    assert one.share == pytest.approx(other.share, abs=2e-3)


def test_shuffled_labels_are_followed_no_more_than_chance() -> None:
    scores, given, _ = scored(200, 2, 0.0, 0)
    parts = np.random.default_rng(2).permutation(200) % 2
    assert follows_given(scores, given, parts) > SUPPORTED
    assert follows_given(scores, np.random.default_rng(1).permutation(given), parts) < SUPPORTED


def test_rows_that_are_drawn_together_widen_the_interval() -> None:
    scores, given, _ = scored(60, 2, 0.2, 1)
    scores, given = np.repeat(scores, 4, axis=0), np.repeat(given, 4)
    alone = estimate_noise(scores, given)
    together = estimate_noise(scores, given, np.repeat(np.arange(60), 4))
    assert alone is not None
    assert together is not None
    widths = [np.ptp(found.matrix_interval[:, 0, 1]) for found in (alone, together)]
    assert widths[1] > widths[0]


def test_scores_that_say_nothing_give_no_estimate() -> None:
    assert estimate_noise(np.zeros((50, 2)), np.arange(50) % 2) is None
