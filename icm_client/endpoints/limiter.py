"""When a request may be sent: how many are in flight, and how far apart they are.

`Gate` is what a request passes. `InFlightLimiter` decides for it, without sockets, clock or tasks.
The limit doubles while that goes well, as a TCP connection's window does in slow start (RFC 5681,
3.1), and grows by one a round afterwards. It is halved once an episode when the server answers 429
or 503, and stays where it is while more requests only mean longer waits. If refusals continue,
requests keep a distance too (`Pace`).

A round is as many answers as the limit. Times are seconds on any monotonic clock, passed in.
"""

import math
import re
import statistics
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from time import monotonic
from typing import Final

import anyio

from icm_client.endpoints.settings import LimitChange, TransportSettings, Why
from icm_client.errors import (
    EndpointOverloaded,
    EndpointUntrusted,
    IcmError,
    RequestRefused,
    RunStopped,
)

try:
    import resource
except ImportError:  # Windows: no such limit
    resource = None  # type: ignore[assignment]

TOLERANCE: Final = 2.0
"""A round whose median latency is more than this many times the lowest is slower."""

REMEMBERED_ROUNDS: Final = 32
"""The lowest latency is that of so many rounds: prompts get longer, and then all are slower."""

_SOON: Final = 16
"""If a server refuses again within so many answers, fewer requests in flight do not help."""

_POLL_S: Final = 0.1
"""How often a wait checks whether the run is to stop."""

_OWN_SHARE: Final = 2
"""Connections take one in this many of the descriptors that a process may open."""

# vLLM, SGLang, llama.cpp (with --metrics): Prometheus' text format, one line an engine.
_QUEUE = re.compile(
    rb"^(?:vllm:num_requests_waiting|sglang:num_queue_reqs|llamacpp:requests_deferred)"
    rb"(?:\{.*\})?[ \t]+(\S+)",
    re.MULTILINE,
)


class Gate:
    """Lets as many requests through as the limit allows; the others wait in the order they came.

    `read_metrics` returns the body of the server's `/metrics`.

    Attributes:
        limiter: decides; read its limit and the distance it asks for, and change nothing.
    """

    def __init__(
        self, settings: TransportSettings, read_metrics: Callable[[], Awaitable[bytes]]
    ) -> None:
        self._settings = settings
        self._read_metrics = read_metrics
        maximum = min(settings.max_in_flight, affordable_connections())
        self.limiter = InFlightLimiter(
            minimum=min(settings.min_in_flight, maximum),
            maximum=maximum,
            start=settings.start_in_flight,
            now=monotonic(),
            queue_limit=settings.good_neighbour.queue if settings.good_neighbour else None,
        )
        may_change = maximum > settings.min_in_flight
        self._metrics_due = monotonic() + settings.metrics_interval_s if may_change else math.inf
        self._capacity = anyio.CapacityLimiter(self.limiter.limit)
        self._line = anyio.Lock()  # requests that keep a distance go in the order they came

    @asynccontextmanager
    async def turn(
        self, kind: str, ready: Callable[[], Awaitable[None]] | None = None
    ) -> AsyncIterator[None]:
        """Wait for a turn; how the request in it ends moves the limit.

        Args:
            kind: of request; the latencies of two kinds are not compared.
            ready: awaited when it is this request's turn; its own requests go `aside`.

        Raises:
            RunStopped: the run is to stop; this request has not been sent.
        """
        limiter = self.limiter
        full = self._capacity.available_tokens <= 0
        if full and not limiter.spacing_s:
            limiter.full()
        async with self._capacity:
            self._refuse_if_stopping()
            await self._watch_queue()
            if ready is not None:
                await ready()
            waited = await self._in_line()
            if full and limiter.spacing_s and not waited:
                limiter.full()
            sent_at = monotonic()
            with self._refusals(sent_at):
                yield
            self._apply(limiter.answered(kind, sent_at=sent_at, now=monotonic()))

    @asynccontextmanager
    async def aside(self) -> AsyncIterator[None]:
        """Send a small request beside the work: it keeps its distance, and takes no turn."""
        await self._in_line()
        with self._refusals(monotonic()):
            yield

    async def _in_line(self) -> bool:
        """Wait until a request may be sent, and count it. Returns whether that took any time."""
        waited = False
        async with self._line:
            # Not an event: another refusal may prolong the pause meanwhile.
            while (pause_s := self.limiter.paused_s(monotonic())) > 0:
                waited = True
                await anyio.sleep(min(pause_s, _POLL_S))
                self._refuse_if_stopping()
            self.limiter.sent(monotonic(), waited=waited)
        return waited

    def _refuse_if_stopping(self) -> None:
        if self._settings.stopping():
            # The scorer knows whether the same command goes on.
            raise RunStopped("stopped on request", goes_on=False)

    @contextmanager
    def _refusals(self, sent_at: float) -> Iterator[None]:
        try:
            yield
        except EndpointOverloaded as error:
            asked_s = min(error.retry_after_s or 0.0, self._settings.retry.retry_after_cap_s)
            self._apply(
                self.limiter.refused(sent_at=sent_at, now=monotonic(), retry_after_s=asked_s)
            )
            raise

    async def _watch_queue(self) -> None:
        # Refusals say the same, and where requests are counted this would be one of them.
        if monotonic() < self._metrics_due or self.limiter.spacing_s:
            return
        # Set ahead of the await: nobody else asks meanwhile, and a server without it is not asked
        # again.
        self._metrics_due = math.inf
        try:
            waiting = queue_length(await self._read_metrics())
        except (RequestRefused, EndpointUntrusted):
            return
        except IcmError:  # whether it heals is for the request itself to find out
            waiting = math.nan
        if waiting is None:
            return
        self._metrics_due = monotonic() + self._settings.metrics_interval_s
        if not math.isnan(waiting):
            self._apply(self.limiter.queue(waiting, monotonic()))

    def _apply(self, change: LimitChange | None) -> None:
        if change is None:
            return
        self._capacity.total_tokens = change.limit
        if self._settings.observe is not None:
            self._settings.observe(change)


