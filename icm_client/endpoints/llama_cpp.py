"""llama.cpp's server: one-token reads on slots, each with a prefix cache of its own.

Source: https://github.com/ggml-org/llama.cpp/tree/master/tools/server (README: `/completion`,
`/tokenize`, `/props`). The native `/completion` is used because it takes the slot, can leave out of
its answer what nobody reads, and counts cached and computed tokens.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple, Self

import anyio
from pydantic import RootModel

from icm_client.endpoints.parsing import MODELS, Wire, fingerprint, log_prob, models_in, parsed
from icm_client.endpoints.protocol import (
    Answer,
    Exactness,
    Read,
    ServerIdentity,
    TokenIds,
    common_prefix,
)
from icm_client.endpoints.served import ServedEndpoint, Tokens, native_answer, served_model
from icm_client.endpoints.transport import Transport
from icm_client.errors import (
    LabelMissing,
    MalformedAnswer,
    PromptTooLong,
    RequestRefused,
    UnsupportedServer,
)

KIND: Final = "llama.cpp"

# The most probable n tokens of a vocabulary of 262,144 take: 60 tokens 13 ms, 600 tokens 14.5 ms,
# 6,000 tokens 34 ms and 540 kB, all of them 1.9 s and 26 MB. So it starts small, has tokens drawn
# that are not among them, and grows where that does not help.
_FIRST_TOP: Final = 60
_KEPT_TOP: Final = 600
_TOP_GROWTH: Final = 10

_DRAWN: Final = 8
"""The most tokens of one read that are drawn one by one, in a request each of about 400 bytes."""

_NO_SAMPLING: Final[Mapping[str, float]] = {}

_ANY_SLOT: Final = -1
_CHECKS_A_COMPARISON: Final = 10
"""Answers are compared in one check of so many: the slot that answers loses its prefix."""

_FIELDS: Final = ["completion_probabilities", "timings", "tokens_evaluated", "truncated"]

_SURELY: Final = 1000.0
"""With so much added to a token's logit (nats), no other token is drawn."""

MICRO_BATCH: Final = 512
"""Tokens: the embedded server's `n_ubatch`. A longer prompt is cut into such pieces and a
remainder."""

_SMALLEST: Final = 8
_REWIND: Final = 16


class _Candidate(Wire):
    id: int
    logprob: float | None


class _Position(Wire):
    id: int | None = None  # of the token that was drawn; its log-prob is there whatever its rank
    logprob: float | None = None
    top_logprobs: list[_Candidate]


class _Timings(Wire):
    cache_n: int = 0
    prompt_n: int


class _Completion(Wire):
    completion_probabilities: tuple[_Position, ...] = ()
    timings: _Timings
    tokens_evaluated: int
    truncated: bool


class _Generation(Wire):
    n_ctx: int


class _Props(Wire):
    default_generation_settings: _Generation
    total_slots: int
    model_alias: str = ""
    model_ftype: str = ""
    model_path: str = ""
    build_info: str


class _Adapter(Wire):
    id: int
    path: str = ""
    scale: float


class _Adapters(RootModel[list[_Adapter]]):
    pass


class _Ask(NamedTuple):
    """A request to `/completion`.

    Attributes:
        prompt: token ids.
        slot: the slot that computes it, or `_ANY_SLOT`.
        top: how many of the most probable next tokens to give; with 0 the prompt is only prefilled.
        wanted: the tokens whose log-probs are looked for among them.
        sampling: more fields of the body.
        drawn: the token that is drawn, by a bias on its logit; None draws the most probable one.
    """

    prompt: TokenIds
    slot: int
    top: int = 0
    wanted: TokenIds = ()
    sampling: Mapping[str, float] = _NO_SAMPLING
    drawn: int | None = None


