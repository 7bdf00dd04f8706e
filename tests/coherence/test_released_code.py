"""The preset `official` beside tables of what the authors' released code did (at d6260a9).

`released_code.json` holds numbers only. They come from driving that code with made-up scores in
place of a model, and noting all that it drew at random; here the same draws are made again.

`searches`: `log P(True) - log P(False)` of item `i` in a context is `odds[i]` plus, for the demo
`j` at place `p` of it, `weights[i][j]`, halved at even places and negative where `j` is False. So
what stands in a context counts, and in which order. Both labels together have a probability of 0.9.
A step is: item, items of weight 100, proposal, the order in which the pairs of each round were
tried, and where something was proposed `T`, `U` before and of the proposal, the draw, the decision.

`fixes`: answers (None: pairs of which one is true), alpha, whether the labels' own `U` must be
reached, log-odds, labels, the order of the pairs in each round, labels after the fix.
"""
# ruff: noqa: N806 - the symbols are the paper's

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, cast

import numpy as np
import orjson
import pytest

from icm_client.coherence.anneal import anneal
from icm_client.coherence.anneal_official import (
    OfficialSettings,
    fix,
    mean_log_odds,
)
from icm_client.coherence.consistency_fix import Evaluate
from icm_client.coherence.constraints import (
    AllOf,
    Asymmetry,
    MutualExclusion,
    SameAnswer,
    groups_by_key,
    inconsistent_pairs,
)
from icm_client.coherence.problem import (
    UNLABELLED,
    Constraint,
    FloatArray,
    IntArray,
    Problem,
    Query,
)
from icm_client.coherence.result import Watch

TABLE: dict[str, list[Any]] = orjson.loads(
    (Path(__file__).parent / "released_code.json").read_bytes()
)


