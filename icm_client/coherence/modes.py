"""Groups in the scores, one a label: mixtures of distributions fitted to them, without gold."""

import math
from typing import NamedTuple

import numpy as np

from icm_client.coherence.problem import FloatArray

APART = 2.0
"""Ashman's D from which on two modes are taken for two labels (Ashman, Bird and Zepf 1994)."""

USUAL_SEPARATION = 3.2
"""What Ashman's D of two labels' log-odds is around, within a factor of `exp(0.3)`: 2.6 to 4.5 on
movie and product reviews. A prior on D, so that few rows are not split at a chance gap."""

_SEPARATION_SPREAD = 0.3
_SHAPES = (2.0, 6.0, 20.0)
_LOGIT_SHARES = np.linspace(-4, 4, 15)
_GRID_ITERATIONS = 40
_CONVERGED = 0.02  # nats
_MOST_EXPONENT = 30.0
_MOST_POINTS = 256
_ITERATIONS = 300
_TOLERANCE = 1e-9
_SETTLED = 1e-7  # of the slope


class Shares(NamedTuple):
    """How many items each label has, as far as the scores show it.

    Attributes:
        shares: shape `[K]`, estimated, of these items.
        interval: the 90% interval of label 0's share of these items; None for three labels and
            more.
        offsets: shape `[K]`, nats, the first one 0: added to an item's scores, the label of its
            group is the largest.
        gain: log-likelihood of a group a label over that of a single normal one, nats.
        separation: Ashman's D of two groups.
    """

    shares: FloatArray
    interval: tuple[float, float] | None
    offsets: FloatArray
    gain: float
    separation: float


class _TwoGroups(NamedTuple):
    """Fits of two groups to standardised log-odds, one for each shape and share: `G` of them.

    Attributes:
        share: shape `[G, 1]`, of the upper group.
        shape: shape `[G, 1]`, `k` of `_fit_groups`.
        high: shape `[G, 1]`, the upper group's mode.
        low: shape `[G, 1]`, the lower one's.
        scale: shape `[G, 1]`, of both.
        log_likelihood: shape `[G]`, nats.
    """

    share: FloatArray
    shape: FloatArray
    high: FloatArray
    low: FloatArray
    scale: FloatArray
    log_likelihood: FloatArray

    @property
    def separation(self) -> FloatArray:
        """The distance of the modes, in standard deviations of a normal as sharp as they, `[G]`."""
        d: FloatArray = ((self.high - self.low) * np.sqrt(self.shape) / self.scale)[:, 0]
        return d

    @property
    def weights(self) -> FloatArray:
        """How probable each fit is, `[G]`: the likelihood, times the prior on the separation."""
        far = np.log(np.maximum(self.separation, _TOLERANCE) / USUAL_SEPARATION)
        log_weights = self.log_likelihood - (far / _SEPARATION_SPREAD) ** 2 / 2
        weights = np.exp(log_weights - log_weights.max())
        normalised: FloatArray = weights / weights.sum()
        return normalised

    def upper(self, x: FloatArray) -> FloatArray:
        """The probability that each `x` is of the upper group, by each fit: `[G, N]`.

        Beyond the modes it stays as it is at them: the tails' shapes are no evidence.
        """
        k, inside = self.shape, np.clip(x, np.minimum(self.low, self.high), self.high)
        up, down = (inside - self.high) / self.scale, (self.low - inside) / self.scale
        log_odds = np.log(self.share / (1 - self.share)) + k * (
            up - down - np.exp(up) + np.exp(down)
        )
        p: FloatArray = 1 / (1 + _exp(-log_odds))
        return p


