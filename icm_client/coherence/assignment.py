"""Labels for whole groups at once: the most probable ones among those that a rule allows.

Groups are labelled exactly, by trying all labellings, while there are at most `ENUMERATED` of
them. A larger group is labelled as the paper's Algorithm 4 (v2, Appendix G) fixes one: the most
confident prediction stands, and the others are set to agree with it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from icm_client.coherence.problem import UNLABELLED, Constraint, FloatArray, IntArray, Problem
from icm_client.errors import InputError

ENUMERATED = 4096
"""The most labellings of a group, `K ** size`, among which the best is looked for."""

_TRIES = 100_000
_CELLS = 1_000_000

_Labels = tuple[int, ...]


class Assignment(NamedTuple):
    """Labels that keep the rule.

    Attributes:
        labels: shape `[N]`, `UNLABELLED` where an item has no score.
        by_confidence: groups too large to try all labellings of.
    """

    labels: IntArray
    by_confidence: int


def assign_jointly(scores: FloatArray, constraint: Constraint) -> Assignment:
    """Give each group the labels of highest summed score among those the rule allows.

    Of labellings that are equally good, the first in rising order of labels is taken.

    Args:
        scores: shape `[N, K]`, nats; items with a NaN get no label, and the rule holds for the
            others of their group.
        constraint: the rule.

    Raises:
        InputError: the rule allows a group no labels.
    """
    return JointAssignment(constraint, scores.shape[1])(scores)


def prepared(problem: Problem) -> "tuple[Problem, JointAssignment]":
    """Check a problem's rule and pins, before anything is asked, and make what assigns its labels.

    Returns:
        The problem with its pins among the first labels, without the pins of items that are not
        searched; and its assignment.

    Raises:
        InputError: the rule allows a group no labels, or no labels that have the pins.
    """
    assign = JointAssignment(problem.constraint, problem.n_labels)
    if problem.pinned is None:
        return problem, assign
    nothing = np.zeros((problem.n_items, problem.n_labels))
    at, found = problem.pinned_items, assign(problem.hold_pins(nothing)).labels
    if len(broken := at[found[at] != problem.pinned[at]]):
        raise InputError(
            f"the rule allows no labels in which item {broken[0]} has its pinned label "
            f"{problem.pinned[broken[0]]}: it contradicts other pins, or can never be."
        )
    pinned = problem.pinned.copy()
    pinned[problem.left_out] = UNLABELLED
    problem = replace(problem, pinned=pinned if (pinned != UNLABELLED).any() else None)
    if problem.start is not None:
        problem = replace(problem, start=problem.with_pins(problem.start))
    return problem, assign


class JointAssignment:
    """`assign_jointly` again and again: what the rule allows is asked once a group.

    Args:
        constraint: the rule.
        n_labels: `K`.

    Raises:
        InputError: the rule allows a group no labels.
    """

    def __init__(self, constraint: Constraint, n_labels: int) -> None:
        self._constraint, self._n_labels = constraint, n_labels
        self._tables: list[IntArray] = []
        self._number_of: dict[tuple[_Labels, ...], int] = {}
        self._table_of: dict[tuple[int, ...], int] = {}
        for group in constraint.groups:
            if self._enumerable(group):
                self._table(tuple(group))

    def __call__(self, scores: FloatArray) -> Assignment:
        """Labels for `scores`, shape `[N, K]`; as `assign_jointly`."""
        unscored = np.isnan(scores).any(axis=1)
        labels = np.where(unscored, UNLABELLED, np.nan_to_num(scores).argmax(axis=1))
        skipped = frozenset(np.flatnonzero(unscored).tolist())
        alike: dict[int, list[tuple[int, ...]]] = {}
        by_confidence = 0
        for group in self._constraint.groups:
            items = tuple(group)
            if not skipped.isdisjoint(items):
                items = tuple(item for item in items if item not in skipped)
            if not items:
                continue
            if self._enumerable(items):
                alike.setdefault(self._table(items), []).append(items)
            else:
                labels[list(items)] = self._by_confidence(items, scores)
                by_confidence += 1
        for number, groups in alike.items():
            _take_best(labels, scores, np.array(groups), self._tables[number])
        return Assignment(labels, by_confidence)

    def _enumerable(self, items: Sequence[int]) -> bool:
        labellings: int = self._n_labels ** len(items)
        return labellings <= ENUMERATED

    def _table(self, items: tuple[int, ...]) -> int:
        """The number of the table of what is allowed to these items, `[A, size]`."""
        if (known := self._table_of.get(items)) is not None:
            return known
        allowed = tuple(_allowed(items, self._n_labels, self._constraint))
        if not allowed:
            raise InputError(
                f"the constraint allows no labels at all for items {_named(items)}: change it, or "
                "leave these items out of its groups."
            )
        number = self._number_of.setdefault(allowed, len(self._tables))
        if number == len(self._tables):
            self._tables.append(np.array(allowed, dtype=np.int64))
        self._table_of[items] = number
        return number

    def _by_confidence(self, items: tuple[int, ...], scores: FloatArray) -> IntArray:
        """Algorithm 4: most confident first, each takes its best label that agrees so far."""
        own = scores[list(items)]
        best = np.sort(own, axis=1)
        turn = np.argsort(best[:, -2] - best[:, -1], kind="stable")
        choices = np.argsort(-own, axis=1, kind="stable")[turn].tolist()
        ranked = tuple(items[place] for place in turn)
        found = _agreeing(ranked, choices, self._constraint)
        if found is not None:
            labels = np.empty(len(items), dtype=np.int64)
            labels[turn] = found
            return labels
        raise InputError(
            f"no labels were found that the constraint allows for items {_named(items)}: change "
            "it, or leave these items out of its groups."
        )


def _allowed(items: tuple[int, ...], n_labels: int, constraint: Constraint) -> Iterator[_Labels]:
    """All labellings that the rule allows, in rising order."""
    begun: list[_Labels] = [()]
    while begun:
        labels = begun.pop()
        if len(labels) == len(items):
            if constraint.allows(items, labels):
                yield labels
            continue
        item = items[len(labels)]
        begun += [
            (*labels, label)
            for label in reversed(range(n_labels))
            if all(
                constraint.consistent(item, label, other, held)
                for other, held in zip(items, labels, strict=False)  # those labelled so far
            )
        ]


def _agreeing(
    items: tuple[int, ...], choices: list[list[int]], constraint: Constraint
) -> list[int] | None:
    """Labels that the rule allows, each the best that those before it leave; None if not found.

    A label that is taken strikes out what no longer agrees with it, directly or through others, so
    that a chain of implications leads to no dead end. A whole that is not allowed, although its
    pairs are, is mended from the last item on.

    Args:
        items: the most confident first.
        choices: each item's labels, the best first.
        constraint: the rule.
    """
    domains = list(choices)
    struck: list[tuple[int, list[int]]] = []
    levels = [(iter(domains[0]), 0)]
    tries = 0
    while levels and tries < _TRIES:
        untried, mark = levels[-1]
        while len(struck) > mark:
            place, before = struck.pop()
            domains[place] = before
        if (label := next(untried, None)) is None:
            levels.pop()
            continue
        tries += 1
        place = len(levels) - 1
        if not _take(place, label, items, domains, struck, constraint):
            continue
        if place + 1 < len(items):
            levels.append((iter(domains[place + 1]), len(struck)))
        elif constraint.allows(items, found := [held for (held,) in domains]):
            return found
    return None


def _take(  # noqa: PLR0917
    place: int,
    label: int,
    items: tuple[int, ...],
    domains: list[list[int]],
    struck: list[tuple[int, list[int]]],
    constraint: Constraint,
) -> bool:
    """Give an item its label and strike out what has no support; false where nothing is left."""
    if domains[place] == [label]:
        return True
    struck.append((place, domains[place]))
    domains[place] = [label]
    narrowed = [place]
    while narrowed:
        i = narrowed.pop()
        for j in range(place + 1, len(items)):
            kept = [
                y_j
                for y_j in domains[j]
                if i == j
                or any(constraint.consistent(items[i], y_i, items[j], y_j) for y_i in domains[i])
            ]
            if len(kept) < len(domains[j]):
                struck.append((j, domains[j]))
                domains[j] = kept
                narrowed.append(j)
            if not kept:
                return False
    return True


def _take_best(labels: IntArray, scores: FloatArray, groups: IntArray, table: IntArray) -> None:
    """Label groups `[G, size]` that are allowed the same, `[A, size]`, in place."""
    step = max(1, _CELLS // len(table))
    for low in range(0, len(groups), step):
        part = groups[low : low + step]
        total = np.zeros((len(part), len(table)))
        for place in range(part.shape[1]):
            total += scores[part[:, place]][:, table[:, place]]
        labels[part] = table[total.argmax(axis=1)]


def _named(items: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, items[:10]))
    return shown if len(items) <= 10 else f"{shown}, ... ({len(items)})"  # noqa: PLR2004