class InFlightLimiter:
    """The limit, and what it learns from answers, refusals and the server's queue.

    Args:
        minimum: the limit's lower bound, at least 1.
        maximum: its upper bound; equal to `minimum`, the limit never changes.
        start: where it begins; put between the bounds.
        now: the time, seconds.
        queue_limit: requests that may wait in the server, ours and others'; None: any number.

    Attributes:
        limit: requests that may be in flight.
    """

    def __init__(
        self,
        *,
        minimum: int,
        maximum: int,
        start: int,
        now: float,
        queue_limit: int | None = None,
    ) -> None:
        if not 1 <= minimum <= maximum:
            raise ValueError(
                f"at least {minimum} and at most {maximum} requests in flight is no range; both "
                "are at least 1"
            )
        self.limit = min(max(start, minimum), maximum)
        self._minimum, self._maximum, self._queue_limit = minimum, maximum, queue_limit
        self._began = now
        self._doubling = True
        self._was_the_limit = False
        self._latencies_s: list[float] = []  # of this round
        self._medians_s: deque[float] = deque(maxlen=REMEMBERED_ROUNDS)
        self._kind = ""
        self._waiting = 0.0  # in the server, when last asked
        self._queue_holds = False
        self._held: Why | None = None
        self._cut_at: float | None = None
        self._in_episode = False
        self._paused_until = now
        self._pace = Pace()
        self._keeps_pace = False  # after the episode too
        self._answers = _SOON  # since the last episode

    @property
    def spacing_s(self) -> float:
        """Seconds between two requests; 0 where they need keep no distance."""
        return 1 / self._pace.a_second if self._pace.a_second is not None else 0.0

    def full(self) -> None:
        """Record that a request has to wait because of the limit."""
        self._was_the_limit = True

    def paused_s(self, now: float) -> float:
        """Seconds until the next request may be sent, at least 0: a pause asked for, or a pace."""
        return max(0.0, self._paused_until - now, self._pace.due_s(now))

    def sent(self, now: float, *, waited: bool) -> None:
        """Count a request that is sent now; `waited`: `paused_s` kept it back."""
        # In an episode nothing says that the server takes more.
        self._pace.sent(now, waited=waited and not self._in_episode)

    def answered(self, kind: str, *, sent_at: float, now: float) -> LimitChange | None:
        """Record an answer; latencies of one `kind` are never compared with another's."""
        self._pace.answered(now)
        self._answers += 1
        if self._in_episode and (self._cut_at is None or sent_at >= self._cut_at):
            self._in_episode = False
            self._answers = 1
            if not self._keeps_pace:
                self._pace.end()
        if kind != self._kind:
            self._kind = kind
            self._latencies_s.clear()
            self._medians_s.clear()
        self._latencies_s.append(now - sent_at)
        return self._round_ended(now) if len(self._latencies_s) >= self.limit else None

    def refused(
        self, *, sent_at: float, now: float, retry_after_s: float = 0.0
    ) -> LimitChange | None:
        """Record a 429 or 503 to a request sent at `sent_at`.

        An episode begins with a cut. It lasts until a request sent after the cut is answered; other
        refusals until then say nothing new. In an episode requests keep a distance. They keep one
        afterwards too if one at a time is too many, or if the last episode was just before.
        """
        self._paused_until = max(self._paused_until, now + retry_after_s)
        if self._in_episode or (self._cut_at is not None and sent_at < self._cut_at):
            return None
        self._in_episode = True
        self._cut_at = now
        self._keeps_pace |= self.limit == self._minimum or self._answers < _SOON
        if self._pace.a_second is None:
            self._pace.begin(now)
        else:
            self._pace.cut(now)
        return self._lowered(max(self._minimum, self.limit // 2), Why.REFUSED, now)

    def queue(self, waiting: float, now: float) -> LimitChange | None:
        """Record how many requests wait in the server, ours and others'."""
        grows = waiting > 0 and waiting >= self._waiting
        self._waiting = waiting
        if self._queue_limit is None:
            self._queue_holds = grows
            return None
        self._queue_holds = grows or 2 * waiting > self._queue_limit
        if waiting <= self._queue_limit:
            return None
        # A request may hold many prompts, and those in the queue may be others': half at most.
        excess = max(1, int(waiting - self._queue_limit))
        lowest = max(self._minimum, self.limit // 2)
        return self._lowered(max(lowest, self.limit - excess), Why.QUEUE, now)

    def _round_ended(self, now: float) -> LimitChange | None:
        median_s = statistics.median(self._latencies_s)
        lowest_s = min(self._medians_s, default=median_s)
        self._medians_s.append(median_s)
        self._latencies_s.clear()
        was_the_limit, self._was_the_limit = self._was_the_limit, False
        if not was_the_limit or self.limit == self._maximum:
            return None
        if self._queue_holds:
            return self._hold(Why.QUEUE, now)
        if median_s > TOLERANCE * lowest_s:
            return self._hold(Why.SLOWER, now)
        step, why = (self.limit, Why.DOUBLED) if self._doubling else (1, Why.GREW)
        return self._moved(min(self.limit + step, self._maximum), why, now)

    def _hold(self, why: Why, now: float) -> LimitChange | None:
        """Report it once: it is the same every round."""
        self._doubling = False
        if self._held is why:
            return None
        self._held = why
        return LimitChange(now - self._began, self.limit, self.limit, why)

    def _lowered(self, limit: int, why: Why, now: float) -> LimitChange | None:
        self._doubling = False
        self._latencies_s.clear()
        self._was_the_limit = False
        return self._moved(limit, why, now)

    def _moved(self, limit: int, why: Why, now: float) -> LimitChange | None:
        before, self.limit, self._held = self.limit, limit, None
        return None if limit == before else LimitChange(now - self._began, before, limit, why)


_STEPS: Final = (0.001, 0.1)
"""The least and the most by which a request raises the pace, as a fraction of it."""

_FINER: Final = 3.0
_COARSER: Final = 1.1
_BEYOND: Final = 1.1
"""A pace so many times the one that was refused last shows that the limit was lifted."""

_CUT_IN_STEPS: Final = 60
_DEEPEST_CUT: Final = 0.25
_CUT_AGAIN: Final = 0.15
_BURST: Final = 8
"""A refusal within so many requests shows that the pace is too high, and not by how much."""

_UNKNOWN_A_SECOND: Final = 1.0
_COUNTED: Final = 32
_COUNTED_S: Final = 10.0


class Pace:
    """How many requests a second to send to a server that refuses even one at a time.

    A gateway that counts requests (nginx's `limit_req`, an account's quota) says only yes or no. So
    the pace climbs until a request is refused, is cut, and climbs again in smaller steps. Once it
    is near the limit, about one request in sixty is refused. Where the limit is lifted, the steps
    grow again. There is no pace until `begin`.

    Attributes:
        a_second: requests a second; None where any number may be sent.
    """

    def __init__(self) -> None:
        self.a_second: float | None = None
        self._refused_a_second = 0.0
        self._begun_a_second = 0.0  # after the last cut
        self._step = _STEPS[1]
        self._soon = False  # whether the last cut came soon after the one before
        self._sent = 0  # since the last cut, those that did not have to wait left out
        self._next_at = 0.0
        self._answered_at: deque[float] = deque(maxlen=_COUNTED)

    def due_s(self, now: float) -> float:
        """Seconds until the next request may be sent, at least 0."""
        return 0.0 if self.a_second is None else max(0.0, self._next_at - now)

    def sent(self, now: float, *, waited: bool) -> None:
        """Count a request; `waited`: the pace held it back."""
        if self.a_second is None:
            return
        if waited:
            self._sent += 1
            self.a_second *= 1 + self._step
            if self.a_second > _BEYOND * self._refused_a_second:
                self._step = min(self._step * _COARSER, _STEPS[1])
        self._next_at = now + 1 / self.a_second

    def answered(self, now: float) -> None:
        """Count an answer."""
        self._answered_at.append(now)

    def begin(self, now: float) -> None:
        """Keep a pace from now on: that of the latest answers."""
        times = [at for at in self._answered_at if now - at <= _COUNTED_S]
        known = len(times) > 1
        self.a_second = len(times) / max(now - times[0], 1e-3) if known else _UNKNOWN_A_SECOND
        self._refused_a_second = self._begun_a_second = self.a_second
        self._step, self._sent = _STEPS[1], 0
        self._next_at = now + 1 / self.a_second

    def cut(self, now: float) -> None:
        """Slow down: a request at this pace was refused."""
        if self.a_second is None:
            return
        soon = self._sent <= _BURST
        depth = _CUT_AGAIN if soon and self._soon else 0.0
        self._soon = soon
        if not soon:
            self._step = max(self._step / _FINER, _STEPS[0])
            self._refused_a_second = self.a_second
        else:  # the first may pass as a burst: the pace was too high from the beginning
            self._refused_a_second = self._begun_a_second
        depth = max(depth, min(_CUT_IN_STEPS * self._step, _DEEPEST_CUT))
        self.a_second = self._refused_a_second * (1 - depth)
        self._begun_a_second, self._sent = self.a_second, 0
        self._next_at = now + 1 / self.a_second

    def end(self) -> None:
        """Keep no pace any more."""
        self.a_second = None


def queue_length(metrics: bytes) -> float | None:
    """Requests waiting in the server, over all its engines; None where it does not say."""
    try:
        found = [float(value) for value in _QUEUE.findall(metrics)]
    except ValueError:
        return None
    return sum(found) if found and all(map(math.isfinite, found)) else None


def affordable_connections() -> int:
    """Connections that this process may open and have descriptors left, at least 1."""
    if resource is None:
        return 2**31
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**31 if soft == resource.RLIM_INFINITY else max(1, soft // _OWN_SHARE)
