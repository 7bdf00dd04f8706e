"""How likely a label is right, from where its item lies among all: without gold.

Calibrated log-odds rank items well, and say too little of how sure the labels are: a row that is
read behind a context moves by a nat or two, whatever it says. Where the log-odds have two modes,
how far an item lies from the valley, in the modes' own spread, says more.
"""

import numpy as np

from icm_client.coherence.contexts import UNLABELLED
from icm_client.coherence.modes import APART, fit_two_modes
from icm_client.coherence.problem import FloatArray, IntArray


def confidences(log_probs: FloatArray, labels: IntArray) -> FloatArray:
    """The probability of each item's label, 0 to 1.

    For two labels whose log-odds have two modes, one on each side of the threshold, that stand
    apart and explain them better than one does, the log-odds are scaled by the slope of the
    posterior between the modes (`modes.TwoModes.slope`); the threshold stays where it is.
    Otherwise it is the label's share of the probability of all.

    Args:
        log_probs: shape `[N, K]`, nats, rows that sum to one in probability; NaN where an item has
            no score.
        labels: shape `[N]`, `UNLABELLED` where an item has none.

    Returns:
        Shape `[N]`; NaN where an item has no score or no label.
    """
    found = np.full(len(labels), np.nan)
    there = (labels != UNLABELLED) & ~np.isnan(log_probs).any(axis=1)
    at = np.exp(log_probs[there, labels[there]])
    if log_probs.shape[1] == 2 and there.any():  # noqa: PLR2004
        log_odds = log_probs[there, 1] - log_probs[there, 0]
        slope = _slope(log_odds)
        if slope is not None:
            ours = np.where(labels[there] == 1, log_odds, -log_odds)
            at = 1 / (1 + np.exp(-slope * ours))
    found[there] = at
    return found


def _slope(log_odds: FloatArray) -> float | None:
    """Of the posterior between two modes; None where there are none."""
    if np.ptp(log_odds) == 0:
        return None
    modes = fit_two_modes(log_odds)
    if modes.gain <= 0 or modes.separation < APART or not modes.low < 0 < modes.high:
        return None
    return modes.slope
