"""Several planted servers behind one endpoint, over HTTP; one of them dies in mid-run."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted_run import concept, honest, opened, scores, settings

from icm_client.endpoints.protocol import Endpoint, Read, TokenIds
from icm_client.endpoints.several import (
    REMEMBERED_PREFIXES,
    Member,
    SeveralEndpoints,
    connect_several,
)
from icm_client.errors import (
    EndpointError,
    EndpointTimeout,
    EndpointUnreachable,
    InputError,
    RequestRefused,
)
from icm_client.scoring import ScoreStore
from icm_client.testing import PlantedConcept, PlantedServer, after, hang, status

Lost = list[tuple[str, EndpointError]]


@asynccontextmanager
async def several(servers: list[PlantedServer], lost: Lost) -> AsyncIterator[SeveralEndpoints]:
    async with AsyncExitStack() as stack:
        members: dict[str, Endpoint] = {}
        for number, server in enumerate(servers):
            members[f"server {number}"] = await stack.enter_async_context(
                opened(server, settings(attempts=2))
            )
        yield SeveralEndpoints(members, on_lost=lambda *told: lost.append(told))


def answered(server: PlantedServer) -> int:
    return sum(received.path == "/v1/completions" for received in server.received)


async def test_the_work_is_shared_out_and_the_scores_are_those_of_one_server(
    tmp_path: Path,
) -> None:
    lost: Lost = []
    async with (
        PlantedServer(concept()) as one,
        PlantedServer(concept()) as other,
        several([one, other], lost) as endpoint,
    ):
        found = await scores(endpoint, tmp_path)
        assert endpoint.usage.requests == answered(one) + answered(other)
    np.testing.assert_array_equal(found, await honest(tmp_path))
    assert answered(one) > 2
    assert answered(other) > 2
    assert not lost


async def test_servers_with_other_weights_behind_the_same_words_are_refused(
    tmp_path: Path,
) -> None:
    async with (
        PlantedServer(concept(), root="models/latest") as one,
        PlantedServer(concept(seed=1, meaning=3.0), root="models/latest") as other,
        several([one, other], []) as endpoint,
    ):
        with pytest.raises(InputError, match=r"server \d does not have the same weights"):
            await scores(endpoint, tmp_path)
    with ScoreStore.open(tmp_path / "scores.sqlite3") as store:
        assert store._db.execute("SELECT count(*) FROM scores").fetchone() == (0,)


@pytest.mark.parametrize("dies_after", [1, 3])
async def test_a_lost_servers_work_goes_to_the_others(tmp_path: Path, dies_after: int) -> None:
    lost: Lost = []
    async with AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(PlantedServer(concept(), latency_s=0.01))
            for _ in range(3)
        ]
        dying = servers[1]

        async def kill() -> None:
            while answered(dying) < dies_after:  # noqa: ASYNC110 - the server tells nobody
                await anyio.sleep(0.001)
            await dying.__aexit__()

        async with several(servers, lost) as endpoint, anyio.create_task_group() as tasks:
            tasks.start_soon(kill)
            with anyio.fail_after(30):
                found = await scores(endpoint, tmp_path)
    np.testing.assert_array_equal(found, await honest(tmp_path))
    assert [name for name, _ in lost] == ["server 1"]


async def test_a_server_that_hangs_is_moved_away_from(tmp_path: Path) -> None:
    lost: Lost = []
    async with (
        PlantedServer(concept()) as well,
        PlantedServer(concept(), faults=after(2, hang())) as hanging,
        AsyncExitStack() as stack,
    ):
        members: dict[str, Endpoint] = {}
        for server, chosen in (
            (well, settings(attempts=2)),
            (hanging, settings(attempts=2, attempt_timeout_s=0.8, item_timeout_s=1.7)),
        ):
            name = "well" if server is well else "hanging"
            members[name] = await stack.enter_async_context(opened(server, chosen))
        endpoint = SeveralEndpoints(members, on_lost=lambda *told: lost.append(told))
        with anyio.fail_after(30):
            found = await scores(endpoint, tmp_path)
    np.testing.assert_array_equal(found, await honest(tmp_path))
    assert [name for name, _ in lost] == ["hanging"]
    assert isinstance(lost[0][1], EndpointTimeout)


@pytest.mark.parametrize("code", [401, 404, 429, 500, 503])
async def test_what_one_server_refuses_for_ever_is_asked_of_the_others(
    tmp_path: Path, code: int
) -> None:
    lost: Lost = []
    async with (
        PlantedServer(concept()) as well,
        PlantedServer(concept(), faults=after(3, status(code))) as refusing,
        several([well, refusing], lost) as endpoint,
    ):
        with anyio.fail_after(30):
            found = await scores(endpoint, tmp_path)
        asked = answered(refusing)
        (notice,) = endpoint.notices
    np.testing.assert_array_equal(found, await honest(tmp_path))
    assert [(name, error.status) for name, error in lost] == [("server 1", code)]
    assert notice.startswith("server 1 was given up")
    assert str(code) in notice
    assert asked < 20


async def test_what_all_servers_refuse_gives_up_none() -> None:
    lost: Lost = []
    nothing_planted = Read((1, 2, 3), (4,))
    async with (
        PlantedServer(concept()) as one,
        PlantedServer(concept()) as other,
        several([one, other], lost) as endpoint,
    ):
        with pytest.raises(RequestRefused), anyio.fail_after(30):
            await endpoint.read([nothing_planted])
        assert {answered(one), answered(other)} == {1}
    assert not lost


async def test_the_last_one_is_never_given_up() -> None:
    lost: Lost = []
    async with (
        PlantedServer(concept()) as one,
        PlantedServer(concept()) as other,
        several([one, other], lost) as endpoint,
    ):
        await one.__aexit__()
        await other.__aexit__()
        with pytest.raises(EndpointUnreachable):
            await endpoint.read([Read((1, 2, 3), (4,))])
        assert len(lost) == 1


async def test_servers_of_different_models_are_refused() -> None:
    planted = concept(strength=1.0)
    async with PlantedServer(concept()) as one, PlantedServer(planted) as other:
        with pytest.raises(InputError, match="do not serve the same"):
            await connect_several([one.url, other.url])
        await one.all_closed()
        await other.all_closed()
        with pytest.raises(InputError, match="twice"):
            await connect_several([one.url, f"{one.url}/"])


async def test_servers_with_lanes_lend_them_and_a_lost_ones_are_spread(tmp_path: Path) -> None:
    class Dying(PlantedConcept):
        left = 4

        async def read(self, reads: list[Read], *, lane: int | None = None) -> list:  # type: ignore[type-arg,override]
            assert lane in range(self.lanes)
            self.left -= 1
            if self.left < 0:
                raise EndpointUnreachable("gone")
            return await super().read(reads, lane=lane)

    dying = concept(lanes=2)
    dying.__class__ = Dying
    endpoint = SeveralEndpoints({"stays": concept(lanes=1), "dies": dying})
    assert endpoint.lanes == 3
    found = await scores(endpoint, tmp_path)
    np.testing.assert_array_equal(found, await honest(tmp_path))
    (notice,) = endpoint.notices
    assert notice.startswith("dies was given up")


class Prefixes:
    """An endpoint that only notes what it is sent ahead."""

    def __init__(self) -> None:
        self.warmed: list[TokenIds] = []

    async def warm(self, prefix: TokenIds, *, lane: int | None = None) -> None:
        assert lane is None
        await anyio.sleep(0.001)
        self.warmed.append(prefix)


def member() -> Member:
    return Member("m", Prefixes())  # type: ignore[arg-type]


prompts = st.lists(st.integers(0, 2), max_size=8).map(tuple)


@given(st.lists(prompts, max_size=20), prompts)
def test_the_longest_prefix_is_found(sent: list[TokenIds], prompt: TokenIds) -> None:
    one = member()
    for prefix in sent:
        one._remember(prefix)
    begins = [prefix for prefix in sent if prompt[: len(prefix)] == prefix]
    assert one.longest_prefix(prompt) == max(begins, key=len, default=())


async def test_a_prefix_that_is_on_its_way_is_waited_for_and_not_sent_again() -> None:
    one = member()
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(one.have, (1, 2, 3))
    assert isinstance(one.endpoint, Prefixes)
    assert one.endpoint.warmed == [(1, 2, 3)]
    assert one.waiting == 0


def test_the_oldest_prefixes_are_forgotten() -> None:
    one = member()
    for number in range(REMEMBERED_PREFIXES + 1):
        one._remember((number,))
    assert one.longest_prefix((0, 1)) == ()
    assert one.longest_prefix((1, 1)) == (1,)


async def test_requests_with_one_beginning_are_one_session_for_a_router(tmp_path: Path) -> None:
    async with (
        PlantedServer(concept()) as server,
        opened(server) as endpoint,
    ):
        await scores(endpoint, tmp_path)
    sessions: dict[tuple[int, ...], set[str]] = {}
    for request in server.received:
        if request.path == "/v1/completions":
            (first, *_) = request.body["prompt"]
            sessions.setdefault(tuple(first[:32]), set()).add(request.headers["X-Session-ID"])
    assert len(sessions) > 1
    assert all(len(ids) == 1 for ids in sessions.values())
    assert len(set.union(*sessions.values())) == len(sessions)
