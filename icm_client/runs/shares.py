"""One endpoint for several jobs: each has a fair share, and is told what it used of it."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import fields, replace
from itertools import count
from typing import Final

import anyio

from icm_client.endpoints.prefix_cache import CachingEndpoint, PrefixCache
from icm_client.endpoints.protocol import (
    Answer,
    Endpoint,
    LabelToken,
    NoticingEndpoint,
    Read,
    ServerIdentity,
    TextEndpoint,
    TokenIds,
    Usage,
)
from icm_client.endpoints.served import ServedEndpoint
from icm_client.runs.turns import Claim, Lane, Places

_UNKNOWN_LIMIT: Final = 64
"""Requests under way at an endpoint that does not say how many it takes."""


class Shares:
    """Divides an endpoint among jobs.

    Args:
        endpoint: open; it stays so.

    Attributes:
        jobs: how many have a share that they have not closed.
        asking: held by the one that asks for what all of them are told.
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

    def settle(self, usage: Usage) -> None:
        """Add to `usage` what has been used since the last call."""
        now = self.endpoint.usage
        for total in fields(Usage):
            name = total.name
            used = getattr(now, name) - getattr(self._counted, name)
            setattr(usage, name, getattr(usage, name) + used)
        self._counted = replace(now)

    def _limit(self) -> int:
        if isinstance(self.endpoint, ServedEndpoint):
            # One more than may go out: the limit grows only where somebody waits for it.
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
        """As `CachingEndpoint.prefix_cache`, of which every job may fill its part."""
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
                shares.settle(self._usage)


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
