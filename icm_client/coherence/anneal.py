r"""Algorithm 1 of the paper (arXiv 2506.10139): simulated annealing over labels.

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
labelled items, and one more for each labelling that Algorithm 2 tries. What the page leaves open,
or the authors' released code does otherwise, is a policy: `AsPrinted` here, `AsReleased` in
`anneal_official`.

What follows from the page as it is printed, and is left so:

- `P` is a sum of log-probs, so a further label costs `alpha * log P(yhat | x_i, .)` and is taken
  only where it makes the others likelier by more, or by chance: items can stay unlabelled.
- `I` is weighed against `alpha * P`: labels can contradict each other at the end.
- Without rules, labelling everything alike can have the highest `U`; the search then ends there,
  as the paper's own ablation does.
"""
# ruff: noqa: N802, N803, N806 - the symbols are the paper's

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from icm_client.coherence.consistency_fix import Change, Evaluate, Fixed, consistency_fix
from icm_client.coherence.initial_labels import pinned_start, random_start
from icm_client.coherence.leave_one_out import Layout, query_for
from icm_client.coherence.objective import (
    LeaveOneOut,
    inconsistency,
    mutual_predictability,
    utility,
)
from icm_client.coherence.problem import (
    NO_CONSTRAINT,
    UNLABELLED,
    FloatArray,
    IntArray,
    Problem,
    Query,
    Score,
)
from icm_client.coherence.result import UNWATCHED, Step, Watch
from icm_client.errors import InputError, ScoreNotFinite


@dataclass(frozen=True, slots=True)
class AnnealResult:
    """Where the search ended.

    Attributes:
        labels: shape `[N]`, `UNLABELLED` where no accepted step has labelled an item.
        order: the items, in the order that leave-one-out contexts were laid out by.
        utility: `U(D)` of the labels, with the last step's `alpha`.
        steps: all of them, in order.
        stopped: whether `Watch.stop` ended it before its time.
    """

    labels: IntArray
    order: IntArray
    utility: float
    steps: tuple[Step, ...]
    stopped: bool


class AnnealingSettings(Protocol):
    """Numbers of an annealing search, and the policy that they are for."""

    @property
    def iterations(self) -> int:
        """`N` of line 3."""
        ...

    @property
    def layout(self) -> Layout:
        """Of leave-one-out contexts."""
        ...

    @property
    def max_demos(self) -> int | None:
        """The most demos in a context; None for all."""
        ...

    def policy(self, problem: Problem, rng: np.random.Generator) -> "AsPrinted":
        """What decides, for one search, what the loop leaves open."""
        ...


async def anneal(
    problem: Problem,
    score: Score,
    *,
    settings: AnnealingSettings,
    rng: np.random.Generator,
    watch: Watch = UNWATCHED,
) -> AnnealResult:
    """Search the labels of highest `U` by Algorithm 1.

    Args:
        problem: at least 1 item. Only `searched` items are labelled and looked at. A pinned item
            has its label in `start`, is labelled by line 1 where there is none, and is neither
            sampled nor fixed.
        score: the only I/O.
        settings: the search's own numbers, and its policy.
        rng: the only source of chance; the result is a function of it, the settings and the scores.
        watch: follows each step. Its `stop` is asked before each step.

    Raises:
        ScoreNotFinite: `score` has none for an item that it was asked about.
        EndpointError, ScoreError: whatever `score` raises.
    """
    how = settings.policy(problem, rng)
    items = problem.searched
    group_of = groups_of_items(problem)[items]
    pinned = None if problem.pinned is None else problem.pinned[items]
    order = how.order()
    score = _finite(score)
    P = LeaveOneOut(score, order, settings.layout, settings.max_demos, how.predictability)

    async def U(D: IntArray) -> float:
        return utility(how.alpha, await P(D), how.inconsistency(D))

    D = problem.start if problem.start is not None else how.first_labels(order)  # line 1
    D = (await how.fix(D, U, first=True)).labels  # line 2
    steps: list[Step] = []
    flips, stopped = 0, False  # proposals accepted
    for n in range(1, settings.iterations + 1):  # line 3
        if stopped := watch.stop():
            break
        T = how.temperature(n, flips)  # line 4
        weights = item_weights(D[items], group_of, pinned)
        if not weights.any():
            break  # all are pinned
        i = int(items[rng.choice(len(items), p=weights / weights.sum())])  # line 5
        asked = query_for(i, D, order, settings.layout, settings.max_demos)
        yhat = int((await score([asked]))[0].argmax())  # line 6
        Dhat = D
        changes: tuple[Change, ...] = ()
        Delta, accepted = 0.0, True
        if not (how.skips_same and yhat == D[i]):
            Dhat = D.copy()
            Dhat[i] = yhat  # line 7
            Dhat, changes = await how.fix(Dhat, U)  # line 8
            Delta = await U(Dhat) - await U(D)  # line 9
            accepted = how.accepts(Delta, T)  # line 10
            flips += accepted
        moves = not np.array_equal(Dhat, D)
        if accepted:
            D = Dhat
        steps.append(Step(n, T, how.alpha, i, yhat, changes, await U(D), Delta, accepted))
        watch.observe(steps[-1])
        if moves:
            how.tried(accepted)
    return AnnealResult(D, order, steps[-1].U if steps else await U(D), tuple(steps), stopped)


