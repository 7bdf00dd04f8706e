"""First labels: the kinds of start that the paper compares (Figure 9), and its own."""
# ruff: noqa: N803 - the symbols are the paper's

from typing import Literal

import numpy as np

from icm_client.coherence.assignment import JointAssignment, assign_jointly
from icm_client.coherence.calibration import pointwise_mutual_information
from icm_client.coherence.constraints import NO_CONSTRAINT, Constraint
from icm_client.coherence.contexts import UNLABELLED, in_units
from icm_client.coherence.problem import IntArray, Query, Score
from icm_client.errors import InputError

Start = Literal["random", "balanced", "zero-shot"]


async def first_labels(
    kind: Start,
    n_items: int,
    n_labels: int,
    score: Score,
    *,
    K: int,
    rng: np.random.Generator,
    constraint: Constraint,
) -> IntArray:
    """Labels to start a search from, which keep the rule.

    Args:
        kind: `random`, the paper's: `K` random items, each label drawn evenly. `balanced`: `K`
            random items, each label as often as the others. `zero-shot`: all items, each with
            its calibrated label behind no demos.
        n_items: `N`.
        n_labels: labels to choose from.
        score: asked only for `zero-shot`.
        K: items that are labelled; `zero-shot` has no use for it.
        rng: decides which items, and their labels.
        constraint: as few labels as possible are changed to keep it, in groups that are enumerated.

    Returns:
        Shape `[N]`, `UNLABELLED` for items that have no first label.

    Raises:
        InputError: the rule allows a group no labels.
        EndpointError, ScoreError: whatever `score` raises.
    """
    if kind == "zero-shot":
        return await zero_shot_start(n_items, n_labels, score, constraint=constraint)
    if kind == "random":
        labels = random_start(n_items, n_labels, K, rng)
        return closest_allowed(labels, n_labels, constraint, rng)
    return balanced_start(n_items, n_labels, K, rng, constraint)


def random_start(
    n_items: int,
    n_labels: int,
    K: int,
    rng: np.random.Generator,
    among: IntArray | None = None,
) -> IntArray:
    """Algorithm 1, line 1: `K` random items (all where there are fewer), evenly drawn labels.

    Args:
        n_items: `N`.
        n_labels: labels to choose from.
        K: items that are labelled.
        rng: decides which items, and their labels.
        among: the items to draw from; None for all.

    Returns:
        Shape `[N]`, `UNLABELLED` for all others.
    """
    among = np.arange(n_items) if among is None else among
    labels = np.full(n_items, UNLABELLED, dtype=np.int64)
    first = among[rng.permutation(len(among))[:K]]
    labels[first] = rng.integers(n_labels, size=len(first))
    return labels


def balanced_start(
    n_items: int,
    n_labels: int,
    K: int,
    rng: np.random.Generator,
    constraint: Constraint = NO_CONSTRAINT,
    *,
    pinned: IntArray | None = None,
) -> IntArray:
    """Label `K` random items, each label as often as the others (+-1), whole groups of a rule.

    Groups that no longer fit into `K` are passed over, unless nothing else is there. Where the
    rule forbids the labels drawn, as few of them as possible are changed. Where items are pinned
    it is a `pinned_start`.

    Returns:
        Shape `[N]`, `UNLABELLED` for all others.

    Raises:
        InputError: the rule allows a group no labels.
    """
    if pinned is not None:
        return pinned_start(pinned, n_labels, K, rng=rng, constraint=constraint)
    labels = np.full(n_items, UNLABELLED, dtype=np.int64)
    first = _whole_groups(rng.permutation(n_items), K, constraint)
    labels[first] = rng.permutation(np.arange(len(first)) % n_labels)
    return closest_allowed(labels, n_labels, constraint, rng)


