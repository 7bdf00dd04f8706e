r"""Algorithm 1 of the paper (arXiv 2506.10139): simulated annealing over labels, as printed.

    1  label K random items at random
    2  D <- consistencyfix(D)
    3  for n = 1..N:
    4      T <- max(T_min, T0 / (1 + beta * log n))
    5      sample x_i, labelled or not
    6      yhat <- argmax_y P(y | x_i, D \ {i})
    7      Dhat <- D + (x_i, yhat)
    8      Dhat <- consistencyfix(Dhat)
    9      Delta <- U(Dhat) - U(D)
    10     accept Dhat if Delta > 0, else with probability exp(Delta / T)

Every step that moves a label reads the whole objective again: one leave-one-out pass over the
labelled items. What follows from the page as it is printed, and is left so:

- `P` is a sum of log-probs, so a further label costs `alpha * log P(yhat | x_i, .)` and is taken
  only where it makes the others likelier by more, or by chance: items can stay unlabelled.
- `I` is weighed against `alpha * P`: labels can contradict each other at the end.
- Without rules, labelling everything alike can have the highest `U`; the search then ends there,
  as the paper's own ablation does.
"""
# ruff: noqa: N802, N803, N806 - the symbols are the paper's

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from icm_client.coherence.consistency_fix import Change, consistency_fix
from icm_client.coherence.constraints import Constraint, check_groups
from icm_client.coherence.contexts import UNLABELLED
from icm_client.coherence.leave_one_out import Layout, query_for
from icm_client.coherence.objective import LeaveOneOut, inconsistency, utility
from icm_client.coherence.problem import FloatArray, IntArray, Score, Stop, never
from icm_client.coherence.starts import pinned_start, random_start
from icm_client.coherence.temperature import temperature
from icm_client.errors import InputError

ALPHAS = (50.0, 30.0, 20.0)
"""The paper's `alpha`, and what it falls back to "if the search stalls"."""

STALL_WINDOW = 50
STALL_RATE = 0.05
"""A search stalls when fewer of the last `STALL_WINDOW` labellings tried were accepted."""

RELATED_WEIGHT = 100.0
"""Line 5: how much likelier an unlabelled item is drawn that shares a relation with a labelled."""


@dataclass(frozen=True, slots=True)
class AnnealSettings:
    """The paper's numbers.

    Attributes:
        initial: `K`, items labelled at random to start from.
        T0: first temperature.
        T_min: lowest temperature.
        beta: how fast the temperature falls.
        alpha: weight of `P` against `I`; None goes down `ALPHAS` where the search stalls.
        iterations: `N`. Not in the paper; 3,000 in the authors' code.
        fixes: `M` of Algorithm 2. Not in the paper; 10 in the authors' code.
        layout: of leave-one-out contexts.
        max_demos: the most demos in a context; None for all.
        batch: items that are annealed together, apart from all others (`batches`); the paper's
            256 are what fits its models' contexts. None for all.
    """

    initial: int = 8
    T0: float = 10.0
    T_min: float = 0.01
    beta: float = 0.99
    alpha: float | None = None
    iterations: int = 3000
    fixes: int = 10
    layout: Layout = "tree"
    max_demos: int | None = None
    batch: int | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that no search can work with; raises `InputError`."""
        check_least(self, ("initial", "beta", "iterations", "fixes"))
        check_over(self, ("T0", "T_min", "alpha", "max_demos", "batch"))


def check_least(settings: object, names: Iterable[str]) -> None:
    """Refuse numbers under 0; raises `InputError`."""
    for name in names:
        if not getattr(settings, name) >= 0:
            raise InputError(f"{name} must be at least 0, not {getattr(settings, name)}")


def check_over(settings: object, names: Iterable[str]) -> None:
    """Refuse numbers of 0 or less, where there is one; raises `InputError`."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and not value > 0:
            raise InputError(f"{name} must be over 0, not {value}")


class Step(NamedTuple):
    """One iteration, as told to the observer.

    Attributes:
        n: from 1.
        T: temperature.
        alpha: weight of `P` that `U` and `Delta` were computed with.
        item: `i`.
        proposal: `yhat`.
        fix: labels that consistencyfix then replaced, in order.
        U: `U(D)` after the step.
        Delta: `U(Dhat) - U(D)` before it was decided.
        accepted: whether `D` is now `Dhat`; true where `Dhat` is `D`.
        batch: which batch of the items, from 0.
    """

    n: int
    T: float
    alpha: float
    item: int
    proposal: int
    fix: tuple[Change, ...]
    U: float
    Delta: float
    accepted: bool
    batch: int = 0


@dataclass(frozen=True, slots=True)
class AnnealResult:
    """Where the search ended.

    Attributes:
        labels: shape `[N]`, `UNLABELLED` where no accepted step has labelled an item.
        order: the items, in the order that leave-one-out contexts were laid out by.
        utility: `U(D)` of the labels, with the last step's `alpha`.
        steps: all of them, in order.
        stopped: whether `stop` ended it before its time.
    """

    labels: IntArray
    order: IntArray
    utility: float
    steps: tuple[Step, ...]
    stopped: bool


