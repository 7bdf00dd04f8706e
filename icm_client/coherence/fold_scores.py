"""One sweep's questions: contexts of other folds' demos, and calibrated scores behind them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from icm_client.coherence.calibration import pointwise_mutual_information
from icm_client.coherence.constraints import Groups
from icm_client.coherence.contexts import UNLABELLED, draw_demos, split_folds
from icm_client.coherence.problem import Context, Demo, FloatArray, IntArray, Query, Score
from icm_client.coherence.settings import SweepSettings

REPEATED = 8
"""Queries of the last context that are worth asking again, to see what the server wavers by."""


@dataclass(frozen=True, slots=True)
class ScoredFold:
    """Targets and the context that they were scored behind.

    Attributes:
        targets: shape `[n]`.
        calibrated: shape `[n, K]`, nats.
        label_mass: shape `[n]`, the share of the next token's probability that is on any label.
    """

    context: Context
    targets: IntArray
    calibrated: FloatArray
    label_mass: FloatArray


def fold_contexts(
    sweep: int,
    labels: IntArray,
    averaged: FloatArray,
    rng: np.random.Generator,
    settings: SweepSettings,
    *,
    groups: Groups = (),
    pinned: IntArray | None = None,
) -> list[tuple[Context, IntArray]]:
    """Each fold's context and targets; groups stand in one fold.

    Demos are drawn from the most certain items, of which pinned ones are the first.

    The first sweep has one context of all first labels where they are at most
    `settings.initial`; more of them are drawn from for folds, as in all other sweeps.
    """
    n_items, n_labels = averaged.shape
    everything = np.arange(n_items)
    if sweep == 0:
        first = np.flatnonzero(labels != UNLABELLED)
        targets = _unrelated(first, n_items, groups)
        if len(first) <= settings.initial and len(targets):
            shown = rng.permutation(first)
            return [(tuple(Demo(int(i), int(labels[i])) for i in shown), targets)]
    # Nothing is known of how certain first labels are: in the first sweep all are drawn from.
    keep = settings.keep if sweep else 1.0
    certain = certainty(averaged, pinned)
    return [
        (
            draw_demos(
                labels,
                np.setdiff1d(everything, targets),
                certain,
                size=settings.second_demos if sweep == 1 else settings.demos,
                keep=keep,
                n_labels=n_labels,
                rng=rng,
            ),
            targets,
        )
        for targets in split_folds(n_items, settings.folds, rng, groups)
    ]


def _unrelated(items: IntArray, n_items: int, groups: Groups) -> IntArray:
    """All items but these and those that share a group with one of them."""
    there = set(items.tolist())
    related = [item for group in groups if not there.isdisjoint(group) for item in group]
    return np.setdiff1d(np.arange(n_items), np.concatenate([items, np.array(related, np.int64)]))


async def score_folds(contexts: list[tuple[Context, IntArray]], score: Score) -> list[ScoredFold]:
    """Score each fold's targets behind its context, in one call."""
    log_probs = await score([Query(context, int(i)) for context, ts in contexts for i in ts])
    ends = np.cumsum([len(targets) for _, targets in contexts])
    return [
        ScoredFold(context, targets, pointwise_mutual_information(part), np.exp(part).sum(axis=1))
        for (context, targets), part in zip(contexts, np.split(log_probs, ends[:-1]), strict=True)
    ]


def joined(folds: Sequence[ScoredFold], shape: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
    """Calibrated scores `[N, K]` and label mass `[N]` of all folds; NaN where none has the item."""
    scores, mass = np.full(shape, np.nan), np.full(shape[0], np.nan)
    for fold in folds:
        scores[fold.targets] = fold.calibrated
        mass[fold.targets] = fold.label_mass
    return scores, mass


def last_asked(context: Context, targets: IntArray) -> tuple[Query, ...]:
    """The first few queries of a fold: `REPEATED` of them, or all."""
    return tuple(Query(context, int(target)) for target in targets[:REPEATED])


def margin(scores: FloatArray) -> FloatArray:
    """Nats between the best label and the next, `[N]`."""
    ordered = np.sort(scores, axis=1)
    margin: FloatArray = ordered[:, -1] - ordered[:, -2]
    return margin


def certainty(scores: FloatArray, pinned: IntArray | None) -> FloatArray:
    """The margin, 0 where there is no score and infinite where a label is pinned, `[N]`."""
    certain: FloatArray = np.nan_to_num(margin(scores))
    return certain if pinned is None else np.where(pinned != UNLABELLED, np.inf, certain)