class LlamaCppEndpoint(ServedEndpoint):
    """A llama.cpp server. `open` makes one; `lanes` is its number of slots.

    A text like "<eos>" in a row is tokenized as its characters, never as the control token.

    A read asks for the most probable tokens. Wanted ones that are not among them are drawn one by
    one, and if that does not help, ever more tokens are asked for (`_answer`).
    """

    def __init__(
        self,
        transport: Transport,
        *,
        identity: ServerIdentity,
        lanes: int,
        vocabulary_size: int,
        steady: bool,
    ) -> None:
        super().__init__(transport, identity=identity)
        self.lanes = lanes
        self._vocabulary_size = vocabulary_size
        self._top = _FIRST_TOP
        # Two requests that alternate on one slot throw each other's prefix away.
        self._locks = tuple(anyio.Lock() for _ in range(lanes))
        self._steady = steady
        # The ids in each slot, if `steady`; None where a request ended without an answer.
        self._held: list[TokenIds | None] = [()] * lanes
        self._tells_drawn = True  # whether answers hold the log-prob of the token that was drawn
        self._undrawn: set[int] = set()  # tokens that came back without a log-prob when drawn
        # The token that is drawn, once the server has left log-probs out; see `_complete`.
        self._drawn: int | None = None
        self._bos: TokenIds | None = None

    @classmethod
    async def open(
        cls, transport: Transport, *, model: str | None = None, steady: bool = False
    ) -> Self:
        """Ask the server who it is.

        With `steady`, slots are prepared so that log-probs do not depend on what was cached
        (`preparation`): for a server that nobody else uses.

        Raises:
            EndpointError: no answer, or not llama.cpp's.
            UnsupportedServer: it does not say what model it has.
            ModelNotFound: `model` is not served, or is None and several are.
        """
        identity, lanes, vocabulary_size = await cls._ask(transport, model)

        async def again() -> ServerIdentity:
            return (await cls._ask(transport, identity.model))[0]

        endpoint = cls(
            transport,
            identity=identity,
            lanes=lanes,
            vocabulary_size=vocabulary_size,
            steady=steady,
        )
        if steady:  # our own child process
            return endpoint
        return endpoint._guarded(again, every=_CHECKS_A_COMPARISON)

    @classmethod
    async def _ask(cls, transport: Transport, model: str | None) -> tuple[ServerIdentity, int, int]:
        """Who answers, the number of slots, and the size of the vocabulary."""
        entry = served_model(transport, await transport.get(MODELS, models_in), model)
        name, meta = entry.id, entry.meta
        if meta is None or meta.n_vocab is None:
            raise UnsupportedServer(
                f"{transport.url}{MODELS}: no `meta` for {transport.redacted(name)}: a model that "
                "is not loaded, or a gateway before llama.cpp (then give llama.cpp's own URL)"
            )
        props = await native_answer(transport, "/props", _Props, server="llama.cpp")
        adapters = await cls._adapters(transport)
        context_length = props.default_generation_settings.n_ctx
        facts = {
            "kind": KIND,
            "model": name,
            "context_length": context_length,
            "n_params": meta.n_params,
            "size": meta.size,
            "n_vocab": meta.n_vocab,
            "ftype": meta.ftype or props.model_ftype,
            "path": props.model_path,
            "build": props.build_info,
            # Only where there are any, so that other fingerprints stay what they were.
            **({"adapters": adapters} if adapters else {}),
        }
        identity = ServerIdentity(KIND, name, context_length, fingerprint(facts))
        if props.total_slots < 1:
            raise MalformedAnswer(f"{transport.url}/props: the server has no slots")
        return identity, props.total_slots, meta.n_vocab

    @staticmethod
    async def _adapters(transport: Transport) -> str:
        """The LoRA adapters in use, with their scales, which any user may set at any time."""
        try:
            loaded = await transport.get("/lora-adapters", lambda body: parsed(_Adapters, body))
        except (RequestRefused, MalformedAnswer):  # an older server, or a gateway
            return ""
        on = [(one.id, one.path, one.scale) for one in loaded.root if one.scale]
        return repr(sorted(on)) if on else ""

    async def tokenize(self, text: str, *, add_special: bool) -> TokenIds:
        """As `Endpoint.tokenize`."""
        body = {
            "content": text,
            "add_special": add_special,
            "parse_special": False,
            "with_pieces": False,
        }
        answer = await self._transport.post("/tokenize", body, lambda raw: parsed(Tokens, raw))
        return tuple(answer.tokens)

    async def tokenize_many(self, texts: Sequence[str]) -> list[TokenIds] | None:
        """As `BatchTokenizer.tokenize_many`.

        `/tokenize` takes a list of texts and token ids, and answers with one list: the model's BOS
        is put between the texts, which no text is tokenized as. None where the model has no BOS.
        """
        if self._bos is None:
            self._bos = await self.tokenize("", add_special=True)
        if len(self._bos) != 1:
            return None
        (mark,) = self._bos
        content = [part for text in texts for part in (text, mark)]
        body = {"content": content, "add_special": False, "parse_special": False}
        answer = await self._transport.post("/tokenize", body, lambda raw: parsed(Tokens, raw))
        found: list[TokenIds] = []
        start = 0
        for place, token in enumerate(answer.tokens):
            if token == mark:
                found.append(tuple(answer.tokens[start:place]))
                start = place + 1
        return found if len(found) == len(texts) else None

    async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
        """As `Endpoint.read`; one by one, in this order, on `lane` (the first if None)."""
        slot = lane or 0
        async with self._locks[slot]:
            answers = [await self._answer(read, slot) for read in reads]
        self._keep(reads, answers)
        return answers

    async def _asked_again(self, read: Read) -> Answer:
        return await self._answer(read, _ANY_SLOT)

    async def warm(self, prefix: TokenIds, *, lane: int | None = None) -> None:
        """As `Endpoint.warm`."""
        slot = lane or 0
        async with self._locks[slot]:
            await self._complete(_Ask(prefix, slot))

    async def read_sampled(self, read: Read, sampling: Mapping[str, float]) -> Answer:
        """As `SampledEndpoint.read_sampled`, on the first slot."""
        async with self._locks[0]:
            return await self._answer(read, 0, sampling)

    async def _answer(
        self, read: Read, slot: int, sampling: Mapping[str, float] = _NO_SAMPLING
    ) -> Answer:
        top = min(self._top, self._vocabulary_size)
        ask = _Ask(read.prompt, slot, top, read.wanted, sampling)
        found: dict[int, float] = {}
        if len(read.wanted) == 1:  # as for all but the first token of a label
            found = await self._drawn_ones(ask, read.wanted)
        while True:
            missing = [token for token in read.wanted if token not in found]
            if missing:
                found |= await self._complete(ask)
                self._top = min(ask.top, _KEPT_TOP)
                missing = [token for token in read.wanted if token not in found]
            if 0 < len(missing) <= _DRAWN:
                found |= await self._drawn_ones(ask, missing)
                missing = [token for token in missing if token not in found]
            if not missing:
                return Answer(tuple(found[token] for token in read.wanted), Exactness.EXACT)
            if ask.top >= self._vocabulary_size:
                raise LabelMissing(
                    f"{self._transport.url}: tokens {missing} are not among the log-probs of the "
                    f"whole vocabulary ({self._vocabulary_size:,} tokens)"
                )
            ask = ask._replace(top=min(ask.top * _TOP_GROWTH, self._vocabulary_size))

    async def _drawn_ones(self, ask: _Ask, tokens: Sequence[int]) -> dict[int, float]:
        """Log-probs (nats) of those of `tokens` that can be drawn: each comes with its token."""
        found: dict[int, float] = {}
        for token in tokens:
            if self._tells_drawn and token not in self._undrawn:
                one = ask._replace(top=2, wanted=(token,), drawn=token)
                found |= await self._sent(one) or {}
                if token not in found:
                    self._undrawn.add(token)
        return found

    async def _complete(self, ask: _Ask) -> dict[int, float]:
        """Those of `ask.wanted` that are among the most probable next tokens (nats).

        llama.cpp leaves the log-probs out of an answer that ends within a character, as it does
        where the token drawn is one of its bytes (`process_token` in server-context.cpp). A
        `logit_bias` decides what is drawn and nothing else: log-probs are those before sampling.
        """
        if self._drawn is None:
            found = await self._sent(ask)
            if found is not None:
                return found
            self._drawn = (await self.tokenize("a", add_special=False))[-1]
        for drawn in (self._drawn, None):
            found = await self._sent(ask._replace(drawn=drawn))
            if found is not None:
                return found
        raise MalformedAnswer(f"{self._transport.url}: no log-probs of the next token")

    async def _sent(self, ask: _Ask) -> dict[int, float] | None:
        """As `_complete`; None where log-probs are missing, or may hold the bias."""
        found = partial(self._found, ask)
        if not self._steady:
            return await self._transport.post(
                "/completion", self._body_for(ask), found, scoring=True
            )

        # Anew for each attempt: the slot may hold anything after the one before.
        async def prepared() -> dict[str, object]:
            ahead = preparation(self._held[ask.slot] or (), ask.prompt)
            if ahead is not None:
                first = _Ask(ahead, ask.slot)
                await self._transport.post(
                    "/completion",
                    self._body_for(first),
                    partial(self._found, first),
                    scoring=True,
                    attempts=1,
                )
                self._held[ask.slot] = ahead
            return self._body_for(ask)

        log_probs = await self._transport.post("/completion", prepared, found, scoring=True)
        self._held[ask.slot] = ask.prompt
        return log_probs

    def _body_for(self, ask: _Ask) -> dict[str, object]:
        """The body; if `steady`, it is then unknown what the slot holds until it has answered."""
        known = not self._steady or self._held[ask.slot] is not None
        if self._steady:
            self._held[ask.slot] = None
        body: dict[str, object] = {
            "model": self.identity.model,
            "prompt": ask.prompt,
            "n_predict": 1 if ask.top else 0,
            "n_probs": ask.top,
            "temperature": 0,
            "cache_prompt": known,
            "id_slot": ask.slot,
            "response_fields": _FIELDS,
            **ask.sampling,
        }
        return body if ask.drawn is None else body | {"logit_bias": [[ask.drawn, _SURELY]]}

    def _found(self, ask: _Ask, raw: bytes) -> dict[int, float] | None:
        """What `_sent` returns, from the answer to `ask`."""
        url, prompt, wanted, drawn = self._transport.url, ask.prompt, ask.wanted, ask.drawn
        completion = parsed(_Completion, raw)
        timings, evaluated = completion.timings, completion.tokens_evaluated
        self._count(timings.cache_n + timings.prompt_n, timings.cache_n)
        if completion.truncated or evaluated < len(prompt):
            raise PromptTooLong(
                f"{url}: the server cut a prompt of {len(prompt)} tokens to {evaluated}. Start it "
                "with a larger context, or use fewer demos",
                cut=True,
            )
        if evaluated > len(prompt):
            raise MalformedAnswer(f"{url}: the server added to a prompt of {len(prompt)}")
        if not ask.top:
            return {}
        if not completion.completion_probabilities:
            return None
        if len(completion.completion_probabilities) != 1:
            raise MalformedAnswer(f"{url}: log-probs of more than the next token")
        position = completion.completion_probabilities[0]
        self._tells_drawn = position.id is not None
        candidates = position.top_logprobs
        needed = frozenset(wanted)
        if (
            candidates
            and candidates[0].id == drawn
            and not (drawn in needed and _is_raw(candidates))
        ):
            return None  # it is the most probable one and needs no bias, or the bias is in them
        found = {
            candidate.id: log_prob(candidate.logprob, token=candidate.id)
            for candidate in candidates
            if candidate.id in needed
        }
        if drawn in needed and position.id == drawn:
            found[drawn] = log_prob(position.logprob, token=drawn)
        return found


