"""Which name belongs to which class: the same labels, scored again with label names exchanged.

Mutual predictability alone cannot name the classes. Where a label word says what it means, the
labelling with the names exchanged is much less coherent; where it does not (` A` / ` B`), both are
equally coherent and a person must say which class is which.

Two effects decide what an item's score in a context is:

    in-context effect     what the demos teach: it turns when the demos' names are permuted
    label-word effect     what the label words themselves say of the item: it does not

They are separated by reading each context under the `K` rotations of the names (label `k` renamed
`k + r` modulo `K`), under which every class has every name once. Of an item's scores `s_r` in the
context with names rotated by `r`

    taught(c) = mean_r s_r(c + r)   the in-context effect of class `c`: the names cancel
    said(y)   = mean_r s_r(y)       the label-word effect of `y`: the demos cancel

For two labels these are half the difference and half the sum of the log-odds in the context and in
the same context with names exchanged. An item's own deviation is in `said` and not in `taught`, so
labels that merely follow each item's own log-odds do not look learnt. If both effects agree over
the items, the names are right; if they oppose each other, the names are the wrong way round; if
they are unrelated, the label words say nothing of what was found. Of all permutations of the names
the one is tried that the words favour most: `sum_i sum_c taught(i, c) said(i, p(c))` is largest.

The words of two labels may also split the items by themselves (`WordSplit`). Where their two groups
are not the labels', something else than what the words name has drawn the labels, although the two
may be related closely enough to make names look right.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np

from icm_client.coherence.calibration import margin, pointwise_mutual_information
from icm_client.coherence.contexts import ScoredFold, score_folds
from icm_client.coherence.matching import best_permutation
from icm_client.coherence.modes import fit_two_modes
from icm_client.coherence.problem import (
    UNLABELLED,
    Context,
    Demo,
    FloatArray,
    IntArray,
    Problem,
    Score,
)

Names = tuple[int, ...]
"""Label `k` is renamed `names[k]`."""

CLEAR_STANDARD_ERRORS = 3.0

CLEAR_PULL = 0.2
"""The least label-word effect for each nat of in-context effect that counts where `U` does not show
it. Contexts of meaningless words may teach a little more or less than each other, which looks like
a small effect of the words on all items, and more items make it no surer."""

OPPOSED = 0.5
"""How far pinned items must be scored against their labels to exchange names, as a share of the
median margin. Items whose labels are the wrong way round are as far off as any; items that a person
had to correct often have small margins, and say nothing of the others' names."""

FEWEST_OF_A_LABEL = 4
"""Minimum items per label to estimate the in-context effect."""

ASKED_FIRST = 128
ASKED_FIRST_OF_A_LABEL = 16
"""Items of a fold that are read first, the larger of the two: enough where the words are clear."""

FEWEST_OF_A_SPLIT = 30
"""Items of which it is said how words split them: fewer fall into two groups by chance."""

SPLIT_GAIN, SPLIT_GAIN_AN_ITEM = 3.0, 0.04
"""Nats by which two groups must explain what the words say better than a single one, and nats for
each item, the larger of the two, for words to split the items."""

RESPONSIVE = 0.75
"""Share of the items that must turn with the demos' labels; below it they follow something else."""

_TOLERANCE = 1e-9  # nats
_CERTAIN = 1 - 1e-9


class WordSplit(NamedTuple):
    """The two groups that two label words make of the items by themselves: of their `said`.

    Attributes:
        gain: log-likelihood of two groups over that of a single one, nats.
        separation: Ashman's D: how many standard deviations lie between them.
        differing: the share of the items that are in the group of the other label. Which group is
            whose is decided so that most are in their own.
        items: how many.
    """

    gain: float
    separation: float
    differing: float
    items: int

    @property
    def needed(self) -> float:
        """The gain over which words split the items, nats: items of no group hardly gain as much.

        A single lopsided heap is explained better by two groups the more items it has.
        """
        return max(SPLIT_GAIN, SPLIT_GAIN_AN_ITEM * self.items)


