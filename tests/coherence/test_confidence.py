"""Confidence is how often labels are right, where the log-odds have two modes."""

import numpy as np
import pytest

from icm_client.analysis.reliability import reliability
from icm_client.coherence.calibration import log_softmax
from icm_client.coherence.confidence import confidences
from icm_client.coherence.contexts import UNLABELLED


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
