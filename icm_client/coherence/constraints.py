"""Logical rules between labels: the paper's `c(x_i, y_i, x_j, y_j)` (section 2.1), kept sparse.

A rule names the groups of items that share a relation; no two items of different groups can
contradict each other, so a check costs the pairs within groups and never `N^2`. Rules read the
user's rows and the labels, never a gold label.

What a rule says of more than two labels at once ("one of these is true") is no
`c(x_i, y_i, x_j, y_j)`: `I(D)` and Algorithm 2 do not see it. It is said by `allows`, and holds
where whole groups are labelled jointly (`assignment`).
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from icm_client.coherence.problem import UNLABELLED, Constraint, Groups, IntArray, check_groups
from icm_client.errors import InputError


@dataclass(frozen=True, slots=True)
class Asymmetry(Constraint):
    """`A > B` and `B > A`: where one is `true` the other is `false`.

    Any further label (a tie) says the same of both orders, so both must have it.

    Attributes:
        pairs: the two orders of each comparison; an item stands in one pair.
        true: the label of "holds".
        false: the label of "does not hold".

    Raises:
        InputError: an item in two pairs or twice in one, or `true` and `false` the same.
    """

    pairs: tuple[tuple[int, int], ...]
    true: int
    false: int

    def __post_init__(self) -> None:
        """Refuse overlapping pairs and labels that are no two labels."""
        check_groups(self.pairs)
        _check_labels(self.true, self.false)

    @property
    def groups(self) -> Groups:
        """The pairs."""
        return self.pairs

    def consistent(self, _i: int, y_i: int, _j: int, y_j: int, /) -> bool:
        """Whether `y_j` is what `y_i` says with both sides exchanged."""
        return y_j == {self.true: self.false, self.false: self.true}.get(y_i, y_i)


@dataclass(frozen=True, slots=True)
class MutualExclusion(Constraint):
    """Different answers to one question cannot both be `true`.

    Attributes:
        groups: the items of each question.
        keys: shape `[N]`, each item's answer, made comparable ("1,000" and "1000" differ).
        true: the label of "holds".

    Raises:
        InputError: overlapping groups, an item without a key, or a negative label.
    """

    groups: Groups = field()
    keys: tuple[Hashable, ...]
    true: int

    def __post_init__(self) -> None:
        """Refuse groups that overlap or reach past the keys."""
        check_groups(self.groups, len(self.keys))
        _check_labels(self.true)

    def consistent(self, i: int, y_i: int, j: int, y_j: int, /) -> bool:
        """Whether one of the two is not `true`, or both give the same answer."""
        return not (y_i == y_j == self.true) or self.keys[i] == self.keys[j]


@dataclass(frozen=True, slots=True)
class SameAnswer(Constraint):
    """Items that say the same have the same label.

    Attributes:
        groups: items that say the same, as `groups_by_key` finds them.

    Raises:
        InputError: overlapping groups.
    """

    groups: Groups = field()

    def __post_init__(self) -> None:
        """Refuse groups that overlap."""
        check_groups(self.groups)

    def consistent(self, _i: int, y_i: int, _j: int, y_j: int, /) -> bool:
        """Whether the labels are equal."""
        return y_i == y_j


@dataclass(frozen=True, slots=True)
class AtMostOne(Constraint):
    """At most one item of a group is `true`.

    Attributes:
        groups: the items of each group.
        true: the label of "holds".

    Raises:
        InputError: overlapping groups, or a negative label.
    """

    groups: Groups = field()
    true: int

    def __post_init__(self) -> None:
        """Refuse groups that overlap."""
        check_groups(self.groups)
        _check_labels(self.true)

    def consistent(self, _i: int, y_i: int, _j: int, y_j: int, /) -> bool:
        """Whether one of the two is not `true`."""
        return not (y_i == y_j == self.true)


@dataclass(frozen=True, slots=True)
class ExactlyOne(Constraint):
    """One item of a group is `true` and all others are not.

    Of this, pairs show that two are `true`, and in a group of two that neither is.

    Attributes:
        groups: the items of each group.
        true: the label of "holds".

    Raises:
        InputError: overlapping groups, or a negative label.
    """

    groups: Groups = field()
    true: int
    _sizes: dict[int, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse groups that overlap; note how large each item's group is."""
        check_groups(self.groups)
        _check_labels(self.true)
        sizes = {item: len(group) for group in self.groups for item in group}
        object.__setattr__(self, "_sizes", sizes)

    def consistent(self, i: int, y_i: int, _j: int, y_j: int, /) -> bool:
        """Whether at most one is `true`, and one is if there are no others."""
        trues = (y_i == self.true) + (y_j == self.true)
        return trues == 1 or (trues == 0 and self._sizes[i] > 2)  # noqa: PLR2004

    def allows(self, items: Sequence[int], labels: Sequence[int], /) -> bool:
        """Whether one is `true`; none need be while the one may be among those without a label."""
        trues = sum(label == self.true for label in labels)
        return trues == 1 or (trues == 0 and len(items) < self._sizes[items[0]])


