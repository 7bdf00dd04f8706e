"""Reads that fail for good, among others that do not."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import anyio
import numpy as np
import pytest
from table_endpoint import TableEndpoint
from test_scorer import FOLDS, PIECES, QUERIES, expected

from icm_client.coherence.problem import Query
from icm_client.endpoints.protocol import Answer, Read, TokenIds
from icm_client.errors import (
    AuthenticationRefused,
    EndpointError,
    EndpointFault,
    EndpointOverloaded,
    EndpointTimeout,
    EndpointUnreachable,
    EndpointUntrusted,
    LabelMissing,
    MalformedAnswer,
    ModelChanged,
    ModelNotFound,
    PromptTooLong,
    RequestRefused,
    RunStopped,
    ScoreError,
    ScoreNotFinite,
    UnsupportedServer,
)
from icm_client.scoring import Scorer, ScoreStore
from icm_client.scoring.call import IN_A_ROW, FailedItem, is_about_reads


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ScoreStore]:
    with ScoreStore.open(tmp_path / "scores.sqlite3") as opened:
        yield opened


@pytest.fixture(params=[0, 1, 3])
def lanes(request: pytest.FixtureRequest) -> int:
    assert isinstance(request.param, int)
    return request.param


class Poisoned(TableEndpoint):
    """Fails every request with a prompt that `is_bad` says so of."""

    def __init__(
        self,
        is_bad: Callable[[TokenIds], bool],
        *,
        lanes: int = 0,
        error: type[EndpointError] | type[ScoreError] = RequestRefused,
    ) -> None:
        super().__init__(lanes=lanes)
        self.is_bad, self.error, self.tried = is_bad, error, 0

    async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
        self.tried += 1
        if any(self.is_bad(read.prompt) for read in reads):
            raise self.error("400 poison")
        return await super().read(reads, lane=lane)


def holding(*items: int) -> Callable[[TokenIds], bool]:
    """Prompts with one of these items in them, as a demo or as the target."""
    first = {PIECES.prompts[item][0] for item in items}
    return lambda prompt: not first.isdisjoint(prompt)


def ending_in(*items: int) -> Callable[[TokenIds], bool]:
    """Prompts with one of these items as the target."""
    texts = [PIECES.prompts[item] for item in items]
    return lambda prompt: any(
        text in (prompt[-len(text) :], prompt[-len(text) - 1 : -1]) for text in texts
    )


async def test_items_that_fail_cost_nobody_else_the_score(store: ScoreStore, lanes: int) -> None:
    endpoint = Poisoned(ending_in(3, 7), lanes=lanes)
    reported: dict[int, FailedItem] = {}
    scores = await Scorer(endpoint, store, PIECES, group_size=4, on_failed=reported.update)(QUERIES)
    bad = [query.target in (3, 7) for query in QUERIES]
    assert np.isnan(scores[bad]).all()
    np.testing.assert_array_equal(scores[~np.array(bad)], expected()[~np.array(bad)])
    assert reported.keys() == {3, 7}
    assert str(reported[3].error) == "400 poison"
    assert reported[3].alone
    assert not reported[3].as_demo
    assert len(endpoint.asked) == len(set(endpoint.asked)) == 40


@pytest.mark.parametrize(
    "error", [PromptTooLong, MalformedAnswer, EndpointFault, EndpointTimeout, LabelMissing]
)
async def test_it_matters_not_how_an_item_fails(
    store: ScoreStore, error: type[EndpointError]
) -> None:
    reported: dict[int, FailedItem] = {}
    endpoint = Poisoned(ending_in(3), error=error)
    scores = await Scorer(endpoint, store, PIECES, on_failed=reported.update)(QUERIES)
    assert np.isnan(scores).any(axis=1).sum() == 2
    assert isinstance(reported[3].error, error)


async def test_without_a_callback_the_failure_is_raised_when_all_else_is_stored(
    store: ScoreStore, lanes: int
) -> None:
    with pytest.raises(RequestRefused, match="poison"):
        await Scorer(Poisoned(ending_in(3), lanes=lanes), store, PIECES, group_size=4)(QUERIES)
    assert store._db.execute("SELECT count(*) FROM scores").fetchone() == (44,)


async def test_an_item_that_failed_alone_is_asked_again_by_the_next_run_only(
    store: ScoreStore,
) -> None:
    endpoint = Poisoned(ending_in(3))
    scorer = Scorer(endpoint, store, PIECES, on_failed=dict[int, FailedItem]().update)
    first = await scorer(QUERIES)
    tried = endpoint.tried
    np.testing.assert_array_equal(await scorer(QUERIES), first)
    assert endpoint.tried == tried
    healed = TableEndpoint()
    np.testing.assert_array_equal(await Scorer(healed, store, PIECES)(QUERIES), expected())
    assert len(healed.asked) == 4


async def test_a_demo_is_blamed_for_all_that_fail_given_it(store: ScoreStore, lanes: int) -> None:
    # Item 0 is a demo of all odd targets. More fail in a row than a working server explains.
    reported: dict[int, FailedItem] = {}
    given_it = [Query(FOLDS[0], item) for item in range(1, 12, 2)]
    scorer = Scorer(Poisoned(holding(0), lanes=lanes), store, PIECES, on_failed=reported.update)
    scores = await scorer([*given_it, *(Query((), item) for item in range(1, 12, 2))])
    assert np.isnan(scores[:6]).all()
    assert not np.isnan(scores[6:]).any()
    assert {item: one.as_demo for item, one in reported.items()} == {0: True}


async def test_a_demo_is_blamed_even_where_nothing_was_answered_before(store: ScoreStore) -> None:
    reported: dict[int, FailedItem] = {}
    scorer = Scorer(Poisoned(holding(0)), store, PIECES, on_failed=reported.update)
    scores = await scorer([Query(FOLDS[0], item) for item in range(1, 12, 2)])
    assert np.isnan(scores).all()
    assert {item: one.as_demo for item, one in reported.items()} == {0: True}


async def test_what_fails_only_given_its_demos_is_asked_again_with_others(
    store: ScoreStore,
) -> None:
    endpoint = Poisoned(lambda prompt: len(prompt) > 60 and ending_in(3)(prompt))
    reported: dict[int, FailedItem] = {}
    scorer = Scorer(endpoint, store, PIECES, on_failed=reported.update)
    scores = await scorer(QUERIES)
    assert np.isnan(scores).any(axis=1).sum() == 1
    assert reported.keys() == {3}
    assert not reported[3].alone
    assert not np.isnan(await scorer([Query(FOLDS[0][:1], 3)])).any()


async def test_where_everything_is_refused_the_server_is_to_blame(
    store: ScoreStore, lanes: int
) -> None:
    endpoint = Poisoned(lambda _: True, lanes=lanes)
    reported: dict[int, FailedItem] = {}
    scorer = Scorer(
        endpoint, store, PIECES, group_size=4, reads_in_flight=8, on_failed=reported.update
    )
    with pytest.raises(RequestRefused):
        await scorer(QUERIES)
    assert not reported
    assert endpoint.tried < 30


async def test_a_server_that_fails_for_ever_is_not_asked_down_to_single_reads(
    store: ScoreStore,
) -> None:
    endpoint = Poisoned(lambda _: True, error=EndpointFault)
    with pytest.raises(EndpointFault):
        await Scorer(
            endpoint, store, PIECES, group_size=4, on_failed=dict[int, FailedItem]().update
        )(QUERIES)
    assert endpoint.tried <= 16  # those that were under way


async def test_a_server_that_dies_is_distinguished_from_items_that_fail(
    store: ScoreStore, lanes: int
) -> None:
    endpoint = TableEndpoint(lanes=lanes, fail_after=20)
    reported: dict[int, FailedItem] = {}
    with pytest.raises(EndpointFault):
        await Scorer(endpoint, store, PIECES, group_size=4, on_failed=reported.update)(QUERIES)
    assert not reported


async def test_many_that_fail_in_a_row_are_no_dead_server(store: ScoreStore) -> None:
    some = range(1, 10)
    assert len(some) > IN_A_ROW
    reported: dict[int, FailedItem] = {}
    endpoint = Poisoned(ending_in(*some), lanes=1)
    scores = await Scorer(endpoint, store, PIECES, on_failed=reported.update)(QUERIES)
    assert reported.keys() == set(some)
    assert np.isnan(scores).any(axis=1).sum() == 2 * len(some)


@pytest.mark.parametrize(
    ("error", "of_reads"),
    [
        (EndpointUnreachable(""), False),
        (EndpointUntrusted(""), False),
        (EndpointOverloaded(""), False),
        (AuthenticationRefused(""), False),
        (ModelNotFound(""), False),
        (ModelChanged("", last_confirmed_at=0), False),
        (UnsupportedServer(""), False),
        (EndpointTimeout(""), True),
        (EndpointFault(""), True),
        (MalformedAnswer(""), True),
        (RequestRefused(""), True),
        (PromptTooLong(""), True),
        (ScoreNotFinite(""), True),
        (LabelMissing(""), True),
    ],
)
def test_which_failures_say_something_of_all(error: Exception, of_reads: bool) -> None:
    assert is_about_reads(error) is of_reads


@pytest.mark.parametrize("error", [EndpointOverloaded, AuthenticationRefused, EndpointUnreachable])
async def test_what_is_about_the_server_is_not_split(
    store: ScoreStore, lanes: int, error: type[EndpointError]
) -> None:
    endpoint = Poisoned(lambda _: True, lanes=lanes, error=error)
    with pytest.raises(error):
        await Scorer(
            endpoint, store, PIECES, group_size=48, on_failed=dict[int, FailedItem]().update
        )(QUERIES)
    assert endpoint.tried <= 4


async def test_stopped_on_request_it_keeps_what_is_in_flight(store: ScoreStore, lanes: int) -> None:
    endpoint = TableEndpoint(lanes=lanes)
    scorer = Scorer(
        endpoint,
        store,
        PIECES,
        group_size=2,
        reads_in_flight=8,
        stopping=lambda: len(endpoint.groups) >= 6,
    )
    with pytest.raises(RunStopped):
        await scorer(QUERIES)
    begun = sum(len(reads) for _, reads in endpoint.groups)
    assert 6 <= begun < 48
    assert store._db.execute("SELECT count(*) FROM scores").fetchone() == (begun,)
    again = TableEndpoint(lanes=lanes)
    np.testing.assert_array_equal(await Scorer(again, store, PIECES)(QUERIES), expected())
    assert len(again.asked) == 48 - begun


async def test_stopped_on_request_a_replay_still_answers(store: ScoreStore) -> None:
    await Scorer(TableEndpoint(), store, PIECES)(QUERIES)
    scorer = Scorer(TableEndpoint(), store, PIECES, stopping=lambda: True)
    np.testing.assert_array_equal(await scorer(QUERIES), expected())


async def test_answers_that_may_be_another_models_leave_the_store(
    store: ScoreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = 1_000_000.0
    monkeypatch.setattr(ScoreStore, "now", lambda _: wall)
    await Scorer(TableEndpoint(), store, PIECES)(QUERIES[:4])
    wall += 100

    class Swapped(TableEndpoint):
        async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
            if len(self.asked) >= 20:
                raise ModelChanged("swapped", last_confirmed_at=anyio.current_time() - 10)
            return await super().read(reads, lane=lane)

    await Scorer(TableEndpoint(fingerprint="f2"), store, PIECES)(QUERIES)
    swapped = Swapped()
    with pytest.raises(ModelChanged):
        await Scorer(swapped, store, PIECES, group_size=4)(QUERIES)
    assert len(swapped.asked) >= 20
    # What was answered in time stays, and so does what others answered.
    again = TableEndpoint()
    await Scorer(again, store, PIECES)(QUERIES)
    assert len(again.asked) == 48 - 8
    other = TableEndpoint(fingerprint="f2")
    await Scorer(other, store, PIECES)(QUERIES)
    assert not other.asked


async def test_groups_that_each_hold_a_read_that_fails_come_to_an_end(store: ScoreStore) -> None:
    # All requests under way fail at once and slowly, again and again, while others would not.
    reported: dict[int, FailedItem] = {}
    endpoint = Poisoned(ending_in(0, 3, 4, 7, 8, 11), error=EndpointTimeout)
    with anyio.fail_after(10):
        scores = await Scorer(endpoint, store, PIECES, group_size=24, on_failed=reported.update)(
            QUERIES
        )
    assert reported.keys() == {0, 3, 4, 7, 8, 11}
    assert np.isnan(scores).any(axis=1).sum() == 12
