r"""Leave-one-out contexts: `D \ (x_i, y_i)`, the context of `P(y_i | x_i, D \ (x_i, y_i))`.

A context is a set in the paper and a sequence in a prompt. Two layouts:

- `fixed`: one order for all, the target taken out. Contexts agree up to the target's place, so
  `N` of them prefill about `N^2 / 2` demos.
- `tree`: the order is halved again and again. Whatever half a target lies in, the demos of the
  other half come first, then those of the other quarter, and so on. All targets of a half so
  share a prefix, and `N` contexts prefill `N log2 N` demos. What a target reads last are its
  neighbours in the order.

The order is over all items, labelled or not, and stays the same through a search. A target then
has one context whether or not it has a label yet: what is asked to choose a label for it (Algorithm
1, line 6) is asked again to evaluate `U` with that label, and is already known.

A target's context is a function of the other items' labels alone: its own label changes neither
what stands there nor in which order.
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from icm_client.coherence.contexts import UNLABELLED
from icm_client.coherence.problem import Context, Demo, IntArray, Query

Layout = Literal["tree", "fixed"]


def queries(
    labels: IntArray, order: IntArray, layout: Layout, max_demos: int | None = None
) -> list[Query]:
    """One query for every labelled item, behind all others, in the order of `order`.

    Args:
        labels: shape `[N]`, `UNLABELLED` where an item has none.
        order: shape `[N]`, a permutation of the items, drawn once a search.
        layout: how a context is ordered.
        max_demos: the most demos in a context, None for all. Where more are labelled, a context
            takes each label's first ones in `order`, as many of each label as of the others
            while they last. As `order` is random and stays, so is and does the sample: two
            labellings that differ in one item differ in hardly more than one demo.

    Returns:
        As many queries as there are labelled items; one item alone has an empty context.
    """
    line = _Line.of(labels, order, max_demos)
    standing = set(line.positions)
    sampled = len(line.labelled) > len(standing)
    return [
        query_for(target, labels, order, layout, max_demos)
        if sampled and position in standing  # the next one of the label may take its place
        else Query(line.context(position, layout), target)
        for position, target in zip(
            line.labelled.tolist(), order[line.labelled].tolist(), strict=True
        )
    ]


def query_for(
    target: int, labels: IntArray, order: IntArray, layout: Layout, max_demos: int | None = None
) -> Query:
    r"""Ask about one item behind `D \ {target}`; it may be labelled or not.

    For a labelled item the same query as among `queries`.

    Args:
        target: the item.
        labels: as for `queries`.
        order: as for `queries`.
        layout: as for `queries`.
        max_demos: as for `queries`.
    """
    others = labels.copy()
    others[target] = UNLABELLED
    (position,) = np.flatnonzero(order == target).tolist()
    return Query(_Line.of(others, order, max_demos).context(position, layout), target)


@dataclass(frozen=True, slots=True)
class _Line:
    """Demos by their place in the order.

    Attributes:
        length: `N`.
        labelled: places of all labelled items, rising.
        positions: places of those that are demos, rising.
        demos: the demos at `positions`.
    """

    length: int
    labelled: IntArray
    positions: list[int]
    demos: Context

    @classmethod
    def of(cls, labels: IntArray, order: IntArray, max_demos: int | None) -> "_Line":
        ordered = labels[order]
        labelled = np.flatnonzero(ordered != UNLABELLED)
        positions = _first_of_each_label(labelled, ordered, max_demos)
        demos = zip(order[positions].tolist(), ordered[positions].tolist(), strict=True)
        return cls(len(order), labelled, positions.tolist(), tuple(Demo(*demo) for demo in demos))

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
