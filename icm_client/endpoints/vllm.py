"""vLLM: one-token reads with `logprob_token_ids`, many prompts a request.

Source: https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html (`/v1/completions`,
`/tokenize`). `prompt_logprobs` would give the same numbers but makes vLLM skip its prefix cache:
6 to 12 times slower here.
"""

from collections.abc import Sequence
from itertools import takewhile
from typing import Final, Self

from icm_client.endpoints.answers import Wire, fingerprint, log_prob, parsed
from icm_client.endpoints.protocol import Answer, Exactness, Read, ServerIdentity, TokenIds, Usage
from icm_client.endpoints.transport import Transport
from icm_client.errors import LabelMissing, MalformedAnswer, ModelNotFound, UnsupportedServer

KIND: Final = "vllm"


class _LogProbs(Wire):
    top_logprobs: list[dict[str, float | None] | None]


class _Choice(Wire):
    index: int
    logprobs: _LogProbs | None = None


class _Details(Wire):
    cached_tokens: int | None = None


class _TokenUsage(Wire):
    prompt_tokens: int
    prompt_tokens_details: _Details | None = None


class _Completion(Wire):
    choices: list[_Choice]
    usage: _TokenUsage


class _Tokens(Wire):
    tokens: list[int]


class _Model(Wire):
    id: str
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None  # absent for a LoRA adapter


class _Models(Wire):
    data: list[_Model]


class _Version(Wire):
    version: str


