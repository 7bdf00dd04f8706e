"""Algorithm 2 of the paper (arXiv 2506.10139), consistencyfix, as printed.

    1  for m = 1..M:
    2      while I(D) != 0:
    3          sample an inconsistent pair (x_i, x_j)
    4          enumerate its consistent label pairs
    5          Dhat <- D with the pair of labels of highest U
    6          if U(Dhat) > U(D):
    7              D <- Dhat

The page does not say how `m` and the inner loop share the tries. Here `M` bounds all pairs that are
tried, and lines 1 and 2 are one loop.
"""
# ruff: noqa: N803, N806 - the symbols are the paper's

from collections.abc import Awaitable, Callable, Iterable
from itertools import product
from typing import NamedTuple

import numpy as np

from icm_client.coherence.constraints import inconsistent_pairs
from icm_client.coherence.problem import IntArray, Problem

Evaluate = Callable[[IntArray], Awaitable[float]]
"""`U(D)` of a labelling, shape `[N]`."""


class Change(NamedTuple):
    """One label that the fix replaced."""

    item: int
    before: int
    after: int


class Fixed(NamedTuple):
    """The labels after the fix, shape `[N]`, and what it replaced, in order."""

    labels: IntArray
    changes: tuple[Change, ...]


async def consistency_fix(
    labels: IntArray, problem: Problem, evaluate: Evaluate, *, M: int, rng: np.random.Generator
) -> Fixed:
    """Resolve contradictions one pair at a time, where that raises `U`.

    A contradiction stays where no way out has a higher `U`, and may stay where the `M` tries
    are used up: `I(D)` of the result can be above 0.

    Args:
        labels: shape `[N]`, `UNLABELLED` where an item has none; left as it is.
        problem: its rule `c`, its labels, and its pins: pairs of labels that would change a pinned
            item are not enumerated.
        evaluate: `U(D)`; asked for the same labelling again and again.
        M: the most pairs tried. Not in the paper; 10 in the authors' code.
        rng: decides which pair is tried.

    Raises:
        EndpointError, ScoreError: whatever `evaluate` raises.
    """
    D = labels
    changes: list[Change] = []
    for _ in range(M):  # line 1: for m = 1..M
        pairs = inconsistent_pairs(D, problem.constraint)
        if not pairs:  # line 2: while I(D) != 0
            break
        i, j = pairs[int(rng.integers(len(pairs)))]  # line 3: sample an inconsistent pair
        options = [  # line 4: enumerate its consistent label pairs
            with_labels(D, {i: y_i, j: y_j})
            for y_i, y_j in product(range(problem.n_labels), repeat=2)
            if problem.constraint.consistent(i, y_i, j, y_j)
            and problem.may_have(i, y_i)
            and problem.may_have(j, y_j)
        ]
        scored = [(await evaluate(option), option) for option in options]
        if not scored:  # the rule, with what is pinned, allows these two items no labels at all
            continue
        U_D = await evaluate(D)
        U_Dhat, Dhat = max(scored, key=lambda option: option[0])  # line 5: the one of highest U
        if U_Dhat > U_D:  # line 6: only if strictly higher
            changes += changes_between(D, Dhat, (i, j))
            D = Dhat  # line 7
    return Fixed(D, tuple(changes))


def with_labels(D: IntArray, replaced: dict[int, int]) -> IntArray:
    """`D` with some items' labels replaced; `D` itself is left as it is."""
    Dhat = D.copy()
    for item, label in replaced.items():
        Dhat[item] = label
    return Dhat


def changes_between(D: IntArray, Dhat: IntArray, items: Iterable[int]) -> list[Change]:
    """What became of these items' labels, those that stayed left out."""
    return [Change(i, int(D[i]), int(Dhat[i])) for i in items if D[i] != Dhat[i]]
