"""Bootstrap intervals: what accuracy would other test rows and other seeds have given?

After Efron and Tibshirani (1993, chapter 13): test rows and seeds are drawn again and again, with
replacement, and the middle 95% of the accuracies is the interval. Rows that belong together are
drawn together. A row has the same weight in all seeds, and all methods see the same draws, so the
difference between two methods is taken within each draw, and so is the share of a gap.
"""

from typing import Final, Literal, NamedTuple

import numpy as np

from icm_client.coherence.problem import FloatArray, IntArray

DRAWS: Final = 2000
_AT_A_TIME: Final = 250
_PERCENTILES: Final = (2.5, 97.5)
_NO_GAP: Final = 1e-9
"""Accuracies that differ by less are the same; a sum over seeds may round in another order."""


class Interval(NamedTuple):
    """From the 2.5th to the 97.5th percentile of the draws."""

    low: float
    high: float


Gap = Literal["none", "unclear", "clear"]
"""Whether one accuracy is above another. `unclear`: it is, but in more than 2.5% of the draws it is
not, so that a share of the gap has no interval."""


class GapRecovered(NamedTuple):
    """How far a method gets on the way from one accuracy to a higher one.

    Attributes:
        share: 0 at the lower end, 1 at the upper one; None where there is no gap.
        interval: None where there is no gap, or where it has no ends (`gap_recovered`).
    """

    share: float | None
    interval: Interval | None

    @property
    def gap(self) -> Gap:
        """Whether there is a gap."""
        if self.share is None:
            return "none"
        return "unclear" if self.interval is None else "clear"


def mean_over_seeds(correct: FloatArray) -> float:
    """Mean over seeds of each seed's mean over its test rows.

    Args:
        correct: shape `[seeds, rows]`, 1 where the prediction is right, 0 where it is wrong, NaN
            where the row is none of the seed's test rows; each seed has at least one.
    """
    return float(np.nanmean(correct, axis=1).mean())


def bootstrap_interval(correct: FloatArray, units: IntArray, *, seed: int = 0) -> Interval:
    """Return the interval of `mean_over_seeds`.

    Args:
        correct: as for `mean_over_seeds`.
        units: shape `[rows]`; rows with the same number are drawn together.
        seed: of the draws.
    """
    return _interval(_draws(units, seed, correct)[0])


def paired_interval(
    correct: FloatArray, other: FloatArray, units: IntArray, *, seed: int = 0
) -> Interval:
    """Return the interval of `mean_over_seeds(correct) - mean_over_seeds(other)`.

    Args:
        correct: shape `[seeds, rows]`, of one method.
        other: of another, with the same seeds and test rows.
        units: shape `[rows]`; rows with the same number are drawn together.
        seed: of the draws, which are the same for both.
    """
    ours, others = _draws(units, seed, correct, other)
    return _interval(ours - others)


def gap_recovered(
    correct: FloatArray, zero: FloatArray, one: FloatArray, units: IntArray, *, seed: int = 0
) -> GapRecovered:
    """Return `(a - a_zero) / (a_one - a_zero)`, each `a` being `mean_over_seeds`.

    The share is exactly 0 for `zero` and 1 for `one`; below 0 or above 1 it is what it is. Where
    `one` is no better than `zero` there is no gap, and no share.

    The interval takes all three from the same draw. A draw in which `one` is no better has no
    share: it counts as below the lower end and as above the upper one. If they are more than 2.5%
    of the draws, neither end is a number, and there is no interval.

    Args:
        correct: shape `[seeds, rows]`, of the method.
        zero: of the method at the lower end, with the same seeds and test rows.
        one: of the method at the upper end; likewise.
        units: shape `[rows]`; rows with the same number are drawn together.
        seed: of the draws, which are the same for all three.
    """
    start = mean_over_seeds(zero)
    gap = mean_over_seeds(one) - start
    if gap < _NO_GAP:
        return GapRecovered(None, None)
    share = (mean_over_seeds(correct) - start) / gap
    found, starts, ends = _draws(units, seed, correct, zero, one)
    there = ends - starts >= _NO_GAP
    shares = (found - starts)[there] / (ends - starts)[there]
    without = np.full(DRAWS - len(shares), np.inf)
    low = float(np.percentile(np.append(shares, -without), _PERCENTILES[0], method="lower"))
    high = float(np.percentile(np.append(shares, without), _PERCENTILES[1], method="higher"))
    return GapRecovered(share, Interval(low, high) if np.isfinite(high - low) else None)


def _draws(units: IntArray, seed: int, *correct: FloatArray) -> FloatArray:
    """The mean of each method in each draw, `[methods, DRAWS]`, all with the same test rows.

    NaN where no test row of any drawn seed was drawn.
    """
    rng = np.random.default_rng(seed)
    tested = ~np.isnan(correct[0])
    drawn_from = np.unique(units[tested.any(axis=0)])  # units that have a test row
    place = np.searchsorted(drawn_from, units)
    right = np.nan_to_num(np.stack(correct, axis=0)).transpose(0, 2, 1)  # [methods, rows, seeds]
    n_seeds, n_units = len(tested), len(drawn_from)
    means = []
    for begin in range(0, DRAWS, _AT_A_TIME):
        count = min(_AT_A_TIME, DRAWS - begin)
        times = rng.multinomial(n_units, np.full(n_units, 1 / n_units), size=count)
        # Rows of other units are tested by no seed, so their weight changes nothing.
        weights = times[:, np.minimum(place, n_units - 1)].astype(np.float64)
        seeds = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=count)
        rows = weights @ tested.T.astype(np.float64)
        known = rows > 0
        accuracy = weights @ right / np.where(known, rows, 1)
        of = (seeds * known).sum(axis=1)
        total = (seeds * accuracy).sum(axis=2)
        means.append(total / np.where(of > 0, of, np.nan))
    return np.concatenate(means, axis=1)


def _interval(draws: FloatArray) -> Interval:
    low, high = np.nanpercentile(draws, _PERCENTILES)
    return Interval(float(low), float(high))