async def anneal(
    n_items: int,
    n_labels: int,
    score: Score,
    *,
    rng: np.random.Generator,
    settings: AnnealSettings,
    constraint: Constraint,
    start: IntArray | None = None,
    items: IntArray | None = None,
    pinned: IntArray | None = None,
    observe: Callable[[Step], None] = lambda _: None,
    stop: Stop = never,
) -> AnnealResult:
    """Search the labels of highest `U` by Algorithm 1; `score` is the only way out.

    Args:
        n_items: items, at least 1.
        n_labels: labels to choose from, at least 2.
        score: answers queries about items `0..n_items-1`.
        rng: the only source of chance; the result is a function of it, the settings and the scores.
        settings: the search's own numbers.
        constraint: `c`.
        start: shape `[N]`, labels instead of line 1's (golden, all wrong, ...).
        items: those that are searched; labels of others are not looked at. None for all.
        pinned: shape `[N]`, `UNLABELLED` where an item is free; a pinned item has its label in
            `start`, is labelled by line 1 where there is none, and is neither sampled nor fixed.
        observe: told of each step as it ends.
        stop: asked before each step; once it says so, there are no more.

    Raises:
        InputError: the constraint names items that are not there, or items twice.
        EndpointError, ScoreError: whatever `score` raises.
    """
    check_groups(constraint.groups, n_items)
    items = np.arange(n_items) if items is None else items
    group_of = groups_of_items(n_items, constraint)[items]
    order = items[rng.permutation(len(items))]
    alpha = _Alpha(settings.alpha)
    P = LeaveOneOut(score, order, settings.layout, settings.max_demos)

    async def U(labels: IntArray) -> float:
        return utility(alpha.value, await P(labels), inconsistency(labels, constraint))

    async def fixed(labels: IntArray) -> tuple[IntArray, tuple[Change, ...]]:
        return await consistency_fix(
            labels, n_labels, constraint, U, M=settings.fixes, rng=rng, pinned=pinned
        )

    if start is None:
        K = settings.initial
        start = (
            random_start(n_items, n_labels, K, rng, items)
            if pinned is None
            else pinned_start(pinned, n_labels, K, rng=rng, among=items)
        )
    D, _ = await fixed(start)  # lines 1 and 2
    steps: list[Step] = []
    stopped = False
    for n in range(1, settings.iterations + 1):  # line 3
        if stopped := stop():
            break
        T = temperature(n, settings.T0, settings.T_min, settings.beta)  # line 4
        weights = item_weights(D[items], group_of, pinned if pinned is None else pinned[items])
        if not weights.any():
            break  # all are pinned
        i = int(items[rng.choice(len(items), p=weights / weights.sum())])  # line 5
        asked = query_for(i, D, order, settings.layout, settings.max_demos)
        yhat = int((await score([asked]))[0].argmax())  # line 6
        Dhat = D.copy()
        Dhat[i] = yhat  # line 7
        Dhat, fix = await fixed(Dhat)  # line 8
        Delta = await U(Dhat) - await U(D)  # line 9
        accepted = accepts(Delta, T, rng)  # line 10
        moves = not np.array_equal(Dhat, D)
        if accepted:
            D = Dhat
        steps.append(Step(n, T, alpha.value, i, yhat, fix, await U(D), Delta, accepted))
        observe(steps[-1])
        if moves:
            alpha.note(accepted)
    return AnnealResult(D, order, steps[-1].U if steps else await U(D), tuple(steps), stopped)


def groups_of_items(n_items: int, constraint: Constraint) -> IntArray:
    """The number of each item's group, shape `[N]`, -1 for items without a relation."""
    group_of = np.full(n_items, -1)
    for number, group in enumerate(constraint.groups):
        group_of[list(group)] = number
    return group_of


def item_weights(
    labels: IntArray, group_of: IntArray, pinned: IntArray | None = None
) -> FloatArray:
    """Line 5: `RELATED_WEIGHT` for an unlabelled item whose group holds a labelled one, else 1.

    Args:
        labels: shape `[N]`.
        group_of: shape `[N]`, -1 for items without a relation.
        pinned: shape `[N]`, `UNLABELLED` where an item is free; pinned ones weigh 0.
    """
    labelled = labels != UNLABELLED
    related = ~labelled & (group_of >= 0) & np.isin(group_of, group_of[labelled])
    weights = np.where(related, RELATED_WEIGHT, 1.0)
    return weights if pinned is None else np.where(pinned == UNLABELLED, weights, 0.0)


def accepts(Delta: float, T: float, rng: np.random.Generator) -> bool:
    """Line 10: always where `Delta > 0`, else with probability `exp(Delta / T)`: 1 at 0.

    `exp` only ever sees numbers up to 0 and cannot overflow.
    """
    return Delta > 0 or rng.random() < math.exp(Delta / T)


class _Alpha:
    """`alpha`, which falls where the search stalls unless it was given."""

    def __init__(self, given: float | None) -> None:
        self._falls = deque(ALPHAS if given is None else [given])
        self._recent: deque[bool] = deque(maxlen=STALL_WINDOW)

    @property
    def value(self) -> float:
        return self._falls[0]

    def note(self, accepted: bool) -> None:
        """Count a labelling that was tried; one that is `D` itself tells nothing."""
        self._recent.append(accepted)
        stalls = sum(self._recent) < STALL_RATE * STALL_WINDOW == STALL_RATE * len(self._recent)
        if stalls and len(self._falls) > 1:
            self._falls.popleft()
            self._recent.clear()
