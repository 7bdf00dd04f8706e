"""Sweeps under all names, over planted concepts: what the words say of an item cancels."""

import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from concept_score import ConceptScore, agreement, planted_classes

from icm_client.coherence.calibration import log_softmax
from icm_client.coherence.fast import MOST_ROTATIONS, ROTATED_AVERAGED, ROTATED_MOVING, search
from icm_client.coherence.problem import UNLABELLED, FloatArray, Problem, Query
from icm_client.coherence.result import SearchResult, Watch
from icm_client.coherence.settings import SweepSettings

DEFAULT = SweepSettings()
ONE_NAME = replace(DEFAULT, all_names=0)
N = 96
CLASSES = planted_classes(N, 2)


class ContextNoise:
    """Scores of an item's own, and of its own behind each context; no demo teaches anything."""

    def __init__(self, of_items: float, of_contexts: float) -> None:
        self.of_items, self.of_contexts = of_items, of_contexts

    async def __call__(self, queries: Sequence[Query]) -> FloatArray:
        scores = []
        for context, item in queries:
            behind = zlib.crc32(repr(context).encode())
            own, this = (
                np.random.default_rng(seed).normal(size=2) for seed in ([0, item], [behind, item])
            )
            scores.append(self.of_items * own + self.of_contexts * this)
        return log_softmax(np.array(scores))


async def found(
    score: ConceptScore, settings: SweepSettings = DEFAULT, stop_after: int | None = None
) -> SearchResult:
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == stop_after

    return await search(
        Problem(len(score.prompts), 2),
        score,
        rng=np.random.default_rng(0),
        settings=settings,
        watch=Watch(stop=stop),
    )


async def test_what_words_that_say_nothing_say_of_an_item_cancels() -> None:
    # Up to 5 nats of an item's own, against 4 that demos teach.
    plain = await found(ConceptScore(CLASSES, 2, noise=2.5), ONE_NAME)
    both = await found(ConceptScore(CLASSES, 2, noise=2.5))
    assert both.exchange.ambiguous
    # One to label by, one to judge.
    assert len(both.history) == len(plain.history) + 2
    assert agreement(plain.labels, CLASSES, 2) < 0.97
    assert agreement(both.labels, CLASSES, 2) == 1
    assert both.sweep_scores is not None
    assert both.sweep_scores.shape == (ROTATED_AVERAGED, N, 2)


async def test_words_that_name_the_classes_are_read_once() -> None:
    score, again = (ConceptScore(CLASSES, 2, meaning=2.0) for _ in range(2))
    both, plain = await found(score), await found(again, ONE_NAME)
    assert not both.exchange.ambiguous
    assert score.calls == again.calls
    np.testing.assert_array_equal(both.labels, plain.labels)


async def test_labels_that_no_demos_teach_are_told_from_others() -> None:
    # Each context has noise of its own, and each item of its own: both are taken for a concept.
    nothing = ContextNoise(1, 0.3)
    plain = await search(Problem(N, 2), nothing, rng=np.random.default_rng(0), settings=ONE_NAME)
    every = await search(Problem(N, 2), nothing, rng=np.random.default_rng(0), settings=DEFAULT)
    assert plain.coherence > 0.4
    assert len(every.history) > len(plain.history)
    assert every.coherence < 0.05
    assert every.exchange.response < 0.75


@pytest.mark.parametrize(("n_labels", "noise"), [(3, 1.5), (4, 1.0), (5, 1.0)])
async def test_of_more_labels_it_cancels_too(n_labels: int, noise: float) -> None:
    n_items = 32 * n_labels
    classes = planted_classes(n_items, n_labels)
    results = [
        await search(
            Problem(n_items, n_labels),
            ConceptScore(classes, n_labels, noise=noise),
            rng=np.random.default_rng(0),
            settings=settings,
        )
        for settings in (ONE_NAME, DEFAULT)
    ]
    plain, every = (agreement(result.labels, classes, n_labels) for result in results)
    assert plain < 0.7
    assert every == 1
    assert results[1].exchange.response > 0.95


async def test_a_context_of_many_labels_is_read_under_a_few_names() -> None:
    plain, score = (ConceptScore(planted_classes(160, 8), 8) for _ in range(2))
    # Unlike one class of all is unlike nothing, and no further start looks for another concept.
    problem = Problem(160, 8, unlike=np.zeros(160, dtype=np.int64))
    before = await search(problem, plain, rng=np.random.default_rng(0), settings=ONE_NAME)
    result = await search(problem, score, rng=np.random.default_rng(0), settings=DEFAULT)
    assert result.exchange.all_weak
    sweeps = len(result.history) - len(before.history)
    readings = [len(queries) for queries in score.calls[len(plain.calls) :] if len(queries) == 160]
    assert len(readings) == MOST_ROTATIONS - 1 + sweeps * MOST_ROTATIONS


async def test_sweeps_go_on_while_labels_move() -> None:
    score = ConceptScore(planted_classes(96, 3), 3, noise=1.5)
    early = replace(DEFAULT, several=0)  # while labels still move
    result = await search(Problem(96, 3), score, rng=np.random.default_rng(0), settings=early)
    last = [record.moved for record in result.history[DEFAULT.averaged :]]
    assert last[0] > ROTATED_MOVING * 96 > last[-1] == 0
    assert agreement(result.labels, planted_classes(96, 3), 3) == 1


@pytest.mark.parametrize(("stop_after", "extra"), [(None, 2), (1, 0), (-1, 0)])
async def test_a_stop_ends_them_with_labels(stop_after: int | None, extra: int) -> None:
    plain = await found(ConceptScore(CLASSES, 2), ONE_NAME)
    settled = len(plain.history)
    after = settled - 1 if stop_after == -1 else stop_after  # not after the first and the last
    result = await found(ConceptScore(CLASSES, 2), stop_after=after)
    assert result.stopped == (stop_after is not None)
    assert (result.labels != UNLABELLED).all()
    if stop_after != 1:
        assert len(result.history) == settled + extra
