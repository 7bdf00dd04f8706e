"""Algorithm 1 by hand, over 4 items of which 0 and 1 are the two orders of one comparison."""
# ruff: noqa: N803 - the symbols are the paper's

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from concept_score import ConceptScore, agreement, planted_classes

from icm_client.coherence.anneal import (
    AnnealResult,
    AnnealSettings,
    accepts,
    anneal,
    item_weights,
    temperature,
)
from icm_client.coherence.calibration import log_softmax
from icm_client.coherence.consistency_fix import Change
from icm_client.coherence.constraints import Asymmetry, SameAnswer, inconsistent_pairs
from icm_client.coherence.leave_one_out import Layout
from icm_client.coherence.problem import (
    UNLABELLED,
    Constraint,
    Demo,
    FloatArray,
    IntArray,
    NoConstraint,
    Problem,
    Query,
)
from icm_client.coherence.result import Step, Watch
from icm_client.errors import InputError

ORDERS = Asymmetry(((0, 1),), true=1, false=0)
LOG_PROBS = np.array([[-2.0, -0.5], [-0.6, -1.0], [-0.25, -1.5], [-1.0, -0.75]])
FREE = NoConstraint()


class Table:
    """`log P(y | x_i, C) = LOG_PROBS[i, y] - 0.1 * (demos of C with another label)`."""

    def __init__(self, log_probs: FloatArray = LOG_PROBS) -> None:
        self.log_probs = log_probs
        self.calls: list[list[Query]] = []

    async def __call__(self, queries: Sequence[Query]) -> FloatArray:
        self.calls.append(list(queries))
        return np.array(
            [
                [
                    self.log_probs[q.target, y] - 0.1 * sum(demo.label != y for demo in q.context)
                    for y in (0, 1)
                ]
                for q in queries
            ]
        )


def scripted(start: list[int], labels: list[int], items: list[int], draws: list[float]) -> Mock:
    """Chance that gives the order 0 1 2 3, then what is listed."""
    chance = Mock(spec=np.random.Generator)
    chance.permutation.side_effect = [np.arange(4), np.array(start)]
    chance.integers.side_effect = [np.array(labels), *[0] * 10]  # labels, then the only pair
    chance.choice.side_effect = items
    chance.random.side_effect = draws
    return chance


def check(
    step: Step, n: int, T: float, *, item: int, proposal: int, U: float, Delta: float
) -> None:
    assert (step.n, step.item, step.proposal) == (n, item, proposal)
    assert (step.T, step.U, step.Delta) == pytest.approx((T, U, Delta), abs=1e-6)


async def test_every_line_by_hand() -> None:
    chance = scripted([0, 1, 2, 3], [1, 1], items=[2, 1, 3], draws=[0.91, 0.999, 0.62])
    told: list[Any] = []
    result = await anneal(
        Problem(4, 2, constraint=ORDERS),
        Table(),
        rng=chance,
        settings=AnnealSettings(initial=2, alpha=2.0, iterations=3),
        watch=Watch(observe=told.append),
    )
    # Line 1: items 0 and 1, both labelled 1. P = -0.5 - 1.0, I = 2: U = 2 * -1.5 - 2 = -5.
    # Line 2: (0, 1): -2.0 - 0.1 and -1.0 - 0.1, U = -6.4.
    #         (1, 0): -0.5 - 0.1 and -0.6 - 0.1, P = -1.3, U = -2.6 > -5: D = (1, 0, ., .).
    first, second, third = result.steps
    # n = 1: T = 10. Item 2 after (1, 0): label 0 -0.25 - 0.1, label 1 -1.5 - 0.1: 0.
    #   Dhat = (1, 0, 0, .): -0.5 - 0.2, -0.6 - 0.1, -0.25 - 0.1: P = -1.75, U = -3.5.
    #   Delta = -3.5 + 2.6 = -0.9; exp(-0.09) = 0.9139 > 0.91: accepted.
    check(first, 1, 10.0, item=2, proposal=0, U=-3.5, Delta=-0.9)
    # n = 2: T = 10 / (1 + 0.99 * 0.693147) = 10 / 1.686216 = 5.930439.
    #   Item 1 after (1, ., 0, .): label 0 -0.6 - 0.1, label 1 -1.0 - 0.1: 0, as it is.
    #   Dhat = D, Delta = 0; exp(0) = 1 > 0.999: accepted.
    check(second, 2, 5.930439, item=1, proposal=0, U=-3.5, Delta=0.0)
    # n = 3: T = 10 / (1 + 0.99 * 1.098612) = 10 / 2.087626 = 4.790130.
    #   Item 3 after (1, 0, 0, .): label 0 -1.0 - 0.1, label 1 -0.75 - 0.2: 1.
    #   Dhat = (1, 0, 0, 1): -0.5 - 0.2, -0.6 - 0.2, -0.25 - 0.2, -0.75 - 0.2: P = -2.9, U = -5.8.
    #   Delta = -5.8 + 3.5 = -2.3; exp(-2.3 / 4.790130) = 0.6187 < 0.62: rejected.
    check(third, 3, 4.790130, item=3, proposal=1, U=-3.5, Delta=-2.3)
    assert [step.accepted for step in result.steps] == [True, True, False]
    assert [(step.alpha, step.fix) for step in result.steps] == [(2.0, ())] * 3
    assert result.labels.tolist() == [1, 0, 0, UNLABELLED]
    assert result.utility == pytest.approx(-3.5)
    assert told == list(result.steps)