def _is_raw(candidates: Sequence[_Candidate]) -> bool:
    """Whether no bias is in these: it would make the second far less probable than this."""
    second = candidates[1].logprob if len(candidates) > 1 else None
    return second is not None and second > -_SURELY / 2


def preparation(cached: TokenIds, prompt: TokenIds) -> TokenIds | None:
    """What to send before `prompt`, so that its log-probs do not depend on what was `cached`.

    llama.cpp chooses its CPU kernels by the number of tokens in a batch: 1, 2 to 7, or 8 and more.
    They round differently, so the log-odds of one prompt moved by up to 0.2 nats with how much of
    it was cached. In batches of 8 and more, each token gets the same bits whatever stands beside it
    (without repacked weights and without flash attention). So it is enough that no smaller batch
    ever fills the cache or is read. Micro-batches of 4 would do as well, at 60% of the speed.

    What is sent before begins like `prompt` and ends in a token that `prompt` does not have there:
    the server then drops what it had cached after that place, and the odd token with it.

    Args:
        cached: what the slot holds: the last ids it was sent, or () if it will not reuse them.
        prompt: what it is sent next.

    Returns:
        None if nothing has to be sent. A prompt of fewer than 8 tokens is always computed whole.
    """
    kept = min(common_prefix(cached, prompt), len(prompt) - 1)
    new = len(prompt) - kept
    if new < _SMALLEST:
        start = max(0, len(prompt) - _REWIND)
        return None if kept == 0 else (*prompt[:start], 0 if prompt[start] else 1)
    if 0 < new % MICRO_BATCH < _SMALLEST:  # so new > MICRO_BATCH
        start = kept + MICRO_BATCH // 2
        return (*prompt[:start], 0 if prompt[start] else 1)
    return None
