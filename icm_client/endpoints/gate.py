"""Who may send now: `icm_client.endpoints.limiter` in front of a real server."""

import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import anyio

from icm_client.endpoints.limiter import InFlightLimiter, LimitChange
from icm_client.endpoints.settings import TransportSettings
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

# vLLM, SGLang, llama.cpp (with --metrics): Prometheus' text format, one line an engine.
_QUEUE = re.compile(
    rb"^(?:vllm:num_requests_waiting|sglang:num_queue_reqs|llamacpp:requests_deferred)"
    rb"(?:\{.*\})?[ \t]+(\S+)",
    re.MULTILINE,
)
_LOOKED_S: Final = 0.1
"""How often a wait looks whether the run is to stop."""

_OWN_SHARE: Final = 2
"""Of the descriptors that a process may open, connections take one in this many."""


class Gate:
    """Lets as many requests out as the limit says; the others wait in the order they came.

    Args:
        settings: bounds of the limit, how the server's queue is watched, who observes.
        read_metrics: the body of the server's `/metrics`.
    """

    def __init__(
        self, settings: TransportSettings, read_metrics: Callable[[], Awaitable[bytes]]
    ) -> None:
        self._settings = settings
        self._read_metrics = read_metrics
        self._limiter: InFlightLimiter | None = None  # made when there is a clock
        self._metrics_due = math.inf
        self._maximum = min(settings.max_in_flight, affordable_connections())
        self._capacity = anyio.CapacityLimiter(self._first_limit())
        self._line = anyio.Lock()  # of those that keep a distance: in the order they came

    @property
    def limit(self) -> int:
        """Requests that may be in flight now."""
        return self._limiter.limit if self._limiter else self._first_limit()

    @property
    def spacing_s(self) -> float:
        """Seconds between two requests; 0 where they need keep no distance."""
        return self._limiter.spacing_s if self._limiter else 0.0

    @asynccontextmanager
    async def turn(
        self, kind: str, ready: Callable[[], Awaitable[None]] | None = None
    ) -> AsyncIterator[None]:
        """Wait for a turn, and learn from how the request in it ends.

        Args:
            kind: of request; the latencies of two kinds are not compared.
            ready: awaited when it is this request's turn; what it asks the server goes `aside`.

        Raises:
            RunStopped: the run is to stop, and this request has not been sent.
        """
        limiter = self._limiter or self._begun()
        full = self._capacity.available_tokens <= 0
        if full and not limiter.spacing_s:
            limiter.full()
        async with self._capacity:
            self._refuse_if_stopping()
            await self._watch_queue(limiter)
            if ready is not None:
                await ready()
            waited = await self._in_line(limiter)
            if full and limiter.spacing_s and not waited:
                limiter.full()
            sent_at = anyio.current_time()
            with self._refusals(limiter, sent_at):
                yield
            self._apply(limiter.answered(kind, sent_at=sent_at, now=anyio.current_time()))

    @asynccontextmanager
    async def aside(self) -> AsyncIterator[None]:
        """For a small request beside the work: it keeps its distance, and takes no turn."""
        limiter = self._limiter or self._begun()
        await self._in_line(limiter)
        with self._refusals(limiter, anyio.current_time()):
            yield

    async def _in_line(self, limiter: InFlightLimiter) -> bool:
        """Wait until a request may be sent, and count it; whether that took any time."""
        waited = False
        async with self._line:
            # Not an event: another refusal may prolong the pause meanwhile.
            while (pause_s := limiter.paused_s(anyio.current_time())) > 0:
                waited = True
                await anyio.sleep(min(pause_s, _LOOKED_S))
                self._refuse_if_stopping()
            limiter.sent(anyio.current_time(), waited=waited)
        return waited

    def _refuse_if_stopping(self) -> None:
        if self._settings.stopping():
            raise RunStopped("stopped on request", goes_on=False)  # a scorer knows better

    @contextmanager
    def _refusals(self, limiter: InFlightLimiter, sent_at: float) -> Iterator[None]:
        try:
            yield
        except EndpointOverloaded as error:
            asked_s = min(error.retry_after_s or 0.0, self._settings.retry.retry_after_cap_s)
            now = anyio.current_time()
            self._apply(limiter.refused(sent_at=sent_at, now=now, retry_after_s=asked_s))
            raise

    def _first_limit(self) -> int:
        settings = self._settings
        return max(settings.min_in_flight, min(settings.start_in_flight, self._maximum))

    def _begun(self) -> InFlightLimiter:
        settings, now = self._settings, anyio.current_time()
        self._limiter = InFlightLimiter(
            minimum=min(settings.min_in_flight, self._maximum),
            maximum=self._maximum,
            start=self._first_limit(),
            now=now,
            queue_limit=settings.good_neighbour.queue if settings.good_neighbour else None,
        )
        if self._maximum > settings.min_in_flight:
            self._metrics_due = now + settings.metrics_interval_s
        return self._limiter

    async def _watch_queue(self, limiter: InFlightLimiter) -> None:
        # Refusals tell the same, and where requests are counted this would be one of them.
        if anyio.current_time() < self._metrics_due or limiter.spacing_s:
            return
        # Set ahead of the await: nobody else asks meanwhile, and a server without never again.
        self._metrics_due = math.inf
        try:
            waiting = queue_length(await self._read_metrics())
        except (RequestRefused, EndpointUntrusted):
            return
        except IcmError:  # whether it heals is for the request itself to find out
            waiting = math.nan
        if waiting is None:
            return
        now = anyio.current_time()
        self._metrics_due = now + self._settings.metrics_interval_s
        if not math.isnan(waiting):
            self._apply(limiter.queue(waiting, now))

    def _apply(self, change: LimitChange | None) -> None:
        if change is None:
            return
        self._capacity.total_tokens = change.limit
        if self._settings.observe is not None:
            self._settings.observe(change)


def queue_length(metrics: bytes) -> float | None:
    """Requests waiting in the server, over all its engines; None where it does not tell."""
    try:
        found = [float(value) for value in _QUEUE.findall(metrics)]
    except ValueError:
        return None
    return sum(found) if found and all(map(math.isfinite, found)) else None


def affordable_connections() -> int:
    """Connections that this process may open without wanting for descriptors, at least 1."""
    if resource is None:
        return 2**31
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**31 if soft == resource.RLIM_INFINITY else max(1, soft // _OWN_SHARE)
