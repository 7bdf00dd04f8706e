"""What the endpoints of served models share: who answers, what it cost, how it is closed."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol, Self, TypeVar

from icm_client.endpoints.answers import Wire, listed, parsed
from icm_client.endpoints.protocol import Answer, Read, ServerIdentity, TokenIds, Usage
from icm_client.endpoints.transport import Transport
from icm_client.errors import (
    MalformedAnswer,
    ModelNotFound,
    RequestRefused,
    UnsupportedServer,
)


class TokenDetails(Wire):
    """Of `TokenUsage`; vLLM tells only with --enable-prompt-tokens-details."""

    cached_tokens: int | None = None


class TokenUsage(Wire):
    """The `usage` of an OpenAI-compatible answer."""

    prompt_tokens: int
    prompt_tokens_details: TokenDetails | None = None

    @property
    def cached_tokens(self) -> int:
        """0 where the server does not tell."""
        return (self.prompt_tokens_details and self.prompt_tokens_details.cached_tokens) or 0


class ModelCard(Wire):
    """An entry of `/v1/models`, as vLLM and SGLang give it."""

    id: str
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None  # absent for a LoRA adapter


class ModelCards(Wire):
    """`/v1/models`."""

    data: list[ModelCard]


class _Named(Protocol):
    @property
    def id(self) -> str: ...


_Entry = TypeVar("_Entry", bound=_Named)
_Answer = TypeVar("_Answer", bound=Wire)

NO_ROUTE: Final = (404, 405, 501)
"""How a server or gateway answers to a path that it does not have."""


class ServedEndpoint:
    """A model behind a `Transport`; usable as an async context manager.

    Args:
        transport: the way to the server; closed by `aclose`.
        identity: who answers.
    """

    def __init__(self, transport: Transport, *, identity: ServerIdentity) -> None:
        self._transport = transport
        self._identity = identity

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
        """None of the planner's concern: one prefix cache, scheduled by the server."""
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

    def _count(self, prompt_tokens: int, cached_tokens: int) -> None:
        self.usage.cached_tokens += cached_tokens
        self.usage.computed_tokens += max(0, prompt_tokens - cached_tokens)


class TokenPrompts(ServedEndpoint, ABC):
    """A server that takes token ids, several prompts a request; a subclass asks it."""

    async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
        """As `Endpoint.read`; all in one request, and vLLM takes at most 1,024 of them.

        Raises:
            ValueError: the reads do not want the same tokens.
        """
        del lane
        wanted = reads[0].wanted
        if any(read.wanted != wanted for read in reads):
            raise ValueError("reads of one call must want the same tokens")
        return await self._read([read.prompt for read in reads], wanted, {})

    async def read_sampled(self, read: Read, sampling: Mapping[str, float]) -> Answer:
        """As `SampledEndpoint.read_sampled`."""
        return (await self._read([read.prompt], read.wanted, sampling))[0]

    @abstractmethod
    async def _read(
        self, prompts: Sequence[TokenIds], wanted: TokenIds, sampling: Mapping[str, float]
    ) -> list[Answer]:
        """Answer every prompt, in one request; `sampling` goes into its body."""


def served_model(
    transport: Transport,
    entries: Sequence[_Entry],
    model: str | None,
    *,
    names: Callable[[_Entry], Sequence[str]] = lambda entry: (entry.id,),
) -> _Entry:
    """The one of `entries` that is meant.

    Args:
        transport: for messages.
        entries: what the server lists.
        model: its name; None takes the one model there is.
        names: what an entry may be called.

    Raises:
        ModelNotFound: `model` is not served, or is None and several are; the message lists them.
    """
    served = [entry for entry in entries if model is None or model in names(entry)]
    # LiteLLM lists a model that it has twice twice.
    if len({entry.id for entry in served}) != 1:
        there = listed([transport.told(entry.id) for entry in entries], like=model)
        asked = "choose one with --model" if model is None else f"{model!r} is not served"
        raise ModelNotFound(f"{transport.url}: {asked}; the server has: {there or 'no model'}")
    return served[0]


async def native_answer(
    transport: Transport, path: str, answer: type[_Answer], *, server: str
) -> _Answer:
    """What `server` says of itself at `path`, which is not one of OpenAI's.

    Raises:
        UnsupportedServer: there is no such path: a gateway passes only what begins with /v1.
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


def context_length_of(entry: ModelCard, models: Sequence[ModelCard]) -> int | None:
    """Tokens; an adapter has those of its base, which is the one there is where none is found."""
    if entry.max_model_len is not None:
        return entry.max_model_len
    parent = entry.parent
    bases = [model for model in models if parent and parent in (model.id, model.root)] or models
    lengths = {model.max_model_len for model in bases if model.max_model_len is not None}
    return lengths.pop() if len(lengths) == 1 else None
