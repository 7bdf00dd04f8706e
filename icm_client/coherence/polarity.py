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
the demos teach were not learnt from each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from icm_client.coherence.calibration import pointwise_mutual_information
from icm_client.coherence.contexts import UNLABELLED
from icm_client.coherence.fold_scores import ScoredFold
from icm_client.coherence.problem import Context, Demo, FloatArray, IntArray, Query, Score

CLEAR_STANDARD_ERRORS = 3.0

CLEAR_PULL = 0.2
"""How much the words must say for each nat that demos teach, where `U` does not show it. Contexts
of words that say nothing may teach a little more or less than each other: all items then seem to
have been told a little by the words, and their number makes it no surer."""

RESPONSIVE = 0.75
"""Share of the items that must turn with the demos' labels: under it they follow something else."""

FEWEST_OF_A_LABEL = 4
"""Items of each label without which nothing is said of what demos teach."""

_TOLERANCE = 1e-9  # nats
_CERTAIN = 1 - 1e-9


@dataclass(frozen=True, slots=True)
class NameExchange:
    """The closest of the exchanges tried.

    Attributes:
        names: the labelling with label `k` renamed `names[k]`, shape `[K]`.
        utility: calibrated `U` of the labels as found, over the targets scored, nats an item; NaN
            where none could be.
        exchanged_utility: the same with the names exchanged.
        standard_error: of the mean paired difference of the two, nats.
        words: the correlation of what the words say of the items that have one of the two labels
            with what the demos teach of them, in standard errors (Student's t): over 0 where both
            agree. NaN where too few items have them.
        pull: how far the words move those items' log-odds for each nat that the demos do: the slope
            of the same two. NaN as `words`.
        response: the share of those items whose log-odds turn towards their label with the demos'
            names, balanced over the two labels: 1 where the demos decide, about a half where they
            have no say. NaN as `words`.
    """

    names: tuple[int, ...]
    utility: float
    exchanged_utility: float
    standard_error: float
    words: float = float("nan")
    pull: float = float("nan")
    response: float = float("nan")

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
        """The words move log-odds by little of what the demos do; not said where `pull` is NaN."""
        return abs(self.pull) < CLEAR_PULL

    @property
    def _words_are_clear(self) -> bool:
        """They go with or against the demos, and weigh something or make `U` clearly higher."""
        if not abs(self.words) > CLEAR_STANDARD_ERRORS:
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


