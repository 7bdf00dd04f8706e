"""Algorithm 1's end, settled; and the entry to both of its forms."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from concept_score import ConceptScore, agreement, planted_classes
from hypothesis import given
from hypothesis import strategies as st

from icm_client.coherence.anneal import AnnealSettings
from icm_client.coherence.anneal_official import OfficialSettings
from icm_client.coherence.batches import Within, split_batches
from icm_client.coherence.calibration import log_softmax, pointwise_mutual_information
from icm_client.coherence.constraints import Asymmetry, AtMostOne, ExactlyOne, SameAnswer
from icm_client.coherence.decode import anneal_search, open_items
from icm_client.coherence.problem import (
    NO_CONSTRAINT,
    UNLABELLED,
    Constraint,
    FloatArray,
    IntArray,
    Problem,
    Query,
    Score,
)
from icm_client.coherence.result import SearchResult, Watch
from icm_client.errors import InputError

SHORT = AnnealSettings(iterations=60)
OFFICIAL = OfficialSettings(iterations=60)
BOTH = [SHORT, OFFICIAL]


async def found(
    n: int,
    score: Score,
    *,
    n_labels: int = 2,
    seed: int = 0,
    settings: AnnealSettings | OfficialSettings = SHORT,
    constraint: Constraint = NO_CONSTRAINT,
    start: IntArray | None = None,
    prior: FloatArray | None = None,
) -> SearchResult:
    return await anneal_search(
        Problem(n, n_labels, constraint=constraint, prior=prior, start=start),
        score,
        rng=np.random.default_rng(seed),
        settings=settings,
    )


class Table:
    """Log-probs that do not depend on the context."""

    def __init__(self, log_probs: FloatArray) -> None:
        self.log_probs = log_probs
        self.calls: list[list[Query]] = []

    async def __call__(self, queries: Sequence[Query]) -> FloatArray:
        self.calls.append(list(queries))
        return self.log_probs[[query.target for query in queries]]


def test_what_is_open_by_hand() -> None:
    rule = AtMostOne(((0, 1), (2, 3), (4, 5, 6)), true=1)
    # (0, 1) contradicts itself, (2, 3) stands, (4, 5, 6) lacks a label, 7 is alone, 8 lacks one.
    labels = np.array([1, 1, 1, 0, 0, UNLABELLED, 0, 1, UNLABELLED])
    wanted = [True, True, False, False, True, True, True, False, True]
    assert open_items(labels, rule).tolist() == wanted
    # What no pair shows is open too: none of three is true.
    assert open_items(np.zeros(3, dtype=np.int64), ExactlyOne(((0, 1, 2),), 1)).all()


async def test_what_the_search_leaves_is_decided_by_hand() -> None:
    probabilities = np.array([[0.3, 0.7], [0.4, 0.6], [0.2, 0.8], [0.9, 0.1], [0.6, 0.4]])
    log_probs = np.log(probabilities)
    start = np.array([1, 1, 0, UNLABELLED, UNLABELLED])
    rule = Asymmetry(((0, 1), (2, 3)), true=1, false=0)
    score = Table(log_probs)
    settings = AnnealSettings(iterations=0, fixes=0, alpha=50.0)
    result = await found(5, score, settings=settings, constraint=rule, start=start)
    # (0, 1) contradicts itself: 0.7 * 0.4 = 0.28 against 0.3 * 0.6 = 0.18: (1, 0).
    # (2, 3) is not whole: 0.8 * 0.9 against 0.2 * 0.1: (1, 0), item 2's own label notwithstanding.
    # Item 4 has no label: 0 by 0.6.
    assert result.labels.tolist() == [1, 0, 1, 0, 0]
    assert result.settled == 4  # all but item 0
    assert result.contradictions == 1
    np.testing.assert_allclose(result.log_probs, log_probs)
    # P = log 0.7 + log 0.6 + log 0.2 = -2.476938, I = 2: U = 50 * -2.476938 - 2.
    assert result.objective == pytest.approx(-125.846923, abs=1e-5)
    # PMI: mean probabilities 0.48 and 0.52. U = mean of log(0.7 / 0.52), log(0.4 / 0.48),
    # log(0.8 / 0.52), log(0.9 / 0.48), log(0.6 / 0.48) = 0.297252, -0.182322, 0.430783, 0.628609,
    # 0.223144.
    assert result.utility == pytest.approx(0.279493, abs=1e-6)
    # Labels 1 0 1 0 0: entropy 0.673012.
    assert result.coherence == pytest.approx(0.279493 / 0.673012, abs=1e-5)
    assert (result.steps, result.history, result.restart) == ((), (), 0)


async def test_one_pass_over_all_items_has_the_searchs_own_contexts() -> None:
    score = ConceptScore(planted_classes(20, 2), 2, meaning=1.0)
    settings = replace(SHORT, iterations=25, max_demos=6)
    result = await found(20, score, settings=settings)
    assert 0 < result.settled < 20
    (whole,) = (call for call in score.calls if len(call) == 20)
    assert max(len(query.context) for call in score.calls for query in call) == 6
    assert sorted(query.target for query in whole) == list(range(20))
    held = {demo.item: demo.label for query in whole for demo in query.context}
    assert all(len(query.context) == 6 for query in whole)
    assert all(result.labels[item] == label for item, label in held.items())
    # The answers are those that labels and U are made of.
    log_probs = np.empty((20, 2))
    log_probs[[query.target for query in whole]] = await score(whole)
    np.testing.assert_allclose(result.log_probs, log_softmax(log_probs))
    calibrated = pointwise_mutual_information(log_probs)
    assert result.utility == pytest.approx(calibrated[np.arange(20), result.labels].mean())


async def test_names_are_exchanged_behind_half_of_the_items_and_never_taken() -> None:
    classes = planted_classes(40, 2)
    score = ConceptScore(classes, 2, meaning=3.0)
    wrong = 1 - classes
    settings = AnnealSettings(iterations=0)
    result = await found(40, score, settings=settings, start=wrong)
    np.testing.assert_array_equal(result.labels, wrong)
    assert result.exchange.better
    assert not result.exchanged
    as_found, exchanged = score.calls[-2:]
    assert [query.target for query in as_found] == [query.target for query in exchanged]
    assert len(as_found) == 20
    (context,) = {query.context for query in as_found}
    assert {query.target for query in as_found}.isdisjoint(demo.item for demo in context)
    assert all(wrong[demo.item] == demo.label for demo in context)
    assert sum(demo.label for demo in context) == len(context) / 2  # balanced


class Copycat:
    """Raw `U` prefers one label: the next label is what most demos have, whatever the item."""

    async def __call__(self, queries: Sequence[Query]) -> FloatArray:
        rows = []
        for context, target in queries:
            zeros = sum(demo.label == 0 for demo in context)
            lean = (2 * zeros - len(context)) / max(len(context), 1)
            rows.append([4 * lean + 0.5 * (-1) ** target, 0.0])
        return log_softmax(np.array(rows))


@pytest.mark.parametrize("settings", [AnnealSettings(iterations=200), OfficialSettings()])
async def test_a_collapse_to_one_label_shows(settings: AnnealSettings | OfficialSettings) -> None:
    for seed in range(3):
        result = await found(16, Copycat(), seed=seed, settings=settings)
        assert len(set(result.labels.tolist())) == 1
        assert result.coherence == 0
        assert result.utility <= 1e-9
    # The truth, from which nothing moves, is less probable and coherent.
    truth = np.arange(16) % 2
    true = await found(16, Copycat(), settings=replace(settings, iterations=0), start=truth)
    assert true.coherence > 0.01
    assert result.objective is not None
    assert true.objective is not None
    assert true.objective < result.objective


@pytest.mark.parametrize("settings", BOTH)
async def test_a_known_share_decides_only_what_is_open(
    settings: AnnealSettings | OfficialSettings,
) -> None:
    rng = np.random.default_rng(2)
    log_probs = log_softmax(rng.normal([1.0, 0.0], 1.0, size=(40, 2)))
    start = np.full(40, UNLABELLED)
    start[:10] = 0
    chosen = replace(settings, iterations=0)
    prior = np.array([0.3, 0.7])
    result = await found(40, Table(log_probs), settings=chosen, start=start, prior=prior)
    assert (result.labels[:10] == 0).all()
    assert result.prior.source == "given"
    np.testing.assert_allclose(np.exp(result.log_probs).mean(axis=0), prior, atol=1e-3)
    assert (result.labels[10:] == result.log_probs[10:].argmax(axis=1)).all()
    without = await found(40, Table(log_probs), settings=chosen, start=start)
    assert without.prior.source == "even"
    assert (without.labels[10:] == log_probs[10:].argmax(axis=1)).all()
    assert without.labels.sum() < result.labels.sum()


@given(st.integers(1, 60), st.none() | st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_batches_are_a_partition_that_keeps_groups_whole(
    n: int, size: int | None, seed: int
) -> None:
    groups = tuple((i, i + 1, i + 2) for i in range(0, n - 2, 4))
    rule = SameAnswer(groups)
    batches = split_batches(Problem(n, 2, rule), size, np.random.default_rng(seed))
    assert sorted(item for batch in batches for item in batch.searched.tolist()) == list(range(n))
    assert all(len(batch.searched) <= (size or n) + 3 for batch in batches)
    assert sorted(g for batch in batches for g in batch.constraint.groups) == sorted(groups)
    for batch in batches:
        for group in batch.constraint.groups:
            assert set(group) <= set(batch.searched.tolist())
    if size is None or n <= size:
        assert len(batches) == 1


@pytest.mark.parametrize("settings", BOTH)
async def test_batches_never_see_each_other(settings: AnnealSettings | OfficialSettings) -> None:
    classes = planted_classes(48, 2)
    score = ConceptScore(classes, 2, meaning=1.0)
    chosen = replace(settings, batch=16)
    result = await found(48, score, settings=chosen)
    assert [step.n for step in result.steps] == [*range(1, 61)] * 3
    assert [step.batch for step in result.steps] == [0] * 60 + [1] * 60 + [2] * 60
    batch_of = {step.item: step.batch for step in result.steps}
    assert len(batch_of) > 40
    for call in score.calls[:-2]:  # all but the exchange of names
        for context, target in call:
            together = {batch_of.get(item) for item in (target, *(demo.item for demo in context))}
            assert len(together - {None}) <= 1
    for batch in range(3):  # which name is whose can differ between batches
        own = [item for item, number in batch_of.items() if number == batch]
        assert agreement(result.labels[own], classes[own], 2) > 0.9


async def test_a_batch_asks_as_if_it_were_alone() -> None:
    # A search over the 16 items alone, of equal chance, asks the same.
    score = ConceptScore(planted_classes(16, 2), 2)
    alone = await found(16, score)
    again = ConceptScore(planted_classes(16, 2), 2)
    batched = await found(16, again, settings=replace(SHORT, batch=16))
    assert batched.steps == alone.steps
    assert again.calls == score.calls


async def test_a_start_is_divided_among_batches() -> None:
    start = planted_classes(32, 2)
    score = ConceptScore(start, 2, meaning=2.0)
    settings = replace(SHORT, iterations=0, batch=8)
    result = await found(32, score, settings=settings, start=start)
    np.testing.assert_array_equal(result.labels, start)
    assert result.settled == 0
    assert {len(q.context) for call in score.calls[:-2] for q in call} == {7}


@pytest.mark.parametrize("settings", BOTH)
async def test_the_observer_is_told_each_step(settings: AnnealSettings | OfficialSettings) -> None:
    told: list[Any] = []
    result = await anneal_search(
        Problem(12, 2, constraint=NO_CONSTRAINT),
        ConceptScore(planted_classes(12, 2), 2),
        rng=np.random.default_rng(0),
        settings=replace(settings, batch=6),
        watch=Watch(observe=told.append),
    )
    assert tuple(told) == result.steps
    assert len(told) == 120


@pytest.mark.parametrize("settings", BOTH)
@pytest.mark.parametrize("n", [1, 2, 3])
async def test_few_items(settings: AnnealSettings | OfficialSettings, n: int) -> None:
    for rule in (NO_CONSTRAINT, SameAnswer((tuple(range(n)),))):
        score = ConceptScore(planted_classes(n, 2), 2)
        result = await found(n, score, settings=settings, constraint=rule)
        assert result.labels.shape == (n,)
        assert set(result.labels.tolist()) <= {0, 1}


async def test_what_cannot_be_searched_is_refused_before_anything_is_asked() -> None:
    class Never(Constraint):
        groups = ((4, 7),)

        def consistent(self, _i: int, _y_i: int, _j: int, _y_j: int, /) -> bool:
            return False

    score = Table(np.zeros((8, 2)))
    with pytest.raises(InputError, match="items 4, 7"):
        await found(8, score, constraint=Never())
    with pytest.raises(InputError, match="item 9, but there are 8 items"):
        await found(8, score, constraint=SameAnswer(((1, 9),)))
    with pytest.raises(InputError, match=r"shape \(3,\)"):
        await found(8, score, start=np.zeros(3, dtype=np.int64))
    assert score.calls == []


def test_a_rule_within_a_batch_says_what_the_whole_rule_says() -> None:
    rule = ExactlyOne(((0, 1), (2, 3, 4)), true=1)
    own = Within(rule, ((2, 3, 4),))
    assert own.consistent(2, 0, 3, 0)
    assert not own.consistent(2, 1, 3, 1)
    assert not own.allows((2, 3, 4), (0, 0, 0))
