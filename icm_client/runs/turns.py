"""One endpoint for several jobs: `Shares` gives each a fair share, and counts what it has used.

What is shared depends on the server. One without lanes computes many requests at a time, so the
jobs share the requests under way (`Places`). A lane serves one request at a time and remembers the
last prompt. Jobs that took turns on it read by read would compute their demos anew each time, so
they share its time (`Lane`).
"""

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Final

import anyio

from icm_client.endpoints.protocol import (
    Answer,
    CachingEndpoint,
    Endpoint,
    LabelToken,
    NoticingEndpoint,
    PrefixCache,
    Read,
    ServerIdentity,
    TextEndpoint,
    TokenIds,
    Usage,
    common_prefix,
)
from icm_client.endpoints.served import ServedEndpoint

_UNKNOWN_LIMIT: Final = 64
"""Requests under way at an endpoint that does not report how many it takes."""


class Shares:
    """Divides an endpoint among jobs.

    Args:
        endpoint: open; it stays so.

    Attributes:
        jobs: how many have a share that they have not closed.
        asking: the lock of the job that asks the server for what all jobs need to know.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.jobs = 0
        self.asking = anyio.Lock()
        numbers = count(1)
        self.lanes = [Lane(numbers) for _ in range(endpoint.lanes)]
        self.places = Places(self._limit, numbers)
        self._counted = replace(endpoint.usage)

    def share(self) -> Endpoint:
        """Return the endpoint as one more job sees it, until that closes its share."""
        self.jobs += 1
        if isinstance(self.endpoint, TextEndpoint):
            return _TextShare(self, self.endpoint)
        return _Share(self)

    def used(self) -> Usage:
        """What has been used since the last call."""
        now = replace(self.endpoint.usage)
        used, self._counted = now - self._counted, now
        return used

    def _limit(self) -> int:
        if isinstance(self.endpoint, ServedEndpoint):
            # One more than may be sent: the limit grows only where a request waits for it.
            return self.endpoint.in_flight_limit + 1
        return _UNKNOWN_LIMIT


class _Share:
    """An `Endpoint`: a job's share of another.

    Its usage adds up, with that of the other jobs, to the endpoint's. Tokens are counted for the
    job whose answer they were used for; requests for the one that is answered next, so they may be
    off by the requests under way.
    """

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self._endpoint = shares.endpoint
        self._claim = Claim()
        self._usage = Usage()

    @property
    def identity(self) -> ServerIdentity:
        return self._endpoint.identity

    @property
    def lanes(self) -> int:
        return self._endpoint.lanes

    @property
    def usage(self) -> Usage:
        return self._usage

    @property
    def notices(self) -> tuple[str, ...]:
        endpoint = self._endpoint
        return endpoint.notices if isinstance(endpoint, NoticingEndpoint) else ()

    async def tokenize(self, text: str, *, add_special: bool) -> TokenIds:
        if self.lanes:  # no lane is needed for it
            return await self._endpoint.tokenize(text, add_special=add_special)
        async with self._shares.places.place(self._claim):
            return await self._endpoint.tokenize(text, add_special=add_special)

    async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
        async with self._turn(reads[0].prompt, lane):
            return await self._endpoint.read(reads, lane=lane)

    async def warm(self, prefix: TokenIds, *, lane: int | None = None) -> None:
        async with self._turn(prefix, lane):
            await self._endpoint.warm(prefix, lane=lane)

    async def prefix_cache(self) -> PrefixCache:
        """As `CachingEndpoint.prefix_cache`, of which each job may fill an equal part."""
        if not isinstance(self._endpoint, CachingEndpoint):
            return PrefixCache()
        async with self._shares.asking:  # the server is asked once, not by all at the same moment
            whole = await self._endpoint.prefix_cache()
        return whole._replace(tokens=whole.tokens and whole.tokens // self._shares.jobs)

    async def aclose(self) -> None:
        """Leave the endpoint to the others."""
        self._shares.jobs -= 1

    @asynccontextmanager
    async def _turn(self, prompt: TokenIds, lane: int | None) -> AsyncIterator[None]:
        shares = self._shares
        async with (
            shares.lanes[lane or 0].turn(self._claim, prompt)
            if shares.lanes
            else shares.places.place(self._claim)
        ):
            try:
                yield
            finally:
                # Counted before anything else is awaited, so that it is this answer's.
                self._usage += shares.used()


class _TextShare(_Share):
    """A `TextEndpoint` too."""

    def __init__(self, shares: Shares, text: TextEndpoint) -> None:
        super().__init__(shares)
        self._text = text

    async def find_label_token(self, label: str, *, prompt: str, separator: str) -> LabelToken:
        async with self._shares.places.place(self._claim):
            return await self._text.find_label_token(label, prompt=prompt, separator=separator)

    def name_label(self, found: LabelToken) -> int:
        return self._text.name_label(found)


@dataclass(eq=False, slots=True)
class Claim:
    """A job's claim on the endpoint.

    Attributes:
        under_way: its requests that have a place.
        served: when it last got a place or a lane, as a number that rises.
        waiting: its requests that wait for a place, in the order they came.
    """

    under_way: int = 0
    served: int = 0
    waiting: deque[anyio.Event] = field(default_factory=deque)


STINT_S: Final = 2.0
"""Seconds for which a job may keep a lane while others wait and its prompts share a prefix."""

STINT_PER_PROMPT: Final = 4
"""A job may also keep a lane this many times as long as its first prompt took. That prompt is
computed anew when the job comes back, so interruptions cost at most a fifth of the time."""

_GRACE_S: Final = 0.005
"""Seconds after an answer in which the job that has the lane may send its next prompt, before
another job takes the lane."""


class Places:
    """Requests under way at a server without lanes; a free place goes to the job with the fewest.

    Args:
        limit: how many there may be, asked again each time.
        numbers: rising ones, for `Claim.served`.
    """

    def __init__(self, limit: Callable[[], int], numbers: Iterator[int]) -> None:
        self._limit = limit
        self._taken = 0
        self._claims: dict[Claim, None] = {}  # those that are waiting
        self._numbers = numbers

    @asynccontextmanager
    async def place(self, claim: Claim) -> AsyncIterator[None]:
        """Wait for a place, and keep it for the block."""
        turn = anyio.Event()
        claim.waiting.append(turn)
        self._claims[claim] = None
        self._fill()
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set():
                self._leave(claim)
            else:
                claim.waiting.remove(turn)
                if not claim.waiting:
                    del self._claims[claim]
            raise
        try:
            yield
        finally:
            self._leave(claim)

    def _leave(self, claim: Claim) -> None:
        claim.under_way -= 1
        self._taken -= 1
        self._fill()

    def _fill(self) -> None:
        while self._claims and self._taken < self._limit():
            claim = min(self._claims, key=lambda one: (one.under_way, one.served))
            claim.waiting.popleft().set()
            if not claim.waiting:
                del self._claims[claim]
            claim.under_way += 1
            claim.served = next(self._numbers)
            self._taken += 1


@dataclass(eq=False, slots=True)
class _Waiter:
    claim: Claim
    woken: anyio.Event = field(default_factory=anyio.Event)


class Lane:
    """A prefix cache that serves one request at a time, lent to a job for a stint.

    A stint ends where less than half of the next prompt is a prefix of the last one, because little
    is lost then, or when it has lasted long enough. The lane then goes to the waiting job that had
    it the longest time ago.

    Args:
        numbers: rising ones, for `Claim.served`.
    """

    def __init__(self, numbers: Iterator[int]) -> None:
        self._numbers = numbers
        self._busy = False
        self._holder: Claim | None = None
        self._last: TokenIds = ()
        self._began = self._ends = 0.0
        self._waiters: list[_Waiter] = []
        self._looking: _Waiter | None = None  # the one that has been woken

    @asynccontextmanager
    async def turn(self, claim: Claim, prompt: TokenIds) -> AsyncIterator[None]:
        """Wait for the lane, and keep it for the block, which sends `prompt`."""
        if self._busy or (self._waiters and not self._goes_on(claim, prompt)):
            await self._wait(_Waiter(claim))
        self._busy = True
        first = self._holder is not claim
        if first:
            self._holder, claim.served = claim, next(self._numbers)
            self._began = anyio.current_time()
            self._ends = self._began + STINT_S
        self._last = prompt
        try:
            yield
        finally:
            if first:
                took_s = anyio.current_time() - self._began
                self._ends = self._began + max(STINT_S, STINT_PER_PROMPT * took_s)
            self._busy = False
            self._wake()

    def _goes_on(self, claim: Claim, prompt: TokenIds) -> bool:
        return (
            claim is self._holder
            and not self._stint_is_over()
            and 2 * common_prefix(self._last, prompt) >= len(prompt)
        )

    def _stint_is_over(self) -> bool:
        return anyio.current_time() >= self._ends

    async def _wait(self, waiter: _Waiter) -> None:
        """Return when the lane is the waiter's; nothing may be awaited between that and its use."""
        self._waiters.append(waiter)
        self._wake()
        try:
            while True:
                await waiter.woken.wait()
                if not self._stint_is_over():
                    await anyio.sleep(_GRACE_S)
                self._looking = None
                if not self._busy:
                    break
                waiter.woken = anyio.Event()
        except BaseException:
            self._waiters.remove(waiter)
            if self._looking is waiter:
                self._looking = None
                self._wake()
            raise
        self._waiters.remove(waiter)

    def _wake(self) -> None:
        if self._waiters and not self._busy and self._looking is None:
            self._looking = min(self._waiters, key=lambda waiter: waiter.claim.served)
            self._looking.woken.set()
