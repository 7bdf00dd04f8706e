"""How likely a label is right, from where its item lies among all: without gold.

Calibrated scores rank items well, and say too little of how sure the labels are: a row that is read
behind a context moves by a nat or two, whatever it says. Where the scores have a mode for each
label, how far an item lies from the next label's, in the modes' own spread, says more.
"""

import numpy as np

from icm_client.coherence.calibration import log_softmax
from icm_client.coherence.contexts import UNLABELLED
from icm_client.coherence.modes import APART, fit_label_modes, fit_two_modes
from icm_client.coherence.problem import FloatArray, IntArray

_TOO_LITTLE = 2.0
"""Nats of log-likelihood, times `log(N)`, that modes of three labels or more must gain: four times
Schwarz's penalty for their one number. That alone found modes in 6 of 800 draws of noise."""


def confidences(log_probs: FloatArray, labels: IntArray, *, believed: bool = False) -> FloatArray:
    """The probability of each item's label, 0 to 1.

    Where the scores have modes that stand apart and explain them better than a single one does,
    the log-probs are scaled by the slope of the posterior between the modes, and normalised again;
    no threshold moves. Otherwise it is the label's share of the probability of all. The modes are
    two, one on each side of the threshold (`modes.TwoModes`), or for three labels or more one a
    label (`modes.LabelModes`).

    Args:
        log_probs: shape `[N, K]`, nats, rows that sum to one in probability; NaN where an item has
            no score.
        labels: shape `[N]`, `UNLABELLED` where an item has none.
        believed: nothing is known that speaks against labels or names. Modes of three labels or
            more are looked for only then: whichever way names are exchanged, they stand as far
            apart.

    Returns:
        Shape `[N]`; NaN where an item has no score or no label.
    """
    found = np.full(len(labels), np.nan)
    there = (labels != UNLABELLED) & ~np.isnan(log_probs).any(axis=1)
    if not there.any():
        return found
    scores, held = log_probs[there], labels[there]
    slope = None
    if scores.shape[1] == 2:  # noqa: PLR2004
        slope = _slope_of_two(scores[:, 1] - scores[:, 0])
    elif believed:
        slope = _slope_of_more(scores)
    if slope is not None:
        scores = log_softmax(slope * scores)
    found[there] = np.exp(scores[np.arange(len(held)), held])
    return found


def _slope_of_two(log_odds: FloatArray) -> float | None:
    """Of the posterior between two modes; None where there are none."""
    if np.ptp(log_odds) == 0:
        return None
    modes = fit_two_modes(log_odds)
    if modes.gain <= 0 or modes.separation < APART or not modes.low < 0 < modes.high:
        return None
    return modes.slope


def _slope_of_more(scores: FloatArray) -> float | None:
    """Of the posterior between one mode a label; None where there are none."""
    if np.ptp(scores) == 0:
        return None
    modes = fit_label_modes(scores)
    if modes.gain <= _TOO_LITTLE * np.log(len(scores)) or modes.separation < APART:
        return None
    return modes.slope
