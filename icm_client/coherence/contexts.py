"""Contexts for folds, and the scores of the items that are read in them.

No target ever stands in its own context, nor does an item of its group.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from icm_client.coherence.calibration import certainty, pointwise_mutual_information
from icm_client.coherence.problem import (
    UNLABELLED,
    Context,
    Demo,
    FloatArray,
    IntArray,
    Problem,
    Query,
    Score,
)
from icm_client.coherence.settings import SweepSettings


def split_folds(
    n_items: int,
    folds: int,
    rng: np.random.Generator,
    groups: Sequence[Sequence[int]] = (),
) -> list[IntArray]:
    """Split the items at random into `folds` parts of almost equal sizes, groups kept whole.

    Without groups sizes differ by at most one; with them by at most the largest group's.

    Args:
        n_items: `N`.
        folds: parts, at most one for each group or item alone.
        rng: decides who goes together.
        groups: disjoint items, each kept in one part: a target never reads the label of an item
            that a rule binds to it, which would give its own away.
    """
    order = rng.permutation(n_items)
    if not groups:
        parts = np.array_split(order, min(folds, n_items))
        return [part.astype(np.int64) for part in parts]
    units = sorted(in_units(order, groups), key=len, reverse=True)
    filled: list[list[int]] = [[] for _ in range(min(folds, len(units)))]
    sizes = np.zeros(len(filled), dtype=np.int64)
    for unit in units:  # the largest first, each to the part that is smallest so far
        smallest = int(sizes.argmin())
        filled[smallest] += unit
        sizes[smallest] += len(unit)
    return [np.array(part, dtype=np.int64) for part in filled]


def in_units(order: IntArray, groups: Sequence[Sequence[int]]) -> list[list[int]]:
    """Items in `order`, each group as one list where its first one stands, others alone."""
    group_of = {item: number for number, group in enumerate(groups) for item in group}
    units: list[list[int]] = []
    unit_of: dict[int, list[int]] = {}
    for item in order.tolist():
        number = group_of.get(item)
        if number in unit_of:
            unit_of[number].append(item)
            continue
        units.append([item])
        if number is not None:
            unit_of[number] = units[-1]
    return units


def fold_contexts(
    sweep: int,
    labels: IntArray,
    averaged: FloatArray,
    problem: Problem,
    *,
    settings: SweepSettings,
    rng: np.random.Generator,
) -> list[tuple[Context, IntArray]]:
    """Each fold's context and targets; groups stand in one fold.

    Demos are drawn from the most certain items, of which pinned ones are the first.

    The first sweep has one context of all first labels where they are at most
    `settings.initial`; more of them are drawn from for folds, as in all other sweeps.

    Args:
        sweep: its number, from 0.
        labels: shape `[N]`, from which demos are drawn.
        averaged: shape `[N, K]`, nats: how certain they are.
        problem: its rule's groups and its pins.
        settings: how many demos, folds and first labels.
        rng: draws folds and demos.
    """
    groups, everything = problem.constraint.groups, np.arange(problem.n_items)
    if sweep == 0:
        first = np.flatnonzero(labels != UNLABELLED)
        there = set(first.tolist())
        related = [item for group in groups if not there.isdisjoint(group) for item in group]
        targets = np.setdiff1d(everything, np.concatenate([first, np.array(related, np.int64)]))
        if len(first) <= settings.initial and len(targets):
            shown = rng.permutation(first)
            return [(tuple(Demo(int(i), int(labels[i])) for i in shown), targets)]
    return part_contexts(
        labels,
        groups,
        folds=settings.folds,
        size=settings.second_demos if sweep == 1 else settings.demos,
        n_labels=problem.n_labels,
        rng=rng,
        # Nothing is known of how certain first labels are: in the first sweep all are drawn from.
        keep=settings.keep if sweep else 1.0,
        certain=certainty(averaged, problem.pinned),
        classes=problem.unlike,
    )


def part_contexts(
    labels: IntArray,
    groups: Sequence[Sequence[int]],
    *,
    folds: int,
    size: int,
    n_labels: int,
    rng: np.random.Generator,
    keep: float = 1.0,
    certain: FloatArray | None = None,
    classes: IntArray | None = None,
) -> list[tuple[Context, IntArray]]:
    """A context for each of `folds` parts of the items, of demos from the other parts.

    Args:
        labels: shape `[N]`; items that are `UNLABELLED` are no demos.
        groups: disjoint items, each kept in one part.
        folds: parts.
        size: as for `draw_demos`, like all that follow.
        n_labels: `K`.
        rng: decides who goes together, and draws demos.
        keep: 1 draws from all.
        certain: None where nothing is known.
        classes: None for none.

    Returns:
        Contexts with their targets, all items of the part.
    """
    everything = np.arange(len(labels))
    certain = np.zeros(len(labels)) if certain is None else certain
    return [
        (
            draw_demos(
                labels,
                np.setdiff1d(everything, targets),
                certain,
                size=size,
                keep=keep,
                n_labels=n_labels,
                rng=rng,
                classes=classes,
            ),
            targets,
        )
        for targets in split_folds(len(labels), folds, rng, groups)
    ]


def draw_demos(
    labels: IntArray,
    pool: IntArray,
    certain: FloatArray,
    *,
    size: int,
    keep: float,
    n_labels: int,
    rng: np.random.Generator,
    classes: IntArray | None = None,
) -> Context:
    """Draw at most `size` demos from `pool`, equally many of each label, in random order.

    The label with the fewest candidates sets the number of all (one candidate: one demo a label),
    so that a context never suggests that one label is likelier. A label without any candidate is
    left out.

    Args:
        labels: shape `[N]`, `UNLABELLED` where an item has none; such items are never drawn.
        pool: the items that may be demos.
        certain: shape `[N]`; only the most certain candidates of each label are drawn from.
        size: the most demos that the context may hold.
        keep: the share of each label's candidates, the most certain ones, to draw from.
        n_labels: `K`.
        rng: decides which items, and their order.
        classes: shape `[N]`: equally many demos of each label in each class. A class that lacks a
            label is left out, unless all do, since its demos would say that the two go together.
    """
    candidates = []
    for part in [pool] if classes is None else _parts(labels, pool, classes, n_labels):
        for k in range(n_labels):
            members = part[labels[part] == k]
            members = members[np.argsort(-certain[members], kind="stable")]
            candidates.append((k, members[: int(np.ceil(keep * len(members)))]))
    present = [len(members) for _, members in candidates if len(members)]
    if not present:
        return ()
    share = max(1, min(size // len(present), *present))
    drawn = [
        Demo(int(item), k) for k, members in candidates for item in rng.permutation(members)[:share]
    ]
    return tuple(drawn[j] for j in rng.permutation(len(drawn))[:size])


def _parts(labels: IntArray, pool: IntArray, classes: IntArray, n_labels: int) -> list[IntArray]:
    """The pool's items of each class that has all labels; of each class where none has."""
    parts = [pool[classes[pool] == number] for number in np.unique(classes[pool])]
    every = set(range(n_labels))
    return [part for part in parts if every.issubset(labels[part].tolist())] or parts


REPEATED = 8
"""Queries of the last context to ask again, to see by how much the server's answers vary."""


@dataclass(frozen=True, slots=True)
class ScoredFold:
    """Targets, and the context that they were scored in.

    Attributes:
        targets: shape `[n]`.
        calibrated: shape `[n, K]`, nats.
        label_mass: shape `[n]`, the share of the next token's probability that is on any label.
    """

    context: Context
    targets: IntArray
    calibrated: FloatArray
    label_mass: FloatArray


async def score_folds(contexts: list[tuple[Context, IntArray]], score: Score) -> list[ScoredFold]:
    """Score each fold's targets in its context, in one call."""
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


def mean_of_scored(window: Iterable[FloatArray]) -> FloatArray:
    """Mean over sweeps, `[N, K]` or `[N]`; NaN where no sweep scored the item."""
    stacked = np.stack(list(window))
    times = (~np.isnan(stacked)).sum(axis=0)
    total = np.nansum(stacked, axis=0)
    mean: FloatArray = np.where(times > 0, total / np.maximum(times, 1), np.nan)
    return mean
