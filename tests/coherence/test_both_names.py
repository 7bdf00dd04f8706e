"""Sweeps under both names, over planted concepts: what the words say of an item cancels."""

from dataclasses import replace

import numpy as np
import pytest
from concept_score import ConceptScore, agreement, planted_classes

from icm_client.coherence.contexts import UNLABELLED
from icm_client.coherence.settings import SweepSettings
from icm_client.coherence.sweep import SearchResult, search

DEFAULT = SweepSettings()
ONE_NAME = replace(DEFAULT, both_names=0)
N = 96
CLASSES = planted_classes(N, 2)


async def found(
    score: ConceptScore, settings: SweepSettings = DEFAULT, stop_after: int | None = None
) -> SearchResult:
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == stop_after

    return await search(
        len(score.prompts), 2, score, rng=np.random.default_rng(0), settings=settings, stop=stop
    )


async def test_what_words_that_say_nothing_say_of_an_item_cancels() -> None:
    # Up to 5 nats of an item's own, against 4 that demos teach.
    plain = await found(ConceptScore(CLASSES, 2, noise=2.5), ONE_NAME)
    both = await found(ConceptScore(CLASSES, 2, noise=2.5))
    assert both.exchange.ambiguous
    assert len(both.history) == len(plain.history) + DEFAULT.both_names - 1
    assert agreement(plain.labels, CLASSES, 2) < 0.97
    assert agreement(both.labels, CLASSES, 2) == 1
    assert both.sweep_scores is not None
    assert both.sweep_scores.shape == (DEFAULT.both_names, N, 2)


async def test_words_that_name_the_classes_are_read_once() -> None:
    score, again = (ConceptScore(CLASSES, 2, meaning=2.0) for _ in range(2))
    both, plain = await found(score), await found(again, ONE_NAME)
    assert not both.exchange.ambiguous
    assert score.calls == again.calls
    np.testing.assert_array_equal(both.labels, plain.labels)


async def test_labels_that_demos_did_not_teach_are_left_as_they_are() -> None:
    score = ConceptScore(CLASSES, 2, noise=4.0)  # an item's own deviation decides
    both = await found(score)
    assert both.exchange.response < 0.75
    assert len(both.history) == len((await found(score, ONE_NAME)).history)


async def test_three_labels_are_read_once() -> None:
    score = ConceptScore(planted_classes(N, 3), 3)
    result = await search(N, 3, score, rng=np.random.default_rng(0), settings=DEFAULT)
    plain = await search(N, 3, score, rng=np.random.default_rng(0), settings=ONE_NAME)
    assert result.exchange.ambiguous
    assert result.history == plain.history


@pytest.mark.parametrize(("stop_after", "extra"), [(None, 1), (1, 0), (-1, 0)])
async def test_a_stop_ends_them_with_labels(stop_after: int | None, extra: int) -> None:
    plain = await found(ConceptScore(CLASSES, 2), ONE_NAME)
    settled = len(plain.history)
    after = settled - 1 if stop_after == -1 else stop_after  # not after the first and the last
    result = await found(ConceptScore(CLASSES, 2), stop_after=after)
    assert result.stopped == (stop_after is not None)
    assert (result.labels != UNLABELLED).all()
    if stop_after != 1:
        assert len(result.history) == settled + extra
