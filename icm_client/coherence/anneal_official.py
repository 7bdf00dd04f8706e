r"""The authors' released code where it departs from Algorithms 1 and 2: the preset `official`.

| point | as printed (`anneal`, `consistency_fix`) | here |
| --- | --- | --- |
| `P(D)` | sum of log-probs | mean of log-odds, so `alpha` weighs otherwise |
| a probability | as it is | plus 1e-5: log-odds end at 11.5 nats (`FLOOR`) |
| `I(D)` | each contradicting pair twice | once |
| `T` | falls with the iteration | falls with the flips accepted |
| `alpha` | 50, lower where the search stalls | 30 |
| contexts | in any order that stays | all in the order of the batch, groups together |
| first labels | `K` random items, labels at random | the batch's first `K`, labels balanced |
| a proposal that is the item's label | evaluated | skipped; still a step |
| fix: what is tried | one random pair, `M` times | all pairs of a round, in `M` rounds |
| fix: ways out | all consistent pairs | one of two `true`, or both alike: `ways_out` |
| fix: taken | where `U` is higher | where it is not lower; of a proposal the first one always |
| accepted | `Delta > 0`, else with `exp(Delta / T)` | always with `exp(Delta / T)`, clamped at 1 |

All else is as printed. The clamp changes no decision, as a draw is always under 1, and cannot
overflow. `tests/coherence/released_code.json` has searches and fixes of that code, and the tests
make the same ones.

Not repeated is what that code does to scores and gold:

- A label that is not among the 20 likeliest tokens counts as probability 0, so 1e-5. Here its
  probability is read, or there is an error.
- The probabilities of all of those tokens that contain "true", in any case, are summed. Here the
  label's own tokens are read.
- A failed answer scores 0. Here `score` raises.
- For TruthfulQA the consistency key is made from the gold label. Gold never comes here.
"""
# ruff: noqa: N803, N806 - the symbols are the paper's

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from icm_client.coherence.anneal import AsPrinted, check_least, check_over
from icm_client.coherence.batches import Within
from icm_client.coherence.consistency_fix import (
    Change,
    Evaluate,
    Fixed,
    changes_between,
    with_labels,
)
from icm_client.coherence.constraints import (
    AllOf,
    Asymmetry,
    AtMostOne,
    ExactlyOne,
    Implication,
    MutualExclusion,
    SameAnswer,
    inconsistent_pairs,
)
from icm_client.coherence.contexts import in_units
from icm_client.coherence.initial_labels import pinned_start
from icm_client.coherence.leave_one_out import Layout
from icm_client.coherence.problem import UNLABELLED, Constraint, FloatArray, IntArray, Problem

FLOOR = 1e-5
"""What the code adds to each probability: no log-odds go past `log((1 + 1e-5) / 1e-5)` = 11.513."""


