"""Is the server still what it was when the run began?

It may be restarted with another model, or with other weights under the same name, and a score of
those must not stand beside the others. So it is asked again, when there is doubt, who it is and
whether it still answers the first questions as it did.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

import anyio

from icm_client.endpoints.parsing import clipped
from icm_client.endpoints.protocol import SAME_NATS, Answer, ServerIdentity, distance
from icm_client.errors import (
    EndpointError,
    EndpointFault,
    EndpointOverloaded,
    EndpointUnreachable,
    ModelChanged,
    Retry,
)

SILENCE_S: Final = 5.0
"""A server that has answered nothing for so long may have been restarted unnoticed: the next
request opens a new connection."""

LOOKING: Final[ContextVar[bool]] = ContextVar("looking", default=False)
"""Set while the server is asked who it is. Such a request gives up early, and is asked again with
the request that waits for it."""

COMPARING: Final[ContextVar[bool]] = ContextVar("comparing", default=False)
"""Set while answers are compared on behalf of a request that waits to be sent. What is asked then
uses that request's turn, raises no doubt of its own, and is an attempt of that request's."""

_SPACINGS: Final = 20
"""Where requests keep a distance, checks are at least so many of them apart: a check takes two or
three requests, each in the place of one that scores."""

_TOO_MANY_REQUESTS: Final = 429

_WOBBLE: Final = 3.0
"""An answer whose repetitions differ has changed only if it moved so many times as far."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a server computes, as opposed to what it says of itself.

    Attributes:
        compare: asks again what was answered before, and returns by how many nats the answers
            differ beyond noise: 0 where they do not, or where there is nothing to compare yet.
        every: answers are compared in one of so many of the checks that are due by time alone. 1
            where that costs next to nothing; a llama.cpp slot loses the prefix that it holds.
    """

    compare: Callable[[], Awaitable[float]]
    every: int = 1


class IdentityCheck:
    """Asks the server who it is, before a request that is sent in doubt.

    There is doubt after a failure that a restart may explain, after a silence, and from time to
    time. What the server says of itself is asked first. The same words may stand for other weights
    (a path that names the latest ones, an adapter that was loaded anew), so answers are compared
    too: after a broken connection, after a silence, and every `interval_s`. A server that answers
    5xx is asked once, and once more before its first good answer is taken. A 429 is no sign of a
    restart.

    `ask` asks again who answers; without it the server is never asked. `interval_s` is the most
    seconds between two checks, `spacing_s` those that requests keep between them.
    """

    def __init__(
        self,
        interval_s: float,
        known: ServerIdentity | None = None,
        ask: Callable[[], Awaitable[ServerIdentity]] | None = None,
        evidence: Evidence | None = None,
        spacing_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._interval_s = interval_s
        self._known, self._ask, self._evidence = known, ask, evidence
        self._spacing_s = spacing_s
        self._lock = anyio.Lock()
        self._in_doubt = False
        self._compares = False
        self._looked = False  # since the server began to answer 5xx
        self._under_way = 0
        self._change: tuple[str, float] | None = None  # what to say, and since when
        now = 0.0 if known is None else anyio.current_time()
        self._confirmed_at = self._compared_at = self._answered_at = now

    def failed(self, error: EndpointError) -> None:
        """Record an attempt that ended without an answer."""
        if error.retry is Retry.NEVER:
            return
        if isinstance(error, EndpointOverloaded) and error.status == _TOO_MANY_REQUESTS:
            self._answered_at = anyio.current_time()
            return
        self.doubt(compare=isinstance(error, EndpointUnreachable))
        if not isinstance(error, EndpointOverloaded | EndpointFault):
            self._looked = False

    def doubt(self, *, compare: bool) -> None:
        """Check before the next request who answers, and, if `compare`, that it answers alike."""
        self._in_doubt = True
        self._compares |= compare

    def answered(self) -> None:
        """Record an answer."""
        self._answered_at = anyio.current_time()

    async def confirm(self) -> None:
        """Ask once more before an answer is taken, if it was not asked since. Raises as `check`.

        A server that answered 5xx may have been replaced since it was last asked.
        """
        looked, self._looked = self._looked, False
        if looked and self._in_doubt:
            await self.check()

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Count a request. While one waits for its answer, a restart shows: that request fails."""
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    async def check(self) -> None:
        """Ask the server, if there is doubt.

        Raises:
            ModelChanged: it is another one; every later call raises it too.
            EndpointError: from `ask`.
        """
        if self._ask is None or self._known is None or not self._is_due():
            return
        async with self._lock:
            if not self._is_due():  # somebody else asked meanwhile
                return
            if self._change is None:
                await self._look(self._known, self._ask)
            if self._change is not None:
                message, since = self._change
                raise ModelChanged(message, last_confirmed_at=since)

    async def _look(
        self, known: ServerIdentity, ask: Callable[[], Awaitable[ServerIdentity]]
    ) -> None:
        asked_at = anyio.current_time()
        compares = self._compares_now(asked_at)
        self._looked |= self._in_doubt
        self._in_doubt = self._compares = False  # before the await: it may fail again meanwhile
        try:
            with _set(LOOKING):
                found = await ask()
            apart = 0.0
            if found.fingerprint == known.fingerprint and compares and self._evidence is not None:
                with _set(COMPARING):
                    apart = await self._evidence.compare()
        except BaseException:
            self._in_doubt = True
            self._compares |= compares
            raise
        if found.fingerprint != known.fingerprint:
            message = (
                f"the server has changed in mid-run: it was {described(known)} and is "
                f"{described(found)}; run the same command again to begin with the new one"
            )
            self._change = message, self._confirmed_at
        elif apart:
            message = (
                f"the server's weights have changed in mid-run. It still calls itself "
                f"{described(known)}, but to what it was asked before it now gives log-probs that "
                f"are {apart:.2f} nats away (up to {SAME_NATS:g} is noise). "
                "`icm-client label --accept-drift` labels with the new weights from the start"
            )
            self._change = message, self._compared_at
        else:
            self._confirmed_at = asked_at
            self._answered_at = anyio.current_time()
            if compares:
                self._compared_at = asked_at
        self._in_doubt |= self._change is not None

    def _compares_now(self, now: float) -> bool:
        if self._evidence is None:
            return False
        silent = not self._under_way and now - self._answered_at >= SILENCE_S
        return (
            self._compares
            or silent
            or now - self._compared_at >= self._interval_s * self._evidence.every
        )

    def _is_due(self) -> bool:
        if self._change is not None:
            return True
        if self._looked:
            return False
        now, apart_s = anyio.current_time(), _SPACINGS * self._spacing_s()
        return (
            self._in_doubt
            or now - self._confirmed_at >= max(self._interval_s, apart_s)
            or now - self._answered_at >= max(SILENCE_S, apart_s)
        )


async def nats_apart(known: Answer, ask: Callable[[], Awaitable[Answer]]) -> float:
    """By how much the `known` answer has changed beyond noise, in nats; 0 where it has not.

    Only an answer that seems to have changed is asked for twice: the difference between two new
    answers is the server's own noise.
    """
    now = await ask()
    apart = distance(known, now)
    if apart <= SAME_NATS:
        return 0.0
    again = await ask()
    apart = min(apart, distance(known, again))
    return apart if apart > max(SAME_NATS, _WOBBLE * distance(now, again)) else 0.0


def described(identity: ServerIdentity) -> str:
    """What a server calls itself, fit for a message."""
    return f"{clipped(identity.model)} ({identity.kind}, fingerprint {identity.fingerprint[:12]})"


@contextmanager
def _set(flag: ContextVar[bool]) -> Iterator[None]:
    before = flag.set(True)
    try:
        yield
    finally:
        flag.reset(before)
