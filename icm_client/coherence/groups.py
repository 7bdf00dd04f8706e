"""One group of items for each label: do the scores fall into them, and where does an item lie?

With a score's mean over the labels taken out, label `c`'s items lie around

    centre + lean_c * (e_c - 1/K)                            lean_c > 0, e_c the c-th unit vector

in `K - 1` dimensions, and spread around it alike in all of them. Each label has its own distance and
its own share. An offset that was added to the scores moves the centre, and nothing else.
"""

from typing import NamedTuple

import numpy as np

from icm_client.coherence.calibration import log_softmax
from icm_client.coherence.problem import FloatArray, IntArray

_ITERATIONS = 300
_LEAN_ITERATIONS = 3
_SETTLED = 1e-7  # of an item's probability
_TOLERANCE = 1e-9
_BEGUN = 0.05  # an item's probability, at the start, of all labels but its own
_ITEMS_OF_A_LABEL = 2  # added to each label's count, so that no label vanishes


class LabelGroups(NamedTuple):
    """Normal distributions, one a label, fitted to the scores.

    Attributes:
        gain: their log-likelihood over that of a single normal distribution of any shape, nats. Where
            there are no groups it hardly passes 5, whatever `N` and `K`; with them it grows with
            `N`. Negative where a single one explains the scores better.
        posterior: shape `[N, K]`, the probability that an item belongs to a label's group.
    """

    gain: float
    posterior: FloatArray


def fit_label_groups(scores: FloatArray, labels: IntArray) -> LabelGroups | None:
    """Fit by expectation maximisation, from the labels found.

    Args:
        scores: shape `[N, K]`, nats; no row of NaN.
        labels: shape `[N]`, no item without one.

    Returns:
        None where there are too few items to tell, or their scores differ in fewer than `K - 1` ways.
    """
    n_items, n_labels = scores.shape
    x = scores - scores.mean(axis=1, keepdims=True)
    single = _single_normal(x)
    if single is None:
        return None
    freedom = n_labels - 1
    directions = np.eye(n_labels) - 1 / n_labels
    belongs = np.full((n_items, n_labels), _BEGUN / freedom)
    belongs[np.arange(n_items), labels] = 1 - _BEGUN
    centre = np.zeros(n_labels)
    lengths = (x**2).sum(axis=1, keepdims=True)
    for _ in range(_ITERATIONS):
        counts = belongs.sum(axis=0)
        sums = belongs.T @ x  # [K, K], of each group
        for _ in range(_LEAN_ITERATIONS):  # lean and centre depend on each other
            along = np.einsum("ck,ck->c", sums - counts[:, np.newaxis] * centre, directions)
            lean = np.maximum(along / (counts * freedom / n_labels), _TOLERANCE)
            centre = (sums.sum(axis=0) - (counts * lean) @ directions) / n_items
        means = centre + lean[:, np.newaxis] * directions
        squares = lengths - 2 * x @ means.T + (means**2).sum(axis=1)  # [N, K], of the distances
        variance = max(float((belongs * squares).sum()) / (n_items * freedom), _TOLERANCE)
        shares = (counts + _ITEMS_OF_A_LABEL) / (n_items + _ITEMS_OF_A_LABEL * n_labels)
        likelihoods = np.log(shares) - squares / (2 * variance)
        before, belongs = belongs, np.exp(log_softmax(likelihoods))
        if np.abs(belongs - before).max() < _SETTLED:
            break
    several = float(np.logaddexp.reduce(likelihoods, axis=1).sum())
    several -= n_items * freedom * np.log(variance) / 2
    return LabelGroups(several - single, belongs)


def _single_normal(x: FloatArray) -> float | None:
    """Log-likelihood, as above without its constants, of one normal distribution of any shape."""
    n_items, n_labels = x.shape
    if n_items <= n_labels:
        return None
    # The labels' mean is 0 in each row: one of the K eigenvalues is.
    spreads = np.linalg.eigvalsh(np.cov(x.T, bias=True))[1:]
    if spreads.min() < _TOLERANCE:
        return None
    return -n_items / 2 * float(np.log(spreads).sum() + len(spreads))
