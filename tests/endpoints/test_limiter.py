from collections.abc import Callable

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted_run import concept

from icm_client.endpoints import Transport, TransportSettings
from icm_client.endpoints.limiter import (
    REMEMBERED_ROUNDS,
    InFlightLimiter,
    affordable_connections,
    queue_length,
)
from icm_client.endpoints.settings import GoodNeighbour, LimitChange, RetryPolicy, Why, WireEvent
from icm_client.errors import InputError
from icm_client.testing import PlantedServer, status


class Simulation:
    """A server whose latency is a function of the requests in flight, and a clock."""

    def __init__(self, latency_s: Callable[[int], float], **options: int) -> None:
        self.now = 0.0
        bounds = {"minimum": 1, "maximum": 64, "start": 4} | options
        self.limiter = InFlightLimiter(now=0.0, **bounds)
        self.latency_s = latency_s
        self.changes: list[LimitChange] = []

    def round(self, *, full: bool = True, kind: str = "x") -> None:
        """As many requests at once as the limit allows."""
        sent_at = self.now
        limit = self.limiter.limit
        self.now += self.latency_s(limit)
        if full:
            self.limiter.full()
        for _ in range(limit):
            self.keep(self.limiter.answered(kind, sent_at=sent_at, now=self.now))

    def keep(self, change: LimitChange | None) -> None:
        if change is not None:
            self.changes.append(change)


def rounds(simulation: Simulation, count: int) -> list[int]:
    limits = []
    for _ in range(count):
        simulation.round()
        limits.append(simulation.limiter.limit)
    return limits


def test_it_doubles_up_to_the_maximum_while_latency_stays() -> None:
    assert rounds(Simulation(lambda _: 1.0), 6) == [8, 16, 32, 64, 64, 64]


def test_it_never_grows_where_it_was_not_the_limit() -> None:
    simulation = Simulation(lambda _: 1.0)
    for _ in range(10):
        simulation.round(full=False)
    assert simulation.limiter.limit == 4
    assert simulation.changes == []


def test_it_holds_while_more_requests_only_wait_longer() -> None:
    """A server that computes 8 at a time: 16 take twice as long, 32 four times."""
    simulation = Simulation(lambda limit: max(1.0, limit / 8))
    limits = rounds(simulation, 20)
    assert limits[:3] == [8, 16, 32]
    assert set(limits[3:]) == {32}
    assert simulation.changes[-1].why is Why.SLOWER
    assert sum(change.why is Why.SLOWER for change in simulation.changes) == 1


def test_prompts_that_get_longer_do_not_hold_it_for_ever() -> None:
    simulation = Simulation(lambda _: 1.0)
    rounds(simulation, 1)
    simulation.latency_s = lambda _: 5.0
    assert set(rounds(simulation, REMEMBERED_ROUNDS - 2)) == {8}
    assert rounds(simulation, 4)[-1] > 8


def test_another_kind_of_request_is_not_compared() -> None:
    simulation = Simulation(lambda _: 0.01)
    simulation.round(kind="/tokenize")
    simulation.latency_s = lambda _: 1.0
    simulation.round(kind="/v1/completions")
    assert simulation.limiter.limit == 16


def test_an_episode_of_refusals_cuts_once() -> None:
    simulation = Simulation(lambda _: 1.0, start=32)
    limiter = simulation.limiter
    for moment in (10.0, 10.1, 10.2):  # 32 in flight, all refused
        simulation.keep(limiter.refused(sent_at=9.0, now=moment))
    assert limiter.limit == 16
    simulation.keep(limiter.refused(sent_at=11.0, now=12.0))  # and once more, repeated
    assert limiter.limit == 16
    limiter.answered("x", sent_at=9.5, now=12.0)  # sent before the cut: says nothing of it
    simulation.keep(limiter.refused(sent_at=12.0, now=12.5))
    assert limiter.limit == 16
    limiter.answered("x", sent_at=12.0, now=13.0)  # the episode is over
    simulation.keep(limiter.refused(sent_at=13.0, now=14.0))
    assert limiter.limit == 8
    assert [(change.before, change.limit, change.why) for change in simulation.changes] == [
        (32, 16, Why.REFUSED),
        (16, 8, Why.REFUSED),
    ]
    assert [change.at_s for change in simulation.changes] == [10.0, 14.0]


