"""One endpoint over several servers of the same model.

Servers with lanes lend their lanes: the planner cuts its walk over the prefix tree into one stretch
a lane. Among servers without lanes, a request goes where it is done first: to the server with the
fewest tokens left to compute, the request's own uncached ones included. So prompts stay on the
server that has their prefix, until it is quicker to compute that prefix elsewhere than to wait.

A server that cannot be reached any more, or does not answer in time, is given up, and its requests
go to the others. If one refuses a request or fails on it to the end, another is asked the same;
where that one answers, the request was not at fault, and the first server is given up.
"""

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Final, Self, TypeVar

import anyio
from pydantic import SecretStr

from icm_client.endpoints.connect import Kind, connect
from icm_client.endpoints.identity_check import nats_apart
from icm_client.endpoints.parsing import without_credentials
from icm_client.endpoints.protocol import (
    SAME_NATS,
    Answer,
    BatchTokenizer,
    CachingEndpoint,
    Endpoint,
    NoticingEndpoint,
    PrefixCache,
    Read,
    TextEndpoint,
    TokenIds,
    Usage,
    common_prefix,
    lane_of,
)
from icm_client.endpoints.settings import TransportSettings
from icm_client.errors import (
    EndpointError,
    EndpointTimeout,
    EndpointUnreachable,
    InputError,
    ModelChanged,
    PromptTooLong,
    ScoreError,
)

ATTEMPTS: Final = 6
"""At most, of a request at one of several servers: after about 15 s the others take it over."""

DEADLINES: Final = 2
"""Where a server hangs: a request's deadline, in deadlines of one attempt."""

_GONE: Final = (EndpointUnreachable, EndpointTimeout)
"""Errors after which a server is given up at once, where there are others."""

REMEMBERED_PREFIXES: Final = 4096
"""Of one server; the oldest are forgotten first, as in the server's own cache."""

_OF_ALL: Final = (ModelChanged, PromptTooLong)
"""Errors of the run or of the row: no server is given up, and no other is asked."""

_T = TypeVar("_T")


async def connect_several(
    urls: Sequence[str],
    *,
    model: str | None = None,
    api_key: str | SecretStr | None = None,
    settings: TransportSettings | None = None,
    kind: Kind | None = None,
    on_lost: Callable[[str, EndpointError], None] | None = None,
) -> "SeveralEndpoints":
    """One endpoint over the servers at `urls`, each opened as by `connect`.

    A request gets at most `ATTEMPTS` attempts at one server, and the time of `DEADLINES` of them.
    `on_lost` is called with the URL of a server that is given up, and the reason.

    Raises:
        InputError: two URLs are the same, or their servers are not alike.
        EndpointError: as `connect`, from any of them: at the start all must answer.
    """
    if len({url.rstrip("/") for url in urls}) < len(urls):
        raise InputError("the same --endpoint is given twice")
    shared = settings or TransportSettings()
    policy = replace(
        shared.retry,
        attempts=min(shared.retry.attempts, ATTEMPTS),
        item_timeout_s=min(shared.retry.item_timeout_s, DEADLINES * shared.retry.attempt_timeout_s),
    )
    members: dict[str, Endpoint] = {}
    try:
        for url in urls:
            members[without_credentials(url)] = await connect(
                url,
                model=model,
                api_key=api_key,
                settings=replace(shared, retry=policy),
                kind=kind,
            )
        return SeveralEndpoints(members, on_lost=on_lost)
    except BaseException:
        with anyio.CancelScope(shield=True):
            for endpoint in members.values():
                await endpoint.aclose()
        raise


@dataclass(slots=True, eq=False)
class Member:
    """One of the servers: how much it has to do, and which prefixes it was sent.

    Attributes:
        name: for messages.
        endpoint: the way to it.
        waiting: prompt tokens that it still has to compute.
    """

    name: str
    endpoint: Endpoint
    waiting: int = 0
    _prefixes: list[TokenIds] = field(default_factory=list)  # sorted
    _in_order: deque[TokenIds] = field(default_factory=deque)
    _under_way: dict[TokenIds, anyio.Event] = field(default_factory=dict)

    def uncached(self, prefix: TokenIds, prompts: Sequence[TokenIds] = ()) -> int:
        """Tokens that it would have to compute for `prefix` and for `prompts` that begin so."""
        missing = len(prefix) - len(self.longest_prefix(prefix))
        return missing + sum(len(prompt) - len(prefix) for prompt in prompts)

    def longest_prefix(self, prompt: TokenIds) -> TokenIds:
        """The longest prefix that it was sent and that `prompt` begins with; () without one."""
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
            begun = begun[: common_prefix(begun, found)]

    async def have(self, prefix: TokenIds, *, again: bool = False) -> None:
        """Return when it has been sent `prefix`, by this call or another; `again`: in any case."""
        if (under_way := self._under_way.get(prefix)) is not None:
            await under_way.wait()
        known = len(self.longest_prefix(prefix)) == len(prefix)
        if known and not again:
            return
        tokens = self.uncached(prefix)
        arrived = self._under_way[prefix] = anyio.Event()
        self._remember(prefix)  # before the answer, so that nobody sends it elsewhere meanwhile
        try:
            async with self.at_work(tokens):
                await self.endpoint.warm(prefix)
        finally:
            del self._under_way[prefix]
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