class VllmEndpoint:
    """A vLLM server. `open` makes one. It schedules by itself: `lanes` is 0.

    A text like "<eos>" in a row is whatever the model's tokenizer makes of it; vLLM's `/tokenize`
    has no way to say that it is not the control token.
    """

    def __init__(self, transport: Transport, *, identity: ServerIdentity) -> None:
        self._transport = transport
        self._identity = identity

    @classmethod
    async def open(cls, transport: Transport, *, model: str | None = None) -> Self:
        """Ask the server who it is.

        Args:
            transport: the way to it; closed by `aclose`.
            model: its name; None takes the one model there is.

        Raises:
            EndpointError: no answer, or not vLLM's.
            UnsupportedServer: it does not tell how long a context it serves.
            ModelNotFound: `model` is not served, or is None and several are.
        """
        models = await transport.get("/v1/models", lambda body: parsed(_Models, body))
        served = [entry for entry in models.data if model in (None, entry.id)]
        if len(served) != 1:
            names = ", ".join(transport.told(entry.id) for entry in models.data)
            asked = "choose one model" if model is None else f"{model!r} is not served"
            raise ModelNotFound(f"{transport.url}: {asked}; the server has: {names}")
        entry = served[0]
        context_length = _context_length_of(entry, models.data)
        if context_length is None:
            raise UnsupportedServer(
                f"{transport.url}/v1/models: no max_model_len for {transport.told(entry.id)}, nor "
                "for its base model; if a gateway stands before vLLM, give the URL behind it"
            )
        version = await transport.get("/version", lambda body: parsed(_Version, body))
        identity = ServerIdentity(
            kind=KIND,
            model=entry.id,
            context_length=context_length,
            fingerprint=fingerprint(
                {
                    "kind": KIND,
                    "model": entry.id,
                    "root": entry.root,
                    "context_length": context_length,
                    "version": version.version,
                }
            ),
        )
        return cls(transport, identity=identity)

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

    async def tokenize(self, text: str, *, add_special: bool) -> TokenIds:
        """As `Endpoint.tokenize`."""
        body = {"model": self._identity.model, "prompt": text, "add_special_tokens": add_special}
        answer = await self._transport.post("/tokenize", body, lambda raw: parsed(_Tokens, raw))
        return tuple(answer.tokens)

    async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
        """As `Endpoint.read`; all in one request, at most 1,024 of them.

        Raises:
            ValueError: the reads do not want the same tokens.
        """
        del lane
        wanted = reads[0].wanted
        if any(read.wanted != wanted for read in reads):
            raise ValueError("reads of one call must want the same tokens")
        body = self._body_for([read.prompt for read in reads]) | {
            # With `logprobs` alone the answer holds the most probable token; the ids are what is
            # read, over the whole vocabulary and whatever their rank.
            "logprobs": 1,
            "logprob_token_ids": wanted,
            "return_tokens_as_token_ids": True,
        }
        return await self._transport.post(
            "/v1/completions",
            body,
            lambda raw: self._answers(raw, [read.prompt for read in reads], wanted),
            scoring=True,
        )

    async def warm(self, prefix: TokenIds, *, lane: int | None = None) -> None:
        """As `Endpoint.warm`: a one-token request for the bare prefix.

        A model with sliding-window layers keeps a window only where a request ended, so that the
        prefix itself must be asked for, not something that begins with it.
        """
        del lane
        await self._transport.post(
            "/v1/completions",
            self._body_for([prefix]),
            lambda raw: self._completion_of(raw, [prefix]),
            scoring=True,
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    def _body_for(self, prompts: Sequence[TokenIds]) -> dict[str, object]:
        return {
            "model": self._identity.model,
            "prompt": prompts,
            "max_tokens": 1,
            "temperature": 0,
            "add_special_tokens": False,
        }

    def _completion_of(self, raw: bytes, prompts: Sequence[TokenIds]) -> _Completion:
        completion = parsed(_Completion, raw)
        tokens = completion.usage
        details = tokens.prompt_tokens_details
        # Without --enable-prompt-tokens-details nothing is known of the cache.
        cached = _cached_of_all((details.cached_tokens if details else None) or 0, prompts)
        self.usage.cached_tokens += cached
        self.usage.computed_tokens += max(0, tokens.prompt_tokens - cached)
        return completion

    def _answers(self, raw: bytes, prompts: Sequence[TokenIds], wanted: TokenIds) -> list[Answer]:
        choices = sorted(self._completion_of(raw, prompts).choices, key=lambda choice: choice.index)
        if [choice.index for choice in choices] != list(range(len(prompts))):
            raise MalformedAnswer(
                f"{self._transport.url}: {len(choices)} choices for {len(prompts)} prompts, or "
                "not one for each"
            )
        return [self._answer(choice, wanted) for choice in choices]

    def _answer(self, choice: _Choice, wanted: TokenIds) -> Answer:
        positions = choice.logprobs.top_logprobs if choice.logprobs else []
        if len(positions) != 1 or not (found := positions[0]):
            raise MalformedAnswer(f"{self._transport.url}: a choice without log-probs of its token")
        missing = [token for token in wanted if f"token_id:{token}" not in found]
        if missing:
            raise LabelMissing(
                f"{self._transport.url}: no log-probs of tokens {missing}; the server ignored "
                "`logprob_token_ids`: it needs a vLLM whose /v1/completions has that field (0.32 "
                "does)"
            )
        return Answer(
            tuple(log_prob(found[f"token_id:{token}"], token=token) for token in wanted),
            Exactness.EXACT,
        )


def _context_length_of(entry: _Model, models: Sequence[_Model]) -> int | None:
    """Tokens; an adapter has those of its base, which is the one there is where none is found."""
    if entry.max_model_len is not None:
        return entry.max_model_len
    parent = entry.parent
    bases = [model for model in models if parent and parent in (model.id, model.root)] or models
    lengths = {model.max_model_len for model in bases if model.max_model_len is not None}
    return lengths.pop() if len(lengths) == 1 else None


def _cached_of_all(cached: int, prompts: Sequence[TokenIds]) -> int:
    """Tokens of all `prompts` that came from the cache, where the last one had `cached` there.

    vLLM (0.32) adds up the prompt tokens of a request and gives the cached ones of its last prompt
    alone. What another prompt shares with that one was in the cache for it too.
    """
    found = prompts[-1][:cached]
    return sum(_shared(prompt, found) for prompt in prompts)


def _shared(prompt: TokenIds, found: TokenIds) -> int:
    if prompt[: len(found)] == found:  # nearly always, and compared in C
        return len(found)
    pairs = zip(prompt, found, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
