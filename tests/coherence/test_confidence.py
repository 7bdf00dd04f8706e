"""Confidence is how often labels are right, where the log-odds have two modes."""

import numpy as np
import pytest

from icm_client.coherence.calibration import log_softmax
from icm_client.coherence.confidence import confidences
from icm_client.coherence.problem import UNLABELLED
from icm_client.stats.calibration_curve import reliability


def log_probs_of(log_odds: np.ndarray) -> np.ndarray:
    return log_softmax(np.stack([np.zeros_like(log_odds), log_odds], axis=1))


@pytest.mark.parametrize("seed", range(5))
def test_it_is_how_often_labels_are_right_whatever_the_scale(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.integers(2, size=2000)
    log_odds = 0.3 * (rng.normal(size=2000) + np.where(truth == 1, 1.2, -1.2))
    labels = (log_odds > 0).astype(np.int64)
    right = labels == truth
    found = reliability(confidences(log_probs_of(log_odds), labels), right)
    modest = reliability(np.exp(log_probs_of(log_odds)[np.arange(2000), labels]), right)
    assert found.error < 0.03
    assert modest.error > 0.15


@pytest.mark.parametrize("log_odds", [np.zeros(50), np.random.default_rng(0).normal(size=400)])
def test_without_two_modes_it_is_the_labels_share(log_odds: np.ndarray) -> None:
    log_probs = log_probs_of(log_odds)
    labels = (log_odds > 0).astype(np.int64)
    expected = np.exp(log_probs[np.arange(len(labels)), labels])
    np.testing.assert_array_equal(confidences(log_probs, labels), expected)


def test_two_modes_on_one_side_of_the_threshold_are_not_the_two_labels() -> None:
    rng = np.random.default_rng(0)
    log_odds = rng.normal(scale=0.2, size=400) + np.repeat([1.0, 3.0], 200)
    log_probs = log_probs_of(log_odds)
    labels = np.ones(400, dtype=np.int64)
    np.testing.assert_array_equal(confidences(log_probs, labels), np.exp(log_probs[:, 1]))


def test_a_label_that_a_rule_has_turned_is_unlikely() -> None:
    rng = np.random.default_rng(0)
    log_odds = rng.normal(scale=0.5, size=400) + np.repeat([-1.5, 1.5], 200)
    labels = (log_odds > 0).astype(np.int64)
    labels[0] = 1 - labels[0]
    found = confidences(log_probs_of(log_odds), labels)
    assert found[0] < 0.5 < found[1:].min()


def test_more_labels_and_missing_scores() -> None:
    log_probs = log_softmax(np.array([[0.0, 1, 2], [np.nan] * 3, [2, 1, 0]]))
    found = confidences(log_probs, np.array([2, UNLABELLED, 0]))
    np.testing.assert_allclose(found, [0.665, np.nan, 0.665], atol=1e-3)


def of_classes(
    seed: int, n_labels: int, *, n_items: int = 240, apart: float = 3.0, noise: str = "normal"
) -> tuple[np.ndarray, np.ndarray]:
    """Log-probs and classes; a class's score stands `apart` standard deviations over the others."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(n_labels, size=n_items)
    shape = (n_items, n_labels)
    deviations = {
        "normal": rng.normal(size=shape),
        "uniform": rng.uniform(-1.7, 1.7, size=shape),
        "heavy": rng.standard_t(3, size=shape) / np.sqrt(3),
        "one label wavers": rng.normal(size=shape) * np.array([2.5] + [1] * (n_labels - 1)),
    }
    return log_softmax(0.4 * (deviations[noise] + apart * np.eye(n_labels)[truth])), truth


def share(log_probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    at: np.ndarray = np.exp(log_probs[np.arange(len(labels)), labels])
    return at


@pytest.mark.parametrize("noise", ["normal", "uniform", "heavy", "one label wavers"])
@pytest.mark.parametrize("n_labels", [3, 5])
def test_of_more_labels_it_is_how_often_they_are_right(n_labels: int, noise: str) -> None:
    before, after = [], []
    for seed in range(10):
        log_probs, truth = of_classes(seed, n_labels, apart=3.5, noise=noise)
        labels = log_probs.argmax(axis=1)
        right = labels == truth
        before.append(reliability(share(log_probs, labels), right).error)
        after.append(reliability(confidences(log_probs, labels), right).error)
    assert np.mean(before) > 0.2
    assert np.mean(after) < 0.1


@pytest.mark.parametrize("apart", [1.5, 2.0, 2.5, 3.0])
@pytest.mark.parametrize("n_labels", [3, 5])
def test_where_groups_overlap_the_share_that_is_right_is_known(n_labels: int, apart: float) -> None:
    right, said = [], []
    for seed in range(10):
        log_probs, truth = of_classes(seed, n_labels, apart=apart)
        labels = log_probs.argmax(axis=1)
        right.append((labels == truth).mean())
        said.append(confidences(log_probs, labels).mean())
    assert np.mean(said) == pytest.approx(np.mean(right), abs=0.05)


def test_one_axis_along_which_all_rows_vary_hides_no_groups() -> None:
    """Real scores: what is common to all tickets moves one label's score by a nat and more."""
    log_probs, truth = of_classes(0, 5, n_items=400, apart=5)
    labels = log_probs.argmax(axis=1)
    common = np.random.default_rng(1).normal(scale=2.4, size=400)
    moved = log_softmax(log_probs + common[:, np.newaxis] * [0, 0, 0, 0, 1])
    assert share(moved, labels).mean() < 0.7
    found = confidences(moved, labels).mean()
    assert found == pytest.approx((labels == truth).mean(), abs=0.05)


def test_a_label_that_a_rule_has_turned_is_unlikely_among_more_labels() -> None:
    log_probs, _ = of_classes(0, 3, apart=6)
    labels = log_probs.argmax(axis=1)
    labels[0] = (labels[0] + 1) % 3
    found = confidences(log_probs, labels)
    assert found[0] < 1 / 3 < found[1:].min()


def test_scores_that_are_all_alike_have_no_modes() -> None:
    log_probs = log_softmax(np.zeros((40, 3)))
    labels = np.zeros(40, dtype=np.int64)
    np.testing.assert_array_equal(confidences(log_probs, labels), share(log_probs, labels))
