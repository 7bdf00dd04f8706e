"""One group of items for each label: do the scores fall into them, and where does an item lie?

With a score's mean over the labels taken out, the items are points in `K - 1` dimensions. Label
`c`'s group is a normal distribution with a mean of its own and a share of its own; all groups
spread alike, in any shape (linear discriminant analysis, without the classes). So no offset, scale
or rotation of the scores makes a difference.
"""

from typing import NamedTuple

import numpy as np

from icm_client.coherence.calibration import log_softmax
from icm_client.coherence.problem import FloatArray, IntArray

_ITERATIONS = 200
_SETTLED = 1e-6  # of an item's probability
_NARROWEST = 1e-9  # variance within a group, as a share of that of all
_BEGUN = 0.05  # an item's probability, at the start, of all labels but its own
_CLEAR = 2.0
_NATS, _NATS_A_NUMBER, _NATS_AN_ITEM = 2.0, 1.5, 0.06


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
