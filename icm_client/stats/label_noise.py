"""Given labels, of which some are wrong: how many, which rows, and what is taken for what.

Each row was read by the model in the context of other rows with their given labels. The scores are
points in `K - 1` dimensions, and each true label has a group of them; the given label is the true
one seen through a noise matrix (Angluin and Laird 1988; Northcutt et al. 2021, arXiv 1911.00068):

    P(score, given = j) = sum_k share_k * t(score; mean_k, spread) * noise[k, j]

fitted by expectation maximisation. Groups are multivariate t distributions of one shape. Their long
tails are the reads' own errors: a row that is misread lies somewhere between the groups or beyond
them, a row whose given label is wrong lies in the middle of another label's group. So among the
disputes, twice as many as there are wrong labels, these are separated from misread rows without
gold, and no offset, scale or rotation of the scores makes a difference.

That the chance of a wrong label depends on the row's true label alone is assumed, as everywhere
in this literature. Where people err on rows that are hard to read, too, fewer are found.
"""

from typing import Final, NamedTuple

import numpy as np

from icm_client.coherence.calibration import log_softmax
from icm_client.coherence.problem import FloatArray, IntArray
from icm_client.stats.bootstrap import Interval

FREEDOM: Final = 4.0
"""Degrees of freedom of the groups: with 3 too few wrong labels are found on product reviews, with
5 too many on movie reviews (docs/audit.md)."""

APART: Final = 2.8
"""Widths of a group that must lie between two: on planted rows estimates were off by up to 14
points where it was 2.4 and less, and by 4 at most from 3.4 on; movie reviews have about 4."""

DRAWS: Final = 300
_AT_A_TIME: Final = 2_000_000  # weights of rows in draws that are fitted at once
_PERCENTILES: Final = (2.5, 97.5)

_PRIOR_ROWS, _PRIOR_WRONG = 2.0, 0.05
"""Rows of each label that the noise matrix begins with, and the share of them that is wrong."""

_BEGUN: Final = 0.1  # the share that is wrong, at the start of the first fit
_LEAN: Final = 3.0  # and how far a score of one standard deviation counts there
_ITERATIONS: Final = 200
_SETTLED: Final = 1e-4  # of a row's probability
_NARROWEST: Final = 1e-9

CHANCE_DRAWS: Final = 1000
SUPPORTED: Final = 3.0
"""Standard deviations by which the reads must follow the given labels more than shuffled ones."""


class LabelNoise(NamedTuple):
    """What is wrong with `N` given labels of `K` kinds.

    Attributes:
        share: of the rows whose given label is wrong, estimated.
        interval: of this share, for these rows.
        matrix: shape `[K, K]`, `P(given = j | true = k)`, each row sums to 1.
        matrix_interval: shape `[2, K, K]`, the ends of the interval of each.
        predicted: shape `[N, K]`, how probable each label is by the reads, whatever was given.
        wrong: shape `[N]`, the probability that a row's given label is wrong.
        separation: how many widths of a group lie between a label's group and the nearest other,
            mean over the rows.
    """

    share: float
    interval: Interval
    matrix: FloatArray
    matrix_interval: FloatArray
    predicted: FloatArray
    wrong: FloatArray
    separation: float

    @property
    def apart(self) -> bool:
        """Whether the scores show a group for each label, or else nothing can be estimated."""
        return self.separation >= APART


