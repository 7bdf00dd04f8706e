"""How likely a label is right, from where its item lies among all: without gold.

Calibrated scores rank items well, and say too little of how sure the labels are: a row that is read
in context moves by a nat or two, whatever it says. Where the scores have a mode for each label, how
far an item lies from the next label's, in the modes' own spread, says more.

All this takes the modes for the labels' own. Where a run is not to be trusted they may be anything,
and nobody should ask.
"""

import numpy as np

from icm_client.coherence.calibration import log_softmax
from icm_client.coherence.contexts import UNLABELLED
from icm_client.coherence.groups import fit_label_groups
from icm_client.coherence.modes import APART, fit_two_modes
from icm_client.coherence.problem import FloatArray, IntArray


def confidences(log_probs: FloatArray, labels: IntArray) -> FloatArray:
    """The probability of each item's label, 0 to 1.

    Two labels: where the log-odds have two modes that stand apart, explain them better than a
    single one does, and lie one on each side of the threshold (`modes.TwoModes`), the log-probs are
    scaled by the slope of the posterior between the modes, and normalised again; no threshold
    moves. Otherwise it is the label's share of the probability of all.

    Three labels or more: how likely the item belongs to its label's group (`groups.LabelGroups`).
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
