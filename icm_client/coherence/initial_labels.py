"""First labels: the kinds of start that the paper compares (Figure 9), and its own."""
# ruff: noqa: N803 - the symbols are the paper's

from typing import Literal

import numpy as np

from icm_client.coherence.assignment import JointAssignment, assign_jointly
from icm_client.coherence.calibration import pointwise_mutual_information
from icm_client.coherence.contexts import in_units
from icm_client.coherence.problem import UNLABELLED, Constraint, IntArray, Problem, Query, Score

Start = Literal["random", "balanced", "zero-shot"]


async def first_labels(
    kind: Start, problem: Problem, score: Score, *, K: int, rng: np.random.Generator
) -> IntArray:
    """Labels to start a search from, which keep the rule.

    Args:
        kind: `random`, the paper's: `K` random items, each label drawn evenly. `balanced`: `K`
            random items, each label as often as the others. `zero-shot`: all items, each with
            its calibrated label without demos.
        problem: items, labels, and the rule: as few labels as possible are changed to keep it, in
            groups that are enumerated.
        score: asked only for `zero-shot`.
        K: items that are labelled; unused for `zero-shot`.
        rng: decides which items, and their labels.

    Returns:
        Shape `[N]`, `UNLABELLED` for items that have no first label.

    Raises:
        InputError: the rule allows a group no labels.
        EndpointError, ScoreError: whatever `score` raises.
    """
    if kind == "zero-shot":
        return await zero_shot_start(problem, score)
    if kind == "random":
        return closest_allowed(random_start(problem, K, rng), problem, rng)
    return balanced_start(problem, K, rng)


def random_start(problem: Problem, K: int, rng: np.random.Generator) -> IntArray:
    """Algorithm 1, line 1: `K` random items (all where there are fewer), evenly drawn labels.

    Returns:
        Shape `[N]`, `UNLABELLED` for all others; only items that are searched get a label.
    """
    labels = np.full(problem.n_items, UNLABELLED, dtype=np.int64)
    among = problem.searched
    first = among[rng.permutation(len(among))[:K]]
    labels[first] = rng.integers(problem.n_labels, size=len(first))
    return labels


def balanced_start(problem: Problem, K: int, rng: np.random.Generator) -> IntArray:
    """Label `K` random items, each label as often as the others (+-1), whole groups of a rule.

    Groups that no longer fit into `K` are passed over, unless nothing else is there. Where the
    rule forbids the labels drawn, as few of them as possible are changed. Where items are pinned
    it is a `pinned_start`.

    Returns:
        Shape `[N]`, `UNLABELLED` for all others.

    Raises:
        InputError: the rule allows a group no labels.
    """
    everything = np.arange(problem.n_items)
    if problem.pinned is not None:
        return pinned_start(problem, K, rng, among=everything)
    labels = np.full(problem.n_items, UNLABELLED, dtype=np.int64)
    first = _whole_groups(rng.permutation(everything), K, problem.constraint)
    labels[first] = rng.permutation(np.arange(len(first)) % problem.n_labels)
    return closest_allowed(labels, problem, rng)


def pinned_start(
    problem: Problem, K: int, rng: np.random.Generator, *, among: IntArray
) -> IntArray:
    """Begin with pinned labels, and with random items only for labels that no pinned item has.

    A random label is right by chance only: it would drown a few pinned ones. Labels without a pin
    get `K / n_labels` random items each, groups of a rule whole, at most half of the free ones.

    Args:
        problem: with pins. Its rule is kept as `balanced_start` keeps it; groups that hold a pin
            are not drawn from.
        K: items that a start without pins labels.
        rng: decides which items, and their labels.
        among: the items to draw from.

    Returns:
        Shape `[N]`, `UNLABELLED` for all others.

    Raises:
        InputError: the rule allows a group no labels.
    """
    pinned, n_labels, constraint = problem.pinned, problem.n_labels, problem.constraint
    assert pinned is not None  # noqa: S101 - asked for with pins only
    bound = {i for group in constraint.groups if (pinned[list(group)] >= 0).any() for i in group}
    free = np.array([i for i in among if pinned[i] == UNLABELLED and i not in bound], np.int64)
    missing = np.setdiff1d(np.arange(n_labels), pinned[among])
    wanted = min(-(-K // n_labels) * len(missing), len(free) // 2)
    if not wanted:
        return pinned.copy()
    labels = np.full(len(pinned), UNLABELLED, dtype=np.int64)
    first = _whole_groups(rng.permutation(free), wanted, constraint)
    labels[first] = rng.permutation(missing[np.arange(len(first)) % len(missing)])
    return problem.with_pins(closest_allowed(labels, problem, rng))


async def zero_shot_start(problem: Problem, score: Score) -> IntArray:
    """Each item's most probable label without demos, the prompt's own label bias removed.

    Returns:
        Shape `[N]`, all labelled.

    Raises:
        InputError: the rule allows a group no labels.
        EndpointError, ScoreError: whatever `score` raises.
    """
    assign = JointAssignment(problem.constraint, problem.n_labels)  # refuses before it asks
    log_probs = await score([Query((), item) for item in range(problem.n_items)])
    return assign(pointwise_mutual_information(log_probs)).labels


def closest_allowed(labels: IntArray, problem: Problem, rng: np.random.Generator) -> IntArray:
    """The labels, as few of them changed as the rule asks for; which of several ways is chance.

    Args:
        labels: shape `[N]`; `UNLABELLED` items stay so, and the rule holds among the others.
        problem: its rule and labels.
        rng: drawn from only where the rule has groups.

    Raises:
        InputError: the rule allows a group no labels.
    """
    if not problem.constraint.groups:
        return labels
    # Chance adds less than one label's worth to the largest group there can be.
    chance = rng.random((len(labels), problem.n_labels)) / (2 * len(labels))
    wanted = np.eye(problem.n_labels)[labels] + chance
    wanted[labels == UNLABELLED] = np.nan
    return assign_jointly(wanted, problem.constraint).labels


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
