"""Stored answers of other weights behind the same name, and those that are not."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import anyio
import numpy as np
import pytest
from table_endpoint import TableEndpoint
from test_scorer import PIECES, QUERIES, expected

from icm_client.coherence.problem import Demo, Query
from icm_client.endpoints.protocol import Answer, Read, TokenIds
from icm_client.errors import EndpointFault, EndpointUnreachable, ModelChanged, RequestRefused
from icm_client.scoring import Scorer, ScoreStore, tokenize_pieces
from icm_client.scoring.drift import FIRST_CHECKED, MOST_CHECKED, DriftCheck

CONTEXTS = [tuple(Demo(item, item % 2) for item in range(n, n + 4)) for n in range(8)]


class Served(TableEndpoint):
    """Says what it is, but not which weights it has: `weights` moves every log-prob by nats."""

    def __init__(self, *, lanes: int = 0, weights: float = 0.0, noise: float = 0.0) -> None:
        super().__init__(lanes=lanes, of_weights=False)
        self.weights, self.noise = weights, noise

    async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
        answers = await super().read(reads, lane=lane)
        shift = self.weights + self.noise * (len(self.asked) % 2)
        return [Answer(tuple(p - shift for p in one.log_probs), one.exactness) for one in answers]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ScoreStore]:
    with ScoreStore.open(tmp_path / "scores.sqlite3") as opened:
        yield opened


def rows_of(store: ScoreStore) -> list[tuple[object, ...]]:
    return store._db.execute("SELECT * FROM scores ORDER BY key").fetchall()


@pytest.fixture(params=[0, 2])
def lanes(request: pytest.FixtureRequest) -> int:
    assert isinstance(request.param, int)
    return request.param


async def test_a_few_stored_answers_are_asked_again_and_used(store: ScoreStore, lanes: int) -> None:
    await Scorer(Served(lanes=lanes), store, PIECES)(QUERIES)
    endpoint = Served(lanes=lanes)
    scorer = Scorer(endpoint, store, PIECES)
    np.testing.assert_array_equal(await scorer(QUERIES), expected())
    assert len(endpoint.asked) == len(set(endpoint.asked)) == FIRST_CHECKED
    heads = {read.prompt[:40] for read in endpoint.asked}
    assert len(heads) > 1, "of different contexts"
    assert (scorer.stats.asked, scorer.stats.from_store, scorer.stats.checked) == (0, 48, 3)


async def test_a_run_of_many_calls_asks_eight_again_at_most(store: ScoreStore) -> None:
    calls = [[Query(context, item) for item in (10, 11)] for context in CONTEXTS]
    first = Scorer(Served(), store, PIECES)
    for call in calls:
        await first(call)
    assert first.stats.checked == 0, "what this run was answered is not in doubt"
    for call in calls:
        await first(call)
    assert first.stats.checked == 0
    endpoint = Served()
    again = Scorer(endpoint, store, PIECES)
    for call in calls:
        await again(call)
    assert again.stats.checked == len(endpoint.asked) == MOST_CHECKED
    for call in calls:
        await again(call)
    assert len(endpoint.asked) == MOST_CHECKED


async def test_scorers_of_one_run_share_what_they_found(store: ScoreStore) -> None:
    await Scorer(Served(), store, PIECES)(QUERIES)
    endpoint = Served()
    drift = DriftCheck(endpoint)
    for _ in range(3):
        await Scorer(endpoint, store, PIECES, drift=drift)(QUERIES[:12])
    assert drift.reads == len(endpoint.asked) <= FIRST_CHECKED + 1


async def test_scores_of_other_weights_are_not_used_and_not_touched(
    store: ScoreStore, lanes: int
) -> None:
    await Scorer(Served(lanes=lanes), store, PIECES)(QUERIES)
    before = rows_of(store)
    endpoint = Served(lanes=lanes, weights=0.5)
    with pytest.raises(ModelChanged, match=r"not of the weights that table .*0\.50 nats") as caught:
        await Scorer(endpoint, store, PIECES)(QUERIES)
    assert caught.value.stored == "f1"
    assert not caught.value.goes_on
    assert rows_of(store) == before
    assert len(endpoint.asked) <= 4 * FIRST_CHECKED


async def test_they_are_found_in_a_later_call_and_this_runs_answers_go(store: ScoreStore) -> None:
    """A run begins with what is not stored, and meets the old model's scores in its second call."""
    await Scorer(Served(), store, PIECES)(QUERIES[12:])
    before = rows_of(store)
    await anyio.sleep(1.1)  # answers are dated to the second
    scorer = Scorer(Served(weights=0.5), store, PIECES)
    await scorer(QUERIES[:12])
    with pytest.raises(ModelChanged):
        await scorer(QUERIES[12:])
    assert rows_of(store) == before