def test_the_pace_does_not_climb_while_all_is_refused() -> None:
    """As for the rest of a quota's window: each request that is refused would raise it."""
    limiter = InFlightLimiter(minimum=1, maximum=8, start=1, now=0.0)
    for tenth in range(10):
        limiter.answered("x", sent_at=tenth / 10, now=tenth / 10)
    limiter.refused(sent_at=1.0, now=1.0)
    spacing_s = limiter.spacing_s
    for moment in range(2, 20):
        limiter.sent(float(moment), waited=True)
        limiter.refused(sent_at=float(moment), now=float(moment))
    assert limiter.spacing_s == spacing_s
    limiter.answered("x", sent_at=20.0, now=20.0)
    limiter.sent(21.0, waited=True)
    assert limiter.spacing_s < spacing_s


def test_after_a_cut_it_grows_by_one() -> None:
    simulation = Simulation(lambda _: 1.0, start=16)
    simulation.limiter.refused(sent_at=0.0, now=0.0)
    assert rounds(simulation, 3) == [9, 10, 11]


def test_the_pause_that_a_server_asks_for_holds_everybody_back() -> None:
    limiter = InFlightLimiter(minimum=1, maximum=8, start=8, now=0.0)
    limiter.refused(sent_at=0.0, now=1.0, retry_after_s=30.0)
    limiter.refused(sent_at=0.0, now=2.0, retry_after_s=5.0)
    assert limiter.paused_s(11.0) == 20.0
    assert limiter.paused_s(40.0) == 0.0


def test_a_growing_queue_holds_and_a_shrinking_one_does_not() -> None:
    simulation = Simulation(lambda _: 1.0)
    simulation.keep(simulation.limiter.queue(3, 0.0))
    assert rounds(simulation, 2) == [4, 4]
    assert simulation.changes[-1].why is Why.QUEUE
    simulation.keep(simulation.limiter.queue(2, 0.0))
    assert rounds(simulation, 1) == [5]


def test_a_good_neighbour_gives_way_to_a_queue() -> None:
    simulation = Simulation(lambda _: 1.0, start=32, queue_limit=4)
    limiter = simulation.limiter
    limits = []
    for waiting in (2, 6, 40, 40, 40, 40, 40):
        simulation.keep(limiter.queue(waiting, 0.0))
        limits.append(limiter.limit)
    assert limits == [32, 30, 15, 7, 3, 1, 1]
    limiter.queue(0, 0.0)
    assert rounds(simulation, 2) == [2, 3]


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("answered"), st.floats(0, 5)),
        st.tuples(st.just("refused"), st.floats(0, 5)),
        st.tuples(st.just("queue"), st.floats(0, 100)),
        st.tuples(st.just("full"), st.just(0.0)),
    ),
    max_size=200,
)


@given(EVENTS, st.integers(1, 8), st.integers(0, 60), st.integers(0, 100), st.none() | st.just(3))
def test_it_stays_within_its_bounds_and_its_history_is_whole(
    events: list[tuple[str, float]], minimum: int, more: int, start: int, queue_limit: int | None
) -> None:
    limiter = InFlightLimiter(
        minimum=minimum, maximum=minimum + more, start=start, now=0.0, queue_limit=queue_limit
    )
    limit, now = limiter.limit, 0.0
    for what, value in events:
        now += 1.0
        change = None
        if what == "answered":
            change = limiter.answered("x", sent_at=now - value, now=now)
        elif what == "refused":
            change = limiter.refused(sent_at=now - value, now=now, retry_after_s=value)
        elif what == "queue":
            change = limiter.queue(value, now)
        else:
            limiter.full()
        if change is not None:
            assert (change.before, change.limit) == (limit, limiter.limit)
        assert change is not None or limit == limiter.limit
        limit = limiter.limit
        assert minimum <= limit <= minimum + more


@pytest.mark.parametrize(("minimum", "maximum"), [(0, 4), (5, 4), (-1, -1)])
def test_bounds_that_are_none_are_refused(minimum: int, maximum: int) -> None:
    with pytest.raises(ValueError, match="requests in flight"):
        InFlightLimiter(minimum=minimum, maximum=maximum, start=1, now=0.0)
    with pytest.raises(InputError, match="requests in flight"):
        TransportSettings(min_in_flight=minimum, max_in_flight=maximum)


