"""Searches that are told to end before their time, and items that cannot be scored."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np
import pytest
from concept_score import ConceptScore, planted_classes

from icm_client.coherence.anneal import AnnealSettings
from icm_client.coherence.anneal_official import OfficialSettings
from icm_client.coherence.batches import Within, split_batches, within
from icm_client.coherence.calibration import pointwise_mutual_information
from icm_client.coherence.constraints import Asymmetry, ExactlyOne
from icm_client.coherence.contexts import ScoredFold
from icm_client.coherence.decode import anneal_search
from icm_client.coherence.fast import search
from icm_client.coherence.label_names import exchange_names
from icm_client.coherence.problem import (
    NO_CONSTRAINT,
    UNLABELLED,
    Constraint,
    Demo,
    FloatArray,
    Problem,
    Query,
    Score,
)
from icm_client.coherence.result import SearchResult, Step, SweepRecord, Watch, never
from icm_client.coherence.settings import SweepSettings
from icm_client.errors import ScoreNotFinite

N = 40
FAST = SweepSettings(coherent=np.inf, min_sweeps=6, max_sweeps=6)
PAPER = AnnealSettings(iterations=40)
OFFICIAL = OfficialSettings(iterations=40)
STEPS = [PAPER, OFFICIAL]

AnySettings = SweepSettings | AnnealSettings | OfficialSettings


async def found(
    settings: AnySettings,
    score: Score | None = None,
    *,
    stop: Callable[[], bool] = never,
    left_out: Collection[int] = (),
    constraint: Constraint = NO_CONSTRAINT,
    observe: Callable[[SweepRecord | Step], None] = lambda _: None,
) -> SearchResult:
    score = score or ConceptScore(planted_classes(N, 2), 2, meaning=1.0)
    chance = np.random.default_rng(0)
    if isinstance(settings, SweepSettings):
        return await search(
            Problem(N, 2, constraint=constraint, items=np.setdiff1d(np.arange(N), list(left_out))),
            score,
            rng=chance,
            settings=settings,
            watch=Watch(observe=observe, stop=stop),
        )
    return await anneal_search(
        Problem(N, 2, constraint=constraint, items=np.setdiff1d(np.arange(N), list(left_out))),
        score,
        rng=chance,
        settings=settings,
        watch=Watch(observe=observe, stop=stop),
    )


class Holey(ConceptScore):
    """Has no scores for some targets."""

    def __init__(self, missing: Collection[int]) -> None:
        super().__init__(planted_classes(N, 2), 2, meaning=1.0)
        self.missing = missing

    async def __call__(self, queries: Sequence[Query]) -> FloatArray:
        scores = await super().__call__(queries)
        scores[[query.target in self.missing for query in queries]] = np.nan
        return scores


async def test_a_stopped_sweep_is_the_beginning_of_the_whole_search() -> None:
    whole = await found(FAST)
    seen: list[SweepRecord | Step] = []
    part = await found(FAST, observe=seen.append, stop=lambda: len(seen) >= 3)
    assert part.stopped
    assert not whole.stopped
    assert part.history == whole.history[:3]
    assert (part.labels != UNLABELLED).all()
    assert part.exchange.names == (1, 0), "names are exchanged all the same"


async def test_the_first_sweep_is_never_the_last() -> None:
    part = await found(FAST, stop=lambda: True)
    assert len(part.history) == 2
    assert (part.labels != UNLABELLED).all()


async def test_a_search_that_ends_by_itself_has_not_been_stopped() -> None:
    settings = replace(FAST, restarts=1)
    seen: list[SweepRecord | Step] = []
    part = await found(settings, observe=seen.append, stop=lambda: len(seen) >= 6)
    assert len(part.history) == 6
    assert not part.stopped


async def test_a_stopped_search_makes_no_further_start() -> None:
    seen: list[SweepRecord | Step] = []
    part = await found(FAST, observe=seen.append, stop=lambda: len(seen) >= 6)
    assert len(part.history) == 6
    assert part.stopped


@pytest.mark.parametrize("settings", STEPS)
async def test_stopped_steps_are_the_beginning_of_the_whole_search(settings: AnySettings) -> None:
    whole = await found(settings)
    seen: list[SweepRecord | Step] = []
    part = await found(settings, observe=seen.append, stop=lambda: len(seen) >= 15)
    assert part.stopped
    assert not whole.stopped
    assert part.steps == whole.steps[:15]
    assert (part.labels != UNLABELLED).all()


@pytest.mark.parametrize("settings", [replace(PAPER, batch=10), replace(OFFICIAL, batch=10)])
async def test_batches_that_were_not_reached_get_labels_too(settings: AnySettings) -> None:
    seen: list[SweepRecord | Step] = []
    part = await found(settings, observe=seen.append, stop=lambda: len(seen) >= 15)
    assert part.stopped
    assert len(part.steps) == 15
    assert (part.labels != UNLABELLED).all()


async def test_sweeps_go_on_without_items_that_have_no_score() -> None:
    score = Holey({3, 17, 30})
    result = await found(FAST, score)
    assert np.flatnonzero(result.labels == UNLABELLED).tolist() == [3, 17, 30]
    assert np.isnan(result.log_probs[[3, 17, 30]]).all()
    assert not np.isnan(np.delete(result.log_probs, [3, 17, 30], axis=0)).any()
    later = [query for call in score.calls[1:] for query in call]
    assert not {demo.item for query in later for demo in query.context} & {3, 17, 30}


@pytest.mark.parametrize("settings", [FAST, *STEPS])
async def test_items_left_out_are_neither_labelled_nor_shown(settings: AnySettings) -> None:
    gone = set(range(0, N, 4))
    score = Holey(gone)
    result = await found(settings, score, left_out=gone)
    assert set(np.flatnonzero(result.labels == UNLABELLED).tolist()) == gone
    asked = [query for call in score.calls for query in call]
    assert not {demo.item for query in asked for demo in query.context} & gone
    if settings is not FAST:
        assert not {query.target for query in asked} & gone


@pytest.mark.parametrize("settings", [FAST, *STEPS])
async def test_a_rule_holds_among_those_that_are_left(settings: AnySettings) -> None:
    pairs = tuple((item, item + 1) for item in range(0, N, 2))
    result = await found(
        settings, Holey({0, 7}), left_out={0, 7}, constraint=Asymmetry(pairs, true=1, false=0)
    )
    assert np.flatnonzero(result.labels == UNLABELLED).tolist() == [0, 7]
    for one, other in pairs:
        if not {one, other} & {0, 7}:
            assert result.labels[one] != result.labels[other]


def test_a_rule_among_others_keeps_its_kind() -> None:
    rule = ExactlyOne(groups=((0, 1, 2), (3, 4)), true=1)
    left = within(Within(rule, rule.groups), np.array([0, 2, 5]))
    assert left == Within(rule, ((0, 2),))
    assert within(rule, np.arange(5)) is rule


def test_items_that_are_not_searched_are_in_no_batch() -> None:
    problem = Problem(6, 2, items=np.array([2, 4]))
    for size in (None, 1):
        batches = split_batches(problem, size, np.random.default_rng(0))
        assert sorted(i for batch in batches for i in batch.searched.tolist()) == [2, 4]


def test_items_without_a_score_change_nothing_for_the_others() -> None:
    scores = np.log(np.array([[0.2, 0.7], [0.5, 0.4], [0.1, 0.8]]))
    with_hole = np.insert(scores, 1, np.nan, axis=0)
    calibrated = pointwise_mutual_information(with_hole)
    assert np.isnan(calibrated[1]).all()
    np.testing.assert_array_equal(
        np.delete(calibrated, 1, axis=0), pointwise_mutual_information(scores)
    )
    assert np.isnan(pointwise_mutual_information(np.full((2, 2), np.nan))).all()


async def test_names_are_compared_over_those_that_have_both_scores() -> None:
    score = Holey({2})
    context = (Demo(0, 0), Demo(1, 1))
    targets = np.array([2, 3, 4, 5])
    labels = np.zeros(N, dtype=np.int64)
    labels[5] = UNLABELLED
    calibrated = np.log(np.full((4, 2), 0.5))
    exchange = await exchange_names(
        [ScoredFold(context, targets, calibrated, np.ones(4))], labels, score
    )
    assert np.isfinite([exchange.utility, exchange.exchanged_utility]).all()
    assert {query.target for query in score.calls[0]} == {2, 3, 4}
    none = await exchange_names(
        [ScoredFold(context, targets[:1], calibrated[:1], np.ones(1))], labels, Holey({2})
    )
    assert none.ambiguous
    assert not none.better


@pytest.mark.parametrize("settings", STEPS)
async def test_algorithm_1_refuses_an_item_without_a_score(settings: AnySettings) -> None:
    with pytest.raises(ScoreNotFinite, match=r"item \d+ has no score"):
        await found(settings, Holey(range(N)))
