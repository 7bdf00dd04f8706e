"""How likely a label is right, from where its item lies among all: without gold.

Calibrated scores rank items well, and say too little of how sure the labels are: a row that is read
in context moves by a nat or two, whatever it says. Where the scores have a group for each label,
how far an item lies from the next label's, in the groups' own spread, says more.

Two labels: `modes.fit_two_modes`. Three or more: with a score's mean over the labels removed, the
items are points in `K - 1` dimensions. Label `c`'s group is a normal distribution with a mean and a
share of its own; all groups spread alike, in any shape (linear discriminant analysis, without the
classes). So no offset, scale or rotation of the scores makes a difference.

All this takes the groups for the labels' own. Where a run is not to be trusted they may be
anything, and nobody should ask.
"""

from typing import NamedTuple

import numpy as np

from icm_client.coherence.calibration import log_softmax
from icm_client.coherence.modes import APART, fit_two_modes
from icm_client.coherence.problem import UNLABELLED, FloatArray, IntArray

_ITERATIONS = 200
_SETTLED = 1e-6  # of an item's probability
_NARROWEST = 1e-9  # variance within a group, as a share of that of all
_BEGUN = 0.05  # an item's probability, at the start, of all labels but its own
_CLEAR = 2.0
_NATS, _NATS_A_NUMBER, _NATS_AN_ITEM = 2.0, 1.5, 0.06


def confidences(log_probs: FloatArray, labels: IntArray) -> FloatArray:
    """The probability of each item's label, 0 to 1.

    Two labels: where the log-odds have two modes that stand apart, explain them better than a
    single one does, and lie one on each side of the threshold (`modes.TwoModes`), the log-probs are
    scaled by the slope of the posterior between the modes, and normalised again; no threshold
    moves. Otherwise it is the label's share of the probability of all.

    Three labels or more: how likely the item belongs to its label's group (`LabelGroups`).
    Where groups overlap, or the scores have none, that says so by itself.

    Args:
        log_probs: shape `[N, K]`, nats, rows that sum to one in probability; NaN where an item has
            no score.
        labels: shape `[N]`, `UNLABELLED` where an item has none.

    Returns:
        Shape `[N]`; NaN where an item has no score or no label.
    """
    found = np.full(len(labels), np.nan)
    there = (labels != UNLABELLED) & ~np.isnan(log_probs).any(axis=1)
    if not there.any():
        return found
    scores, held = log_probs[there], labels[there]
    if scores.shape[1] == 2:  # noqa: PLR2004
        slope = _slope_of_two(scores[:, 1] - scores[:, 0])
        probabilities = np.exp(scores if slope is None else log_softmax(slope * scores))
    else:
        groups = fit_label_groups(scores, held)
        probabilities = np.exp(scores) if groups is None else groups.posterior
    found[there] = probabilities[np.arange(len(held)), held]
    return found


def _slope_of_two(log_odds: FloatArray) -> float | None:
    """Of the posterior between two modes; None where there are none."""
    if np.ptp(log_odds) == 0:
        return None
    modes = fit_two_modes(log_odds)
    if modes.gain <= 0 or modes.separation < APART or not modes.low < 0 < modes.high:
        return None
    return modes.slope


class LabelGroups(NamedTuple):
    """Normal distributions of one shape, one a label, fitted to the scores.

    Attributes:
        gain: their log-likelihood over that of a single one, nats. Where there are groups it grows
            with `N`.
        needed: what scores without groups hardly gain: 2 nats, and 1.5 for each of the
            `K * (K - 1)` numbers that the groups have and a single one does not. Of many items at
            least 0.06 nats each: several explain a single lopsided heap better than one.
        posterior: shape `[N, K]`, the probability that an item belongs to a label's group.
    """

    gain: float
    needed: float
    posterior: FloatArray

    @property
    def clear(self) -> bool:
        """Nobody would take them for one group."""
        return self.gain >= _CLEAR * self.needed


def fit_label_groups(scores: FloatArray, labels: IntArray) -> LabelGroups | None:
    """Fit by expectation maximisation, from the labels found.

    Args:
        scores: shape `[N, K]`, nats; no row of NaN.
        labels: shape `[N]`, no item without one.

    Returns:
        None where there are too few items to tell, or their scores do not differ in `K - 1` ways.
    """
    n_items, n_labels = scores.shape
    freedom = n_labels - 1
    x = _whitened(scores)
    if x is None:
        return None
    belongs = np.full((n_items, n_labels), _BEGUN / freedom)
    belongs[np.arange(n_items), labels] = 1 - _BEGUN
    # So many items more of each label, so that of many labels none vanishes among few items.
    more = 2 * freedom
    for _ in range(_ITERATIONS):
        counts = belongs.sum(axis=0)
        means = (belongs.T @ x) / counts[:, np.newaxis]  # [K, K - 1]
        # The covariance of all is the identity matrix: what is left within the groups.
        within = np.eye(freedom) * (1 + _NARROWEST) - (means.T * counts) @ means / n_items
        shares = (counts + more) / (n_items + more * n_labels)
        narrow = np.linalg.inv(np.linalg.cholesky(within)).T
        items, centres = x @ narrow, means @ narrow
        squares = (items**2).sum(axis=1, keepdims=True) - 2 * items @ centres.T
        likelihoods = np.log(shares) - (squares + (centres**2).sum(axis=1)) / 2  # [N, K]
        before, belongs = belongs, np.exp(log_softmax(likelihoods))
        if np.abs(belongs - before).max() < _SETTLED:
            break
    several = float(np.logaddexp.reduce(likelihoods, axis=1).sum())
    several += n_items * float(np.log(np.diag(narrow)).sum())
    single = -n_items * freedom / 2
    needed = max(_NATS + _NATS_A_NUMBER * n_labels * freedom, _NATS_AN_ITEM * n_items)
    return LabelGroups(several - single, needed, belongs)


def _whitened(scores: FloatArray) -> FloatArray | None:
    """The items as points `[N, K - 1]` of mean 0, variance 1 and no correlation."""
    n_items, n_labels = scores.shape
    if n_items <= n_labels:
        return None
    x = scores - scores.mean(axis=1, keepdims=True)
    x = x - x.mean(axis=0)
    # One of the K eigenvalues is 0: the labels' mean was taken out.
    variances, directions = np.linalg.eigh(x.T @ x / n_items)
    if variances[1] <= _NARROWEST * variances[-1]:
        return None
    points: FloatArray = x @ directions[:, 1:] / np.sqrt(variances[1:])
    return points