async def test_a_proposal_that_contradicts_is_fixed_before_it_is_judged() -> None:
    log_probs = LOG_PROBS.copy()
    log_probs[1] = -0.6, -0.5
    chance = scripted([0, 1, 2, 3], [1], items=[1], draws=[0.8])
    result = await anneal(
        Problem(4, 2, constraint=ORDERS),
        Table(log_probs),
        rng=chance,
        settings=AnnealSettings(initial=1, alpha=2.0, iterations=1),
    )
    # D = (1, ., ., .): U = 2 * -0.5 = -1. Item 1 shares a relation with it: weight 100 of 103.
    np.testing.assert_allclose(chance.choice.call_args.kwargs["p"] * 103, [1, 100, 1, 1])
    # Item 1 after (1): label 0 -0.6 - 0.1, label 1 -0.5: 1. Dhat = (1, 1): 2 * -1 - 2 = -4.
    # Fix: (0, 1): -2.0 - 0.1 and -0.5 - 0.1, U = -5.4; (1, 0): -0.6 and -0.7, U = -2.6 > -4.
    # Delta = -2.6 + 1 = -1.6; exp(-0.16) = 0.852 > 0.8: accepted.
    (step,) = result.steps
    check(step, 1, 10.0, item=1, proposal=1, U=-2.6, Delta=-1.6)
    assert step.fix == (Change(1, before=1, after=0),)
    assert result.labels.tolist() == [1, 0, UNLABELLED, UNLABELLED]


async def test_a_proposal_is_made_without_the_items_own_label() -> None:
    score = Table()
    chance = scripted([0, 1, 2, 3], [1, 0], items=[0], draws=[0.0])
    settings = AnnealSettings(initial=2, alpha=2.0, iterations=1)
    await anneal(Problem(4, 2, constraint=FREE), score, rng=chance, settings=settings)
    assert score.calls[0] == [Query((Demo(1, 0),), 0)]


def test_temperatures_by_hand() -> None:
    # n = 1: log 1 = 0: 10 / 1.  n = 10: 10 / (1 + 0.99 * 2.302585) = 10 / 3.279559.
    # n = 3000: 10 / (1 + 0.99 * 8.006368) = 10 / 8.926304: T_min is far away.
    falling = [temperature(n, 10, 0.01, 0.99) for n in (1, 10, 3000)]
    assert falling == pytest.approx([10, 3.049191, 1.120284], abs=1e-6)
    assert temperature(3000, 10, 2.0, 0.99) == 2.0


def test_what_raises_utility_is_always_accepted() -> None:
    chance = Mock(spec=np.random.Generator)
    for gain in (1e-12, 1.0, 1e308):
        assert accepts(gain, 0.01, chance)
    chance.random.assert_not_called()


@pytest.mark.parametrize(
    ("delta", "T", "draw", "accepted"),
    [
        (0.0, 1.0, math.nextafter(1.0, 0.0), True),  # exp(0) = 1: always
        (-1.0, 2.0, 0.606, True),  # exp(-0.5) = 0.60653
        (-1.0, 2.0, 0.607, False),
        (-1e308, 0.01, 0.0, False),  # exp of minus infinity is 0
        (-1e6, 0.01, 0.0, False),
    ],
)
def test_what_lowers_utility_is_accepted_by_chance(
    delta: float,
    T: float,
    draw: float,
    accepted: bool,
) -> None:
    chance = Mock(spec=np.random.Generator)
    chance.random.return_value = draw
    assert accepts(delta, T, chance) is accepted


def test_a_hot_search_accepts_as_often_as_it_should() -> None:
    rng = np.random.default_rng(0)
    taken = sum(accepts(-1.0, 2.0, rng) for _ in range(4000))
    assert taken / 4000 == pytest.approx(math.exp(-0.5), abs=0.03)


def test_unlabelled_items_related_to_labelled_ones_weigh_a_hundredfold() -> None:
    group_of = np.array([0, 0, 1, 1, -1, -1, 0])
    labels = np.array([1, UNLABELLED, UNLABELLED, UNLABELLED, 0, UNLABELLED, UNLABELLED])
    # Item 0 is labelled; 1 and 6 share its group; group 1 holds no label; 4 and 5 have none.
    assert item_weights(labels, group_of).tolist() == [1, 100, 1, 1, 1, 1, 100]


