r"""Leave-one-out contexts: `D \ (x_i, y_i)`, the context of `P(y_i | x_i, D \ (x_i, y_i))`.

A context is a set in the paper and a sequence in a prompt. Three layouts:

- `fixed`: one order for all, the target taken out. Contexts agree up to the target's place, so
  `N` of them prefill about `N^2 / 2` demos.
- `tree`: the order is halved again and again. Whatever half a target lies in, the demos of the
  other half come first, then those of the other quarter, and so on. All targets of a half so
  share a prefix, and `N` contexts prefill `N log2 N` demos. What a target reads last are its
  neighbours in the order.
- `folds`: the order is cut into `FOLDS` parts, and a target's context is all demos of the other
  parts, in the order. Targets of a part share their whole context, so `N` of them prefill
  `FOLDS * N` demos at most; what a context lacks are `N / FOLDS` demos, not one. Parts do not keep
  a rule's groups together.

The order is over all items, labelled or not, and stays the same through a search. A target then
has one context whether or not it has a label yet: what is asked to choose a label for it (Algorithm
1, line 6) is asked again to evaluate `U` with that label, and is answered from the score store.

In each layout a target's context is a function of the other items' labels alone: its own label
changes neither what stands there nor in which order.
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from icm_client.coherence.problem import UNLABELLED, Context, Demo, IntArray, Query

Layout = Literal["tree", "fixed", "folds"]

FOLDS = 8
"""Parts of the order in the layout `folds`: a context lacks an eighth of the demos."""


def queries(
    labels: IntArray,
    order: IntArray,
    layout: Layout,
    max_demos: int | None = None,
    *,
    unlabelled: bool = False,
) -> list[Query]:
    """One query for every labelled item, given all others, in the order of `order`.

    Args:
        labels: shape `[N]`, `UNLABELLED` where an item has none.
        order: the items that contexts and targets are taken from (all, or a batch of them), in
            an order drawn once a search.
        layout: how a context is ordered.
        max_demos: the most demos in a context, None for all. Where more are labelled, a context
            takes each label's first ones in `order`, as many of each label as of the others
            while they last. As `order` is random and stays, so is and does the sample: two
            labellings that differ in one item differ in hardly more than one demo.
        unlabelled: ask about the items without a label as well.

    Returns:
        As many queries as there are items to ask about; one item alone has an empty context.
    """
    places = range(len(order)) if unlabelled else np.flatnonzero(labels[order] != UNLABELLED)
    if layout == "folds":
        return [
            Query(context, int(order[place]))
            for low, high in _parts(len(order))
            for context in [_outside(low, high, labels, order, max_demos)]
            for place in places
            if low <= place < high
        ]
    line = _Line.of(labels, order, max_demos)
    standing = set(line.positions)
    sampled = line.labelled > len(standing)
    return [
        query_for(int(order[place]), labels, order, layout, max_demos)
        if sampled and place in standing  # the next one of the label may take its place
        else Query(line.context(int(place), layout), int(order[place]))
        for place in places
    ]


def query_for(
    target: int, labels: IntArray, order: IntArray, layout: Layout, max_demos: int | None = None
) -> Query:
    r"""Ask about one item given `D \ {target}`; it may be labelled or not.

    The same query as among `queries`.

    Args:
        target: the item.
        labels: as for `queries`.
        order: as for `queries`.
        layout: as for `queries`.
        max_demos: as for `queries`.
    """
    (place,) = np.flatnonzero(order == target).tolist()
    if layout == "folds":
        low, high = next(part for part in _parts(len(order)) if place < part[1])
        return Query(_outside(low, high, labels, order, max_demos), target)
    others = labels.copy()
    others[target] = UNLABELLED
    return Query(_Line.of(others, order, max_demos).context(place, layout), target)


def _parts(length: int) -> list[tuple[int, int]]:
    """From and to of each part of the layout `folds`, at most one an item."""
    parts = min(FOLDS, length)
    ends = [length * part // parts for part in range(parts + 1)]
    return list(pairwise(ends))


def _outside(
    low: int, high: int, labels: IntArray, order: IntArray, max_demos: int | None
) -> Context:
    """The demos at places before `low` and from `high` on."""
    others = labels.copy()
    others[order[low:high]] = UNLABELLED
    return _Line.of(others, order, max_demos).demos


@dataclass(frozen=True, slots=True)
class _Line:
    """Demos by their place in the order.

    Attributes:
        length: of the order.
        labelled: how many items are labelled.
        positions: places of those that are demos, rising.
        demos: the demos at `positions`.
    """

    length: int
    labelled: int
    positions: list[int]
    demos: Context

    @classmethod
    def of(cls, labels: IntArray, order: IntArray, max_demos: int | None) -> "_Line":
        ordered = labels[order]
        labelled = np.flatnonzero(ordered != UNLABELLED)
        positions = _first_of_each_label(labelled, ordered, max_demos)
        held = zip(order[positions].tolist(), ordered[positions].tolist(), strict=True)
        demos = tuple(Demo(item, label) for item, label in held)
        return cls(len(order), len(labelled), positions.tolist(), demos)

    def context(self, position: int, layout: Layout) -> Context:
        """All demos but that at `position`."""
        spans = (
            _other_halves(position, self.length)
            if layout == "tree"
            else [(0, position), (position + 1, self.length)]
        )
        context: Context = ()
        for low, high in spans:
            context += self.demos[
                bisect_left(self.positions, low) : bisect_left(self.positions, high)
            ]
        return context


def _first_of_each_label(labelled: IntArray, ordered: IntArray, max_demos: int | None) -> IntArray:
    """Up to `max_demos` of the places, rising: each label's first, then each label's second, ..."""
    if max_demos is None or len(labelled) <= max_demos:
        return labelled
    held = ordered[labelled]
    turn = np.zeros_like(labelled)
    for k in np.unique(held):
        members = np.flatnonzero(held == k)
        turn[members] = np.arange(len(members))
    return np.sort(labelled[np.argsort(turn, kind="stable")[:max_demos]])


def _other_halves(position: int, length: int) -> Iterator[tuple[int, int]]:
    """The half `position` is not in, the quarter of its half that it is not in, and so on."""
    low, high = 0, length
    while high - low > 1:
        middle = (low + high) // 2
        if position < middle:
            yield middle, high
            high = middle
        else:
            yield low, middle
            low = middle