@dataclass(frozen=True, slots=True)
class Implication(Constraint):
    """Where `i` is `true`, `j` is `true` as well.

    Attributes:
        implications: pairs `(i, j)`.
        true: the label of "holds".
        groups: items that implications join, directly or through others.

    Raises:
        InputError: an item that implies itself, or a negative item or label.
    """

    implications: frozenset[tuple[int, int]]
    true: int
    groups: Groups = field(init=False)

    def __post_init__(self) -> None:
        """Join the items, and refuse those that imply themselves."""
        for pair in self.implications:
            check_groups([pair])
        _check_labels(self.true)
        object.__setattr__(self, "groups", _joined(sorted(self.implications)))

    def consistent(self, i: int, y_i: int, j: int, y_j: int, /) -> bool:
        """Whether neither is `true` and implies the other, which is not."""
        broken = y_i == self.true != y_j and (i, j) in self.implications
        return not (broken or (y_j == self.true != y_i and (j, i) in self.implications))


@dataclass(frozen=True, slots=True)
class AllOf(Constraint):
    """Several rules at once: labels stand where each rule lets them.

    Attributes:
        rules: each speaks of two items only where they stand in one of its own groups.
        groups: items that the groups of any rules join, directly or through others.
    """

    rules: tuple[Constraint, ...]
    groups: Groups = field(init=False)
    _group_of: tuple[dict[int, int], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Join the groups, and note in which one each item stands by each rule."""
        joined = _joined(
            pair
            for rule in self.rules
            for group in rule.groups
            for pair in zip(group, group[1:] or group, strict=False)
        )
        group_of = tuple(
            {item: number for number, group in enumerate(rule.groups) for item in group}
            for rule in self.rules
        )
        object.__setattr__(self, "groups", joined)
        object.__setattr__(self, "_group_of", group_of)

    def relating(self, i: int, j: int, /) -> tuple[Constraint, ...]:
        """The rules one of whose groups holds both items."""
        return tuple(
            rule
            for rule, group_of in zip(self.rules, self._group_of, strict=True)
            if i in group_of and group_of[i] == group_of.get(j)
        )

    def consistent(self, i: int, y_i: int, j: int, y_j: int, /) -> bool:
        """Whether all rules that relate the two allow it."""
        return all(rule.consistent(i, y_i, j, y_j) for rule in self.relating(i, j))

    def allows(self, items: Sequence[int], labels: Sequence[int], /) -> bool:
        """Whether each rule allows what is labelled of each of its groups."""
        for rule, group_of in zip(self.rules, self._group_of, strict=True):
            held: dict[int, tuple[list[int], list[int]]] = {}
            for item, label in zip(items, labels, strict=True):
                if item in group_of:
                    theirs, named = held.setdefault(group_of[item], ([], []))
                    theirs.append(item)
                    named.append(label)
            if not all(rule.allows(*group) for group in held.values()):
                return False
        return True


def groups_by_key(keys: Sequence[Hashable | None]) -> Groups:
    """Items of equal key; items alone with theirs, or whose key is None, are in no group."""
    found: dict[Hashable, list[int]] = {}
    for item, key in enumerate(keys):
        if key is not None:
            found.setdefault(key, []).append(item)
    return tuple(tuple(items) for items in found.values() if len(items) > 1)


def inconsistent_pairs(labels: IntArray, constraint: Constraint) -> list[tuple[int, int]]:
    """Pairs with `c = 1`, each unordered pair once, in the order of the groups.

    Args:
        labels: shape `[N]`; `UNLABELLED` items contradict nothing.
        constraint: the rule.
    """
    y = labels.tolist()
    return [
        (i, j)
        for group in constraint.groups
        for i, j in combinations([item for item in group if y[item] != UNLABELLED], 2)
        if not constraint.consistent(i, y[i], j, y[j])
    ]


def _check_labels(*labels: int) -> None:
    if min(labels) < 0 or len(set(labels)) < len(labels):
        raise InputError(f"a constraint needs different labels counted from 0, not {labels}.")


def _joined(pairs: Iterable[tuple[int, int]]) -> Groups:
    """Connected components."""
    component: dict[int, list[int]] = {}
    for i, j in pairs:
        one, other = component.setdefault(i, [i]), component.setdefault(j, [j])
        if one is not other:
            one += other
            component.update(dict.fromkeys(other, one))
    return tuple({id(items): tuple(sorted(items)) for items in component.values()}.values())