@dataclass(frozen=True, slots=True)
class OfficialSettings:
    """The released code's numbers.

    Attributes:
        initial: `K`, items labelled to start from; more where the last group is larger.
        T0: first temperature.
        T_min: lowest temperature.
        alpha: weight of `P`, a mean here, against `I`. 50 in the code's README.
        iterations: steps, those that are skipped included.
        fixes: the most rounds of a fix; each ends with the first way out that is taken.
        layout: of leave-one-out contexts. `fixed` is the code's: all in the order of the batch.
        max_demos: the most demos in a context; None for all.
        batch: items that are annealed together, apart from all others; None for all.
    """

    initial: int = 8
    T0: float = 10.0
    T_min: float = 0.01
    alpha: float = 30.0
    iterations: int = 3000
    fixes: int = 10
    layout: Layout = "fixed"
    max_demos: int | None = None
    batch: int | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that no search can work with; raises `InputError`."""
        check_least(self, ("initial", "iterations", "fixes"))
        check_over(self, ("T0", "T_min", "alpha", "max_demos", "batch"))

    def policy(self, problem: Problem, rng: np.random.Generator) -> "AsReleased":
        """As released."""
        return AsReleased(problem, self, rng)


class AsReleased(AsPrinted):
    """Algorithm 1 as the released code runs it.

    A step that is skipped has `Delta` 0, no fix, and counts as accepted, since `D` is what was
    proposed.
    """

    skips_same = True

    def __init__(
        self, problem: Problem, settings: OfficialSettings, rng: np.random.Generator
    ) -> None:
        self._problem, self._numbers, self._rng = problem, settings, rng

    @property
    def alpha(self) -> float:
        """It never falls."""
        return self._numbers.alpha

    def predictability(self, log_probs: FloatArray, labels: IntArray) -> float:
        """The mean of log-odds."""
        return mean_log_odds(log_probs, labels)

    def order(self) -> IntArray:
        """Groups drawn at random, each whole, in its own order: the order of the batch."""
        problem = self._problem
        items = problem.searched
        units = in_units(items[self._rng.permutation(len(items))], problem.constraint.groups)
        return np.array([item for unit in units for item in sorted(unit)], dtype=np.int64)

    def first_labels(self, order: IntArray) -> IntArray:
        """The first `K` of the batch, each label as often as the others (+-1).

        A group that has one of them is taken whole, and can make them more than `K`. Where items
        are pinned it is a `pinned_start`.
        """
        problem, K = self._problem, self._numbers.initial
        if problem.pinned is not None:
            return pinned_start(problem, K, self._rng, among=order)
        first: list[int] = []
        for unit in in_units(order, problem.constraint.groups):
            if len(first) >= K:
                break
            first += unit
        labels = np.full(problem.n_items, UNLABELLED, dtype=np.int64)
        labels[first] = self._rng.permutation(np.arange(len(first)) % problem.n_labels)
        return labels

    def inconsistency(self, D: IntArray) -> int:
        """Each contradicting pair once."""
        return len(inconsistent_pairs(D, self._problem.constraint))

    async def fix(self, D: IntArray, U: Evaluate, *, first: bool = False) -> Fixed:
        """Of first labels a way out must not be worse than they are; of a proposal any will do."""
        at_least = await U(D) if first else -math.inf
        return await fix(
            D, self._problem, U, M=self._numbers.fixes, rng=self._rng, at_least=at_least
        )

    def temperature(self, n: int, flips: int) -> float:  # noqa: ARG002
        """It falls with the proposals accepted so far."""
        return temperature_after(flips, self._numbers.T0, self._numbers.T_min)

    def accepts(self, Delta: float, T: float) -> bool:
        """Whether a draw is under `exp(Delta / T)`, clamped at 1: one is made in any case."""
        return self._rng.random() < math.exp(min(Delta / T, 0.0))

    def tried(self, accepted: bool) -> None:
        """Nothing follows from it."""


async def fix(
    labels: IntArray,
    problem: Problem,
    evaluate: Evaluate,
    *,
    M: int,
    rng: np.random.Generator,
    at_least: float = -math.inf,
) -> Fixed:
    """Resolve contradictions round by round; arguments and errors as of `consistency_fix`.

    Each of at most `M` rounds goes through all pairs that contradict each other, in random order,
    and ends with the first whose best way out has a `U` of at least that of the last one taken;
    the first one taken has at least `at_least`. Where a round takes none, the fix ends.
    """
    D, U_D = labels, at_least
    changes: list[Change] = []
    for _ in range(M):
        pairs = inconsistent_pairs(D, problem.constraint)
        taken = False
        for place in rng.permutation(len(pairs)).tolist() if pairs else ():
            i, j = pairs[place]
            options = [
                with_labels(D, {i: y_i, j: y_j})
                for y_i, y_j in ways_out(problem.constraint, D, i, j, problem.n_labels)
                if problem.may_have(i, y_i) and problem.may_have(j, y_j)
            ]
            scored = [(await evaluate(option), option) for option in options]
            U_Dhat, Dhat = max(scored, key=lambda option: option[0], default=(-math.inf, D))
            if taken := bool(scored) and U_Dhat >= U_D:
                changes += changes_between(D, Dhat, (i, j))
                D, U_D = Dhat, U_Dhat
                break
        if not taken:
            break
    return Fixed(D, tuple(changes))


def ways_out(
    constraint: Constraint, D: IntArray, i: int, j: int, n_labels: int
) -> Iterator[tuple[int, int]]:
    """Label pairs that may replace those of two items that contradict each other.

    The released code knows two kinds of relation. A contradiction ends with one of the two
    `true`: asymmetry, mutual exclusion, at most one, exactly one. An implication ends with both
    alike: implication, same answer. Any other rule has all its consistent pairs. Of several rules
    those count that the two items break.
    """
    broken = [
        rule for rule in _rules(constraint, i, j) if not rule.consistent(i, int(D[i]), j, int(D[j]))
    ]
    for y_i, y_j in product(range(n_labels), repeat=2):
        if all(_ends(rule, y_i, y_j) for rule in broken) and constraint.consistent(i, y_i, j, y_j):
            yield y_i, y_j


def _rules(constraint: Constraint, i: int, j: int) -> tuple[Constraint, ...]:
    """The rules that relate two items of one group."""
    rule = constraint.rule if isinstance(constraint, Within) else constraint
    return rule.relating(i, j) if isinstance(rule, AllOf) else (rule,)


def _ends(rule: Constraint, y_i: int, y_j: int) -> bool:
    """Whether the released code would have a pair that breaks the rule end so."""
    match rule:
        case Asymmetry() | MutualExclusion() | AtMostOne() | ExactlyOne():
            return (y_i == rule.true) != (y_j == rule.true)
        case Implication() | SameAnswer():
            return y_i == y_j
        case _:
            return True


def mean_log_odds(log_probs: FloatArray, labels: IntArray) -> float:
    """`P(D)`: the mean of `log(P(y_i | .) + FLOOR) - log(sum_{y != y_i} P(y | .) + FLOOR)`.

    For two labels the code's log-odds of "true" over "false", with the sign that the label has.
    The sum over more labels is ours: the code knows two.

    Args:
        log_probs: shape `[n, K]`, nats.
        labels: shape `[n]`.
    """
    rows = np.arange(len(labels))
    own = np.exp(log_probs[rows, labels])
    others = np.exp(log_probs)
    others[rows, labels] = 0.0
    return float((np.log(own + FLOOR) - np.log(others.sum(axis=1) + FLOOR)).mean())


def temperature_after(flips: int, T0: float, T_min: float) -> float:
    """`T = max(T_min, T0 / (1 + 2 ln(1 + flips)))`, `flips` being the proposals accepted so far."""
    return max(T_min, T0 / (1 + 2 * math.log1p(flips)))
