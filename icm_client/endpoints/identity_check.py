"""Is the server still what it was when the run began?"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
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
"""A server that has answered nothing for so long may have been restarted without a trace: the next
request opens a new connection."""

_SPACINGS: Final = 20
"""Where requests keep a distance, looks are at least so many of them apart: a look is two requests
or three, and each takes the place of one that scores."""

_TOO_MANY: Final = 429

_WOBBLE: Final = 3.0
"""An answer that moves by itself is another one only where it moved by so many times as much."""


async def nats_apart(known: Answer, ask: Callable[[], Awaitable[Answer]]) -> float:
    """Return by how much an answer has changed beyond noise, in nats; 0 where it has not.

    Only an answer that seems to have changed is asked for twice: what two new answers differ by is
    the server's own noise.

    Args:
        known: the answer to a read, from before.
        ask: asks for it again.
    """
    now = await ask()
    apart = distance(known, now)
    if apart <= SAME_NATS:
        return 0.0
    again = await ask()
    apart = min(apart, distance(known, again))
    return apart if apart > max(SAME_NATS, _WOBBLE * distance(now, again)) else 0.0


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a server computes, beside what it says of itself.

    Attributes:
        compare: asks again what was answered before; by how many nats the answers differ beyond
            noise, 0 where they do not, or where there is nothing to compare yet.
        every: how many of the looks that are due by time alone compare answers too: one in so
            many. 1 where that costs next to nothing. A llama.cpp slot loses the prefix it holds.
    """

    compare: Callable[[], Awaitable[float]]
    every: int = 1


class IdentityCheck:
    """Asks who answers before a request is sent in doubt.

    There is doubt after a failure that a restart may explain, after a silence, and from time to
    time. What the server says of itself is asked first. The same words may stand for other weights
    (a path that names the latest ones, an adapter loaded anew), so answers are compared as well:
    after a broken connection, after a silence, and every `interval_s`. A server that answers 5xx is
    asked once, and once more before the first answer that comes after all is taken; a 429 is no
    sign of a restart.

    Args:
        interval_s: between two looks, at most, in seconds.
        known: what the server is; None: nothing is ever asked.
        ask: who answers now.
        evidence: what it computes; None relies on its words.
        spacing_s: seconds that requests keep between them.
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
        """Hear of an attempt that ended without an answer."""
        if error.retry is Retry.NEVER:
            return
        if isinstance(error, EndpointOverloaded) and error.status == _TOO_MANY:
            self._answered_at = anyio.current_time()
            return
        self.doubt(compare=isinstance(error, EndpointUnreachable))
        if not isinstance(error, EndpointOverloaded | EndpointFault):
            self._looked = False

    def doubt(self, *, compare: bool) -> None:
        """Have it asked before the next request who answers, and whether it answers alike."""
        self._in_doubt = True
        self._compares |= compare

    def answered(self) -> None:
        """Hear of an answer."""
        self._answered_at = anyio.current_time()

    async def confirm(self) -> None:
        """Ask once more before an answer is taken, if there was no further look. Raises as `check`.

        A server that answered 5xx may have been exchanged since it was last looked at.
        """
        looked, self._looked = self._looked, False
        if looked and self._in_doubt:
            await self.check()

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Note a request: while one waits for its answer, no server is restarted without a sign."""
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    async def check(self) -> None:
        """Ask, if there is doubt.

        Raises:
            ModelChanged: it is another one; so does every later call.
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
            found = await ask()
            apart = 0.0
            if found.fingerprint == known.fingerprint and compares and self._evidence is not None:
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


def described(identity: ServerIdentity) -> str:
    """What a server calls itself, fit for a message."""
    return f"{clipped(identity.model)} ({identity.kind}, fingerprint {identity.fingerprint[:12]})"