SHORT = AnnealSettings(iterations=60)


async def found(
    score: ConceptScore,
    *,
    n: int = 16,
    seed: int = 0,
    settings: AnnealSettings = SHORT,
    constraint: Constraint = FREE,
    start: IntArray | None = None,
) -> AnnealResult:
    rng = np.random.default_rng(seed)
    return await anneal(
        Problem(n, 2, constraint=constraint, start=start), score, rng=rng, settings=settings
    )


async def test_the_result_is_a_function_of_the_seed() -> None:
    asked, ends = [], []
    for seed in (1, 1, 2):
        score = ConceptScore(planted_classes(16, 2), 2)
        ends.append((await found(score, seed=seed)).steps)
        asked.append(score.calls)
    assert ends[0] == ends[1] != ends[2]
    assert asked[0] == asked[1] != asked[2]


@pytest.mark.parametrize("layout", ["tree", "fixed", "folds"])
async def test_a_target_never_stands_in_its_own_context_in_a_whole_search(layout: Layout) -> None:
    for room in (None, 6):
        score = ConceptScore(planted_classes(16, 2), 2)
        settings = replace(SHORT, layout=layout, max_demos=room)
        await found(score, settings=settings, constraint=SameAnswer(((0, 1), (2, 3))))
        for context, target in (query for call in score.calls for query in call):
            assert target not in [demo.item for demo in context]
            assert room is None or len(context) <= room


async def test_a_concept_whose_names_mean_something_is_found() -> None:
    classes = planted_classes(16, 2)
    settings = AnnealSettings(iterations=150)
    for seed in range(3):
        result = await found(ConceptScore(classes, 2, meaning=1.0), seed=seed, settings=settings)
        assert agreement(result.labels, classes, 2) == 1


async def test_both_orders_of_a_comparison_end_opposite() -> None:
    classes = np.arange(16) % 2
    rule = Asymmetry(tuple((i, i + 1) for i in range(0, 16, 2)), true=1, false=0)
    settings = AnnealSettings(iterations=150)
    for seed in range(3):
        score = ConceptScore(classes, 2, meaning=1.0)
        result = await found(score, seed=seed, settings=settings, constraint=rule)
        assert inconsistent_pairs(result.labels, rule) == []


class Copycat:
    """The next label is most of all what most demos have; the item itself says little."""

    async def __call__(self, queries: Sequence[Query]) -> FloatArray:
        rows = []
        for context, target in queries:
            zeros = sum(demo.label == 0 for demo in context)
            lean = (2 * zeros - len(context)) / max(len(context), 1)
            rows.append([3 * lean + 0.5 * (-1) ** target, 0.0])
        return log_softmax(np.array(rows))


async def test_without_rules_a_copying_model_ends_in_one_label_for_all() -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        settings = AnnealSettings(iterations=200)
        result = await anneal(
            Problem(12, 2, constraint=FREE), Copycat(), rng=rng, settings=settings
        )
        assert len(set(result.labels.tolist())) == 1
        # Each item of label 0: log-odds 3 +- 0.5, so P is at most 12 * -0.03; the truth
        # (six of each label) has log-odds near 0.5 an item and P = 12 * -0.5.
        assert result.utility > 50 * 12 * -0.07


class Stubborn:
    """Label 1 looks a little better for each item, but as a demo it ruins all others."""

    async def __call__(self, queries: Sequence[Query]) -> FloatArray:
        ruin = [5.0 * sum(demo.label for demo in context) for context, _ in queries]
        return np.array([[-0.2 - cost, -0.1 - cost] for cost in ruin])


async def stalled(alpha: float | None) -> AnnealResult:
    # Delta = alpha * (0.1 - 3 * 5) = -14.9 alpha: no move is ever accepted.
    settings = AnnealSettings(alpha=alpha, iterations=170)
    rng = np.random.default_rng(0)
    zeros = np.zeros(4, dtype=np.int64)
    return await anneal(
        Problem(4, 2, constraint=FREE, start=zeros), Stubborn(), rng=rng, settings=settings
    )


async def test_alpha_falls_where_the_search_stalls() -> None:
    result = await stalled(None)
    assert [step.alpha for step in result.steps] == [50] * 50 + [30] * 50 + [20] * 70
    assert [result.steps[n].Delta for n in (0, 60, 120)] == pytest.approx([-745, -447, -298])
    assert result.utility == result.steps[-1].U == pytest.approx(20 * 4 * -0.2)


