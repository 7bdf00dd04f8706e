"""What the endpoints of servers derive from: prompts as token ids, or as text, over a `Transport`.

`ServedEndpoint` has what all of them share: identity, usage, and the check that the server is still
the same. `TokenPrompts` adds the requests of servers such as vLLM and SGLang, which take token ids,
several prompts a request. `TextPrompts` is for servers that take only text. There, a prompt's ids
are its Unicode code points: what two prompts share as text they share as ids, and nothing has to be
asked or remembered to turn them into text again. A label is one id above all code points, a hash of
its text, so that it is the same in every process.

The functions below decide which of a server's models is meant.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import partial
from hashlib import blake2b
from typing import ClassVar, Final, Self, TypeVar

from icm_client.endpoints.identity_check import Evidence, nats_apart
from icm_client.endpoints.parsing import (
    MODELS,
    ModelCard,
    Wire,
    adapter_facts,
    context_length_of,
    fingerprint,
    listed,
    models_in,
    parsed,
)
from icm_client.endpoints.protocol import Answer, LabelToken, Read, ServerIdentity, TokenIds
from icm_client.endpoints.transport import Transport
from icm_client.errors import (
    AuthenticationRefused,
    InputError,
    MalformedAnswer,
    ModelNotFound,
    RequestRefused,
    ScoreError,
    UnsupportedServer,
)

NO_ROUTE: Final = (404, 405, 501)
"""How a server or gateway answers a path that it does not have."""

CHARACTERS_A_TOKEN: Final = 3
"""Assumed where a context is given in tokens. English has over four. Text with fewer is refused by
the server where it does not fit, and the run then says so."""

ASSUMED_CONTEXT: Final = 4096
"""Tokens, where neither the server nor the user says."""

_CONTROLS: Final = 3
"""The first reads of a session, which are asked again where it is in doubt who answers. Two changed
answers, or two unchanged ones, decide: a single one may have changed because of its prompt."""

_SETTLE: Final = 2

_FIRST_LABEL: Final = 0x110000
_LABEL_IDS: Final = 2**31 - _FIRST_LABEL

_Answer = TypeVar("_Answer", bound=Wire)


class _TokenDetails(Wire):
    cached_tokens: int | None = None  # vLLM's only with --enable-prompt-tokens-details


class TokenUsage(Wire):
    """The `usage` of an OpenAI-compatible answer."""

    prompt_tokens: int
    prompt_tokens_details: _TokenDetails | None = None

    @property
    def cached_tokens(self) -> int:
        """0 where the server does not say."""
        return (self.prompt_tokens_details and self.prompt_tokens_details.cached_tokens) or 0


class Completion(Wire):
    """What an OpenAI-compatible answer says besides its choices."""

    usage: TokenUsage | None = None
    system_fingerprint: str | None = None


class Tokens(Wire):
    """The answer to `/tokenize`."""

    tokens: list[int]


class ServedEndpoint(ABC):
    """A model that answers through a `Transport`, which `aclose` closes. An async context manager.

    Attributes:
        identity: who answers.
        lanes: 0 where the server schedules requests over one prefix cache.
        usage: running totals.
    """

    lanes: int = 0

    def __init__(self, transport: Transport, *, identity: ServerIdentity) -> None:
        self._transport = transport
        self.identity = identity
        self.usage = transport.usage
        self._controls: dict[Read, Answer] = {}
        self._owes_a_look = False  # a check came before there was anything to compare
        self._marks: set[str] = set()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._transport.url!r}, model={self.identity.model!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property
    def in_flight_limit(self) -> int:
        """Requests that may be on the wire now."""
        return self._transport.in_flight_limit

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    def _guarded(self, ask: Callable[[], Awaitable[ServerIdentity]], *, every: int = 1) -> Self:
        """Check from now on that the server stays what it is; `every` as in `Evidence`."""
        self._transport.guard(self.identity, ask, Evidence(self._nats_apart, every))
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

    def _record(self, completion: Completion) -> None:
        if completion.usage:
            self._count(completion.usage.prompt_tokens, completion.usage.cached_tokens)
        self._marked(completion.system_fingerprint)


class TokenPrompts(ServedEndpoint, ABC):
    """A server that takes token ids, and schedules requests by itself: `lanes` is 0.

    A subclass names its kind and says what else of the server can change a log-prob (`_facts`), and
    writes the requests (`_read`, `warm`).
    """

    _kind: ClassVar[str]
    _server: ClassVar[str]  # its name, for messages
    _tokenize_path: ClassVar[str] = "/tokenize"
    _adapter: str | None = None  # the LoRA adapter that answers, for requests that name no model

    @classmethod
    async def open(cls, transport: Transport, *, model: str | None = None) -> Self:
        """Ask the server who it is; `model` may be a LoRA adapter.

        Raises:
            EndpointError: no answer, or not that of such a server.
            UnsupportedServer: it does not say how long a context it serves.
            ModelNotFound: `model` is not served, or is None and several are.
        """
        identity, adapter = await cls._ask(transport, model)

        async def again() -> ServerIdentity:
            return (await cls._ask(transport, identity.model))[0]

        endpoint = cls(transport, identity=identity)
        endpoint._adapter = adapter
        return endpoint._guarded(again)

    @classmethod
    async def _ask(
        cls, transport: Transport, model: str | None
    ) -> tuple[ServerIdentity, str | None]:
        """Who answers, and the LoRA adapter if it is one."""
        models = await transport.get(MODELS, models_in)
        entry = served_model(transport, models, model)
        context_length = context_length_of(entry, models)
        if context_length is None:
            raise UnsupportedServer(
                f"{transport.url}{MODELS}: no max_model_len for {transport.redacted(entry.id)}, "
                f"nor for its base model; if a gateway stands before {cls._server}, give "
                f"{cls._server}'s own URL"
            )
        facts = {
            "kind": cls._kind,
            "model": entry.id,
            "root": entry.root,
            "context_length": context_length,
            **await cls._facts(transport),
            **adapter_facts(entry, models),
        }
        identity = ServerIdentity(cls._kind, entry.id, context_length, fingerprint(facts))
        return identity, entry.id if entry.parent is not None else None

    @classmethod
    @abstractmethod
    async def _facts(cls, transport: Transport) -> dict[str, str | None]:
        """What else the server says of itself that can change a log-prob, for the fingerprint."""

    async def tokenize(self, text: str, *, add_special: bool) -> TokenIds:
        """As `Endpoint.tokenize`."""
        body = {"model": self.identity.model, "prompt": text, "add_special_tokens": add_special}
        path = self._tokenize_path
        return tuple(
            (await self._transport.post(path, body, lambda raw: parsed(Tokens, raw))).tokens
        )

    async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
        """As `Endpoint.read`; all in one request, and vLLM takes at most 1,024 of them."""
        del lane
        wanted = reads[0].wanted
        if any(read.wanted != wanted for read in reads):
            raise ValueError("reads of one call must want the same tokens")
        answers = await self._read([read.prompt for read in reads], wanted, {})
        self._keep(reads, answers)
        return answers

    async def read_sampled(self, read: Read, sampling: Mapping[str, float]) -> Answer:
        """As `SampledEndpoint.read_sampled`."""
        return (await self._read([read.prompt], read.wanted, sampling))[0]

    async def _asked_again(self, read: Read) -> Answer:
        return await self.read_sampled(read, {})

    @abstractmethod
    async def _read(
        self, prompts: Sequence[TokenIds], wanted: TokenIds, sampling: Mapping[str, float]
    ) -> list[Answer]:
        """Answer every prompt, in one request; `sampling` goes into its body."""


class TextPrompts(ServedEndpoint):
    """A server that takes text: ids are code points. See `protocol.TextEndpoint`."""

    def __init__(self, transport: Transport, *, identity: ServerIdentity) -> None:
        super().__init__(transport, identity=identity)
        self._labels: dict[int, LabelToken] = {}

    async def tokenize(self, text: str, *, add_special: bool) -> TokenIds:
        """The text's code points; the server adds the model's own BOS by itself."""
        del add_special
        return tuple(map(ord, text))

    def name_label(self, found: LabelToken) -> int:
        """As `TextEndpoint.name_label`; InputError for two labels of the same number.

        There is one chance in two thousand million.
        """
        digest = blake2b("\0".join(found).encode("utf-8", "surrogatepass"), digest_size=8)
        number = _FIRST_LABEL + int.from_bytes(digest.digest()) % _LABEL_IDS
        if self._labels.setdefault(number, found) != found:
            raise InputError(
                f"the labels {found.label!r} and {self._labels[number].label!r} get the same "
                "number here, by chance: change one of them a little"
            )
        return number

    def _guarded_as(
        self, entry: ModelCard, identity_of: Callable[[ModelCard], ServerIdentity]
    ) -> Self:
        """As `_guarded`, for the model that the server lists as `entry`."""

        async def again() -> ServerIdentity:
            is_listed = entry.root is not None
            now, _ = await text_model(self._transport, entry.id, None, is_listed=is_listed)
            return identity_of(now)

        return self._guarded(again)

    def _text_of(self, ids: TokenIds) -> str:
        return "".join(chr(one) if one < _FIRST_LABEL else self._labels[one].label for one in ids)


def served_model(
    transport: Transport, entries: Sequence[ModelCard], model: str | None
) -> ModelCard:
    """The one of `entries` with the name or alias `model`; None takes the only one.

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


