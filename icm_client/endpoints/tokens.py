"""Prompts as token ids, several a request, for servers such as vLLM and SGLang.

A subclass names its kind and says what else of the server can change a log-prob (`_facts`), and
writes the requests (`_read`, `warm`).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

from icm_client.endpoints.models import MODELS, adapter_facts, context_length_of, models_in
from icm_client.endpoints.parsing import Wire, fingerprint, parsed
from icm_client.endpoints.protocol import Answer, Read, ServerIdentity, TokenIds
from icm_client.endpoints.served import ServedEndpoint, served_model
from icm_client.endpoints.transport import Transport
from icm_client.errors import UnsupportedServer


class _Tokens(Wire):
    tokens: list[int]


class TokenPrompts(ServedEndpoint, ABC):
    """A server that takes token ids. `open` makes one. It schedules by itself: `lanes` is 0."""

    _kind: ClassVar[str]
    _server: ClassVar[str]  # its name, for messages
    _tokenize_path: ClassVar[str] = "/tokenize"
    _adapter: str | None = None  # the LoRA adapter that answers, for requests that name no model

    @classmethod
    async def open(cls, transport: Transport, *, model: str | None = None) -> Self:
        """Ask the server who it is.

        Args:
            transport: the way to it; closed by `aclose`.
            model: its name, or a LoRA adapter's; None takes the one model there is.

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
            (await self._transport.post(path, body, lambda raw: parsed(_Tokens, raw))).tokens
        )

    async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
        """As `Endpoint.read`; all in one request, and vLLM takes at most 1,024 of them.

        Raises:
            ValueError: the reads do not want the same tokens.
        """
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
