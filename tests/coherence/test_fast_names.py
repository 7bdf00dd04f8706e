"""Searches that end with names exchanged sweep on from the right ones."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from concept_score import ConceptScore, planted_classes

from icm_client.coherence import fast
from icm_client.coherence.fast import search
from icm_client.coherence.label_names import NameExchange, exchange_names_in_folds
from icm_client.coherence.problem import UNLABELLED, Problem
from icm_client.coherence.result import SearchResult, Watch
from icm_client.coherence.settings import SweepSettings

# Names are exchanged after few sweeps here, whose scores still hold much of the wrong ones.
DEFAULT = SweepSettings(several=0)
AS_READ = replace(DEFAULT, renamed=0)
N = 160
WRONG = [1, 2, 3, 0]


async def from_wrong_names(
    settings: SweepSettings, *, noise: float = 1.0, stop_after: int | None = None
) -> tuple[SearchResult, ConceptScore]:
    """Four classes whose words say a quarter of what demos teach, each called by another's name."""
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == stop_after

    classes = planted_classes(N, 4)
    score = ConceptScore(classes, 4, meaning=1.0, noise=noise)
    result = await search(
        Problem(N, 4, start=np.array(WRONG)[classes]),
        score,
        rng=np.random.default_rng(0),
        settings=settings,
        watch=Watch(stop=stop),
    )
    return result, score


def right(result: SearchResult) -> float:
    return float((result.labels == planted_classes(N, 4)).mean())


async def test_scores_behind_wrong_names_are_read_again_behind_the_right_ones() -> None:
    as_read, _ = await from_wrong_names(AS_READ)
    result, _ = await from_wrong_names(DEFAULT)
    assert as_read.exchanged
    assert result.exchanged
    assert result.exchange.names == tuple(np.argsort(WRONG))
    assert right(as_read) < 0.95
    assert right(result) == 1
    assert len(result.history) == len(as_read.history) + DEFAULT.renamed
    assert [record.sweep for record in result.history] == list(range(len(result.history)))
    assert result.sweep_scores is not None
    assert result.sweep_scores.shape == (DEFAULT.renamed, N, 4)
    assert result.utility == result.history[-1].utility > as_read.utility
    last = result.history[-1].labels
    np.testing.assert_array_equal(last, result.labels)


@pytest.mark.parametrize("before_last", [1, 0])
async def test_a_stop_ends_them_with_the_right_names(before_last: int) -> None:
    settled = len((await from_wrong_names(AS_READ))[0].history)
    # Asked after each sweep but the first and the last, and before each further one.
    after = settled - 2 + DEFAULT.renamed - before_last
    result, _ = await from_wrong_names(DEFAULT, stop_after=after)
    assert result.stopped
    assert result.exchanged
    assert len(result.history) == settled + DEFAULT.renamed - 1 - before_last
    assert (result.labels != UNLABELLED).all()
    assert right(result) > 0.6


async def test_names_that_are_right_take_no_further_sweep() -> None:
    classes = planted_classes(N, 4)
    told = []
    for settings in (DEFAULT, AS_READ):
        score = ConceptScore(classes, 4, meaning=1.0)
        rng = np.random.default_rng(0)
        result = await search(Problem(N, 4, start=classes), score, rng=rng, settings=settings)
        assert not result.exchanged
        told.append((result.history, score.calls))
    assert told[0] == told[1]


@pytest.mark.parametrize("open_again", [False, True])
async def test_names_of_more_labels_are_looked_at_again_once_some_were_exchanged(
    monkeypatch: pytest.MonkeyPatch, *, open_again: bool
) -> None:
    looked: list[NameExchange] = []

    async def look(*asked: Any) -> NameExchange:
        found = await exchange_names_in_folds(*asked)
        if open_again and looked and looked[-1].better:
            found = replace(found, words=0.0)  # as if the words left the new names open
        looked.append(found)
        return found

    monkeypatch.setattr(fast, "exchange_names_in_folds", look)
    classes = planted_classes(150, 5)
    score = ConceptScore(classes, 5, strength=3.0, meaning=0.3)
    result = await search(Problem(150, 5), score, rng=np.random.default_rng(3), settings=DEFAULT)
    assert result.exchanged
    assert (result.labels == classes).all()
    turned, again = looked[-2:]
    assert turned.better
    assert not again.better
    assert result.exchange is (again if open_again else turned)
    assert result.exchange.ambiguous == open_again
