"""One of several servers: what it has to do, and which prefixes it was sent."""

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import anyio

from icm_client.endpoints.protocol import Endpoint, TokenIds

REMEMBERED_PREFIXES: Final = 4096
"""Of one server; those sent first are forgotten first, as its cache does."""


@dataclass(slots=True, eq=False)
class Member:
    """A server without lanes, or one whose lanes are chosen by others.

    Attributes:
        name: for messages.
        endpoint: the way to it.
        waiting: prompt tokens that it has yet to compute.
    """

    name: str
    endpoint: Endpoint
    waiting: int = 0
    _prefixes: list[TokenIds] = field(default_factory=list)  # sorted
    _in_order: deque[TokenIds] = field(default_factory=deque)
    _on_their_way: dict[TokenIds, anyio.Event] = field(default_factory=dict)

    def uncached(self, prefix: TokenIds, prompts: Sequence[TokenIds] = ()) -> int:
        """Tokens that it would have to compute for `prefix`, and for `prompts` behind it."""
        missing = len(prefix) - len(self.longest_prefix(prefix))
        return missing + sum(len(prompt) - len(prefix) for prompt in prompts)

    def longest_prefix(self, prompt: TokenIds) -> TokenIds:
        """The longest prefix that it was sent and `prompt` begins with; () if there is none."""
        end = len(self._prefixes)
        begun = prompt
        while True:
            # Whatever begins a prompt sorts before it, and what sorts before the one found can
            # only begin what that one and the prompt have in common.
            end = bisect_right(self._prefixes, begun, hi=end)
            if not end:
                return ()
            found = self._prefixes[end - 1]
            if begun[: len(found)] == found:
                return found
            begun = begun[: _common(begun, found)]

    async def have(self, prefix: TokenIds, *, again: bool = False) -> None:
        """Return when it has been sent `prefix`, by this call or another; `again`: in any case.

        Raises:
            EndpointError: as `Endpoint.warm`.
        """
        on_its_way = self._on_their_way.get(prefix)
        if on_its_way is not None:
            await on_its_way.wait()
        known = len(self.longest_prefix(prefix)) == len(prefix)
        if known and not again:
            return
        tokens = self.uncached(prefix)
        arrived = self._on_their_way[prefix] = anyio.Event()
        self._remember(prefix)  # ahead of the answer, so that nobody sends it elsewhere meanwhile
        try:
            async with self.at_work(tokens):
                await self.endpoint.warm(prefix)
        finally:
            del self._on_their_way[prefix]
            arrived.set()

    @asynccontextmanager
    async def at_work(self, tokens: int) -> AsyncIterator[None]:
        """Count `tokens` as waiting."""
        self.waiting += tokens
        try:
            yield
        finally:
            self.waiting -= tokens

    def _remember(self, prefix: TokenIds) -> None:
        place = bisect_left(self._prefixes, prefix)
        if self._prefixes[place : place + 1] == [prefix]:
            return
        insort(self._prefixes, prefix)
        self._in_order.append(prefix)
        if len(self._in_order) > REMEMBERED_PREFIXES:
            oldest = self._in_order.popleft()
            del self._prefixes[bisect_left(self._prefixes, oldest)]


def _common(one: TokenIds, other: TokenIds) -> int:
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return index
    return min(len(one), len(other))
