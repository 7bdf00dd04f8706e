"""New items are labelled from frozen contexts, and calibrated on items that these do not show."""

import numpy as np
import pytest

from icm_client.coherence.calibration import log_softmax
from icm_client.coherence.constraints import AtMostOne
from icm_client.coherence.predict import Calibration, FrozenContext, calibrate, freeze
from icm_client.coherence.problem import UNLABELLED, FloatArray, IntArray, Problem


def _scores(n: int, n_labels: int, seed: int) -> tuple[FloatArray, IntArray]:
    """Log-probs [n, K] of items whose class is the label with 3 nats more, and the classes."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(n_labels, size=n)
    scores = rng.normal(size=(n, n_labels))
    scores[np.arange(n), classes] += 3
    return log_softmax(scores), classes


def test_a_context_is_measured_on_items_of_the_other_half() -> None:
    scores, labels = _scores(100, 2, 0)
    labels[7] = UNLABELLED
    groups = tuple((i, i + 1) for i in range(20, 40, 2))
    problem = Problem(100, 2, AtMostOne(groups, 0))
    frozen = freeze(
        labels, scores, problem, contexts=3, demos=16, keep=0.7, rng=np.random.default_rng(1)
    )
    assert len(frozen) == 3
    for one in frozen:
        shown = {demo.item for demo in one.demos}
        measured = set(one.measured.tolist())
        assert len(shown) == 16
        assert [demo.label for demo in one.demos].count(0) == 8
        assert not shown & measured
        assert 7 not in shown | measured
        assert 45 <= len(measured) <= 51
        assert not any(
            (a in shown and b in measured) or (b in shown and a in measured) for a, b in groups
        )
    assert frozen[0].demos != frozen[1].demos


@pytest.mark.parametrize("n_labels", [2, 4])
def test_the_contexts_bias_scale_and_offsets_are_undone(n_labels: int) -> None:
    """A context that shrinks and shifts the log-odds gets thresholds and slope of its own."""
    scores, classes = _scores(2000, n_labels, 2)
    run, new = np.arange(1000), np.arange(1000, 2000)
    bias = np.linspace(2, -1, n_labels)
    raw = log_softmax(0.75 * scores + bias) - 1.0  # a third of the mass is on other text
    exact = log_softmax(3 * scores)  # of normal distributions 3 apart, with variance 1
    confidence = np.exp(exact).max(axis=1)
    frozen = [FrozenContext((), run)]
    labels = exact.argmax(axis=1)
    found, said = calibrate([raw[run]], frozen, labels[run], exact[run], confidence[run])
    decided = found.decide(raw[None, new])
    assert (decided.argmax(axis=1) == labels[new]).mean() > 0.99
    assert found.slope == pytest.approx(4, rel=0.1)
    sure = np.exp(decided).max(axis=1).mean()
    assert sure == pytest.approx((decided.argmax(axis=1) == classes[new]).mean(), abs=0.03)
    assert np.allclose(said[run], found.decide(raw[None, run]))


def test_what_an_item_gets_does_not_depend_on_the_others() -> None:
    scores, _ = _scores(50, 3, 3)
    found = Calibration(np.array([[0.1, -2.0, -1.0]]), 2.0, np.array([0.0, 0.3, -0.4]))
    together = found.decide(scores[None])
    for item in range(50):
        assert np.array_equal(found.decide(scores[None, [item]])[0], together[item])
    assert np.isnan(found.decide(np.full((1, 1, 3), np.nan))).all()


def test_a_label_that_was_measured_nowhere_stays_finite() -> None:
    scores, labels = _scores(60, 3, 4)
    labels[labels == 2] = 0
    found, _ = calibrate(
        [scores], [FrozenContext((), np.arange(60))], labels, scores, np.full(60, np.nan)
    )
    assert np.isfinite(found.offsets).all()
    assert found.offsets[0] == 0
    assert found.decide(scores[None]).argmax(axis=1).max() <= 2
