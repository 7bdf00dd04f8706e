"""How common each label is: from the user, or from the scores themselves.

Calibrated scores rank items well whatever the shares of the labels, but their zero is the right
threshold only where all labels are equally common: a context's mean is divided out of them. With
20% positives the ranking keeps an AUC of 0.99 while the threshold at zero costs 15 points of
accuracy, and at 64% it costs 7. So where the scores show a group for each label, offsets that
separate the groups are added before items are assigned (`modes`). Where they show none, labels are
assumed to be equally common, and the run says so. Nothing here reads a gold label.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from icm_client.coherence.calibration import log_softmax
from icm_client.coherence.modes import APART, Shares, shares_of_several, shares_of_two
from icm_client.coherence.problem import FloatArray

WIDE_INTERVAL = 0.2
"""Where the 90% interval of a label's share is wider, scores do not tell how common labels are: on
64 reviews and fewer, 6 points and more of accuracy were lost then, and 2 to 3 otherwise."""

_MORE_PARAMETERS = 2
"""How many more two groups have than one, which Akaike's criterion charges."""

_SEVERAL_GAIN = 2.0
"""Nats of log-likelihood, times `log(N)`, that groups of three labels or more must gain."""

_VANISHES = 0.25
"""Share of a label's items under which offsets must not bring it, of three labels and more: two
labels were taken for one."""

_ITERATIONS = 300
_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class PriorEstimate:
    """What was assumed about the labels' shares, as offsets to the scores.

    Attributes:
        offsets: shape `[K]`, nats; added to each item's scores: calibrated ones, or, after
            Algorithm 1, the model's log-probs.
        source: "given" by the user, "mixture" where the scores show a group for each label, else
            "even".
        separation: Ashman's D of two groups, where a mixture was fitted.
        interval: the 90% interval of label 0's share of these items, by the mixture (`K = 2`);
            None where none was fitted, as for a given prior.
    """

    offsets: FloatArray
    source: Literal["given", "mixture", "even"]
    separation: float | None = None
    interval: tuple[float, float] | None = None

    @property
    def told(self) -> bool:
        """Whether it is known how common the labels are: from the user, or well from the scores."""
        if self.source != "mixture" or self.interval is None:
            return self.source != "even"
        low, high = self.interval
        return high - low <= WIDE_INTERVAL

    @classmethod
    def even(cls, n_labels: int) -> "PriorEstimate":
        """All labels are taken to be equally common."""
        return cls(np.zeros(n_labels), "even")


def estimate_prior(
    scores: FloatArray,
    given: FloatArray | None,
    *,
    grouped_before: bool = False,
    final: bool = True,
) -> PriorEstimate:
    """Decide what to add to calibrated scores before items are assigned.

    Without a given prior a mixture with a group for each label is fitted to the scores. Its
    thresholds are used where it explains the scores better than a single group does (for two
    labels by Akaike's criterion), and its groups stand apart. On few rows the criterion varies from
    one sweep to the next, so two groups once found stand until a single one is likelier.

    Args:
        scores: shape `[N, K]`, nats; rows of NaN are items without a score.
        given: shape `[K]`, the shares where the user knows them.
        grouped_before: whether the scores of the sweep before showed a group for each label.
        final: the search is at its end. Before, three labels and more are taken to be equally
            common: a label that has other labels' items among its own looks rare, and would get
            rarer with each sweep.
    """
    n_labels = scores.shape[1]
    scored = scores[~np.isnan(scores).any(axis=1)]
    even = np.zeros(n_labels)
    if given is not None:
        return PriorEstimate(offsets_for_prior(scored, given) if len(scored) else even, "given")
    if len(scored) < n_labels or not np.ptp(scored - scored[:, :1], axis=0).any():
        return PriorEstimate.even(n_labels)
    found: Shares
    if n_labels > 2 and not final:  # noqa: PLR2004
        return PriorEstimate.even(n_labels)
    if n_labels == 2:  # noqa: PLR2004
        found = shares_of_two(scored[:, 0] - scored[:, 1])
        needed = 0.0 if grouped_before else float(_MORE_PARAMETERS)
    else:
        found = shares_of_several(scored)
        needed = _SEVERAL_GAIN * float(np.log(len(scored)))
    shown = found.gain > needed and found.separation >= APART
    if not shown or (n_labels > 2 and _vanishes(scored, found.offsets)):  # noqa: PLR2004
        return PriorEstimate(even, "even", found.separation, found.interval)
    return PriorEstimate(found.offsets, "mixture", found.separation, found.interval)


def _vanishes(scores: FloatArray, offsets: FloatArray) -> bool:
    """Whether these offsets take nearly all items from a label."""
    without, held = (
        np.bincount(one.argmax(axis=1), minlength=len(offsets))
        for one in (scores, scores + offsets)
    )
    return bool((held < _VANISHES * without).any())


def offsets_for_prior(scores: FloatArray, prior: FloatArray) -> FloatArray:
    """Offsets `b` with `mean_i softmax(scores_i + b) = prior` (shape `[K]`, first one 0, nats).

    The fixed point of iterative scaling: each round multiplies every label's weight by how much
    its mean posterior falls short of its prior.
    """
    offsets = np.zeros(scores.shape[1])
    for _ in range(_ITERATIONS):
        shares = np.exp(log_softmax(scores + offsets)).mean(axis=0)
        step = np.log(prior) - np.log(shares)
        offsets += step
        if np.abs(step).max() < _TOLERANCE:
            break
    fixed: FloatArray = offsets - offsets[0]
    return fixed