def test_a_queue_below_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="under -1 requests"):
        GoodNeighbour(queue=-1)


@pytest.mark.parametrize(
    ("metrics", "waiting"),
    [
        (b'vllm:num_requests_waiting{engine="0",model_name="a}b"} 3.0\n', 3),
        (
            b'vllm:num_requests_waiting{engine="0"} 3\nvllm:num_requests_waiting{engine="1"} 4\n',
            7,
        ),
        (
            b"# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting_by_reason 9\n",
            None,
        ),
        (b"llamacpp:requests_processing 4\nllamacpp:requests_deferred 46\n", 46),
        (b'sglang:num_queue_reqs{model_name="m"} 4 1700000000\n', 4),
        (b"vllm:num_requests_waiting NaN\n", None),
        (b"vllm:num_requests_waiting many\n", None),
        (b"<html>", None),
        (b"", None),
    ],
)
def test_the_queue_is_read_from_the_metrics_of_each_server(
    metrics: bytes, waiting: float | None
) -> None:
    assert queue_length(metrics) == waiting


def test_connections_leave_descriptors_for_others() -> None:
    assert affordable_connections() >= 1


async def load(server: PlantedServer, settings: TransportSettings, requests: int) -> Transport:
    """That many requests, all queued at once."""
    body = {"prompt": [[2, 3]], "max_tokens": 1}
    async with (
        Transport(server.url, settings=settings) as transport,
        anyio.create_task_group() as tasks,
    ):
        for _ in range(requests):
            tasks.start_soon(transport.post, "/v1/completions", body, bytes)
    return transport


async def test_it_settles_below_what_a_server_refuses() -> None:
    """4 at a time and 2 in its queue: of 150 requests few are refused, and all are answered."""
    changes: list[WireEvent] = []
    settings = TransportSettings(
        retry=RetryPolicy(attempts=100, initial_wait_s=0.01, maximum_wait_s=0.05),
        observe=changes.append,
    )
    async with PlantedServer(concept(), slots=4, latency_s=0.05, max_queue=2) as server:
        with anyio.fail_after(60):
            transport = await load(server, settings, 150)
    limits = [change for change in changes if isinstance(change, LimitChange)]
    assert limits[0] == LimitChange(limits[0].at_s, 4, 8, Why.DOUBLED)
    assert any(change.why is Why.REFUSED for change in limits)
    assert transport.in_flight_limit == limits[-1].limit < 12
    assert transport.usage.retries < 75


async def test_nobody_is_sent_while_the_server_asks_to_wait() -> None:
    settings = TransportSettings(start_in_flight=1, retry=RetryPolicy(initial_wait_s=0.0))
    sent: list[float] = []
    async with PlantedServer(concept()) as server:
        refuse = status(429, headers={"Retry-After": "300ms"})

        def script(number: int) -> object:
            sent.append(anyio.current_time())
            return refuse if number == 0 else None

        server.script = script  # type: ignore[assignment]
        with anyio.fail_after(30):
            await load(server, settings, 5)
    assert len(sent) == 6
    assert sent[1] - sent[0] >= 0.29


async def test_a_good_neighbour_keeps_the_servers_queue_short() -> None:
    """A server that refuses nobody, and computes 2 at a time."""

    async def longest(neighbour: GoodNeighbour | None) -> int:
        settings = TransportSettings(
            start_in_flight=32,
            max_in_flight=32,
            good_neighbour=neighbour,
            metrics_interval_s=0.02,
        )
        waiting: list[int] = []

        async def look(server: PlantedServer) -> None:
            while True:
                waiting.append(server.waiting)
                await anyio.sleep(0.01)

        async with (
            PlantedServer(concept(), slots=2, latency_s=0.01) as server,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(look, server)
            with anyio.fail_after(60):
                await load(server, settings, 200)
            tasks.cancel_scope.cancel()
        return max(waiting[len(waiting) // 2 :])

    assert await longest(None) > 12
    assert await longest(GoodNeighbour(queue=4)) <= 8


async def test_a_server_without_metrics_is_asked_for_them_once() -> None:
    settings = TransportSettings(metrics_interval_s=0.0)
    async with PlantedServer(concept()) as server:
        server.refuse("/metrics")
        with anyio.fail_after(30):
            await load(server, settings, 20)
        assert [one.path for one in server.received].count("/metrics") == 1