@pytest.mark.parametrize("noise", [0.06, 0.2, 0.6])
async def test_noise_is_no_other_model(store: ScoreStore, noise: float) -> None:
    """0.06 and 0.2 nats are what caches and batches do; 0.6 is a server that repeats nothing."""
    first = await Scorer(Served(noise=noise), store, PIECES)(QUERIES)
    again = await Scorer(Served(noise=-noise), store, PIECES)(QUERIES)
    np.testing.assert_array_equal(again, first)


async def test_one_answer_that_has_changed_is_no_other_model(store: ScoreStore) -> None:
    await Scorer(Served(), store, PIECES)(QUERIES)
    endpoint = Served()
    await Scorer(endpoint, store, PIECES)(QUERIES)
    odd = endpoint.asked[0]

    class Odd(Served):
        async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
            self.weights = 2.0 if odd in reads else 0.0
            return await super().read(reads, lane=lane)

    np.testing.assert_array_equal(await Scorer(Odd(), store, PIECES)(QUERIES), expected())


async def test_an_answer_that_is_refused_now_says_nothing(store: ScoreStore) -> None:
    await Scorer(Served(), store, PIECES)(QUERIES)

    class Refusing(Served):
        async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
            if len(self.groups) % 2:
                self.groups.append((lane, tuple(reads)))
                raise RequestRefused("content policy")
            return await super().read(reads, lane=lane)

    np.testing.assert_array_equal(await Scorer(Refusing(), store, PIECES)(QUERIES), expected())


@pytest.mark.parametrize("error", [EndpointFault, EndpointUnreachable])
async def test_a_server_that_answers_nothing_ends_a_replay(
    store: ScoreStore, error: type[Exception]
) -> None:
    await Scorer(Served(), store, PIECES)(QUERIES)

    class Dead(Served):
        async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
            raise error(f"{len(reads)} {lane}")

    with pytest.raises(error) as caught:
        await Scorer(Dead(), store, PIECES)(QUERIES)
    assert caught.value.goes_on  # type: ignore[attr-defined]


async def test_a_run_that_is_to_stop_asks_nothing_again(store: ScoreStore) -> None:
    await Scorer(Served(), store, PIECES)(QUERIES)
    endpoint = Served()
    await Scorer(endpoint, store, PIECES, stopping=lambda: True)(QUERIES)
    assert endpoint.asked == []


async def test_another_tokenizer_under_the_same_name(store: ScoreStore) -> None:
    """No score need be stored: the prompts of all new ones would be wrong."""

    class Other(Served):
        async def tokenize(self, text: str, *, add_special: bool) -> TokenIds:
            ids = await super().tokenize(text, add_special=add_special)
            return tuple(one + 100 for one in ids)

    prompts, labels = ["one film:", "another film:"], (" good", " bad")
    await tokenize_pieces(prompts, labels, "\n", Served(), store)
    with pytest.raises(ModelChanged, match="tokenizer"):
        await tokenize_pieces(prompts, labels, "\n", Other(), store)