async def test_items_that_keep_their_label_do_not_hide_a_stall() -> None:
    class HalfStubborn(Stubborn):
        async def __call__(self, queries: Sequence[Query]) -> FloatArray:
            scores = await super().__call__(queries)
            scores[[query.target < 2 for query in queries], 1] -= 1.0  # content with label 0
            return scores

    settings = AnnealSettings(iterations=250)
    zeros = np.zeros(4, dtype=np.int64)
    result = await anneal(
        Problem(4, 2, constraint=FREE, start=zeros),
        HalfStubborn(),
        rng=np.random.default_rng(0),
        settings=settings,
    )
    moves = [step for step in result.steps if step.proposal == 1]
    assert 100 < len(moves) < 150
    assert [step.alpha for step in moves] == [50] * 50 + [30] * 50 + [20] * (len(moves) - 100)


@pytest.mark.parametrize(("accepted", "then"), [(2, 30), (3, 50)])
def test_a_stall_is_fewer_than_one_accepted_in_twenty(accepted: int, then: float) -> None:
    policy = AnnealSettings().policy(Problem(1, 2), np.random.default_rng(0))
    for n in range(50):
        assert policy.alpha == 50
        policy.tried(n < accepted)
    assert policy.alpha == then  # 2 of 50 is 4%, 3 of 50 is 6%


async def test_an_alpha_that_was_given_stays() -> None:
    assert {step.alpha for step in (await stalled(40.0)).steps} == {40.0}


async def test_a_search_that_has_settled_does_not_stall() -> None:
    # Every proposal is the label the item has: nothing is tried, nothing rejected.
    classes = planted_classes(16, 2)
    settings = AnnealSettings(iterations=200)
    result = await found(ConceptScore(classes, 2, meaning=3.0), settings=settings, start=classes)
    assert {(step.alpha, step.accepted, step.Delta) for step in result.steps} == {(50, True, 0)}


async def test_a_start_is_taken_and_left_as_it_is() -> None:
    start = planted_classes(16, 2)
    kept = start.copy()
    settings = replace(SHORT, iterations=0)
    result = await found(ConceptScore(start, 2), settings=settings, start=start)
    np.testing.assert_array_equal(result.labels, kept)
    assert result.steps == ()
    await found(ConceptScore(1 - start, 2, meaning=3.0), start=start)
    np.testing.assert_array_equal(start, kept)


async def test_all_items_may_be_labelled_at_the_start() -> None:
    for initial in (16, 99):
        score = ConceptScore(planted_classes(16, 2), 2, meaning=1.0)
        result = await found(score, settings=replace(SHORT, initial=initial))
        assert (result.labels != UNLABELLED).all()


async def test_labels_that_cost_more_than_they_explain_are_not_taken() -> None:
    # P is a sum of log-probs, so a first label has Delta = alpha * log P(y | x_i) < 0: with
    # log 0.5 and alpha = 50, Delta = -34.7 and exp(Delta / T) = 0.031 at T = 10, 0.001 at T = 5.
    class Undecided:
        async def __call__(self, queries: Sequence[Query]) -> FloatArray:
            return np.full((len(queries), 2), math.log(0.5))

    settings = AnnealSettings(initial=0, iterations=40, alpha=50.0)
    rng = np.random.default_rng(0)
    result = await anneal(Problem(16, 2, constraint=FREE), Undecided(), rng=rng, settings=settings)
    assert (result.labels == UNLABELLED).sum() > 10
    assert result.steps[0].Delta == pytest.approx(-34.657359)


async def test_a_labelling_is_evaluated_once_a_search() -> None:
    score = ConceptScore(planted_classes(8, 2), 2)
    await found(score, n=8, settings=AnnealSettings(iterations=100, initial=4))
    passes = [
        tuple(sorted((query.target, query.context) for query in call))
        for call in score.calls
        if len(call) > 1
    ]
    assert len(set(passes)) > 1
    # Labels of a pass: all demos of two of its contexts.
    labellings = [frozenset(one[0][1]) | frozenset(one[1][1]) for one in passes]
    assert len(set(labellings)) == len(labellings)


def test_numbers_that_no_search_can_work_with_are_refused() -> None:
    for name, value in (("T0", 0), ("T_min", -1), ("alpha", 0), ("max_demos", 0)):
        with pytest.raises(InputError, match=f"{name} must be over 0"):
            AnnealSettings(**{name: value})  # type: ignore[arg-type]
    for name in ("initial", "beta", "iterations", "fixes"):
        with pytest.raises(InputError, match=f"{name} must be at least 0, not -1"):
            AnnealSettings(**{name: -1})  # type: ignore[arg-type]


async def test_a_constraint_on_items_that_are_not_there_is_refused_before_anything_is_asked() -> (
    None
):
    score = ConceptScore(planted_classes(16, 2), 2)
    with pytest.raises(InputError, match="item 16"):
        await found(score, constraint=SameAnswer(((0, 16),)))
    assert score.calls == []
