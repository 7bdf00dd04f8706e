"""Which name belongs to which class: the same labels, scored again with label names exchanged.

Mutual predictability alone cannot name classes. Where a label's word says what it means, the
labelling with the names exchanged is much less coherent; where it does not (` A` / ` B`), both
are equally coherent and a person must say which class is which.

Two things blur that. A model that prefers one label anyway has little `U` to lose on one side. And
where labels follow each item's own log-odds more than the demos, they follow what the words say of
it by selection, whatever that is. So the log-odds `d` of an item behind the context, and `e` behind
the same with names exchanged, are taken apart:

    (d - e) / 2   what the demos teach: it turns with their names
    (d + e) / 2   what the words say: it does not

An item's own deviation is in the second and not in the first. If both agree over the items, the
names are right; if they oppose each other, the names are the wrong way round; if they have nothing
to do with each other, the words say nothing of what was found. And labels that do not go with what
the demos teach were not learnt from each other. For more labels `renaming` says how: every context
is read with its names rotated, and of all ways to exchange names the one is tried that the words
favour most.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from icm_client.coherence.calibration import pointwise_mutual_information
from icm_client.coherence.contexts import UNLABELLED
from icm_client.coherence.fold_scores import ScoredFold, score_folds
from icm_client.coherence.problem import Context, Demo, FloatArray, IntArray, Score
from icm_client.coherence.renaming import (
    Names,
    apart,
    best_other_names,
    contrast,
    pulls,
    rotations,
)

CLEAR_STANDARD_ERRORS = 3.0

CLEAR_PULL = 0.2
"""How much the words must say for each nat that demos teach, where `U` does not show it. Contexts
of words that say nothing may teach a little more or less than each other: all items then seem to
have been told a little by the words, and their number makes it no surer."""

ASKED_FIRST = 128
ASKED_FIRST_OF_A_LABEL = 16
"""Items of a fold that are asked first, the larger number: enough where words are clear."""

RESPONSIVE = 0.75
"""Share of the items that must turn with the demos' labels: under it they follow something else."""


