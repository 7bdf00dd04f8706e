"""Which items a person is best asked about: a sure one of each label, then uncertain ones.

Labels are wrong at large in two ways: names belong to other classes, or a threshold lies elsewhere.
A search that is given a right label of each class begins with these instead of random ones, and
sets its names right by them. So first the surest item of each label is asked about, where no answer
of that label is known: what is said of an item that could as well have another label tells nothing
about names. Then come the items that are nearest to another label, where an answer corrects most.
One that reads like an item asked about before waits until all others were.
"""

from collections.abc import Callable
from typing import Final, Literal, NamedTuple

import numpy as np

from icm_client.coherence.problem import UNLABELLED, BoolArray, FloatArray, IntArray

SURE: Final = 1
"""Sure items of each label; docs/asking.md has what they bring and cost."""

ALIKE: Final = 0.7
"""The cosine of two items' vectors from which on they read alike."""

MOST_UNCERTAIN: Final = 4096
"""Items from which the uncertain ones are chosen, the nearest to another label."""

MOST_SURE: Final = 64
"""The same of the sure ones of each label."""


class Choice(NamedTuple):
    """An item to ask about.

    Attributes:
        item: its number.
        why: "names" for a sure one, "uncertain" for one near another label.
        rival: the label that it has if not its own.
        alike: items that nobody was asked about and that read like it, among those compared.
    """

    item: int
    why: Literal["names", "uncertain"]
    rival: int
    alike: int


def order_to_ask(
    log_probs: FloatArray,
    labels: IntArray,
    answers: IntArray,
    budget: int,
    vectors: Callable[[IntArray], FloatArray],
) -> list[Choice]:
    """Choose items, in the order in which to ask about them.

    Args:
        log_probs: shape `[N, K]`, nats; an item with NaN among them is never chosen.
        labels: shape `[N]`, those found.
        answers: shape `[N]`, labels that a person has given, `UNLABELLED` where nobody has.
        budget: how many, at least 1.
        vectors: called once with some items `[n]`; what they say, shape `[n, D]`, of length 1, or 0
            for an item that is like no other.

    Returns:
        As many as the budget says, or fewer where there are fewer.
    """
    n_items, n_labels = log_probs.shape
    items = np.arange(n_items)
    others = log_probs.copy()
    others[items, labels] = -np.inf
    rivals = others.argmax(axis=1)
    margins = log_probs[items, labels] - others[items, rivals]
    free = np.flatnonzero((answers == UNLABELLED) & ~np.isnan(margins))
    rising = free[np.argsort(margins[free], kind="stable")]
    uncertain = rising[: max(MOST_UNCERTAIN, budget)]
    surest = [rising[labels[rising] == k][: -MOST_SURE - 1 : -1] for k in range(n_labels)]
    answered = np.flatnonzero(answers != UNLABELLED)
    compared = np.unique(np.concatenate([uncertain, *surest, answered]))
    chosen = _Chosen(compared, vectors(compared), answered, rivals)
    for number in range(min(SURE, max(1, budget // (2 * n_labels)))):
        for k in range(n_labels):
            if number >= (answers == k).sum() and len(chosen.found) < budget:
                chosen.take(surest[k], 1, "names")
    while left := budget - len(chosen.found):
        if not chosen.take(uncertain, left, "uncertain") and not chosen.let_all_in():
            break
    return chosen.found


class _Chosen:
    """The items chosen so far, and those that read like one of them or like an answered one."""

    def __init__(
        self, compared: IntArray, vectors: FloatArray, answered: IntArray, rivals: IntArray
    ) -> None:
        self.found: list[Choice] = []
        self._place = {item: place for place, item in enumerate(compared.tolist())}
        self._vectors, self._rivals = vectors, rivals
        self._asked: BoolArray = np.isin(compared, answered)
        self._passed = self._asked.copy()
        for place in np.flatnonzero(self._asked):
            self._passed |= self._alike(int(place))

    def take(self, order: IntArray, most: int, why: Literal["names", "uncertain"]) -> int:
        """Choose the first items that are none of these; return how many."""
        before = len(self.found)
        for item in order.tolist():
            place = self._place[item]
            if self._passed[place]:
                continue
            alike = self._alike(place)
            self._asked[place] = self._passed[place] = True
            count = int((alike & ~self._asked).sum())
            self._passed |= alike
            self.found.append(Choice(item, why, int(self._rivals[item]), count))
            if len(self.found) - before == most:
                break
        return len(self.found) - before

    def let_all_in(self) -> bool:
        """From here on an item that reads like one before may be chosen too; whether any waited."""
        waited = bool((self._passed & ~self._asked).any())
        self._passed = self._asked.copy()
        return waited

    def _alike(self, place: int) -> BoolArray:
        alike: BoolArray = self._vectors @ self._vectors[place] >= ALIKE
        return alike
