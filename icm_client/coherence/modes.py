"""Two modes of the log-odds: two normal distributions of one variance, fitted to them."""

from typing import NamedTuple

import numpy as np

from icm_client.coherence.problem import FloatArray

APART = 2.0
"""Ashman's D from which on two modes are taken for two labels (Ashman, Bird and Zepf 1994)."""

_ITERATIONS = 300
_TOLERANCE = 1e-9


class TwoModes(NamedTuple):
    """Two normal distributions of one variance.

    Attributes:
        gain: their log-likelihood over that of a single one, nats.
        separation: Ashman's D: how many standard deviations lie between the means.
        share: the upper one's.
        threshold: where both are equally probable.
        slope: by how much the log-odds of the upper one rise for each unit of `x`: the posterior
            is `1 / (1 + exp(-slope * (x - threshold)))`, as in linear discriminant analysis.
        low: the lower one's mean.
        high: the upper one's mean.
    """

    gain: float
    separation: float
    share: float
    threshold: float
    slope: float
    low: float
    high: float


def fit_two_modes(x: FloatArray) -> TwoModes:
    """Fit by expectation maximisation, from two starts; `x` has two different values at least."""
    one = -len(x) * (np.log(x.var()) + 1) / 2
    best = TwoModes(-np.inf, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0)
    for start in (0.0, float(np.median(x))):
        upper = np.where(x > start, 0.95, 0.05)
        for _ in range(_ITERATIONS):
            share = upper.mean()
            high = (upper * x).sum() / upper.sum()
            low = ((1 - upper) * x).sum() / (1 - upper).sum()
            variance = (upper * (x - high) ** 2 + (1 - upper) * (x - low) ** 2).mean()
            variance = max(variance, _TOLERANCE)
            log_high = np.log(share) - (x - high) ** 2 / (2 * variance)
            log_low = np.log1p(-share) - (x - low) ** 2 / (2 * variance)
            total = np.logaddexp(log_high, log_low)
            upper = np.clip(np.exp(log_high - total), _TOLERANCE, 1 - _TOLERANCE)
        gain = float(total.sum() - len(x) * np.log(variance) / 2 - one)
        gap = max(high - low, _TOLERANCE)
        threshold = (high + low) / 2 - variance / gap * np.log(share / (1 - share))
        if gain > best.gain:
            best = TwoModes(
                gain,
                float(gap / np.sqrt(variance)),
                float(share),
                float(threshold),
                float(gap / variance),
                float(low),
                float(high),
            )
    return best
