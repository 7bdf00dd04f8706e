"""What demos teach and what words say, taken apart by renaming the labels in every context.

Under the `K` rotations of the names (label `k` renamed `k + r` modulo `K`) every class has every
name once. So of an item's scores `s_r` behind the context with names rotated by `r`

    taught(c) = mean_r s_r(c + r)   what the demos of class `c` teach: the names cancel
    said(y)   = mean_r s_r(y)       what the word `y` says: the demos cancel

For two labels these are half the difference and half the sum of the log-odds behind the context and
behind the same with names exchanged. Words say of `taught` which class they name: names `p` are the
better, the larger `sum_i sum_c taught(i, c) said(i, p(c))` is.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from icm_client.coherence.matching import best_permutation
from icm_client.coherence.problem import FloatArray, IntArray

Names = tuple[int, ...]
"""Label `k` is renamed `names[k]`."""

FEWEST_OF_A_LABEL = 4
"""Items of each label without which nothing is said of what demos teach."""

_TOLERANCE = 1e-9  # nats
_CERTAIN = 1 - 1e-9


class Parts(NamedTuple):
    """A fold's items, each part less its mean over the items and over the labels.

    Every context moves all of its targets alike: they are compared with one another only.

    Attributes:
        held: shape `[n]`, the labels found, which are the classes.
        taught: shape `[n, K]`, nats, by class.
        said: shape `[n, K]`, nats, by name.
    """

    held: IntArray
    taught: FloatArray
    said: FloatArray


class Contrast(NamedTuple):
    """How words that say something of the classes compare the names as they are with others.

    Attributes:
        words: the correlation of what words say with what demos teach of the labels renamed, in
            standard errors (Student's t): over 0 where the names as they are go with both.
        pull: how far the words move log-odds for each nat that the demos do: the slope.
        response: the share of the items whose log-odds turn towards their label with the demos'
            names, balanced over the labels, two at a time: 1 where the demos decide, about a half
            where they have no say.
    """

    words: float
    pull: float
    response: float


def rotations(n_labels: int) -> list[Names]:
    """The rotations of the names but the one that leaves them: `K - 1`."""
    return [tuple((k + by) % n_labels for k in range(n_labels)) for by in range(1, n_labels)]


def apart(held: IntArray, scores: FloatArray) -> Parts:
    """Take a fold's scores apart.

    Args:
        held: shape `[n]`, the labels found.
        scores: shape `[K, n, K]`, nats: behind names as they are, then behind the `rotations`.
    """
    parts = np.stack([by_class(scores), scores.mean(axis=0)])
    parts -= parts.mean(axis=2, keepdims=True)
    if parts.shape[1]:
        parts -= parts.mean(axis=1, keepdims=True)
    return Parts(held, *parts)


def by_class(scores: Sequence[FloatArray] | FloatArray) -> FloatArray:
    """`taught`: the mean of each class's scores over the names it had, `[n, K]`, nats.

    Args:
        scores: shape `[R, n, K]`, nats: behind names as they are, then behind the `rotations`, or
            the first of them.
    """
    mean: FloatArray = np.mean(
        [np.roll(behind, -by, axis=1) for by, behind in enumerate(scores)], axis=0
    )
    return mean


def best_other_names(folds: Sequence[Parts]) -> Names:
    """The names but those as they are that the words favour most."""
    return best_permutation(_favour(folds), other=True)


def pair_counts(one: IntArray, other: IntArray, n_labels: int) -> FloatArray:
    """How many items have label `k` in `one` and `y` in `other`, `[K, K]`; all of them labelled."""
    table = np.zeros((n_labels, n_labels))
    np.add.at(table, (one, other), 1)
    return table


def contrast(folds: Sequence[Parts], names: Names) -> Contrast:
    """Compare the names as they are with these, which are others.

    Args:
        folds: those that have too few items of a label that is renamed are left out; where all
            have, they are taken as one.
        names: label `k` renamed `names[k]`.

    Returns:
        NaN, all three, where that one has too few too.
    """
    moved = np.flatnonzero(np.arange(len(names)) != np.asarray(names))
    called = np.argsort(names)  # class that each name is given to
    taught, said, turned = [], [], []
    for fold in _telling(folds, moved):
        taught.append((fold.taught - fold.taught[:, called])[:, moved])
        words = fold.said[:, moved]
        said.append(words - words.mean(axis=1, keepdims=True))
        turned += [_turned(fold, a, b) for a, b in combinations(moved.tolist(), 2)]
    if not taught:
        return Contrast(float("nan"), float("nan"), float("nan"))
    x, y = np.concatenate(taught), np.concatenate(said)
    response = float(np.mean(turned))
    if min(np.ptp(x), np.ptp(y)) < _TOLERANCE:
        return Contrast(0.0, 0.0, response)
    product, x_squared = float((x * y).sum()), float((x * x).sum())
    r = np.clip(product / np.sqrt(x_squared * (y * y).sum()), -_CERTAIN, _CERTAIN)
    freedom = max((len(x) - len(taught)) * (len(moved) - 1) - 1, 1)
    words_say = float(r * np.sqrt(freedom / (1 - r**2)))
    return Contrast(words_say, 2 * product / x_squared, response)


def pulls(folds: Sequence[Parts]) -> tuple[float, float]:
    """How far the words of all labels move scores for each nat that the demos do, as a slope.

    Returns:
        Under the names as they are, and under those that the words favour most. For two labels the
        first is that of `contrast`. NaN where a label has too few items, or demos teach nothing.
    """
    told = _telling(folds, np.arange(folds[0].taught.shape[1]))
    squares = sum(float((fold.taught**2).sum()) for fold in told)
    if not squares:
        return float("nan"), float("nan")
    gain = _favour(told)
    return float(np.trace(gain)) / squares, _value(gain, best_permutation(gain)) / squares


def _favour(folds: Sequence[Parts]) -> FloatArray:
    """How much the words favour calling class `c` `y`, `[K, K]`."""
    favour: FloatArray = np.sum([fold.taught.T @ fold.said for fold in folds], axis=0)
    return favour


def _telling(folds: Sequence[Parts], labels: IntArray) -> list[Parts]:
    """The folds with enough items of all these labels, or all folds as one that has."""
    together = Parts(*map(np.concatenate, zip(*folds, strict=True)))
    told = [fold for fold in folds if _fewest(fold, labels) >= FEWEST_OF_A_LABEL]
    return told or [one for one in (together,) if _fewest(one, labels) >= FEWEST_OF_A_LABEL]


def _fewest(fold: Parts, labels: IntArray) -> int:
    """Items of the rarest of these labels."""
    return min(int((fold.held == label).sum()) for label in labels)


def _turned(fold: Parts, a: int, b: int) -> float:
    """The share of two labels' items that turn with the demos' names, balanced over the two."""
    asked = (fold.held == a) | (fold.held == b)
    is_b = fold.held[asked] == b
    by_demos = (fold.taught[asked, b] - fold.taught[asked, a]) / 2
    middle = (by_demos[is_b].mean() + by_demos[~is_b].mean()) / 2
    return float(((by_demos[is_b] > middle).mean() + (by_demos[~is_b] < middle).mean()) / 2)


def _value(gain: FloatArray, names: Names) -> float:
    return float(gain[np.arange(len(gain)), names].sum())
