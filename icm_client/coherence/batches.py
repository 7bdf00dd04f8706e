"""The paper's batches: items that are searched on their own, with the rules among them.

Nothing but the words of the labels tells batches which class has which name. Where the words do not
say it, batches can end with names exchanged against each other.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from icm_client.coherence.constraints import Constraint, Groups
from icm_client.coherence.contexts import split_folds
from icm_client.coherence.problem import IntArray


@dataclass(frozen=True, slots=True)
class Within(Constraint):
    """A rule on some of its groups only.

    Attributes:
        rule: the whole rule.
        groups: those of its groups that are meant.
    """

    rule: Constraint
    groups: Groups = field()

    def consistent(self, i: int, y_i: int, j: int, y_j: int, /) -> bool:
        """What the whole rule says."""
        return self.rule.consistent(i, y_i, j, y_j)

    def allows(self, items: Sequence[int], labels: Sequence[int], /) -> bool:
        """What the whole rule says."""
        return self.rule.allows(items, labels)


class Batch(NamedTuple):
    """Items, and the rule on the groups among them."""

    items: IntArray
    constraint: Constraint


def split_batches(
    n_items: int, size: int | None, constraint: Constraint, rng: np.random.Generator
) -> list[Batch]:
    """Split the items at random into batches of about `size`, equally large, groups kept whole.

    The paper's hold 256 items, what fits its models' contexts.

    Args:
        n_items: `N`.
        size: the most items in a batch that has no groups; groups can make one larger by the
            largest of them. None for one batch of all, drawn without chance.
        constraint: the rule on all items.
        rng: decides who goes together.
    """
    if size is None or n_items <= size:
        return [Batch(np.arange(n_items), constraint)]
    parts = split_folds(n_items, -(-n_items // size), rng, constraint.groups)
    part_of = np.empty(n_items, dtype=np.int64)
    for number, part in enumerate(parts):
        part_of[part] = number
    groups: list[list[tuple[int, ...]]] = [[] for _ in parts]
    for group in constraint.groups:
        groups[part_of[group[0]]].append(tuple(group))
    return [
        Batch(part, Within(constraint, tuple(own))) for part, own in zip(parts, groups, strict=True)
    ]


def without(items: Collection[int], batches: Sequence[Batch]) -> list[Batch]:
    """The batches without some items; empty ones are gone."""
    there = (np.setdiff1d(batch.items, list(items), assume_unique=True) for batch in batches)
    return [
        Batch(left, among_others(items, batch.constraint))
        for left, batch in zip(there, batches, strict=True)
        if len(left)
    ]


def among_others(items: Collection[int], constraint: Constraint) -> Constraint:
    """The rule among all but some items."""
    gone = frozenset(items)
    if gone.isdisjoint(item for group in constraint.groups for item in group):
        return constraint
    rule = constraint.rule if isinstance(constraint, Within) else constraint
    groups = (tuple(item for item in group if item not in gone) for group in constraint.groups)
    return Within(rule, tuple(filter(None, groups)))