def exchanges(n_labels: int) -> list[tuple[int, ...]]:
    """Neighbouring names exchanged: one way for two labels, `K` ways for more."""
    swaps = [(0, 1)] if n_labels == 2 else [(k, (k + 1) % n_labels) for k in range(n_labels)]  # noqa: PLR2004
    names = []
    for a, b in swaps:
        renamed = list(range(n_labels))
        renamed[a], renamed[b] = b, a
        names.append(tuple(renamed))
    return names


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
        score: the way out; `len(targets)` queries an exchange.

    Returns:
        The exchange whose labelling is the most coherent.
    """
    return _closest([await _exchanged(context, targets, calibrated, labels, score)])


async def exchange_names_in_folds(
    folds: Sequence[ScoredFold], labels: IntArray, score: Score
) -> NameExchange:
    """Exchange names in one fold of the last sweep, and in the others while that leaves it open.

    Words that say little need more items to be heard; those that say much need no more than one
    fold's.

    Args:
        folds: of the last sweep, at least one.
        labels: shape `[N]`, the labels found.
        score: as for `exchange_names`, a fold.

    Returns:
        The exchange whose labelling is the most coherent, over all that was asked.
    """
    asked: list[list[_Pairs]] = []
    for fold in folds:
        pairs = await _exchanged(fold.context, fold.targets, fold.calibrated, labels, score)
        asked.append(pairs)
        closest = _closest(asked)
        if not closest.ambiguous:
            break
    return closest


class _Pairs(NamedTuple):
    """One exchange in one fold: calibrated scores with the names as they are and exchanged.

    `as_found` and `exchanged` are `[n, K]`, nats; `held` is `[n]`, the labels found.
    """

    names: tuple[int, ...]
    held: IntArray
    as_found: FloatArray
    exchanged: FloatArray


async def _exchanged(
    context: Context, targets: IntArray, calibrated: FloatArray, labels: IntArray, score: Score
) -> list[_Pairs]:
    """Ask about one fold with the names exchanged, in every way; arguments as `exchange_names`."""
    labelled = (labels[targets] != UNLABELLED) & ~np.isnan(calibrated).any(axis=1)
    targets, calibrated = targets[labelled], calibrated[labelled]
    asked = []
    for names in exchanges(calibrated.shape[1]):
        renamed = with_names(context, names)
        log_probs = await score([Query(renamed, int(target)) for target in targets])
        exchanged = pointwise_mutual_information(log_probs)
        scored = ~np.isnan(exchanged).any(axis=1)
        held = labels[targets[scored]]
        asked.append(_Pairs(names, held, calibrated[scored], exchanged[scored]))
    return asked


def _closest(folds: Sequence[Sequence[_Pairs]]) -> NameExchange:
    """Of the exchanges tried in all of `folds`, the one of highest `U`."""
    tried = [_compared(parts) for parts in zip(*folds, strict=True)]
    known = [one for one in tried if not np.isnan(one.exchanged_utility)]
    return max(known, key=lambda one: one.exchanged_utility) if known else tried[-1]


def _compared(parts: Sequence[_Pairs]) -> NameExchange:
    """One exchange, over the folds that it was tried in."""
    names = parts[0].names
    as_found = [part.as_found[np.arange(len(part.held)), part.held] for part in parts]
    exchanged = [
        part.exchanged[np.arange(len(part.held)), np.asarray(names)[part.held]] for part in parts
    ]
    lost = np.concatenate(as_found) - np.concatenate(exchanged)
    words, pull, response = _apart(parts)
    return NameExchange(
        names=names,
        utility=_mean(np.concatenate(as_found)),
        exchanged_utility=_mean(np.concatenate(exchanged)),
        standard_error=_standard_error(lost),
        words=words,
        pull=pull,
        response=response,
    )


def _apart(parts: Sequence[_Pairs]) -> tuple[float, float, float]:
    """What the words say and what the demos teach, compared: `words`, `pull` and `response`.

    Every context moves all of its targets alike; so a fold's are compared with one another only.
    """
    a, b = (k for k, name in enumerate(parts[0].names) if name != k)
    taught, said, turned = [], [], []
    for part in parts:
        asked = (part.held == a) | (part.held == b)
        is_b = part.held[asked] == b
        if min(is_b.sum(), (~is_b).sum()) < FEWEST_OF_A_LABEL:
            continue
        before = part.as_found[asked, b] - part.as_found[asked, a]
        after = part.exchanged[asked, b] - part.exchanged[asked, a]
        by_demos, by_words = (before - after) / 2, (before + after) / 2
        middle = (by_demos[is_b].mean() + by_demos[~is_b].mean()) / 2
        turned.append(((by_demos[is_b] > middle).mean() + (by_demos[~is_b] < middle).mean()) / 2)
        taught.append(by_demos - by_demos.mean())
        said.append(by_words - by_words.mean())
    if not taught:
        return float("nan"), float("nan"), float("nan")
    x, y = np.concatenate(taught), np.concatenate(said)
    if min(np.ptp(x), np.ptp(y)) < _TOLERANCE:
        return 0.0, 0.0, float(np.mean(turned))
    r = np.clip(x @ y / np.sqrt((x @ x) * (y @ y)), -_CERTAIN, _CERTAIN)
    freedom = max(len(x) - 1 - len(taught), 1)
    words = float(r * np.sqrt(freedom / (1 - r**2)))
    return words, float(x @ y / (x @ x)), float(np.mean(turned))


def _mean(values: FloatArray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _standard_error(differences: FloatArray) -> float:
    """Of the mean, nats; infinite for a single difference, which tells nothing."""
    if len(differences) < 2:  # noqa: PLR2004
        return float("inf")
    return float(differences.std(ddof=1) / np.sqrt(len(differences)))