def follows_given(scores: FloatArray, given: IntArray, parts: IntArray, *, seed: int = 0) -> float:
    """By how much the reads follow the given labels more than chance, in standard deviations.

    What is compared is the mean score at the given labels, `U`, with the same after given labels
    are shuffled among the rows that were read in one context.

    Args:
        scores: shape `[N, K]`, nats, calibrated.
        given: shape `[N]`.
        parts: shape `[N]`; rows of the same number were read in the same contexts.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    rows = np.arange(len(given))
    order = np.argsort(parts, kind="stable")
    drawn = np.empty(CHANCE_DRAWS)
    for draw in range(CHANCE_DRAWS):
        shuffled = np.empty_like(given)
        shuffled[order] = given[np.lexsort((rng.random(len(given)), parts))]
        drawn[draw] = scores[rows, shuffled].mean()
    spread = drawn.std()
    return float((scores[rows, given].mean() - drawn.mean()) / spread) if spread else 0.0


def estimate_noise(
    scores: FloatArray, given: IntArray, units: IntArray | None = None, *, seed: int = 0
) -> LabelNoise | None:
    """Fit groups and noise matrix, and draw rows anew for the intervals.

    For an interval rows are drawn with replacement, the fit is made again, and the rows as they
    are get a wrong label or not as probable as that fit says: so it covers what the fit does not
    know of its own numbers, and what remains open of each row.

    Args:
        scores: shape `[N, K]`, nats, calibrated; no NaN.
        given: shape `[N]`.
        units: shape `[N]`; rows of the same number are drawn together. None: each by itself.
        seed: of the draws.

    Returns:
        None where there are too few rows, or their scores do not differ in `K - 1` ways.
    """
    n, k = scores.shape
    x = _points(scores)
    if x is None or len(np.unique(given)) < k:
        return None
    lean = _LEAN * (scores - np.median(scores, axis=0)) / np.maximum(scores.std(axis=0), _NARROWEST)
    start = np.exp(log_softmax(lean)) * _noise(k, _BEGUN)[:, given].T
    fit = _fit(x, given, np.ones((1, n)), start / start.sum(axis=1, keepdims=True), k)
    belongs, _ = fit.belongs(x, given)
    wrong = 1 - belongs[0, np.arange(n), given]
    rng = np.random.default_rng(seed)
    shares, matrices = [], []
    _, unit_of = np.unique(np.arange(n) if units is None else units, return_inverse=True)
    n_units = int(unit_of.max()) + 1
    at_a_time = max(1, min(DRAWS, _AT_A_TIME // (n * k)))
    for begin in range(0, DRAWS, at_a_time):
        count = min(at_a_time, DRAWS - begin)
        times = rng.multinomial(n_units, np.full(n_units, 1 / n_units), size=count)
        again = _fit(x, given, times[:, unit_of].astype(np.float64), belongs[0], k)
        probable = 1 - again.belongs(x, given)[0][:, np.arange(n), given]
        shares.append((rng.random(probable.shape) < probable).mean(axis=1))
        matrices.append(again.noise)
    low, high = np.percentile(np.concatenate(shares), _PERCENTILES)
    return LabelNoise(
        float(wrong.mean()),
        Interval(float(low), float(high)),
        fit.noise[0],
        np.percentile(np.concatenate(matrices), _PERCENTILES, axis=0),
        fit.predicted(x)[0],
        wrong,
        fit.separation(),
    )


def _points(scores: FloatArray) -> FloatArray | None:
    """The rows as points `[N, K - 1]` of mean 0, variance 1 and no correlation."""
    n, k = scores.shape
    if n <= 2 * k:
        return None
    x = scores - scores.mean(axis=1, keepdims=True)
    x = x - x.mean(axis=0)
    variances, directions = np.linalg.eigh(x.T @ x / n)
    if variances[1] <= max(_NARROWEST * variances[-1], _NARROWEST):
        return None
    points: FloatArray = x @ directions[:, 1:] / np.sqrt(variances[1:])
    return points


def _noise(k: int, wrong: float) -> FloatArray:
    """A noise matrix `[K, K]` in which this share of each label is wrong, the others alike."""
    matrix = np.full((k, k), wrong / (k - 1))
    np.fill_diagonal(matrix, 1 - wrong)
    return matrix


class _Fit(NamedTuple):
    """`B` fits.

    Attributes:
        shares: shape `[B, K]`.
        means: shape `[B, K, D]`.
        narrow: shape `[B, D, D]`: `x @ narrow` has the spread of the unit matrix within a group.
        noise: shape `[B, K, K]`.
    """

    shares: FloatArray
    means: FloatArray
    narrow: FloatArray
    noise: FloatArray

    def squares(self, x: FloatArray) -> FloatArray:
        """Squared distances of the rows from the groups' means, `[B, N, K]`."""
        items, centres = x @ self.narrow, self.means @ self.narrow
        found: FloatArray = (
            (items**2).sum(axis=2)[:, :, np.newaxis]
            + (centres**2).sum(axis=2)[:, np.newaxis]
            - 2 * items @ centres.transpose(0, 2, 1)
        )
        return np.maximum(found, 0.0)

    def belongs(self, x: FloatArray, given: IntArray) -> tuple[FloatArray, FloatArray]:
        """The probability of each true label, given the read and the given label, `[B, N, K]`.

        And the squared distances that it was computed from.
        """
        squares = self.squares(x)
        log_joint = self._log_joint(squares, x.shape[1])
        log_joint += np.log(self.noise[:, :, given].transpose(0, 2, 1))
        return np.exp(log_softmax(log_joint)), squares

    def predicted(self, x: FloatArray) -> FloatArray:
        """The probability of each true label, given the read alone, `[B, N, K]`."""
        return np.exp(log_softmax(self._log_joint(self.squares(x), x.shape[1])))

    def _log_joint(self, squares: FloatArray, dimensions: int) -> FloatArray:
        exponent = (FREEDOM + dimensions) / 2
        found: FloatArray = np.log(self.shares)[:, np.newaxis] - exponent * np.log1p(
            squares / FREEDOM
        )
        return found

    def separation(self) -> float:
        """Of the first fit: from each label's group to the nearest other, weighted by shares."""
        centres = (self.means @ self.narrow)[0]
        far = np.sqrt(((centres[:, np.newaxis] - centres) ** 2).sum(axis=2))
        np.fill_diagonal(far, np.inf)
        return float(self.shares[0] @ far.min(axis=1))


