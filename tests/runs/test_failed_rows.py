"""Searches over rows of which some cannot be scored."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from planted_reviews import TASK, _of, data, reviews

from icm_client.coherence.anneal import AnnealSettings
from icm_client.coherence.anneal_official import OfficialSettings
from icm_client.coherence.problem import UNLABELLED
from icm_client.coherence.result import UNWATCHED, SearchResult
from icm_client.coherence.settings import SweepSettings
from icm_client.data.job import Job
from icm_client.data.rows import only
from icm_client.endpoints import Answer, Read
from icm_client.errors import EndpointFault, InputError, RequestRefused, TooManyFailed
from icm_client.runs.presets import Settings
from icm_client.runs.search import (
    FailureBudget,
    find_labels,
    search_or_replay,
    stored_scores,
)
from icm_client.scoring import Scorer, ScoreStore, tokenize_pieces
from icm_client.testing import PlantedConcept

N = 40
FAST = SweepSettings()
PAPER = AnnealSettings(iterations=30)
OFFICIAL = OfficialSettings(iterations=30)


class Poisoned(PlantedConcept):
    """Refuses prompts that hold one of some rows: anywhere, or as the target alone."""

    def __init__(self, *rows: int, as_target_only: bool = False) -> None:
        super().__init__(*_of(N, TASK))
        self.rows, self.as_target_only = rows, as_target_only
        self.refused = 0

    async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
        bad = []
        for row in self.rows:
            ids = (await self.tokenize(f"words of row {row}\n", add_special=False))[1:]
            bad += [ids[:-1]] if self.as_target_only else [ids]
        for read in reads:
            prompt = read.prompt[-8:] if self.as_target_only else read.prompt
            if any(_holds(prompt, ids) for ids in bad):
                self.refused += 1
                raise RequestRefused("400: content policy")
        return await super().read(reads, lane=lane)


def _holds(prompt: Sequence[int], ids: Sequence[int]) -> bool:
    return any(
        tuple(prompt[start : start + len(ids)]) == tuple(ids) for start in range(len(prompt))
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ScoreStore]:
    with ScoreStore.open(tmp_path / "scores.sqlite3") as opened:
        yield opened


def job() -> Job:
    return Job.prepare(data(reviews(N)), TASK)


async def found(
    endpoint: PlantedConcept,
    store: ScoreStore,
    settings: Settings,
    fail_on_error: float = 0.2,
    seed: int = 0,
) -> tuple[SearchResult, FailureBudget]:
    """What `label` does: a search that goes on without what fails."""
    of = job()
    pieces = await tokenize_pieces(of.prompts, of.label_texts, TASK.separator, endpoint, store)
    failures = FailureBudget(of, settings, fail_on_error)
    scorer = Scorer(endpoint, store, pieces, on_failed=failures.failed)
    result, _ = await search_or_replay(
        lambda score, watch: find_labels(
            of, settings, score, seed=seed, left_out=failures.left_out, watch=watch
        ),
        scorer,
        stored_scores(endpoint, store, pieces, ()),
        failures,
        UNWATCHED,
    )
    return result, failures


@pytest.mark.parametrize("settings", [FAST, PAPER, OFFICIAL])
@pytest.mark.parametrize("seed", [0, 1, 2])
async def test_rows_that_fail_are_listed_and_the_others_labelled(
    store: ScoreStore, settings: Settings, seed: int
) -> None:
    result, failures = await found(Poisoned(3, 17), store, settings, seed=seed)
    assert np.flatnonzero(result.labels == UNLABELLED).tolist() == [3, 17]
    listed = failures.without_label(result.labels)
    assert [(row.id, row.reason) for row in listed] == [
        (4, "400: content policy"),
        (18, "400: content policy"),
    ]
    assert np.isnan(result.log_probs).any(axis=1).sum() == 2
    assert np.isfinite([result.utility, result.coherence]).all()
    assert np.isfinite([result.exchange.utility, result.exchange.exchanged_utility]).all()
    of = job()
    gold = [row["label"] for row in reviews(N)]
    labelled = np.flatnonzero(result.labels != UNLABELLED).tolist()
    right = [of.labels[result.labels[row]] == gold[row] for row in labelled]
    if settings is FAST:
        assert np.mean(right) > 0.9


async def test_a_demo_of_the_first_context_that_fails_sinks_nothing(store: ScoreStore) -> None:
    # Whichever rows the search starts from: three quarters of the seeds meet a poisoned one.
    for seed in range(4):
        result, _ = await found(Poisoned(*range(0, 40, 6)), store, FAST, 0.5, seed=seed)
        assert np.flatnonzero(result.labels == UNLABELLED).tolist() == list(range(0, 40, 6))


@pytest.mark.parametrize("settings", [FAST, PAPER])
async def test_the_same_again_finds_the_same_and_asks_only_what_failed(
    store: ScoreStore, settings: Settings
) -> None:
    first, _ = await found(Poisoned(3, 17), store, settings)
    again = Poisoned(3, 17)
    second, _ = await found(again, store, settings)
    np.testing.assert_array_equal(second.labels, first.labels)
    np.testing.assert_array_equal(second.log_probs, first.log_probs)
    assert again.usage.requests < 8  # what is asked to see that the server answers
    assert again.refused > 0


async def test_rows_that_have_healed_get_their_labels(store: ScoreStore) -> None:
    await found(Poisoned(3, 17), store, FAST)
    result, failures = await found(Poisoned(), store, FAST)
    assert not failures.without_label(result.labels)


@pytest.mark.parametrize(
    ("fail_on_error", "failing", "ends"),
    [(1, 1, True), (3, 2, False), (3, 3, True), (0.1, 3, False), (0.1, 4, True), (0.01, 1, False)],
)
async def test_too_many_end_the_run(
    store: ScoreStore, fail_on_error: float, failing: int, ends: bool
) -> None:
    endpoint = Poisoned(*range(20, 20 + failing), as_target_only=True)
    if ends:
        with pytest.raises(TooManyFailed, match=r"--fail-on-error.*of 40.*content policy"):
            await found(endpoint, store, FAST, fail_on_error)
    else:
        result, _ = await found(endpoint, store, FAST, fail_on_error)
        assert (result.labels == UNLABELLED).sum() == failing


@pytest.mark.parametrize("number", [0, -1, float("nan"), float("inf")])
def test_a_limit_that_is_none_is_refused(number: float) -> None:
    with pytest.raises(InputError, match="fail_on_error"):
        FailureBudget(job(), FAST, number)


async def test_a_dead_server_is_no_failure_of_rows(store: ScoreStore) -> None:
    class Dead(PlantedConcept):
        async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
            raise EndpointFault(f"500 {len(reads)} {lane}")

    for settings in (FAST, PAPER):
        with pytest.raises(EndpointFault):
            await found(Dead(*_of(N, TASK)), store, settings)


async def test_without_failures_nothing_is_different(store: ScoreStore) -> None:
    of = job()
    for settings in (FAST, PAPER, OFFICIAL):
        endpoint = Poisoned()
        result, failures = await found(endpoint, store, settings)
        pieces = await tokenize_pieces(of.prompts, of.label_texts, TASK.separator, endpoint, store)
        scorer = Scorer(endpoint, store, pieces)
        plain = await find_labels(of, settings, scorer, seed=0)
        np.testing.assert_array_equal(result.labels, plain.labels)
        np.testing.assert_array_equal(result.log_probs, plain.log_probs)
        assert result.utility == plain.utility
        assert failures.left_out == set()


def test_a_data_set_with_some_of_its_rows() -> None:
    whole = data(reviews(5))
    some = only(whole, (1, 3))
    assert [row.id for row in some.rows] == [2, 4]
    assert some.gold == (whole.gold[1], whole.gold[3]) if whole.gold else False
    assert only(whole, range(5)) is whole