def shares_of_two(log_odds: FloatArray) -> Shares:
    """Estimate the shares of two labels from the log-odds of label 0 over label 1.

    The groups of two labels lean to each other: log-odds saturate where a row is clear, and have a
    long tail where it is not. So each group is a log-gamma distribution, one the mirror image of
    the other, with a common scale; the share, and how skewed they are, are summed over rather than
    chosen. docs/search.md has what this gains over two normal distributions.

    Args:
        log_odds: shape `[N]`, nats, two different values at least.
    """
    low, high = np.quantile(log_odds, [0.02, 0.98])
    margin = (high - low) / 4 if high > low else np.inf  # an outlier is moved to the margin
    within = np.clip(log_odds, low - margin, high + margin)
    centre, spread = within.mean(), within.std()
    x = np.sort((within - centre) / spread)
    points = _means_of_parts(x, _MOST_POINTS) if len(x) > _MOST_POINTS else x
    fits = _fit_groups(points, len(x), _LOGIT_SHARES)
    weights = fits.weights
    logits = np.log(fits.share / (1 - fits.share))[:, 0]
    likely = logits[weights > _SETTLED]
    step = _LOGIT_SHARES[1] - _LOGIT_SHARES[0]
    if np.ptp(likely) <= 2 * step:  # many items: the grid is too coarse for them
        finer = np.linspace(likely.min() - step, likely.max() + step, len(_LOGIT_SHARES))
        fits = _fit_groups(points, len(x), finer)
        weights = fits.weights
    by_fit = fits.upper(points)
    upper = weights @ by_fit
    below = points[upper < 0.5]  # noqa: PLR2004
    above = points[upper >= 0.5]  # noqa: PLR2004
    shares = by_fit.mean(axis=1)
    deviations = np.sqrt((by_fit * (1 - by_fit)).mean(axis=1) / len(x))
    share = float(weights @ shares)
    threshold = (
        (below.max() + above.min()) / 2
        if len(below) and len(above)
        # One group is everywhere the likelier one: then as many items as its share says.
        else float(np.quantile(x, 1 - share))
    )
    single = -len(x) * (np.log(2 * np.pi * points.var()) + 1) / 2
    return Shares(
        np.array([share, 1 - share]),
        _interval(shares, deviations, weights),
        np.array([0.0, centre + threshold * spread]),
        float(fits.log_likelihood.max() - single),
        float(weights @ fits.separation),
    )


def _means_of_parts(x: FloatArray, n_parts: int) -> FloatArray:
    """The means of parts that hold equally many of the values, in their order.

    A value on a border counts for both parts, by fractions. In whole values, 300 would make 44
    parts of two and 212 of one, and the two ends of `x` would weigh differently.
    """
    borders = np.linspace(0, len(x), n_parts + 1)
    sums = np.interp(borders, np.arange(len(x) + 1), np.concatenate([[0.0], np.cumsum(x)]))
    means: FloatArray = np.diff(sums) * (n_parts / len(x))
    return means


def _exp(x: FloatArray) -> FloatArray:
    e: FloatArray = np.exp(np.minimum(x, _MOST_EXPONENT))
    return e


def _interval(
    means: FloatArray, deviations: FloatArray, weights: FloatArray
) -> tuple[float, float]:
    """The 5% and 95% quantiles of a mixture of normal distributions, kept within 0 and 1."""
    at = np.linspace(0, 1, 201)
    z = (at[:, np.newaxis] - means) / np.maximum(deviations, _TOLERANCE)
    below = (weights / (1 + np.exp(-np.clip(1.702 * z, -50, 50)))).sum(
        axis=1
    )  # logistic for normal
    return float(np.interp(0.05, below, at)), float(np.interp(0.95, below, at))


def _fit_groups(x: FloatArray, n_items: int, logit_shares: FloatArray) -> _TwoGroups:
    """Fit two mirrored log-gamma distributions by expectation maximisation, at given shares.

    The upper group has the density `k^k / Gamma(k) / s * exp(k (u - e^u))`, `u = (x - high) / s`,
    which is highest at `high` and skewed downwards, the more so the smaller `k`; the lower one is
    its mirror image around `low`. The modes have closed forms; the scale takes a Newton step in
    its logarithm.

    Args:
        x: shape `[M]`, in ascending order, standardised.
        n_items: for how many items the points stand, equally many each.
        logit_shares: of the upper group, each tried with each shape.
    """
    shape, share = (
        grid.reshape(-1, 1)
        for grid in np.meshgrid(_SHAPES, 1 / (1 + np.exp(-logit_shares)), indexing="ij")
    )
    n = len(x)
    rank = (np.arange(n) + 0.5) / n
    upper = 1 / (1 + np.exp(-np.clip(20 * (rank - (1 - share)), -4, 4)))
    scale = 0.4 * np.sqrt(shape)
    log_likelihood = np.full(len(share), -np.inf)
    constant = np.array([k * math.log(k) - math.lgamma(k) for k in shape[:, 0]])
    for _ in range(_GRID_ITERATIONS):
        lower = 1 - upper
        high = scale * np.log(
            (upper * np.exp(x / scale)).sum(axis=1, keepdims=True)
            / upper.sum(axis=1, keepdims=True)
        )
        low = -scale * np.log(
            (lower * np.exp(-x / scale)).sum(axis=1, keepdims=True)
            / lower.sum(axis=1, keepdims=True)
        )
        up, down = (x - high) / scale, (low - x) / scale
        e_up, e_down = _exp(up), _exp(down)
        slope_up, slope_down = shape * (1 - e_up) * up, shape * (1 - e_down) * down
        slope = -(upper * slope_up + lower * slope_down).sum(axis=1, keepdims=True) - n
        bend = (
            upper * (slope_up - shape * e_up * up**2)
            + lower * (slope_down - shape * e_down * down**2)
        ).sum(axis=1, keepdims=True)
        change = np.clip(slope / np.maximum(-bend, 0.001 * n), -0.3, 0.3)
        scale = np.clip(scale * np.exp(change), 0.03 * np.sqrt(shape), 2 * np.sqrt(shape))
        up, down = (x - high) / scale, (low - x) / scale
        log_upper = np.log(share) + shape * (up - _exp(up))
        log_lower = np.log1p(-share) + shape * (down - _exp(down))
        total = np.logaddexp(log_upper, log_lower)
        upper = np.clip(np.exp(log_upper - total), _TOLERANCE, 1 - _TOLERANCE)
        before = log_likelihood
        log_likelihood = n_items * (total.mean(axis=1) + constant - np.log(scale[:, 0]))
        if (log_likelihood - before).max() < _CONVERGED:
            break
    return _TwoGroups(share, shape, high, low, scale, log_likelihood)