def rule_of(n: int, answers: Sequence[int] | None) -> Constraint:
    """Pairs, of which one is true; or questions of four answers: no two different ones are true,
    and equal ones have equal labels.
    """
    if answers is None:
        return Asymmetry(tuple((i, i + 1) for i in range(0, n, 2)), true=1, false=0)
    questions = groups_by_key([i // 4 for i in range(n)])
    same = groups_by_key([(i // 4, answer) for i, answer in enumerate(answers)])
    return AllOf((MutualExclusion(questions, tuple(answers), true=1), SameAnswer(same)))


def log_probs_of(odds: Sequence[float]) -> FloatArray:
    true = -np.logaddexp(0, -np.array(odds))
    found: FloatArray = np.log(0.9) + np.stack([true - np.array(odds), true], axis=1)
    return found


class Drawn:
    """What the released code drew, in place of a generator."""

    def __init__(self, permutations: Iterator[list[int]], items: IntArray | None = None) -> None:
        self.permutations, self.items = permutations, items
        self.item, self.heavy, self.draw = 0, [0], 0.0

    def permutation(self, of: int | IntArray) -> IntArray:
        drawn = np.array(next(self.permutations))
        assert len(drawn) == (of if isinstance(of, int) else len(of)), "other pairs than the code's"
        return drawn

    def choice(self, _: int, p: FloatArray) -> int:
        assert self.items is not None
        assert self.items[p > p.min() * 10].tolist() == sorted(self.heavy)
        return int(np.flatnonzero(self.items == self.item)[0])

    def random(self) -> float:
        return self.draw


class Scores:
    """The table's made-up scores."""

    def __init__(self, search: dict[str, Any]) -> None:
        self.odds, self.weights = search["odds"], search["weights"]

    async def __call__(self, queries: Sequence[Query]) -> FloatArray:
        return log_probs_of(
            [
                self.odds[query.target]
                + sum(
                    self.weights[query.target][demo.item] * (demo.label or -1) * (place % 2 or 0.5)
                    for place, demo in enumerate(query.context)
                )
                for query in queries
            ]
        )


@pytest.mark.parametrize("number", range(len(TABLE["searches"])))
async def test_a_search_goes_as_the_released_codes_went(number: int) -> None:
    search = TABLE["searches"][number]
    items = np.sort(search["batch"])
    told = search["steps"]
    at = 0

    def permutations() -> Iterator[list[int]]:
        yield np.argsort(np.argsort(search["batch"])).tolist()
        yield search["first_labels"]
        yield from search["first"]["rounds"]
        raise AssertionError("more is tried than the code did")

    drawn = Drawn(permutations(), items)
    seen: list[Any] = []

    def prepare() -> None:
        item, heavy, _, rounds, *rest = told[at]
        drawn.item, drawn.heavy, drawn.permutations = item, heavy, iter(rounds)
        drawn.draw = rest[3] if rest else 0.0

    def stop() -> bool:  # asked before each step
        nonlocal at
        at = len(seen)
        if at < len(told):
            prepare()
        return at == len(told)

    result = await anneal(
        Problem(
            len(search["odds"]),
            2,
            constraint=rule_of(len(search["odds"]), search["answers"]),
            items=items,
        ),
        Scores(search),
        rng=cast("np.random.Generator", drawn),
        settings=OfficialSettings(alpha=search["alpha"], iterations=len(told)),
        watch=Watch(observe=seen.append, stop=stop),
    )
    assert result.order.tolist() == search["batch"]
    assert len(seen) == len(told)
    U = search["first"]["U"]
    for step, (item, _, proposal, _, *rest) in zip(seen, told, strict=True):
        assert (step.item, step.proposal) == (item, proposal)
        if not rest:  # the proposal was the item's label
            assert (step.Delta, step.accepted, step.fix) == (0, True, ())
            continue
        T, before, proposed, _, accepted = rest
        assert before == pytest.approx(U, abs=1e-5)
        assert (step.T, step.Delta) == pytest.approx((T, proposed - before), abs=1e-5)
        assert step.accepted == bool(accepted)
        U = proposed if accepted else before
        assert abs(step.U - U) < 1e-5


@pytest.mark.parametrize("number", range(len(TABLE["searches"])))
async def test_the_first_labels_are_those_of_the_released_code(number: int) -> None:
    search = TABLE["searches"][number]
    batch = search["batch"]
    drawn = Drawn(
        iter(
            [
                np.argsort(np.argsort(batch)).tolist(),
                search["first_labels"],
                *search["first"]["rounds"],
            ]
        )
    )
    result = await anneal(
        Problem(
            len(search["odds"]),
            2,
            constraint=rule_of(len(search["odds"]), search["answers"]),
            items=np.sort(batch),
        ),
        Scores(search),
        rng=cast("np.random.Generator", drawn),
        settings=OfficialSettings(alpha=search["alpha"], iterations=0),
    )
    assert result.labels[batch].tolist() == search["first"]["labels"]
    assert result.utility == pytest.approx(search["first"]["U"], abs=1e-5)


def energy(rule: Constraint, odds: Sequence[float], alpha: float) -> Evaluate:
    log_probs = log_probs_of(odds)

    async def evaluate(labels: IntArray) -> float:
        there = np.flatnonzero(labels != UNLABELLED)
        pairs = len(inconsistent_pairs(labels, rule))
        return alpha * mean_log_odds(log_probs[there], labels[there]) - pairs

    return evaluate


async def test_of_400_random_fixes_all_agree_with_the_released_codes() -> None:
    """330 of them did while a fix tried ten pairs, not all pairs in each of ten rounds."""
    differ = []
    for number, (answers, alpha, own, odds, labels, rounds, after) in enumerate(TABLE["fixes"]):
        rule = rule_of(len(odds), answers)
        evaluate = energy(rule, odds, alpha)
        held = np.array(labels)
        found = await fix(
            held,
            Problem(len(held), 2, rule),
            evaluate,
            M=10,
            rng=cast("np.random.Generator", Drawn(iter(rounds))),
            at_least=await evaluate(held) if own else -np.inf,
        )
        if found.labels.tolist() != after:
            differ.append(number)
    assert len(TABLE["fixes"]) == 400
    assert differ == []


class Described:
    """A proposal's fix again, from its description, over plain lists."""

    def __init__(self, odds: Sequence[float], answers: Sequence[int] | None, alpha: float) -> None:
        self.odds, self.answers, self.alpha = odds, answers, alpha
        self.size = 2 if answers is None else 4

    def broken(self, i: int, j: int, labels: list[int]) -> str | None:
        """Which rule two items break: one of them is true, or both are alike."""
        if -1 in (labels[i], labels[j]) or i // self.size != j // self.size:
            return None
        if self.answers is None:
            return "one" if labels[i] == labels[j] else None
        if self.answers[i] == self.answers[j]:
            return "alike" if labels[i] != labels[j] else None
        return "one" if labels[i] == labels[j] == 1 else None

    def pairs(self, labels: list[int]) -> list[tuple[int, int]]:
        every = combinations(range(len(labels)), 2)
        return [pair for pair in every if self.broken(*pair, labels)]

    def energy(self, labels: list[int]) -> float:
        scores = []
        for label, log_odds in zip(labels, self.odds, strict=True):
            if label >= 0:
                true = 0.9 / (1 + np.exp(-log_odds))
                score = np.log(true + 1e-5) - np.log(0.9 - true + 1e-5)
                scores.append(score if label else -score)
        return self.alpha * float(np.mean(scores)) - len(self.pairs(labels))

    def best_way_out(self, i: int, j: int, labels: list[int]) -> tuple[float, list[int]]:
        one = self.broken(i, j, labels) == "one"
        tried = []
        for y_i, y_j in ((0, 1), (1, 0)) if one else ((0, 0), (1, 1)):
            option = list(labels)
            option[i], option[j] = y_i, y_j
            tried.append((self.energy(option), option))
        return max(tried, key=lambda each: each[0])

    def fix(self, labels: list[int], rng: np.random.Generator) -> list[int]:
        best = -np.inf
        for _ in range(10):
            pairs = self.pairs(labels)
            for place in rng.permutation(len(pairs)) if pairs else ():
                i, j = pairs[place]
                value, option = self.best_way_out(i, j, labels)
                if value >= best:
                    best, labels = value, option
                    break
            else:
                break
        return labels


async def test_of_400_other_random_fixes_all_agree_with_the_description() -> None:
    for seed in range(400):
        rng = np.random.default_rng(seed)
        size = 4 if seed % 2 else 2
        n = size * int(rng.integers(1, 5))
        answers = rng.integers(3, size=n).tolist() if size == 4 else None
        odds = np.round(rng.normal(size=n) * rng.choice([1, 4, 12]), 2).tolist()
        labels = rng.choice([-1, 0, 1, 1], size=n)
        labels[0] = 1
        alpha = float(rng.choice([0.3, 3, 30]))
        rule = rule_of(n, answers)
        chance, same_chance = (np.random.default_rng(seed) for _ in range(2))
        found = await fix(labels, Problem(n, 2, rule), energy(rule, odds, alpha), M=10, rng=chance)
        described = Described(odds, answers, alpha).fix(labels.tolist(), same_chance)
        assert found.labels.tolist() == described, seed