def pinned_start(
    pinned: IntArray,
    n_labels: int,
    K: int,
    *,
    rng: np.random.Generator,
    constraint: Constraint = NO_CONSTRAINT,
    among: IntArray | None = None,
) -> IntArray:
    """Begin with pinned labels, and with random items only for labels that no pinned item has.

    A random label is right by chance only: beside a few pinned ones, those are drowned. Labels
    without a pin get `K / n_labels` random items each, groups of a rule whole, at most half of the
    free ones.

    Args:
        pinned: shape `[N]`, `UNLABELLED` where an item is free.
        n_labels: labels to choose from.
        K: items that a start without pins labels.
        rng: decides which items, and their labels.
        constraint: kept as `balanced_start` keeps it; groups that hold a pin are not drawn from.
        among: the items to draw from; None for all.

    Returns:
        Shape `[N]`, `UNLABELLED` for all others.

    Raises:
        InputError: the rule allows a group no labels.
    """
    among = np.arange(len(pinned)) if among is None else among
    bound = {i for group in constraint.groups if (pinned[list(group)] >= 0).any() for i in group}
    free = np.array([i for i in among if pinned[i] == UNLABELLED and i not in bound], np.int64)
    missing = np.setdiff1d(np.arange(n_labels), pinned[among])
    wanted = min(-(-K // n_labels) * len(missing), len(free) // 2)
    if not wanted:
        return pinned.copy()
    labels = np.full(len(pinned), UNLABELLED, dtype=np.int64)
    first = _whole_groups(rng.permutation(free), wanted, constraint)
    labels[first] = rng.permutation(missing[np.arange(len(first)) % len(missing)])
    labels = closest_allowed(labels, n_labels, constraint, rng)
    return np.where(pinned != UNLABELLED, pinned, labels)


async def zero_shot_start(
    n_items: int, n_labels: int, score: Score, *, constraint: Constraint
) -> IntArray:
    """Each item's most probable label behind no demos, what the prompt alone favours divided out.

    Returns:
        Shape `[N]`, all labelled.

    Raises:
        InputError: the rule allows a group no labels.
        EndpointError, ScoreError: whatever `score` raises.
    """
    assign = JointAssignment(constraint, n_labels)  # refuses before anything is asked
    log_probs = await score([Query((), item) for item in range(n_items)])
    return assign(pointwise_mutual_information(log_probs)).labels


def closest_allowed(
    labels: IntArray, n_labels: int, constraint: Constraint, rng: np.random.Generator
) -> IntArray:
    """The labels, as few of them changed as the rule asks for; which of several ways is chance.

    Args:
        labels: shape `[N]`; `UNLABELLED` items stay so, and the rule holds among the others.
        n_labels: labels to choose from.
        constraint: the rule.
        rng: drawn from only where the rule has groups.

    Raises:
        InputError: the rule allows a group no labels.
    """
    if not constraint.groups:
        return labels
    # Chance adds less than one label's worth to the largest group there can be.
    chance = rng.random((len(labels), n_labels)) / (2 * len(labels))
    wanted = np.eye(n_labels)[labels] + chance
    wanted[labels == UNLABELLED] = np.nan
    return assign_jointly(wanted, constraint).labels


def check_start(start: IntArray, n_items: int, n_labels: int) -> None:
    """Refuse first labels that are no labels of these items; raises `InputError`."""
    if start.shape != (n_items,):
        raise InputError(f"first labels of shape {start.shape} were given for {n_items} items.")
    if not np.issubdtype(start.dtype, np.integer):
        raise InputError(f"first labels must be whole numbers, not {start.dtype}.")
    outside = np.flatnonzero((start < UNLABELLED) | (start >= n_labels))
    if len(outside):
        raise InputError(
            f"item {outside[0]} has the first label {start[outside[0]]}, but there are "
            f"{n_labels} labels from 0 ({UNLABELLED} for none)."
        )


def _whole_groups(order: IntArray, K: int, constraint: Constraint) -> IntArray:
    """The first `K` of `order`, groups whole where one fits."""
    if not constraint.groups:
        return order[:K]
    drawn: list[int] = []
    units = in_units(order, constraint.groups)
    for unit in units:
        if len(drawn) + len(unit) <= K:
            drawn += unit
    return np.array(drawn or units[0][:K], dtype=np.int64)
