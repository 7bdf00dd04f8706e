"""Pinned labels: what a person has said of some items. No search changes them.

Wherever labels are assigned, a pinned item's scores are replaced by 0 for its label and -inf for
the others, so that what a rule allows its group is found around it. What the model says of it stays
its log-probs.

Pins name the classes too. Where the words of the labels leave open which of two labellings is
meant, the pinned items' own scores say it: they come from contexts that do not hold them.
"""

from collections.abc import Collection, Sequence

import numpy as np

from icm_client.coherence.assignment import JointAssignment
from icm_client.coherence.batches import Batch, Within, without
from icm_client.coherence.constraints import Constraint
from icm_client.coherence.contexts import UNLABELLED
from icm_client.coherence.fold_scores import margin
from icm_client.coherence.polarity import NameExchange
from icm_client.coherence.problem import FloatArray, IntArray
from icm_client.coherence.starts import check_start
from icm_client.errors import InputError

OPPOSED = 0.5
"""How far pinned items must be scored against their labels to exchange names, as a share of the
median margin. Items whose labels are the wrong way round are as far off as any; those that a person
had to correct are often items of small margins, and say nothing of the others' names."""

_LOWEST = -1e30  # nats: -inf of a free item would hide what its group's pins forbid


def checked_pins(
    pinned: IntArray | None,
    n_items: int,
    n_labels: int,
    assign: JointAssignment,
    left_out: Collection[int] = (),
) -> IntArray | None:
    """Return the pins that a search has to keep, or None where there are none.

    Args:
        pinned: shape `[N]`, `UNLABELLED` where an item is free.
        n_items: `N`.
        n_labels: `K`.
        assign: of the rule that labels keep.
        left_out: items that are known not to be scored; their pins are void.

    Raises:
        InputError: they are no labels of these items, or the rule allows no labels that have them.
    """
    if pinned is None:
        return None
    check_start(pinned, n_items, n_labels)
    at = pinned_items(pinned)
    found = assign(held(np.zeros((n_items, n_labels)), pinned)).labels
    if len(broken := at[found[at] != pinned[at]]):
        raise InputError(
            f"the rule allows no labels in which item {broken[0]} has its pinned label "
            f"{pinned[broken[0]]}: it contradicts other pins, or can never be."
        )
    kept = pinned.copy()
    kept[list(left_out)] = UNLABELLED
    return kept if len(pinned_items(kept)) else None


def pinned_items(pinned: IntArray | None) -> IntArray:
    """The items that are pinned, rising."""
    if pinned is None:
        return np.empty(0, dtype=np.int64)
    return np.flatnonzero(pinned != UNLABELLED)


def pins_among(items: IntArray, pinned: IntArray | None) -> IntArray | None:
    """The pins, shape `[N]`, or None where none of `items` is pinned."""
    there = pinned is not None and bool((pinned[items] != UNLABELLED).any())
    return pinned if there else None


def pinned_first(
    batches: Sequence[Batch], pinned: IntArray | None, constraint: Constraint
) -> Sequence[Batch]:
    """The batches with all pinned items, and their groups, moved to the first one.

    Args:
        batches: at least one.
        pinned: shape `[N]`, or None.
        constraint: the rule on all items.
    """
    if pinned is None:
        return batches
    bound = [list(group) for group in constraint.groups if (pinned[list(group)] >= 0).any()]
    moved = np.unique(np.concatenate([pinned_items(pinned), *bound]))
    items = np.union1d(batches[0].items, moved)
    there = frozenset(items.tolist())
    groups = tuple(tuple(group) for group in constraint.groups if group[0] in there)
    return [Batch(items, Within(constraint, groups)), *without(moved.tolist(), batches[1:])]


def held(scores: FloatArray, pinned: IntArray | None) -> FloatArray:
    """Scores `[N, K]` from which pinned items can get no label but theirs; as they are without."""
    if pinned is None:
        return scores
    at = pinned_items(pinned)
    held = np.maximum(scores, _LOWEST)  # NaN stays
    held[at] = -np.inf
    held[at, pinned[at]] = 0.0
    return held


def with_pins(labels: IntArray, pinned: IntArray | None) -> IntArray:
    """Labels `[N]` with the pinned ones in their places."""
    return labels if pinned is None else np.where(pinned != UNLABELLED, pinned, labels)


def as_scored(labels: IntArray, scores: FloatArray, pinned: IntArray | None) -> IntArray:
    """Labels `[N]` at a search's end: a pinned item that was never scored has none to report."""
    if pinned is None:
        return labels
    return np.where(np.isnan(scores).any(axis=1), UNLABELLED, labels)


def may_have(pinned: IntArray | None, item: int, label: int) -> bool:
    """Whether the item is free, or pinned to this label."""
    return pinned is None or pinned[item] in (UNLABELLED, label)


def names_turn(exchange: NameExchange, scores: FloatArray, pinned: IntArray | None) -> bool:
    """Whether the names that a search found are to be exchanged.

    Without pins that is for the words to say. With pins it is so where the pinned items' scores
    are clearly against their labels and the words do not clearly say that the names are right.

    Args:
        exchange: what became of `U`.
        scores: shape `[N, K]`, nats, with the names as found.
        pinned: shape `[N]`, or None.
    """
    if pinned is None:
        return exchange.better
    if not exchange.ambiguous and not exchange.better:
        return False
    scored = np.flatnonzero(~np.isnan(scores).any(axis=1))
    at = np.intersect1d(pinned_items(pinned), scored)
    renamed = exchange.renamed(scores)
    at = at[np.asarray(exchange.names)[pinned[at]] != pinned[at]]  # the others' names would stay
    if not len(at):
        return False
    against = renamed[at, pinned[at]] - scores[at, pinned[at]]
    return bool(against.mean() > OPPOSED * np.median(margin(scores[scored])) > 0)
