"""Contexts for folds: no target ever stands in its own context, nor does an item of its group."""

from collections.abc import Sequence

import numpy as np

from icm_client.coherence.problem import Context, Demo, FloatArray, IntArray

UNLABELLED = -1


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


def draw_demos(
    labels: IntArray,
    pool: IntArray,
    certainty: FloatArray,
    *,
    size: int,
    keep: float,
    n_labels: int,
    rng: np.random.Generator,
) -> Context:
    """Draw at most `size` demos from `pool`, equally many of each label, in random order.

    The label with the fewest candidates sets the share of all, so that a context never tells the
    model that one label is likelier. A label without any candidate is left out.

    Args:
        labels: shape `[N]`, `UNLABELLED` where an item has none; such items are never drawn.
        pool: the items that may be demos.
        certainty: shape `[N]`; only the most certain candidates of each label are drawn from.
        size: the most demos that the context may hold.
        keep: the share of each label's candidates, the most certain ones, to draw from.
        n_labels: `K`.
        rng: decides which items, and their order.
    """
    candidates = []
    for k in range(n_labels):
        members = pool[labels[pool] == k]
        members = members[np.argsort(-certainty[members], kind="stable")]
        candidates.append(members[: int(np.ceil(keep * len(members)))])
    present = [len(members) for members in candidates if len(members)]
    if not present:
        return ()
    share = max(1, min(size // len(present), *present))
    drawn = [
        Demo(int(item), k)
        for k, members in enumerate(candidates)
        for item in rng.permutation(members)[:share]
    ]
    return tuple(drawn[j] for j in rng.permutation(len(drawn))[:size])
