"""Calibrated scores: what an item says about its label, with the context's label bias removed.

In a given context a model prefers some label for every target, whatever the target says. Raw
log-probs then reward labelling everything alike: on movie reviews with gemma-3-270m the mean
log-prob of an all-positive labelling is -0.01, that of the gold labels -0.45. Dividing by each
label's mean probability over the targets of the same context leaves the pointwise mutual
information of item and label; a one-label solution then scores 0 or less.

The closest relative is Batch Calibration (Zhou et al. 2023, arXiv 2309.17249), which subtracts the
mean log-probability of a batch; contextual calibration (Zhao et al. 2021, arXiv 2102.09690) reads
the bias off an empty input instead.
"""

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from icm_client.coherence.problem import UNLABELLED, FloatArray, IntArray


def pointwise_mutual_information(log_probs: FloatArray) -> FloatArray:
    """`log P(y | x_i, C) - log mean_j P(y | x_j, C)` for targets `j` scored after one context `C`.

    Args:
        log_probs: shape `[n, K]`, nats; all rows from the same context. Rows of NaN are items that
            could not be scored.

    Returns:
        Shape `[n, K]`, nats, NaN where there was no score. For a fixed label the mean over items is
        at most 0 (Jensen), so a labelling that uses one label for everything cannot score above 0.
    """
    calibrated: FloatArray = log_probs - label_bias(log_probs)
    return calibrated


def label_bias(log_probs: FloatArray) -> FloatArray:
    """`log mean_j P(y | x_j, C)` of each label, shape `[K]`, nats: what a context prefers.

    Args:
        log_probs: shape `[n, K]`, nats, all from one context. Rows of NaN are left out; where there
            are no others, no label is preferred: 0.
    """
    scored = log_probs[~np.isnan(log_probs).any(axis=1)]
    if not len(scored):
        return np.zeros(log_probs.shape[1])
    largest = scored.max(axis=0)
    log_mean: FloatArray = largest + np.log(np.exp(scored - largest).mean(axis=0))
    return log_mean


def log_softmax(scores: FloatArray) -> FloatArray:
    """Normalise over the labels (last axis), in nats."""
    largest = scores.max(axis=-1, keepdims=True)
    normalised: FloatArray = (
        scores - largest - np.log(np.exp(scores - largest).sum(axis=-1, keepdims=True))
    )
    return normalised


def coherence(utility: float, counts: Sequence[int]) -> float:
    """`U` as a share of the labels' entropy, the most that items could say about labels.

    The uncertainty coefficient of Theil (1972); it compares labellings of any balance. Near 0
    the labels follow nothing that the model sees; 0 where all items have one label.

    Args:
        utility: calibrated `U`, nats an item.
        counts: items of each label.
    """
    shares = np.array([count for count in counts if count], dtype=np.float64) / sum(counts)
    entropy = -float((shares * np.log(shares)).sum())
    return utility / entropy if len(shares) > 1 else 0.0


def utility_of(calibrated: FloatArray, labels: IntArray) -> float:
    """Calibrated `U`: the mean of each item's score at its own label, nats an item.

    Args:
        calibrated: shape `[N, K]`, NaN where an item has no score.
        labels: shape `[N]`; items that are `UNLABELLED` or have no score are left out. Where that
            leaves none, labels say nothing of each other: 0.
    """
    there = (labels != UNLABELLED) & ~np.isnan(calibrated).any(axis=1)
    return float(calibrated[there, labels[there]].mean()) if there.any() else 0.0


def label_counts(labels: IntArray, n_labels: int) -> tuple[int, ...]:
    """Items of each label, `[K]`."""
    counts = np.bincount(labels[labels != UNLABELLED], minlength=n_labels)
    return tuple(int(count) for count in counts)


def margin(scores: FloatArray) -> FloatArray:
    """Nats between the best label and the next, `[N]`."""
    ordered = np.sort(scores, axis=1)
    margin: FloatArray = ordered[:, -1] - ordered[:, -2]
    return margin


def expected_changes(scores: FloatArray, decided: FloatArray) -> float:
    """The share of the labels that one more context would change, given how much contexts differ.

    One more score moves the mean of `M` by a part in `M + 1` of what lies between them: a variance
    of `s^2 / (M (M + 1))`, where `s^2` is that of the scores themselves, over all items. A label
    changes where that takes it past its rival.

    Args:
        scores: shape `[M, N, K]`, nats, of `M` contexts; NaN where one did not have the item.
        decided: shape `[N, K]`, their mean with what is added to it before labels are chosen.

    Returns:
        1 where nothing says how much contexts differ.
    """
    times = len(scores)
    scored = ~np.isnan(scores).any(axis=(0, 2))
    if times < 2 or not scored.any():  # noqa: PLR2004
        return 1.0
    scores, decided = scores[:, scored], decided[scored]
    rival, best = np.argsort(decided, axis=1)[:, -2:].T
    at = np.arange(len(decided))
    lead = scores[:, at, best] - scores[:, at, rival]
    spread = np.sqrt(lead.var(axis=0, ddof=1).mean() / (times * (times + 1)))
    if not spread:
        return 0.0
    turned = np.vectorize(NormalDist().cdf)(-margin(decided) / spread)
    return float(turned.mean())


def certainty(scores: FloatArray, pinned: IntArray | None) -> FloatArray:
    """The margin, 0 where there is no score and infinite where a label is pinned, `[N]`."""
    certain: FloatArray = np.nan_to_num(margin(scores))
    return certain if pinned is None else np.where(pinned != UNLABELLED, np.inf, certain)