async def text_model(
    transport: Transport,
    model: str | None,
    context_length: int | None,
    *,
    is_listed: bool = False,
) -> tuple[ModelCard, int]:
    """The model that the user means, as `served_model`, and the code points its context holds.

    A name is taken on trust where the server lists no names: the first request decides. But a
    server that listed its models before (`is_listed`) must list them. `context_length` is in
    tokens; None takes what the server says, else `ASSUMED_CONTEXT`.
    """
    try:
        entries = await transport.get(MODELS, models_in)
    except AuthenticationRefused:
        raise
    except (RequestRefused, MalformedAnswer) as error:
        if is_listed:
            raise
        if model is None:
            raise ModelNotFound(
                f"{transport.url} does not list its models ({error}): name one with --model"
            ) from None
        entries = []
    names = [one for one in entries if "*" not in one.id]
    if model is None and not names:
        raise ModelNotFound(f"{transport.url} lists no model by its name: name one with --model")
    if model is not None and await _is_on_trust(transport, model, entries):
        entry = ModelCard(id=model)
    else:
        entry = served_model(transport, names, model)
    tokens = context_length or entry.context_tokens or ASSUMED_CONTEXT
    return entry, tokens * CHARACTERS_A_TOKEN


async def _is_on_trust(transport: Transport, model: str, entries: Sequence[ModelCard]) -> bool:
    """Whether `model` may be served though it is not listed: gateways list wildcards, or nothing.

    In the place of `openai/*` LiteLLM lists the models it knows, unless asked for wildcards.
    Source: https://docs.litellm.ai/docs/proxy/model_discovery
    """
    if any(entry.id == model for entry in entries):
        return False
    if not entries or _has_wildcard_of(model, entries):
        return True
    with suppress(RequestRefused, MalformedAnswer):
        entries = await transport.get(f"{MODELS}?return_wildcard_routes=true", models_in)
    return _has_wildcard_of(model, entries)


def _has_wildcard_of(model: str, entries: Sequence[ModelCard]) -> bool:
    return any("*" in entry.id and fnmatchcase(model, entry.id) for entry in entries)


async def native_answer(
    transport: Transport, path: str, answer: type[_Answer], *, server: str
) -> _Answer:
    """What `server` says of itself at `path`, its own route, which a gateway may not pass on."""
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
