"""What all endpoints on a `Transport` share: identity, usage, checks that the server is the same.

Prompts as token ids are in `tokens`, prompts as text in `texts`.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, Self, TypeVar

from icm_client.endpoints.identity_check import Evidence, nats_apart
from icm_client.endpoints.models import ModelCard
from icm_client.endpoints.parsing import Wire, listed, parsed
from icm_client.endpoints.protocol import Answer, Read, ServerIdentity, Usage
from icm_client.endpoints.transport import Transport
from icm_client.errors import (
    MalformedAnswer,
    ModelNotFound,
    RequestRefused,
    ScoreError,
    UnsupportedServer,
)

_CONTROLS: Final = 3
"""The first reads of a session, which are asked again where it is in doubt who answers. Two changed
answers, or two unchanged ones, decide: a single one may have changed because of its prompt."""

_SETTLE: Final = 2


class TokenDetails(Wire):
    """Of `TokenUsage`; vLLM gives it only with --enable-prompt-tokens-details."""

    cached_tokens: int | None = None


class TokenUsage(Wire):
    """The `usage` of an OpenAI-compatible answer."""

    prompt_tokens: int
    prompt_tokens_details: TokenDetails | None = None

    @property
    def cached_tokens(self) -> int:
        """0 where the server does not say."""
        return (self.prompt_tokens_details and self.prompt_tokens_details.cached_tokens) or 0


_Answer = TypeVar("_Answer", bound=Wire)

NO_ROUTE: Final = (404, 405, 501)
"""How a server or gateway answers a path that it does not have."""


class ServedEndpoint(ABC):
    """A model that answers through a `Transport`; usable as an async context manager.

    Args:
        transport: the way to the server; closed by `aclose`.
        identity: who answers.
    """

    def __init__(self, transport: Transport, *, identity: ServerIdentity) -> None:
        self._transport = transport
        self._identity = identity
        self._controls: dict[Read, Answer] = {}
        self._owes_a_look = False  # a check came before there was anything to compare
        self._marks: set[str] = set()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._transport.url!r}, model={self._identity.model!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property
    def identity(self) -> ServerIdentity:
        """Who answers."""
        return self._identity

    @property
    def lanes(self) -> int:
        """0: one prefix cache, scheduled by the server."""
        return 0

    @property
    def usage(self) -> Usage:
        """Running totals."""
        return self._transport.usage

    @property
    def in_flight_limit(self) -> int:
        """Requests that may be on the wire now."""
        return self._transport.in_flight_limit

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    def _guarded(self, ask: Callable[[], Awaitable[ServerIdentity]], *, every: int = 1) -> Self:
        """Check from now on that the server stays what it is; `every` as in `Evidence`."""
        self._transport.guard(self._identity, ask, Evidence(self._nats_apart, every))
        return self

    async def _nats_apart(self) -> float:
        """Ask the first reads again; the nats by which the answers have changed, or 0."""
        self._owes_a_look = not self._controls
        changes: list[float] = []
        same = 0
        for read, answer in list(self._controls.items()):  # others are kept meanwhile
            try:
                change = await nats_apart(answer, partial(self._asked_again, read))
            except ScoreError:  # by noise, where a label is the last among the most probable
                continue
            changes += [change] if change else []
            same += not change
            if same == _SETTLE or len(changes) == _SETTLE:
                break
        return max(changes, default=0.0) if len(changes) > same else 0.0

    @abstractmethod
    async def _asked_again(self, read: Read) -> Answer:
        """As `read`, for one, while another request waits that holds the lane or the turn."""

    def _keep(self, reads: Sequence[Read], answers: Sequence[Answer]) -> None:
        """Keep the first answers, for `_nats_apart`."""
        if len(self._controls) < _CONTROLS:
            for read, answer in zip(reads[:_CONTROLS], answers, strict=False):
                self._controls.setdefault(read, answer)
            if self._owes_a_look:
                self._owes_a_look = False
                self._transport.doubt()

    def _marked(self, system_fingerprint: str | None) -> None:
        """Record how the answer's back end is marked; a new mark raises doubt.

        It is no part of the fingerprint: a service with several back ends shows one or the other,
        and its stored answers would be lost with every change.
        """
        if system_fingerprint and system_fingerprint not in self._marks:
            if self._marks:
                self._transport.doubt()
            self._marks.add(system_fingerprint)

    def _count(self, prompt_tokens: int, cached_tokens: int) -> None:
        self.usage.cached_tokens += cached_tokens
        self.usage.computed_tokens += max(0, prompt_tokens - cached_tokens)


def served_model(
    transport: Transport,
    entries: Sequence[ModelCard],
    model: str | None,
) -> ModelCard:
    """The one of `entries` that the user means.

    Args:
        transport: for messages.
        entries: what the server lists.
        model: its name or an alias; None takes the one model there is.

    Raises:
        ModelNotFound: `model` is not served, or is None and several are; the message lists them.
    """
    served = [one for one in entries if model is None or model in (one.id, *(one.aliases or ()))]
    # LiteLLM lists a model twice that it has twice.
    if len({entry.id for entry in served}) != 1:
        there = listed([transport.redacted(entry.id) for entry in entries], like=model)
        asked = "choose one with --model" if model is None else f"{model!r} is not served"
        raise ModelNotFound(f"{transport.url}: {asked}; the server has: {there or 'no model'}")
    return served[0]


async def native_answer(
    transport: Transport, path: str, answer: type[_Answer], *, server: str
) -> _Answer:
    """What `server` says of itself at `path`, a route of its own.

    Raises:
        UnsupportedServer: the path is missing: a gateway passes only what begins with /v1.
        EndpointError: no answer.
    """
    try:
        return await transport.get(path, lambda body: parsed(answer, body))
    except (RequestRefused, MalformedAnswer) as error:
        if isinstance(error, RequestRefused) and error.status not in NO_ROUTE:
            raise
    raise UnsupportedServer(
        f"{transport.url} is {server} behind a gateway that does not pass {path} on: have it pass "
        f"every path, or give {server}'s own URL; --kind openai reads through /v1 alone, and then "
        "only labels that are among the most probable tokens"
    )
