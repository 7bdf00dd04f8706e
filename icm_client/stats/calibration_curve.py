"""Does a confidence mean what it says? Of the labels given with 80%, 80% should be right.

The curve and its summary are those of Guo et al., "On Calibration of Modern Neural Networks"
(ICML 2017, arXiv 1706.04599), section 2. With bins `B_1..B_M` of the `n` rows by confidence,

    acc(B_m)  = share of its labels that are the gold ones
    conf(B_m) = mean of its confidences
    ECE       = sum_m |B_m| / n * |acc(B_m) - conf(B_m)|

Their bins have equal width; ours hold equally many rows. Confidences crowd near 1, and most bins of
equal width would be empty or hold a row or two. Rows of the same confidence share a bin, so the
order of the rows does not matter.
"""

import math
from dataclasses import dataclass

import numpy as np

from icm_client.coherence.problem import BoolArray, FloatArray

BINS = 10

FEWEST_ROWS_A_BIN = 15
"""In smaller bins chance alone makes accuracy differ from confidence, and the error large."""

_NORMAL_95 = 1.959964


@dataclass(frozen=True, slots=True)
class Bin:
    """Rows of similar confidence.

    Attributes:
        rows: how many rows, at least 1.
        confidence: their mean confidence, `conf(B_m)`.
        accuracy: share of their labels that are right, `acc(B_m)`.
        low: lower end of the accuracy's 95% interval (Wilson 1927).
        high: its upper end.
    """

    rows: int
    confidence: float
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Reliability:
    """The reliability curve.

    Attributes:
        bins: by rising confidence, at least one.
        error: expected calibration error, 0 to 1.
        rows: how many rows have gold.
        accuracy: share of their labels that are right.
        confidence: their mean confidence.
    """

    bins: tuple[Bin, ...]
    error: float
    rows: int
    accuracy: float
    confidence: float


def reliability(
    confidence: FloatArray, right: BoolArray, *, bins: int | None = None
) -> Reliability:
    """Return the reliability curve of labels whose gold is known.

    Args:
        confidence: shape `[n]`, 0 to 1.
        right: shape `[n]`, whether the label is the gold one.
        bins: at most so many, `M`; fewer where rows have the same confidence. None for `BINS`, or
            as many as have `FEWEST_ROWS_A_BIN` rows.

    Raises:
        ValueError: no rows, shapes that differ, or no bins.
    """
    n = len(confidence)
    if bins is None:
        bins = max(1, min(BINS, n // FEWEST_ROWS_A_BIN))
    if n == 0 or confidence.shape != right.shape or bins < 1:
        raise ValueError("confidences and outcomes of at least one row, and one bin, are needed")
    ordered = np.sort(confidence)
    of_row = np.searchsorted(ordered, confidence, side="left") * min(bins, n) // n
    found = [_bin(confidence[of_row == m], right[of_row == m]) for m in np.unique(of_row)]
    return Reliability(
        bins=tuple(found),
        error=sum(one.rows * abs(one.accuracy - one.confidence) for one in found) / n,
        rows=n,
        accuracy=float(right.mean()),
        confidence=float(confidence.mean()),
    )


def _bin(confidence: FloatArray, right: BoolArray) -> Bin:
    n, share = len(right), float(right.mean())
    low, high = wilson(share, n)
    return Bin(n, float(confidence.mean()), share, low, high)


def wilson(share: float, n: int) -> tuple[float, float]:
    """Return the 95% interval of a share of `n` rows, within 0 and 1.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    z2 = _NORMAL_95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    reach = _NORMAL_95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, middle - reach), min(1.0, middle + reach)
