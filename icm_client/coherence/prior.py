"""How common each label is: from the user, or, for two labels, from the scores themselves.

Calibrated scores rank items well whatever the shares of the labels, but their zero is the right
threshold only where the labels are about equally common: with 20% positives the ranking keeps an
AUC of 0.99 while the threshold at zero costs 15 points of accuracy. So an offset a label is added
before items are assigned. Nothing here reads a gold label.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from icm_client.coherence.calibration import log_softmax
from icm_client.coherence.modes import APART, fit_two_modes
from icm_client.coherence.problem import FloatArray

UNEVEN = 0.15
"""How far from a half the mixture's share must lie before it moves the threshold."""

_MORE_PARAMETERS = 2
_ITERATIONS = 300
_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class PriorEstimate:
    """What was assumed about the labels' shares.

    Attributes:
        offsets: shape `[K]`, nats; added to each item's calibrated scores.
        source: "given" by the user, "mixture" where two uneven modes stand apart, else "even".
        separation: Ashman's D of the two modes, where a mixture was fitted (`K = 2`).
        suspected: the share of label 0 in two uneven modes that stand apart but explain the scores
            too little better than one to be relied on; None where there are none.
    """

    offsets: FloatArray
    source: Literal["given", "mixture", "even"]
    separation: float | None = None
    suspected: float | None = None


def estimate_prior(
    scores: FloatArray, given: FloatArray | None, *, uneven_before: bool = False
) -> PriorEstimate:
    """Decide what to add to calibrated scores before items are assigned.

    For two labels without a given prior, two normal distributions of one variance are fitted to
    the log-odds. They replace the threshold at zero only where they explain the scores better than
    one does (Akaike's criterion), stand apart, and have uneven shares: on balanced rows, or where
    the modes overlap, zero is the better threshold. On few rows the criterion wavers from one
    sweep to the next, so uneven modes once found stand until one distribution is likelier.

    Args:
        scores: shape `[N, K]`, nats; rows of NaN are items without a score.
        given: shape `[K]`, the shares where the user knows them.
        uneven_before: whether the scores of the sweep before had two uneven modes.
    """
    n_labels = scores.shape[1]
    scored = scores[~np.isnan(scores).any(axis=1)]
    even = np.zeros(n_labels)
    if given is not None:
        return PriorEstimate(offsets_for_prior(scored, given) if len(scored) else even, "given")
    if n_labels != 2 or len(scored) < 2:  # noqa: PLR2004
        return PriorEstimate(even, "even")
    log_odds = scored[:, 0] - scored[:, 1]
    if np.ptp(log_odds) == 0:
        return PriorEstimate(even, "even")
    fit = fit_two_modes(log_odds)
    if fit.gain <= 0 or fit.separation < APART or abs(fit.share - 0.5) < UNEVEN:
        return PriorEstimate(even, "even", fit.separation)
    if fit.gain < _MORE_PARAMETERS and not uneven_before:
        return PriorEstimate(even, "even", fit.separation, suspected=fit.share)
    return PriorEstimate(np.array([-fit.threshold, 0.0]), "mixture", fit.separation)


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