def _finite(score: Score) -> Score:
    """The same, but for items without a score: `U` of their labels would be no number."""

    async def finite(queries: Sequence[Query]) -> FloatArray:
        log_probs = await score(queries)
        if (missing := np.isnan(log_probs).any(axis=1)).any():
            item = queries[int(missing.argmax())].target
            raise ScoreNotFinite(
                f"item {item} has no score, and Algorithm 1 needs all of them: leave it out "
                "(`Problem.items`)"
            )
        return log_probs

    return finite


RELATED_WEIGHT = 100.0
"""Line 5: how much likelier an unlabelled item is drawn that shares a relation with a labelled."""


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


def groups_of_items(problem: Problem) -> IntArray:
    """The number of each item's group, shape `[N]`, -1 for items without a relation."""
    group_of = np.full(problem.n_items, -1)
    for number, group in enumerate(problem.constraint.groups):
        group_of[list(group)] = number
    return group_of


ALPHAS = (50.0, 30.0, 20.0)
"""The paper's `alpha`, and what it falls back to "if the search stalls"."""

STALL_WINDOW = 50
STALL_RATE = 0.05
"""A search stalls when fewer of the last `STALL_WINDOW` labellings tried were accepted."""


class AsPrinted:
    """The page, and where it leaves something open, what is nearest to it.

    Attributes:
        skips_same: whether a step ends where the proposal is the label that the item has.
    """

    skips_same = False

    def __init__(
        self, problem: Problem, settings: "AnnealSettings", rng: np.random.Generator
    ) -> None:
        self._problem, self._settings, self._rng = problem, settings, rng
        self._alphas = deque(ALPHAS if settings.alpha is None else [settings.alpha])
        self._recent: deque[bool] = deque(maxlen=STALL_WINDOW)

    def predictability(self, log_probs: FloatArray, labels: IntArray) -> float:
        """`P(D)`: the sum of log-probs."""
        return mutual_predictability(log_probs, labels)

    @property
    def alpha(self) -> float:
        """Weight of `P` against `I`: falls where the search stalls, unless it was given."""
        return self._alphas[0]

    def order(self) -> IntArray:
        """The searched items in the order of leave-one-out contexts: random, and it stays."""
        items = self._problem.searched
        return items[self._rng.permutation(len(items))]

    def first_labels(self, _: IntArray) -> IntArray:
        """Line 1: `K` random items, labels at random; pins, where there are any. Shape `[N]`."""
        problem, K = self._problem, self._settings.initial
        if problem.pinned is None:
            return random_start(problem, K, self._rng)
        unruled = replace(problem, constraint=NO_CONSTRAINT)
        return pinned_start(unruled, K, self._rng, among=problem.searched)

    def inconsistency(self, D: IntArray) -> int:
        """`I(D)`, over ordered pairs."""
        return inconsistency(D, self._problem.constraint)

    async def fix(self, D: IntArray, U: Evaluate, *, first: bool = False) -> Fixed:  # noqa: ARG002
        """Lines 2 (`first`) and 8: Algorithm 2."""
        return await consistency_fix(D, self._problem, U, M=self._settings.fixes, rng=self._rng)

    def temperature(self, n: int, flips: int) -> float:  # noqa: ARG002
        """Line 4: `T` of step `n`, before which `flips` proposals were accepted."""
        settings = self._settings
        return temperature(n, settings.T0, settings.T_min, settings.beta)

    def accepts(self, Delta: float, T: float) -> bool:
        """Line 10."""
        return accepts(Delta, T, self._rng)

    def tried(self, accepted: bool) -> None:
        """Count a labelling that differed from `D`, and lower `alpha` where the search stalls."""
        self._recent.append(accepted)
        stalls = sum(self._recent) < STALL_RATE * STALL_WINDOW == STALL_RATE * len(self._recent)
        if stalls and len(self._alphas) > 1:
            self._alphas.popleft()
            self._recent.clear()


def temperature(n: int, T0: float, T_min: float, beta: float) -> float:
    """`T = max(T_min, T0 / (1 + beta * log n))` for iteration `n`, counted from 1 (line 4).

    With the paper's numbers (10, 0.01, 0.99) `T` falls slowly: 3.05 at `n = 10`, 1.12 at 3,000.
    `T_min` would be reached at `n = exp(1009)`.
    """
    return max(T_min, T0 / (1 + beta * math.log(n)))


def accepts(Delta: float, T: float, rng: np.random.Generator) -> bool:
    """Line 10: always where `Delta > 0`, else with probability `exp(Delta / T)`: 1 at 0.

    `exp` only ever sees numbers up to 0 and cannot overflow.
    """
    return Delta > 0 or rng.random() < math.exp(Delta / T)


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

    def policy(self, problem: Problem, rng: np.random.Generator) -> AsPrinted:
        """As printed."""
        return AsPrinted(problem, self, rng)


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
