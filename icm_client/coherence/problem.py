"""What is searched, in the words that the method and the rest of the program share.

Items and labels are indices here: item `i` is the i-th row, label `k` the k-th label word. What
they say, how they become prompts and which server answers is none of this package's business: a
search asks through `Score`, its only I/O interface.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from icm_client.errors import InputError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

UNLABELLED = -1

_LOWEST = -1e30  # nats; -inf for a free item would hide which labels its group's pins forbid


class Demo(NamedTuple):
    """An item with its label, as it stands in a context."""

    item: int
    label: int


Context = tuple[Demo, ...]


class Query(NamedTuple):
    """`P(y | x_target, context)` is asked for every label `y`; the target is not in the context."""

    context: Context
    target: int


class Score(Protocol):
    """The only I/O interface of the search: label log-probs of a target, given demos."""

    async def __call__(self, queries: Sequence[Query]) -> FloatArray:
        """Log-probs in nats, shape `[len(queries), K]`, each row `log P(y | x, context)`.

        Rows need not sum to one: the rest is the probability of all text that is no label. A row of
        NaN stands for an item that cannot be scored; Algorithm 1 takes none. Raises `ScoreError` or
        `EndpointError`; it never returns a made-up number.
        """
        ...


Groups = tuple[tuple[int, ...], ...]


class Constraint(Protocol):
    """A logical rule between the labels of related items; rules inherit `allows` from here.

    A dataclass whose `groups` is a field, not a property, needs `slots` and `field()`: otherwise
    the property here is taken for its default.
    """

    __slots__ = ()

    @property
    def groups(self) -> Groups:
        """Disjoint groups of items that share a relation; an item without one is in none."""
        ...

    def consistent(self, i: int, y_i: int, j: int, y_j: int, /) -> bool:
        """Whether `y_i` and `y_j` may stand together: `c = 0`.

        Asked only of two items of one group, both labelled, in any order: it must be symmetric,
        `consistent(i, a, j, b) == consistent(j, b, i, a)`.
        """
        ...

    def allows(self, items: Sequence[int], labels: Sequence[int], /) -> bool:
        """Whether a whole labelled group may stand: here, whether all its pairs are consistent.

        A rule on more than two labels overrides it, to refuse more and never less.

        Args:
            items: those of one group that have labels, all of it or not.
            labels: theirs.
        """
        return all(
            self.consistent(i, y_i, j, y_j)
            for (i, y_i), (j, y_j) in combinations(zip(items, labels, strict=True), 2)
        )


@dataclass(frozen=True, slots=True)
class NoConstraint(Constraint):
    """Any labels go together. The paper's ablation; a search may then end in one label for all."""

    @property
    def groups(self) -> Groups:
        """None."""
        return ()

    def consistent(self, _i: int, _y_i: int, _j: int, _y_j: int, /) -> bool:
        """Always."""
        return True


NO_CONSTRAINT = NoConstraint()


@dataclass(frozen=True, slots=True)
class Problem:
    """What every search is given.

    Attributes:
        n_items: `N`, at least 1; 2 for a search by sweeps.
        n_labels: `K`, at least 2.
        constraint: the rule that labels keep.
        prior: shape `[K]`, the labels' shares where the user knows them.
        start: shape `[N]`, first labels in the place of random ones, `UNLABELLED` where an item has
            none; taken as they are, even where they break the rule.
        pinned: shape `[N]`, labels that no search changes, `UNLABELLED` where an item is free.
        unlike: shape `[N]`, the classes of other labels that those found are to be independent of
            (`icm_client.coherence.unlike`); None where there are none.
        items: those that are searched; None for all. The others cannot be scored or belong to
            another batch: they never stand in a context and get no label.

    Raises:
        InputError: the constraint names items that are not there, or items twice; the first labels
            or the pins are none of these items'.
    """

    n_items: int
    n_labels: int
    constraint: Constraint = NO_CONSTRAINT
    prior: FloatArray | None = None
    start: IntArray | None = None
    pinned: IntArray | None = None
    items: IntArray | None = None
    unlike: IntArray | None = None

    def __post_init__(self) -> None:
        """Refuse what does not fit the items."""
        check_groups(self.constraint.groups, self.n_items)
        for labels, called in ((self.start, "first"), (self.pinned, "pinned")):
            if labels is not None:
                self._check_labels(labels, called)

    def _check_labels(self, labels: IntArray, called: str) -> None:
        if labels.shape != (self.n_items,):
            raise InputError(
                f"{called} labels of shape {labels.shape} were given for {self.n_items} items."
            )
        if not np.issubdtype(labels.dtype, np.integer):
            raise InputError(f"{called} labels must be whole numbers, not {labels.dtype}.")
        outside = np.flatnonzero((labels < UNLABELLED) | (labels >= self.n_labels))
        if len(outside):
            raise InputError(
                f"item {outside[0]} has the {called} label {labels[outside[0]]}, but there are "
                f"{self.n_labels} labels from 0 ({UNLABELLED} for none)."
            )

    @property
    def searched(self) -> IntArray:
        """The items that are searched, in the order in which they were given."""
        return np.arange(self.n_items) if self.items is None else self.items

    @property
    def left_out(self) -> IntArray:
        """The items that are not searched, rising."""
        return np.setdiff1d(np.arange(self.n_items), self.searched)

    @property
    def pinned_items(self) -> IntArray:
        """The items whose labels are pinned, rising."""
        if self.pinned is None:
            return np.empty(0, dtype=np.int64)
        return np.flatnonzero(self.pinned != UNLABELLED)

    def may_have(self, item: int, label: int) -> bool:
        """Whether the item is free, or pinned to this label."""
        return self.pinned is None or self.pinned[item] in (UNLABELLED, label)

    def with_pins(self, labels: IntArray) -> IntArray:
        """Labels `[N]` with the pinned ones in their places."""
        if self.pinned is None:
            return labels
        return np.where(self.pinned != UNLABELLED, self.pinned, labels)

    def hold_pins(self, scores: FloatArray) -> FloatArray:
        """Scores `[N, K]` by which a pinned item can get no label but its own: 0, and -inf.

        What a rule allows the item's group is then found around it.
        """
        if self.pinned is None:
            return scores
        at = self.pinned_items
        held = np.maximum(scores, _LOWEST)  # the NaN of a free item stays NaN
        held[at] = -np.inf
        held[at, self.pinned[at]] = 0.0
        return held

    def reported(self, labels: IntArray, scores: FloatArray) -> IntArray:
        """Labels `[N]` at a search's end: a pinned item without a score has no label to report."""
        if self.pinned is None:
            return labels
        return np.where(np.isnan(scores).any(axis=1), UNLABELLED, labels)


def check_groups(groups: Iterable[Sequence[int]], n_items: int | None = None) -> None:
    """Refuse groups that overlap or name items outside `0..N-1`.

    Raises:
        InputError: says which item.
    """
    seen: set[int] = set()
    for item in chain.from_iterable(groups):
        if item < 0:
            raise InputError(f"a constraint names item {item}; items count from 0.")
        if item in seen:
            raise InputError(f"a constraint names item {item} twice; its groups must not overlap.")
        if n_items is not None and item >= n_items:
            raise InputError(
                f"a constraint names item {item}, but there are {n_items} items from 0."
            )
        seen.add(item)