def _fit(x: FloatArray, given: IntArray, weights: FloatArray, start: FloatArray, k: int) -> _Fit:
    """Fit by expectation maximisation, for each line of weights.

    Args:
        x: shape `[N, D]`.
        given: shape `[N]`.
        weights: shape `[B, N]`, how often each row counts.
        start: shape `[N, K]`, how probable each true label is at the start.
        k: labels.
    """
    n, dimensions = x.shape
    total = weights.sum(axis=1)
    products = (x[:, :, np.newaxis] * x[:, np.newaxis]).reshape(n, -1)
    as_given = np.eye(k)[given]  # [N, K]
    prior = _PRIOR_ROWS * _noise(k, _PRIOR_WRONG)
    belongs = np.broadcast_to(start, (len(weights), n, k))
    near = np.ones((len(weights), n, k))
    for _ in range(_ITERATIONS):
        held = weights[:, :, np.newaxis] * belongs
        counts = held.sum(axis=1)  # [B, K]
        pulled = held * near
        mass = pulled.sum(axis=1)
        means = pulled.transpose(0, 2, 1) @ x / np.maximum(mass, _NARROWEST)[:, :, np.newaxis]
        within = (pulled.sum(axis=2) @ products).reshape(-1, dimensions, dimensions)
        within -= (means * mass[:, :, np.newaxis]).transpose(0, 2, 1) @ means
        within /= total[:, np.newaxis, np.newaxis]
        within += _NARROWEST * np.eye(dimensions)
        narrow = np.linalg.inv(np.linalg.cholesky(within)).transpose(0, 2, 1)
        noise = held.transpose(0, 2, 1) @ as_given + prior
        noise /= noise.sum(axis=2, keepdims=True)
        shares = (counts + 1) / (total[:, np.newaxis] + k)
        fit = _Fit(shares, means, narrow, noise)
        before = belongs
        belongs, squares = fit.belongs(x, given)
        near = (FREEDOM + dimensions) / (FREEDOM + squares)
        if np.abs(belongs - before).max() < _SETTLED:
            break
    return fit