class SeveralEndpoints:
    """An `Endpoint` that shares its requests out among others.

    Args:
        members: the servers by their names, at least one; closed by `aclose`.
        on_lost: called with the name of a server that is given up, and the reason.

    Attributes:
        identity: what all of them are.
        lanes: those of all servers together.

    Raises:
        InputError: the servers' fingerprints differ, so that their log-probs would not be those of
            one model; or they take only text, where each numbers label tokens by itself.
    """

    def __init__(
        self,
        members: dict[str, Endpoint],
        *,
        on_lost: Callable[[str, EndpointError], None] | None = None,
    ) -> None:
        self._members = [Member(name, endpoint) for name, endpoint in members.items()]
        self._there = list(self._members)
        self._on_lost = on_lost
        self._given_up: list[str] = []
        self._comparing = anyio.Lock()
        self._alike = len(members) == 1  # whether they answered the first read alike
        first = self._members[0]
        self.identity = first.endpoint.identity
        for member in self._members:
            if isinstance(member.endpoint, TextEndpoint):
                raise InputError(
                    f"{member.name} takes only text, and one such server can be used at a time"
                )
            if member.endpoint.identity.fingerprint != self.identity.fingerprint:
                raise InputError(
                    f"{first.name} and {member.name} do not serve the same: "
                    f"{_described(first)} and {_described(member)}. Start them alike, from the "
                    "same weights and with the same version, or use one of them."
                )
        # For each lane the member that has it, and its number there.
        self._lanes = [
            (member, lane) for member in self._members for lane in range(member.endpoint.lanes)
        ]
        self.lanes = len(self._lanes)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({[member.name for member in self._members]})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property
    def usage(self) -> Usage:
        """Running totals over all servers, those that are lost included."""
        return sum((member.endpoint.usage for member in self._members), Usage())

    @property
    def notices(self) -> tuple[str, ...]:
        """As `NoticingEndpoint.notices`: those of each server, and which were given up."""
        of_members = [
            notice
            for member in self._members
            if isinstance(member.endpoint, NoticingEndpoint)
            for notice in member.endpoint.notices
        ]
        return (*dict.fromkeys(of_members), *self._given_up)

    async def tokenize(self, text: str, *, add_special: bool) -> TokenIds:
        """As `Endpoint.tokenize`; by the server that has the least to do."""
        return await self._tried(
            lambda among: min(among, key=lambda member: member.waiting),
            lambda member: member.endpoint.tokenize(text, add_special=add_special),
        )

    async def tokenize_many(self, texts: Sequence[str]) -> list[TokenIds] | None:
        """As `BatchTokenizer.tokenize_many`; None where one of the servers cannot."""

        async def ask(member: Member) -> list[TokenIds] | None:
            server = member.endpoint
            return await server.tokenize_many(texts) if isinstance(server, BatchTokenizer) else None

        return await self._tried(lambda among: min(among, key=lambda member: member.waiting), ask)

    async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
        """As `Endpoint.read`, on one server; on another, where that one is lost.

        Raises:
            InputError: the servers answer the first read differently.
        """
        answers = await self._answers(reads, lane)
        if not self._alike:
            async with self._comparing:
                if not self._alike:
                    await self._compare(reads[0], answers[0])
                    self._alike = True
        return answers

    async def _compare(self, read: Read, answer: Answer) -> None:
        """Ask all servers the same: what they say of themselves does not identify their weights."""
        for member in list(self._there):
            if member.endpoint.identity.of_weights:
                continue

            async def ask(endpoint: Endpoint = member.endpoint) -> Answer:
                return (await endpoint.read([read], lane=lane_of(endpoint)))[0]

            try:
                apart = await nats_apart(answer, ask)
            except _GONE as error:
                if len(self._there) > 1:
                    self._lose(member, error)
                continue
            except (EndpointError, ScoreError):  # of this one prompt
                continue
            if apart:
                raise InputError(
                    f"{member.name} does not have the same weights as the other servers, though "
                    f"it says so: its log-probs are {apart:.2f} nats away (up to {SAME_NATS:g} is "
                    "noise). Load the same weights on all of them, or use one"
                )

    async def _answers(self, reads: Sequence[Read], lane: int | None) -> list[Answer]:
        if self._lanes:
            return await self._on_lane(lane, lambda endpoint, own: endpoint.read(reads, lane=own))
        prompts = [read.prompt for read in reads]
        prefix = max((one.longest_prefix(prompts[0]) for one in self._members), key=len)
        if any(prompt[: len(prefix)] != prefix for prompt in prompts):
            prefix = ()

        async def work(member: Member) -> list[Answer]:
            # Prompts of one request do not find each other's prefix in the cache: it is prefilled
            # here too, as it was elsewhere.
            await member.have(prefix)
            async with member.at_work(member.uncached(prefix, prompts)):
                return await member.endpoint.read(reads)

        return await self._tried(lambda among: self._quickest(among, prefix, prompts), work)

    async def warm(self, prefix: TokenIds, *, lane: int | None = None) -> None:
        """As `Endpoint.warm`, on the server that will get the prompts."""
        if self._lanes:
            await self._on_lane(lane, lambda endpoint, own: endpoint.warm(prefix, lane=own))
            return
        await self._tried(
            lambda among: self._quickest(among, prefix),
            lambda member: member.have(prefix, again=True),
        )

    async def prefix_cache(self) -> PrefixCache:
        """What all of them hold together, in the coarsest blocks."""
        caches = [
            await member.endpoint.prefix_cache()
            if isinstance(member.endpoint, CachingEndpoint)
            else PrefixCache()
            for member in self._there
        ]
        sizes = [cache.tokens for cache in caches if cache.tokens is not None]
        total = sum(sizes) if len(sizes) == len(caches) else None
        return PrefixCache(max(cache.block for cache in caches), total)

    async def aclose(self) -> None:
        """Close them all."""
        async with anyio.create_task_group() as tasks:
            for member in self._members:
                tasks.start_soon(member.endpoint.aclose)

    async def _on_lane(
        self, lane: int | None, work: Callable[[Endpoint, int], Awaitable[_T]]
    ) -> _T:
        own: dict[Member, int] = {}

        def choose(among: Sequence[Member]) -> Member:
            member, own[member] = self._lane(lane, among)
            return member

        return await self._tried(choose, lambda member: work(member.endpoint, own[member]))

    def _lane(self, lane: int | None, among: Sequence[Member]) -> tuple[Member, int]:
        """The member that has the lane; lanes of members not `among` them are spread over these."""
        number = lane or 0
        member, own = self._lanes[number]
        if member in among:
            return member, own
        left = [(one, own) for one, own in self._lanes if one in among]
        return left[number % len(left)]

    def _quickest(
        self, among: Sequence[Member], prefix: TokenIds, prompts: Sequence[TokenIds] = ()
    ) -> Member:
        return min(among, key=lambda member: member.waiting + member.uncached(prefix, prompts))

    async def _tried(
        self,
        choose: Callable[[Sequence[Member]], Member],
        work: Callable[[Member], Awaitable[_T]],
    ) -> _T:
        """What `work` returns for the member that `choose` picks, or for another if that one fails.

        If all fail, the error of the first is raised.
        """
        failed: dict[Member, EndpointError] = {}
        while among := [member for member in self._there if member not in failed]:
            member = choose(among)
            try:
                answer = await work(member)
            except _GONE as error:
                if len(self._there) > 1:
                    self._lose(member, error)
                elif member in self._there:
                    failed[member] = error
            except _OF_ALL:
                raise
            except EndpointError as error:
                failed[member] = error
            else:
                for other, reason in failed.items():
                    self._lose(other, reason)
                return answer
        raise next(iter(failed.values()))

    def _lose(self, member: Member, error: EndpointError) -> None:
        if member in self._there and len(self._there) > 1:
            self._there.remove(member)
            self._given_up.append(
                f"{member.name} was given up and its work done by the others: {error}"
            )
            if self._on_lost is not None:
                self._on_lost(member.name, error)


def _described(member: Member) -> str:
    known = member.endpoint.identity
    return (
        f"{known.model} ({known.kind}, {known.context_length:,} tokens, fingerprint "
        f"{known.fingerprint[:12]})"
    )
