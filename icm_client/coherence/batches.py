"""The paper's batches: items that are searched on their own, with the rules among them.

Nothing but the label words tells batches which class has which name. Where the words do not say it,
batches can end with names exchanged against each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from icm_client.coherence.contexts import split_folds
from icm_client.coherence.problem import UNLABELLED, Constraint, Groups, IntArray, Problem


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


def split_batches(
    problem: Problem, size: int | None, rng: np.random.Generator, *, pinned_first: bool = False
) -> list[Problem]:
    """Split the items at random into batches of about `size`, equally large, groups kept whole.

    The paper's hold 256 items, what fits its models' contexts.

    Args:
        problem: all items. Those that are not searched are in no batch.
        size: the most items in a batch that has no groups; groups can make one larger by the
            largest of them. None for one batch of all, drawn without chance.
        rng: decides who goes together.
        pinned_first: all pinned items, with their groups, are moved to the first batch.

    Returns:
        The same problem for each batch, without pins where none of its items has one.
    """
    n_items, groups = problem.n_items, problem.constraint.groups
    parts = [np.arange(n_items)]
    if size is not None and n_items > size:
        parts = split_folds(n_items, -(-n_items // size), rng, groups)
    if pinned_first and problem.pinned is not None:
        bound = [list(group) for group in groups if (problem.pinned[list(group)] >= 0).any()]
        moved = np.unique(np.concatenate([problem.pinned_items, *bound]))
        others = (np.setdiff1d(part, moved, assume_unique=True) for part in parts[1:])
        parts = [np.union1d(parts[0], moved), *others]
    left_out = problem.left_out
    if len(left_out):
        parts = [np.setdiff1d(part, left_out, assume_unique=True) for part in parts]
    parts = [part for part in parts if len(part)]
    if len(parts) == 1 and len(parts[0]) == n_items:
        return [problem]
    part_of = np.full(n_items, -1)
    for number, part in enumerate(parts):
        part_of[part] = number
    own: list[list[tuple[int, ...]]] = [[] for _ in parts]
    for group in groups:  # once for all batches: there may be thousands
        if kept := tuple(item for item in group if part_of[item] >= 0):
            own[part_of[kept[0]]].append(kept)
    return [_batch(problem, part, tuple(its)) for part, its in zip(parts, own, strict=True)]


def _batch(problem: Problem, items: IntArray, groups: Groups) -> Problem:
    pinned = problem.pinned
    if pinned is not None and not (pinned[items] != UNLABELLED).any():
        pinned = None
    constraint = _with_groups(problem.constraint, groups)
    return replace(problem, constraint=constraint, pinned=pinned, items=items)


def within(constraint: Constraint, items: IntArray) -> Constraint:
    """The rule among these items."""
    there = frozenset(items.tolist())
    if there.issuperset(item for group in constraint.groups for item in group):
        return constraint
    groups = (tuple(item for item in group if item in there) for group in constraint.groups)
    return _with_groups(constraint, tuple(filter(None, groups)))


def _with_groups(constraint: Constraint, groups: Groups) -> Within:
    return Within(constraint.rule if isinstance(constraint, Within) else constraint, groups)