def shares_of_several(scores: FloatArray) -> Shares:
    """Estimate the shares of three labels or more.

    With a score's mean over the labels taken out, label `c`'s items lie around
    `lean * (e_c - 1/K) + bias` in `K - 1` dimensions, with one variance in all directions. An item
    is then most probably of the label with the largest `slope * (score_c - bias_c) + log share_c`,
    where `slope = lean / variance`. Fitted by expectation maximisation from where each item leans.

    Args:
        scores: shape `[N, K]`, nats; no row of NaN, and not all rows alike.
    """
    x = scores - scores.mean(axis=1, keepdims=True)
    centre = x.mean(axis=0)
    fit = _fit_leaning(x - centre, x)
    offsets = np.log(fit.priors) / fit.slope - centre - fit.bias
    return Shares(fit.upper.mean(axis=0), None, offsets - offsets[0], fit.gain, fit.separation)


class _Leaning(NamedTuple):
    """`K` normal distributions, each leaning to its own label; see `shares_of_several`.

    Attributes:
        upper: shape `[N, K]`, the probability that an item is of each.
        priors: shape `[K]`, their shares, with one item more for each label.
        bias: shape `[K]`, nats.
        slope: per nat.
        gain: log-likelihood over that of a single normal distribution, nats.
        separation: Ashman's D of two of them.
    """

    upper: FloatArray
    priors: FloatArray
    bias: FloatArray
    slope: float
    gain: float
    separation: float


def _fit_leaning(x: FloatArray, start: FloatArray) -> _Leaning:
    """Fit to `x`, shape `[N, K]`, of mean 0 over items and over labels, from `start`'s labels."""
    n_items, n_labels = x.shape
    squares, freedom = float((x**2).sum()), n_items * (n_labels - 1)
    upper = np.where(start == start.max(axis=1, keepdims=True), 0.9, 0.1 / (n_labels - 1))
    upper /= upper.sum(axis=1, keepdims=True)
    for _ in range(_ITERATIONS):
        share = upper.mean(axis=0)
        # A label that few rows have does not vanish for good.
        priors = (share * n_items + 1) / (n_items + n_labels)
        along = float((upper * x).sum())
        lean = max(along / max(n_items * (1 - float((share**2).sum())), _TOLERANCE), _TOLERANCE)
        bias = lean * (1 / n_labels - share)
        variance = max((squares - lean * along) / freedom, _TOLERANCE)
        slope = lean / variance
        log_joint = np.log(priors) + slope * (x - bias)
        largest = log_joint.max(axis=1, keepdims=True)
        before, upper = upper, np.exp(log_joint - largest)
        total = upper.sum(axis=1, keepdims=True)
        upper = upper / total
        if np.abs(upper - before).max() < _SETTLED:
            break
    length = lean**2 * (1 - 1 / n_labels) + float((bias**2).sum())
    several = (
        float((largest + np.log(total)).sum())
        - (squares + n_items * length) / (2 * variance)
        - freedom * np.log(variance) / 2
    )
    one = -freedom * (np.log(squares / freedom) + 1) / 2
    return _Leaning(
        upper, priors, bias, slope, float(several - one), float(lean * np.sqrt(2 / variance))
    )


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
