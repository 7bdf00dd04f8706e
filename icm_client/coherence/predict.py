"""Labels for new items from labels that a search has found: each item is read once a context.

    for c in 1..M:
        split the searched items in two halves, groups kept whole
        context C_c: balanced demos from one half, as the search draws them
        z_c(j) <- log P(y | x_j, C_c) for items j of the other half, at most R
        bias_c <- log mean_j P(y | x_j, C_c)
    s(j) <- mean of z_c(j) - bias_c over the contexts that j was read in
    a, b <- argmax sum_j sum_y q_j(y) log softmax_y(a s(j) + b)     q_j: the search's own confidence
    of a new item i: P(y | x_i) = softmax_y(a (mean_c z_c(i) - bias_c) + b), argmax under the rule

All of it is fixed before the first new item is read, so what a new item gets does not depend on
which others come with it. As each context is measured on items that it does not show, `a` and `b`
are what new items need: a single context says less than the search's average over many, and its
label bias is its own. Fitting a line to log-odds is Platt's scaling (1999), here with the search's
labels in the place of known ones; with an offset for each label it is the vector scaling of Guo et
al. 2017 (arXiv 1706.04599) with one common slope.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from icm_client.coherence.calibration import certainty, label_bias, log_softmax
from icm_client.coherence.contexts import draw_demos, split_folds
from icm_client.coherence.problem import UNLABELLED, Context, FloatArray, IntArray, Problem

CONTEXTS = 1
"""Frozen contexts; docs/predict.md has what more of them gain."""

MEASURED = 512
"""The most items that a context is measured on."""

_ITERATIONS = 50
_TOLERANCE = 1e-9
_SLOPE_SPREAD = 2.0
"""Standard deviation of the prior on the slope, around 1: labels that scores separate perfectly
would make it infinite."""
_SURE = 0.95
"""What a label found is taken to be worth where the search gives no confidence."""


@dataclass(frozen=True, slots=True)
class FrozenContext:
    """Demos, and the items that it is measured on, none of which it shows.

    Attributes:
        demos: of the search's items.
        measured: shape `[R]`, items of the other half, rising.
    """

    demos: Context
    measured: IntArray


def freeze(
    labels: IntArray,
    scores: FloatArray,
    problem: Problem,
    *,
    contexts: int = CONTEXTS,
    demos: int,
    keep: float,
    rng: np.random.Generator,
) -> tuple[FrozenContext, ...]:
    """Draw the contexts.

    Args:
        labels: shape `[N]`, those found, `UNLABELLED` where an item has none.
        scores: shape `[N, K]`, nats: what they were decided by.
        problem: its rule's groups, of which no item is measured with the demos of another; its
            pins, which are taken for certain.
        contexts: `M`; 0 for a single one without demos.
        demos: the most in a context.
        keep: the share of each label's items, the most certain ones, that demos are drawn from.
        rng: draws halves, demos and measured items.
    """
    if not contexts:
        there = rng.permutation(np.flatnonzero(labels != UNLABELLED))
        return (FrozenContext((), np.sort(there[:MEASURED])),)
    certain = certainty(scores, problem.pinned)
    frozen = []
    for _ in range(contexts):
        shown, others = split_folds(problem.n_items, 2, rng, problem.constraint.groups)
        context = draw_demos(
            labels, shown, certain, size=demos, keep=keep, n_labels=problem.n_labels, rng=rng
        )
        others = others[labels[others] != UNLABELLED]
        frozen.append(FrozenContext(context, np.sort(rng.permutation(others)[:MEASURED])))
    return tuple(frozen)


@dataclass(frozen=True, slots=True)
class Calibration:
    """From raw log-probs in the frozen contexts to how probable each label is.

    Attributes:
        bias: shape `[M, K]`, nats: each context's label bias.
        slope: `a`.
        offsets: shape `[K]`, nats: `b`, the first one 0.
    """

    bias: FloatArray
    slope: float
    offsets: FloatArray

    def decide(self, log_probs: FloatArray) -> FloatArray:
        """Log-probs of the labels, nats, shape `[n, K]`; NaN where an item has no score.

        Args:
            log_probs: shape `[M, n, K]`, nats: of new items, in each context.
        """
        scores = (log_probs - self.bias[:, np.newaxis]).mean(axis=0)
        return log_softmax(self.slope * scores + self.offsets)


def calibrate(
    log_probs: Sequence[FloatArray],
    frozen: Sequence[FrozenContext],
    labels: IntArray,
    found: FloatArray,
    confidence: FloatArray,
) -> tuple[Calibration, FloatArray]:
    """Fit what new items need to the items that the contexts were measured on.

    Args:
        log_probs: one a context, shape `[R, K]`, nats, aligned with `FrozenContext.measured`; rows
            of NaN are items that could not be scored.
        frozen: the contexts.
        labels: shape `[N]`, those found.
        found: shape `[N, K]`, nats: the search's log-probs.
        confidence: shape `[N]`, how likely each label is right; NaN where it is not known.

    Returns:
        1. The calibration.
        2. Shape `[N, K]`, nats: what it says of the measured items, NaN of others. New items of
           the same kind are distributed like these.
    """
    shape = (len(frozen), *found.shape)
    bias = np.stack([label_bias(read) for read in log_probs])
    calibrated = np.full(shape, np.nan)
    for number, (context, read) in enumerate(zip(frozen, log_probs, strict=True)):
        calibrated[number, context.measured] = read - bias[number]
    times = (~np.isnan(calibrated).any(axis=2)).sum(axis=0)
    scores = np.nansum(calibrated, axis=0) / np.maximum(times, 1)[:, np.newaxis]
    measured = np.flatnonzero(times)
    slope, offsets = _line(
        scores[measured], _targets(labels[measured], found[measured], confidence[measured])
    )
    said = np.full(found.shape, np.nan)
    said[measured] = log_softmax(slope * scores[measured] + offsets)
    return Calibration(bias, slope, offsets), said


def _targets(labels: IntArray, found: FloatArray, confidence: FloatArray) -> FloatArray:
    """How probable each label is by the search, shape `[n, K]`: the label found has `confidence`.

    The others share what is left as the search's log-probs have them.
    """
    own = np.arange(len(labels)), labels
    sure = np.where(np.isnan(confidence), _SURE, confidence)
    others = np.exp(found)
    others[own] = 0
    others += np.finfo(float).tiny
    others *= ((1 - sure) / others.sum(axis=1))[:, np.newaxis]
    others[own] = sure
    return others


def _line(scores: FloatArray, targets: FloatArray) -> tuple[float, FloatArray]:
    """The slope and the offsets of least cross-entropy, by Newton's method.

    Args:
        scores: shape `[n, K]`, nats.
        targets: shape `[n, K]`, rows that sum to one.
    """
    n_items, n_labels = scores.shape
    # Each item's K scores depend on K parameters: the slope, and the offsets but the first.
    design = np.zeros((n_items, n_labels, n_labels))
    design[:, :, 0] = scores
    design[:, 1:, 1:] = np.eye(n_labels - 1)
    at = np.zeros(n_labels)
    at[0] = 1.0
    precision = np.full(n_labels, 1e-3)  # of the offsets: a label that no item has stays finite
    precision[0] = 1 / _SLOPE_SPREAD**2
    centre = at.copy()
    for _ in range(_ITERATIONS):
        p = np.exp(log_softmax(design @ at))
        gradient = np.einsum("nkd,nk->d", design, p - targets) + precision * (at - centre)
        spread = np.einsum("nkd,nk,nke->de", design, p, design)
        mean = np.einsum("nkd,nk->nd", design, p)
        step = np.linalg.solve(spread - mean.T @ mean + np.diag(precision), gradient)
        at = at - step
        if np.abs(step).max() < _TOLERANCE:
            break
    return float(max(at[0], 0.0)), np.concatenate([[0.0], at[1:]])