@dataclass(frozen=True, slots=True)
class NameExchange:
    """The exchange of names that comes closest to the labels as they were found.

    Attributes:
        names: a permutation, shape `[K]`: label `k` is renamed `names[k]`.
        utility: calibrated `U` of the labels as found, over the targets scored, nats an item; NaN
            where none could be.
        exchanged_utility: the same with the names exchanged.
        standard_error: of the mean paired difference of the two, nats.
        words: a t statistic (`Contrast`): over 0 where the label words go with what the demos
            teach under the names as found, below 0 where under these names. NaN where too few items
            have such labels.
        pull: nats of label-word effect for each nat of in-context effect. NaN as `words`.
        response: the share of the items whose log-odds turn towards their label with the demos'
            names. NaN as `words`.
        pull_of_all: the pull over all labels, with the names as found. NaN where a label has too
            few items.
        best_pull: the same with the names that the words favour most.
        split: how the words of two labels split the items; None for more labels, for few items,
            and where they say the same of all.
    """

    names: tuple[int, ...]
    utility: float
    exchanged_utility: float
    standard_error: float
    words: float = float("nan")
    pull: float = float("nan")
    response: float = float("nan")
    pull_of_all: float = float("nan")
    best_pull: float = float("nan")
    split: WordSplit | None = None

    @property
    def ambiguous(self) -> bool:
        """The words do not clearly say which of the two labellings is meant."""
        if np.isnan(self.words):
            return not abs(self._lead) > CLEAR_STANDARD_ERRORS
        opposed = self._lead * np.sign(self.words) < -CLEAR_STANDARD_ERRORS
        return not self._words_are_clear or bool(opposed)

    @property
    def better(self) -> bool:
        """The exchanged labelling is clearly better: the labels found are the wrong way round."""
        if not self._words_are_clear:
            return self._lead < -CLEAR_STANDARD_ERRORS
        return self.words < 0 and not self._lead > CLEAR_STANDARD_ERRORS

    @property
    def weak(self) -> bool:
        """The label-word effect is small beside the in-context effect; false where it is NaN."""
        return abs(self.pull) < CLEAR_PULL

    @property
    def all_weak(self) -> bool:
        """The same over all labels, and no other names would make much of the words."""
        return abs(self.pull_of_all) < CLEAR_PULL and self.best_pull < 2 * CLEAR_PULL

    def renamed(self, scores: FloatArray) -> FloatArray:
        """Scores `[..., K]` of the labels as found, by their new names."""
        return scores[..., np.argsort(self.names)]

    def turns(self, scores: FloatArray, problem: Problem) -> bool:
        """Whether the names that a search found are to be exchanged.

        Without pins the label words decide. With pins it is so where the pinned items' scores,
        which come from contexts without them, are clearly against their labels, and the words do
        not clearly say that the names are right.

        Args:
            scores: shape `[N, K]`, nats, with the names as found.
            problem: whose pins are looked at.
        """
        pinned = problem.pinned
        if pinned is None:
            return self.better
        if not self.ambiguous and not self.better:
            return False
        scored = np.flatnonzero(~np.isnan(scores).any(axis=1))
        at = np.intersect1d(problem.pinned_items, scored)
        at = at[np.asarray(self.names)[pinned[at]] != pinned[at]]  # the other names would stay
        if not len(at):
            return False
        against = self.renamed(scores)[at, pinned[at]] - scores[at, pinned[at]]
        return bool(against.mean() > OPPOSED * np.median(margin(scores[scored])) > 0)

    @property
    def _words_are_clear(self) -> bool:
        """They go with or against the demos, and weigh something or make `U` clearly higher."""
        # These names were chosen among many as those that noise favours most: of n standard normal
        # numbers the largest is about sqrt(2 log n).
        others = math.lgamma(len(self.names) + 1) - math.log(2)  # log of K! / 2
        needed = math.sqrt(CLEAR_STANDARD_ERRORS**2 + 2 * others * (self.words < 0))
        if not abs(self.words) > needed:
            return False
        return not self.weak or self._lead * np.sign(self.words) > CLEAR_STANDARD_ERRORS

    @property
    def _lead(self) -> float:
        """How much the labels as found are the more coherent ones, in standard errors."""
        difference = self.utility - self.exchanged_utility
        if np.isinf(self.standard_error) or np.isnan(difference):
            return 0.0
        if self.standard_error == 0:
            return float(np.copysign(np.inf, difference)) if difference else 0.0
        return difference / self.standard_error


async def exchange_names(
    folds: Sequence[ScoredFold], labels: IntArray, score: Score
) -> NameExchange:
    """Read all items of these folds again with names exchanged, and compare.

    Args:
        folds: of the last sweep, at least one; demos as they were labelled then.
        labels: shape `[N]`, the labels found.
        score: asked once for each item and each of at most `K` ways to name the demos.

    Returns:
        The exchange that the label words favour most, over all that was asked.
    """
    return await _compared([_Fold(fold, labels, score) for fold in folds])


async def exchange_names_in_folds(
    folds: Sequence[ScoredFold], labels: IntArray, score: Score
) -> NameExchange:
    """Compare as `exchange_names` does, but ask about no more items than decide the names.

    Some items of the first fold are read, and more only while that leaves the names open.

    A small label-word effect needs more items to be seen, and rare labels need more items to have
    any; otherwise a part of one fold is enough.
    """
    asked: list[_Fold] = []
    for fold in [*_asked_first(folds[0]), *folds]:
        if fold is folds[0]:
            asked = []  # what was asked of it first is in it
        asked.append(_Fold(fold, labels, score))
        closest = await _compared(asked)
        if not closest.ambiguous and not np.isnan(closest.words):
            break
    return closest