@dataclass(frozen=True, slots=True)
class NameExchange:
    """The exchange of names that comes closest to the labels as they were found.

    Attributes:
        names: the labelling with label `k` renamed `names[k]`, shape `[K]`.
        utility: calibrated `U` of the labels as found, over the targets scored, nats an item; NaN
            where none could be.
        exchanged_utility: the same with the names exchanged.
        standard_error: of the mean paired difference of the two, nats.
        words: whether words go with what demos teach under the names as found, over 0, or under
            these, in standard errors (`Contrast`). NaN where too few items have such labels.
        pull: how far the words move log-odds for each nat that the demos do. NaN as `words`.
        response: the share of the items whose log-odds turn towards their label with the demos'
            names. NaN as `words`.
        pull_of_all: the pull over all labels, with the names as found. NaN where a label has too
            few items.
        best_pull: the same with the names that the words favour most.
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

    def renamed(self, scores: FloatArray) -> FloatArray:
        """Scores `[..., K]` of the labels as found, by their new names."""
        return scores[..., np.argsort(self.names)]

    @property
    def weak(self) -> bool:
        """The words move log-odds by little of what the demos do; not said where `pull` is NaN."""
        return abs(self.pull) < CLEAR_PULL

    @property
    def all_weak(self) -> bool:
        """The same for the words of all labels, and no other names would make much of them."""
        return abs(self.pull_of_all) < CLEAR_PULL and self.best_pull < 2 * CLEAR_PULL

    @property
    def _words_are_clear(self) -> bool:
        """They go with or against the demos, and weigh something or make `U` clearly higher."""
        # These names were chosen among many as those that noise favours most.
        others = math.lgamma(len(self.names) + 1) - math.log(2)  # log of K! / 2
        needed = math.sqrt(CLEAR_STANDARD_ERRORS**2 + 2 * others * (self.words < 0))
        if not abs(self.words) > needed:
            return False
        return not self.weak or self._lead * np.sign(self.words) > CLEAR_STANDARD_ERRORS

    @property
    def _lead(self) -> float:
        """How much the labels as found are the more coherent ones, in standard errors."""
        margin = self.utility - self.exchanged_utility
        if np.isinf(self.standard_error) or np.isnan(margin):
            return 0.0
        if self.standard_error == 0:
            return float(np.copysign(np.inf, margin)) if margin else 0.0
        return margin / self.standard_error


def with_names(context: Context, names: Sequence[int]) -> Context:
    """The same demos, label `k` renamed `names[k]`."""
    return tuple(Demo(demo.item, names[demo.label]) for demo in context)


async def exchange_names(
    context: Context,
    targets: IntArray,
    calibrated: FloatArray,
    labels: IntArray,
    score: Score,
) -> NameExchange:
    """Score `targets` behind `context` with names exchanged, and compare.

    Args:
        context: demos of the last sweep, as they were labelled then.
        targets: items scored behind `context` in the last sweep.
        calibrated: shape `[len(targets), K]`, their calibrated scores then.
        labels: shape `[N]`, the labels found.
        score: the way out; `len(targets)` queries for each of at most `K` ways to name the demos.

    Returns:
        The exchange that the words favour most.
    """
    return await _compared([_Fold(context, targets, calibrated, labels, score)])


async def exchange_names_in_folds(
    folds: Sequence[ScoredFold], labels: IntArray, score: Score
) -> NameExchange:
    """Exchange names for some items of the last sweep, and for more while that leaves it open.

    Words that say little need more items to be heard, and rare labels more items to have any; else
    a part of one fold is enough, or one fold where it is small.

    Args:
        folds: of the last sweep, at least one.
        labels: shape `[N]`, the labels found.
        score: as for `exchange_names`, a fold.

    Returns:
        The exchange that the words favour most, over all that was asked.
    """
    asked: list[_Fold] = []
    for fold in [*_asked_first(folds[0]), *folds]:
        if fold is folds[0]:
            asked = []  # what was asked of it first is in it
        asked.append(_Fold(fold.context, fold.targets, fold.calibrated, labels, score))
        closest = await _compared(asked)
        if not closest.ambiguous and not np.isnan(closest.words):
            break
    return closest


def asked_first(n_labels: int) -> int:
    """How many items of a fold are asked before all of them are."""
    return max(ASKED_FIRST, ASKED_FIRST_OF_A_LABEL * n_labels)


def _asked_first(fold: ScoredFold) -> list[ScoredFold]:
    """A part of a large fold, as if there were no other targets."""
    few = asked_first(fold.calibrated.shape[1])
    if len(fold.targets) <= few:
        return []
    # Targets that a rule binds stand in the order of their groups' sizes: some of each.
    part = np.linspace(0, len(fold.targets) - 1, few).astype(np.int64)
    return [
        ScoredFold(
            fold.context,
            fold.targets[part],
            pointwise_mutual_information(fold.calibrated[part]),
            fold.label_mass[part],
        )
    ]


class _Fold:
    """A fold's labelled targets, behind its context under every name that was asked for."""

    def __init__(
        self,
        context: Context,
        targets: IntArray,
        calibrated: FloatArray,
        labels: IntArray,
        score: Score,
    ) -> None:
        labelled = (labels[targets] != UNLABELLED) & ~np.isnan(calibrated).any(axis=1)
        self._context, self._targets, self._score = context, targets[labelled], score
        self._labels = labels[self._targets]
        self.n_labels = calibrated.shape[1]
        as_found = tuple(range(self.n_labels))
        self._behind: dict[Names, FloatArray] = {as_found: calibrated[labelled]}

    async def read(self, ways: Sequence[Names]) -> tuple[IntArray, list[FloatArray]]:
        """Labels `[n]` and calibrated scores `[n, K]` of the items scored in all these ways."""
        new = [names for names in ways if names not in self._behind]
        if new:
            contexts = [(with_names(self._context, names), self._targets) for names in new]
            for names, fold in zip(new, await score_folds(contexts, self._score), strict=True):
                self._behind[names] = fold.calibrated
        behind = [self._behind[names] for names in ways]
        scored = ~np.isnan(behind).any(axis=(0, 2))
        return self._labels[scored], [scores[scored] for scores in behind]


async def _compared(folds: Sequence[_Fold]) -> NameExchange:
    """Take demos and words apart, and compare the names as found with those that words favour."""
    n_labels = folds[0].n_labels
    as_found = tuple(range(n_labels))
    rotated = [await fold.read([as_found, *rotations(n_labels)]) for fold in folds]
    parts = [apart(held, np.stack(scores)) for held, scores in rotated]
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
    )


def _mean(values: FloatArray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _standard_error(differences: FloatArray) -> float:
    """Of the mean, nats; infinite for a single difference, which tells nothing."""
    if len(differences) < 2:  # noqa: PLR2004
        return float("inf")
    return float(differences.std(ddof=1) / np.sqrt(len(differences)))
