"""How jobs in one client share a server: equal parts, at what cost, and nothing lost."""

import itertools
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from client_jobs import SHORT, Slow, Wide, begun, part
from planted_reviews import TASK, planted, reviews

from icm_client import Client, LabelJob, Server, label
from icm_client.endpoints import (
    TransportSettings,
)
from icm_client.endpoints.protocol import CachingEndpoint, PrefixCache
from icm_client.runs import turns
from icm_client.runs.turns import Shares
from icm_client.testing import PlantedServer

pytestmark = pytest.mark.slow


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "scores.sqlite3"


async def test_fifty_jobs_share_a_server_that_takes_four_requests(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_jobs = 50
    had: Counter[object] = Counter()
    at_the_first_end: list[int] = []
    place = turns.Places.place

    @asynccontextmanager
    async def counted(places: turns.Places, claim: turns.Claim) -> AsyncIterator[None]:
        async with place(places, claim):
            had[claim] += 1
            yield

    monkeypatch.setattr(turns.Places, "place", counted)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(PlantedServer(planted(8 * n_jobs), latency_s=2e-3))
        four = Server(server.url, transport=TransportSettings(max_in_flight=4))
        client = await stack.enter_async_context(Client(four, store=store))
        tasks = await stack.enter_async_context(anyio.create_task_group())

        async def follow(job: LabelJob) -> None:
            assert len((await job.result()).rows) == 8
            if not at_the_first_end:
                at_the_first_end.extend(had.values())

        for n in range(n_jobs):
            tasks.start_soon(follow, client.start(part(n, 8), task=TASK, settings=SHORT))
    assert server.most_in_flight <= 4
    assert len(at_the_first_end) == len(had) == n_jobs
    # Request for request: when the first ends, nobody has had three fewer than another.
    assert max(at_the_first_end) - min(at_the_first_end) <= 2


async def test_a_small_job_overtakes_a_large_one_that_came_first(store: Path) -> None:
    concept = planted(600)
    async with (
        PlantedServer(concept, slots=2, latency_s=0.005) as server,
        Client(
            Server(server.url, transport=TransportSettings(max_in_flight=2)), store=store
        ) as client,
    ):
        large = client.start(reviews(600)[16:], task=TASK, settings=SHORT)
        before = (await begun(large, 64)).requests
        small = client.start(part(0), task=TASK, settings=SHORT)
        found = await small.result()
        async for moment in large.progress():
            behind = moment.cost.requests
            break
        client.cancel()
    # It mostly waits for one answer, so has one place of three; some 24 more were for tokens.
    assert behind - before < 2 * (found.cost.requests + 24) + 3


async def test_all_jobs_have_one_connection_pool_and_one_limit(store: Path) -> None:
    async with PlantedServer(planted(128), latency_s=0.002) as server:
        async with Client(
            Server(server.url, transport=TransportSettings(max_in_flight=3)), store=store
        ) as client:
            jobs = [client.start(part(n), task=TASK, settings=SHORT) for n in range(8)]
            for job in jobs:
                await job.result()
            assert server.open_connections <= 3 + 2  # two may ask for /metrics
        await server.all_closed()
        asked = Counter(received.path for received in server.received)
    assert server.most_in_flight == 3
    assert asked["/version"] <= 2, "found out once who answers, not once a job"


async def test_the_limit_grows_for_jobs_as_it_does_for_one(store: Path) -> None:
    async with PlantedServer(planted(256), latency_s=0.005) as server, AsyncExitStack() as stack:
        client = await stack.enter_async_context(Client(server.url, store=store))
        for n in range(16):
            client.start(part(n), task=TASK, settings=SHORT)
    assert server.most_in_flight > 8


async def test_a_lane_is_kept_while_prompts_go_on(store: Path, tmp_path: Path) -> None:
    alone = 0
    for n in range(3):
        endpoint = planted(144)
        await label(part(n, 48), task=TASK, endpoint=endpoint, store=tmp_path / f"{n}")
        alone += endpoint.usage.computed_tokens
    endpoint = Slow(144)
    order: list[int] = []
    async with Client(endpoint, store=store) as client:
        for n in range(3):
            client.start(part(n, 48), task=TASK)
        jobs = client._running.copy()
        async with anyio.create_task_group() as tasks:

            async def follow(n: int) -> None:
                async for moment in jobs[n].progress():
                    if not order or order[-1] != n:
                        order.append(n)
                    del moment

            for n in range(3):
                tasks.start_soon(follow, n)
    assert endpoint.most_at_a_time == 1
    assert len(order) > 9, "they took turns"
    assert endpoint.usage.computed_tokens < 1.15 * alone


async def test_a_long_stint_is_interrupted(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icm_client.runs.turns.STINT_S", 0.02)
    endpoint = Slow(300, 0.004)
    async with Client(endpoint, store=store) as client:
        large = client.start(reviews(300)[16:], task=TASK)
        before = (await begun(large, 4)).from_server
        small = client.start(part(0), task=TASK, settings=SHORT)
        found = await small.result()
        async for moment in large.progress():
            behind = moment.cost.from_server
            break
        client.cancel()
    assert found.cost.from_server > 20
    # Read for read but for a stint; behind the same demos the large one has 142 in a row.
    assert behind - before < 2 * found.cost.from_server


async def test_a_cancelled_job_holds_no_lane_and_no_place(store: Path) -> None:
    for endpoint in (Slow(96), Wide(96)):
        async with Client(endpoint, store=store) as client:
            for _ in range(10):
                doomed = [client.start(part(n), task=TASK, seed=1) for n in range(1, 6)]
                await anyio.sleep(0.003)
                for job in doomed:
                    job.cancel()
            with anyio.fail_after(20):
                assert (await client.start(part(0), task=TASK).result()).rows


async def test_a_place_that_nobody_takes_goes_to_the_next() -> None:
    places = turns.Places(lambda: 1, itertools.count())
    one, other = turns.Claim(), turns.Claim()
    got = list[str]()

    async def ask(claim: turns.Claim, name: str, scope: anyio.CancelScope) -> None:
        with scope:
            async with places.place(claim):
                got.append(name)

    late = anyio.CancelScope()
    late.cancel()
    await ask(other, "cancelled when a place is free", late)
    stack = AsyncExitStack()
    async with anyio.create_task_group() as tasks:
        waiting, last = anyio.CancelScope(), anyio.CancelScope(deadline=anyio.current_time() + 5)
        with anyio.fail_after(5):
            await stack.enter_async_context(places.place(one))
        async with stack:
            tasks.start_soon(ask, other, "cancelled while it waits", waiting)
            tasks.start_soon(ask, one, "last", last)
            await anyio.wait_all_tasks_blocked()
            waiting.cancel()
            await anyio.wait_all_tasks_blocked()
    assert got == ["last"]


async def test_a_lane_that_came_too_late_goes_to_the_next() -> None:
    lane = turns.Lane(itertools.count())
    claims = [turns.Claim() for _ in range(3)]
    got = list[int]()

    async def ask(number: int, scope: anyio.CancelScope) -> None:
        with scope:
            async with lane.turn(claims[number], (number,)):
                got.append(number)

    async with anyio.create_task_group() as tasks:
        scopes = [anyio.CancelScope() for _ in claims]
        async with lane.turn(claims[0], (0,)):
            for number in (1, 2):
                tasks.start_soon(ask, number, scopes[number])
            await anyio.wait_all_tasks_blocked()
        await anyio.lowlevel.checkpoint()  # 1 is woken, and leaves the holder its moment
        scopes[1].cancel()
        scopes[2].deadline = anyio.current_time() + 5
    assert got == [2]


async def test_jobs_fill_a_part_of_the_prefix_cache_each(store: Path) -> None:
    class Caching(Wide):
        async def prefix_cache(self) -> PrefixCache:
            return PrefixCache(16, 9000)

    async with Client(Caching(48), store=store) as client:
        assert client._shares is not None
        share = client._shares.share()
        assert isinstance(share, CachingEndpoint)
        assert await share.prefix_cache() == PrefixCache(16, 9000)
        job = client.start(part(0), task=TASK)
        assert await share.prefix_cache() == PrefixCache(16, 4500)
        await job.result()
        assert await share.prefix_cache() == PrefixCache(16, 9000)
    plain = Shares(planted()).share()
    assert isinstance(plain, CachingEndpoint)
    assert await plain.prefix_cache() == PrefixCache()
