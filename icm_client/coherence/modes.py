"""Modes of the scores: normal distributions of one variance, one a label, fitted to them."""

from typing import NamedTuple

import numpy as np

from icm_client.coherence.problem import FloatArray

APART = 2.0
"""Ashman's D from which on two modes are taken for two labels (Ashman, Bird and Zepf 1994)."""

_ITERATIONS = 300
_TOLERANCE = 1e-9
_SETTLED = 1e-7  # of the slope


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


class LabelModes(NamedTuple):
    """`K` spherical normal distributions of one variance, each leaning to its own label alike.

    Attributes:
        gain: their log-likelihood over that of a single one in the middle, nats.
        separation: Ashman's D of each two of them.
        slope: by how much the log-odds of two of them rise for each nat that one label's score
            rises over the other's: the posterior is `softmax(slope * scores)`.
    """

    gain: float
    separation: float
    slope: float


def fit_label_modes(scores: FloatArray) -> LabelModes:
    """Fit by expectation maximisation, from where each item leans.

    With a score's mean over the labels taken out, label `c`'s items lie around `lean * (e_c - 1/K)`
    in `K - 1` dimensions, and all labels are equally common. So no label's threshold moves.

    Args:
        scores: shape `[N, K]`, nats; no row of NaN, and not all labels alike in every row.
    """
    x = scores - scores.mean(axis=1, keepdims=True)
    n_items, n_labels = x.shape
    squares, freedom = float((x**2).sum()), n_items * (n_labels - 1)
    one = -freedom * (np.log(squares / freedom) + 1) / 2
    leaning = np.where(x == x.max(axis=1, keepdims=True), 0.95, 0.05 / (n_labels - 1))
    slope = 0.0
    for _ in range(_ITERATIONS):
        along = float((leaning * x).sum())
        lean = max(along * n_labels / freedom, _TOLERANCE)
        length = lean**2 * (n_labels - 1) / n_labels
        variance = max((squares - 2 * lean * along + length * n_items) / freedom, _TOLERANCE)
        before, slope = slope, lean / variance
        log_likelihoods = slope * x
        largest = log_likelihoods.max(axis=1, keepdims=True)
        leaning = np.exp(log_likelihoods - largest)
        total = leaning.sum(axis=1, keepdims=True)
        leaning /= total
        if abs(slope - before) < _SETTLED * slope:
            break
    several = (
        float((largest + np.log(total)).sum())
        - n_items * (length / (2 * variance) + np.log(n_labels))
        - squares / (2 * variance)
        - freedom * np.log(variance) / 2
    )
    return LabelModes(float(several - one), float(lean * np.sqrt(2 / variance)), slope)