def asked_first(n_labels: int) -> int:
    """How many items of a fold are read before all of them are."""
    return max(ASKED_FIRST, ASKED_FIRST_OF_A_LABEL * n_labels)


def _asked_first(fold: ScoredFold) -> list[ScoredFold]:
    """A part of a large fold, as if there were no other targets."""
    few = asked_first(fold.calibrated.shape[1])
    if len(fold.targets) <= few:
        return []
    # Targets that a rule binds stand in the order of their groups' sizes: some of each.
    part = np.linspace(0, len(fold.targets) - 1, few).astype(np.int64)
    calibrated = pointwise_mutual_information(fold.calibrated[part])
    return [ScoredFold(fold.context, fold.targets[part], calibrated, fold.label_mass[part])]


def with_names(context: Context, names: Sequence[int]) -> Context:
    """The same demos, label `k` renamed `names[k]`."""
    return tuple(Demo(demo.item, names[demo.label]) for demo in context)


def rotations(n_labels: int) -> list[Names]:
    """The rotations of the names but the one that leaves them: `K - 1`."""
    return [tuple((k + by) % n_labels for k in range(n_labels)) for by in range(1, n_labels)]


class _Fold:
    """A fold's labelled targets, in its context under every name that was asked for."""

    def __init__(self, fold: ScoredFold, labels: IntArray, score: Score) -> None:
        labelled = (labels[fold.targets] != UNLABELLED) & ~np.isnan(fold.calibrated).any(axis=1)
        self._context, self._targets, self._score = fold.context, fold.targets[labelled], score
        self._labels = labels[self._targets]
        self.n_labels = fold.calibrated.shape[1]
        as_found = tuple(range(self.n_labels))
        self._read: dict[Names, FloatArray] = {as_found: fold.calibrated[labelled]}

    async def read(self, ways: Sequence[Names]) -> tuple[IntArray, list[FloatArray]]:
        """Labels `[n]` and calibrated scores `[n, K]` of the items scored in all these ways."""
        new = [names for names in ways if names not in self._read]
        if new:
            contexts = [(with_names(self._context, names), self._targets) for names in new]
            for names, fold in zip(new, await score_folds(contexts, self._score), strict=True):
                self._read[names] = fold.calibrated
        read = [self._read[names] for names in ways]
        scored = ~np.isnan(read).any(axis=(0, 2))
        return self._labels[scored], [scores[scored] for scores in read]


async def _compared(folds: Sequence[_Fold]) -> NameExchange:
    """Separate the two effects, and compare the names as found with those that words favour."""
    n_labels = folds[0].n_labels
    as_found = tuple(range(n_labels))
    rotated = [await fold.read([as_found, *rotations(n_labels)]) for fold in folds]
    parts = [separate(held, np.stack(scores)) for held, scores in rotated]
    names = best_other_names(parts)
    found, exchanged = [], []
    for fold in folds:
        held, (before, after) = await fold.read([as_found, names])
        at = np.arange(len(held))
        found.append(before[at, held])
        exchanged.append(after[at, np.asarray(names)[held]])
    lost = np.concatenate(found) - np.concatenate(exchanged)
    return NameExchange(
        names,
        _mean(np.concatenate(found)),
        _mean(np.concatenate(exchanged)),
        _standard_error(lost),
        *contrast(parts, names),
        *pulls(parts),
        word_split(parts),
    )


