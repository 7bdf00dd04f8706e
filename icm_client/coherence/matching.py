"""The permutation of highest gain, exactly: the linear assignment problem, `O(K^3)`.

Rows are matched one after another, each along the cheapest alternating path to a free column (Kuhn,
"The Hungarian method for the assignment problem", 1955; Jonker and Volgenant, 1987). The paths are
found as in Crouse, "On implementing 2D rectangular assignment algorithms" (2016), whose algorithm
is also SciPy's `linear_sum_assignment`; dual prices keep every reduced cost
`cost[r, c] - u[r] - v[c]` at 0 or more, and at 0 where `r` and `c` are matched.

Exactly the pairs of reduced cost 0 can stand in a best permutation. So ties are seen, and of
several best permutations one is chosen that depends on the gains alone.
"""

from collections import deque
from collections.abc import Sequence

import numpy as np

from icm_client.coherence.problem import BoolArray, FloatArray, IntArray

Permutation = tuple[int, ...]
"""Row `r` has column `permutation[r]`."""

_TIE = 1e-12  # of the largest gain: what floats cannot tell apart


def best_permutation(gain: FloatArray, *, other: bool = False) -> Permutation:
    """The permutation of highest `sum_r gain[r, permutation[r]]`.

    Of several the identity, where it is among them, else the first in rising order.

    Args:
        gain: shape `[K, K]`, finite.
        other: not the identity; `K` is at least 2 then.
    """
    identity = tuple(range(len(gain)))
    solved = _Matching(gain)
    for row in identity:
        solved.match(row)
    if not other:
        return identity if solved.is_best(identity) else solved.first()
    if not solved.is_best(identity):
        return solved.first()
    # The best of the others lacks one of the identity's pairs: which, is tried.
    solved.set_to(identity)
    tried = [solved.without(row) for row in identity]
    most = max(each.total for each in tried)
    return min(each.first() for each in tried if each.total >= most - each.tie)


def pair_counts(one: IntArray, other: IntArray, n_labels: int) -> FloatArray:
    """How many items have label `k` in `one` and `y` in `other`, `[K, K]`; all of them labelled.

    The gain of matching the label names of two labellings.
    """
    table = np.zeros((n_labels, n_labels))
    np.add.at(table, (one, other), 1)
    return table


class _Matching:
    """Rows matched to columns at least cost, which is the gain with its sign changed."""

    def __init__(self, gain: FloatArray) -> None:
        size = len(gain)
        self.cost: FloatArray = -gain
        self.tie = _TIE * size * max(1.0, float(np.abs(gain).max(initial=0.0)))
        self.u, self.v = np.zeros(size), np.zeros(size)
        self.column_of, self.row_of = [-1] * size, [-1] * size

    @property
    def total(self) -> float:
        """The gain of the matching."""
        return -float(self.cost[np.arange(len(self.cost)), self.column_of].sum())

    def match(self, row: int) -> None:
        """Match a free row along the cheapest alternating path to a free column."""
        size = len(self.cost)
        cheapest = np.full(size, np.inf)  # of the paths to each column that are known
        before = np.full(size, -1)  # the row that such a path comes from
        done = np.zeros(size, dtype=bool)
        reached, least, at = [row], 0.0, row
        while True:
            through = least + self.cost[at] - self.u[at] - self.v
            cheaper = ~done & (through < cheapest)
            cheapest[cheaper], before[cheaper] = through[cheaper], at
            column = int(np.where(done, np.inf, cheapest).argmin())
            least = float(cheapest[column])
            done[column] = True
            if (at := self.row_of[column]) < 0:
                break
            reached.append(at)
        self.u[row] += least
        for other in reached[1:]:
            self.u[other] += least - cheapest[self.column_of[other]]
        self.v[done] += cheapest[done] - least
        while True:
            at = int(before[column])
            self.row_of[column], self.column_of[at], column = at, column, self.column_of[at]
            if at == row:
                return

    def is_best(self, permutation: Sequence[int]) -> bool:
        """Whether no permutation has a higher gain."""
        return -float(self.cost[np.arange(len(self.cost)), permutation].sum()) >= (
            self.total - self.tie
        )

    def set_to(self, best: Sequence[int]) -> None:
        """Take another permutation of the same gain; the prices hold for it too."""
        self.column_of = list(best)
        self.row_of = np.argsort(best).tolist()

    def without(self, row: int) -> "_Matching":
        """The best matching that lacks the pair that `row` has in this one."""
        found = _Matching(-self.cost)
        found.tie = self.tie
        found.u, found.v = self.u.copy(), self.v.copy()
        found.column_of, found.row_of = self.column_of.copy(), self.row_of.copy()
        column = found.column_of[row]
        found.cost[row, column] = np.inf
        found.column_of[row], found.row_of[column] = -1, -1
        found.match(row)
        return found

    def first(self) -> Permutation:
        """Of the permutations of this gain the first in rising order.

        Row after row takes the lowest column that leaves the later rows a matching of equal gain.
        """
        tight = self.cost - self.u[:, np.newaxis] - self.v <= self.tie
        for row in range(len(self.cost)):
            for column in np.flatnonzero(tight[row, : self.column_of[row]]).tolist():
                if self.row_of[column] > row and self._moves(row, column, tight):
                    break
        return tuple(self.column_of)

    def _moves(self, row: int, column: int, tight: BoolArray) -> bool:
        """Give `row` the column, and its old one to whom that leads to; false where it can't be."""
        holder, old = self.row_of[column], self.column_of[row]
        taken_by: dict[int, int] = {}  # column -> the later row that would take it
        waiting = deque([holder])
        while waiting and old not in taken_by:
            at = waiting.popleft()
            for free in np.flatnonzero(tight[at]).tolist():
                if free not in taken_by and free != column and self.row_of[free] >= row:
                    taken_by[free] = at
                    waiting.append(self.row_of[free])
        if old not in taken_by:
            return False
        while old != column:
            at = taken_by[old]
            self.row_of[old], self.column_of[at], old = at, old, self.column_of[at]
        self.row_of[column], self.column_of[row] = row, column
        return True