def _mean(values: FloatArray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _standard_error(differences: FloatArray) -> float:
    """Of the mean, nats; infinite for a single difference, which says nothing."""
    if len(differences) < 2:  # noqa: PLR2004
        return float("inf")
    return float(differences.std(ddof=1) / np.sqrt(len(differences)))


class Effects(NamedTuple):
    """The two effects on a fold's items, each less its mean over the items and over the labels.

    Every context moves all of its targets alike: they are compared with one another only.

    Attributes:
        held: shape `[n]`, the labels found, which are the classes.
        taught: shape `[n, K]`, nats, by class: the in-context effect.
        said: shape `[n, K]`, nats, by name: the label-word effect.
    """

    held: IntArray
    taught: FloatArray
    said: FloatArray


class Contrast(NamedTuple):
    """How the names as they are compare with others, by what the label words say of the classes.

    Attributes:
        words: the correlation of the label-word effect with the in-context effect on the labels
            renamed, in standard errors (Student's t): over 0 where both go with the names as found.
        pull: nats of label-word effect for each nat of in-context effect: the slope.
        response: the share of the items whose log-odds turn towards their label with the demos'
            names, balanced over the labels, two at a time: 1 where the demos decide, about a half
            where they have no influence.
    """

    words: float
    pull: float
    response: float


def separate(held: IntArray, scores: FloatArray) -> Effects:
    """Separate the two effects in a fold's scores.

    Args:
        held: shape `[n]`, the labels found.
        scores: shape `[K, n, K]`, nats: with names as they are, then under the `rotations`.
    """
    effects = np.stack([by_class(scores), scores.mean(axis=0)])
    effects -= effects.mean(axis=2, keepdims=True)
    if effects.shape[1]:
        effects -= effects.mean(axis=1, keepdims=True)
    return Effects(held, *effects)


def by_class(scores: Sequence[FloatArray] | FloatArray) -> FloatArray:
    """The in-context effect: each class's mean score over the names it had, `[n, K]`, nats.

    Args:
        scores: shape `[R, n, K]`, nats: with names as they are, then under the `rotations`, or the
            first of them.
    """
    mean: FloatArray = np.mean(
        [np.roll(rotated, -by, axis=1) for by, rotated in enumerate(scores)], axis=0
    )
    return mean


def best_other_names(folds: Sequence[Effects]) -> Names:
    """The names, other than those as they are, that the words favour most."""
    return best_permutation(_favour(folds), other=True)


def contrast(folds: Sequence[Effects], names: Names) -> Contrast:
    """Compare the names as they are with these, which are others.

    Args:
        folds: those that have too few items of a label that is renamed are left out; where all
            have too few, they are taken as one.
        names: label `k` renamed `names[k]`.

    Returns:
        NaN, all three, where all folds together have too few items too.
    """
    moved = np.flatnonzero(np.arange(len(names)) != np.asarray(names))
    called = np.argsort(names)  # class that each name is given to
    taught, said, turned = [], [], []
    for fold in _large_enough(folds, moved):
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


def pulls(folds: Sequence[Effects]) -> tuple[float, float]:
    """Nats of label-word effect for each nat of in-context effect, over all labels: the slope.

    Returns:
        Under the names as they are, and under those that the words favour most. For two labels the
        first is that of `contrast`. NaN where a label has too few items, or demos teach nothing.
    """
    counted = _large_enough(folds, np.arange(folds[0].taught.shape[1]))
    squares = sum(float((fold.taught**2).sum()) for fold in counted)
    if not squares:
        return float("nan"), float("nan")
    gain = _favour(counted)
    best = float(gain[np.arange(len(gain)), best_permutation(gain)].sum())
    return float(np.trace(gain)) / squares, best / squares


def word_split(folds: Sequence[Effects]) -> WordSplit | None:
    """Return how the label words split the items of these folds; None as in `NameExchange`."""
    held = np.concatenate([fold.held for fold in folds])
    said = np.concatenate([fold.said for fold in folds])
    if said.shape[1] > 2 or len(held) < FEWEST_OF_A_SPLIT:  # noqa: PLR2004
        return None
    log_odds = said[:, 1] - said[:, 0]
    if np.ptp(log_odds) < _TOLERANCE:
        return None
    modes = fit_two_modes(log_odds)
    differing = float(((log_odds > modes.threshold) != held).mean())
    return WordSplit(modes.gain, modes.separation, min(differing, 1 - differing), len(held))


def _favour(folds: Sequence[Effects]) -> FloatArray:
    """How much the words favour calling class `c` `y`, `[K, K]`."""
    favour: FloatArray = np.sum([fold.taught.T @ fold.said for fold in folds], axis=0)
    return favour


def _large_enough(folds: Sequence[Effects], labels: IntArray) -> list[Effects]:
    """The folds with enough items of all these labels, or all folds as one that has enough."""
    together = Effects(*map(np.concatenate, zip(*folds, strict=True)))
    large = [fold for fold in folds if _fewest(fold, labels) >= FEWEST_OF_A_LABEL]
    return large or [one for one in (together,) if _fewest(one, labels) >= FEWEST_OF_A_LABEL]


def _fewest(fold: Effects, labels: IntArray) -> int:
    """Items of the rarest of these labels."""
    return min(int((fold.held == label).sum()) for label in labels)


def _turned(fold: Effects, a: int, b: int) -> float:
    """The share of two labels' items that turn with the demos' names, balanced over the two."""
    asked = (fold.held == a) | (fold.held == b)
    is_b = fold.held[asked] == b
    by_demos = (fold.taught[asked, b] - fold.taught[asked, a]) / 2
    middle = (by_demos[is_b].mean() + by_demos[~is_b].mean()) / 2
    return float(((by_demos[is_b] > middle).mean() + (by_demos[~is_b] < middle).mean()) / 2)
