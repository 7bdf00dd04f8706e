"""Any OpenAI-compatible server: text prompts, and the most probable tokens of the answer.

Source: https://platform.openai.com/docs/api-reference/completions (`logprobs`: at most 5 there)
and .../chat (`top_logprobs`: at most 20). Two shapes of answer are read: the older
`top_logprobs: [{text: log-prob}]`, and `content: [{top_logprobs: [{token, logprob}]}]` of chat,
which llama.cpp gives on both routes.

A label is read as the token that the server itself begins it with (`find_label_token`). A label
outside the top k has no log-prob, and none is made up: that is `LabelMissing`, or with
`allow_floor` an upper bound that is marked as one. What the user reads where a route or a label has
no log-prob is in `icm_client.endpoints.refusals`.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, Self, TypeVar

from icm_client.endpoints.parsing import ModelCard, Wire, fingerprint, log_prob, parsed
from icm_client.endpoints.protocol import (
    Answer,
    Exactness,
    LabelToken,
    Read,
    ServerIdentity,
    TokenIds,
    worst,
)
from icm_client.endpoints.refusals import (
    COMPLETIONS_PATH,
    Refusal,
    begins_to_think,
    unsupported,
    written_instead,
)
from icm_client.endpoints.served import Completion, TextPrompts, text_model
from icm_client.endpoints.transport import Transport
from icm_client.endpoints.whole_prompts import Said, Top, WholePrompts
from icm_client.errors import (
    AuthenticationRefused,
    EndpointError,
    EndpointOverloaded,
    EndpointUnreachable,
    LabelMissing,
    MalformedAnswer,
    RequestRefused,
    ScoreError,
)
from icm_client.task_groups import open_task_group

COMPLETIONS: Final = "openai"
CHAT: Final = "openai-chat"

_PATHS: Final = {COMPLETIONS: COMPLETIONS_PATH, CHAT: "/v1/chat/completions"}

_TOPS: Final = (20, 5)
"""The most that most servers allow, and the most that OpenAI's completions allow."""

_PROBE_ATTEMPTS: Final = 2
"""A server that leaves log-probs out does so each time."""

_PROBE: Final = "1 2 3 4 5 6 7"

_NO_SAMPLING: Final[Mapping[str, float]] = {}

_ORDINARY_WORDS: Final = (
    "Choose label words that are ordinary, or a server that gives any token's log-prob"
)
_FLOOR: Final = (
    "--allow-floor takes an upper bound in its place and marks the rows; a server that gives any "
    "token's log-prob (vLLM, SGLang, llama.cpp) needs none"
)

_LENGTH_FIELD: Final = "max_completion_tokens"
"""OpenAI's newer models take this in the place of `max_tokens`; their refusal names it."""

_REPEATS: Final = 4
"""How often a model is shown a row with a label, to see that the label comes again."""

_ROUNDING: Final = 1e-6
"""The probabilities of all tokens add up to 1 with this error."""


_T = TypeVar("_T")


class _Candidate(Wire):
    token: str
    logprob: float | None


class _Position(Wire):
    top_logprobs: tuple[_Candidate, ...] = ()


class _LogProbs(Wire):
    content: list[_Position] | None = None
    top_logprobs: list[dict[str, float | None] | None] | None = None


class _Message(Wire):
    content: str | None = None
    reasoning_content: str | None = None  # DeepSeek's; vLLM's and llama.cpp's reasoning parsers
    reasoning: str | None = None  # vLLM's of later versions, OpenRouter, Ollama


class _Choice(Wire):
    logprobs: _LogProbs | None = None
    text: str | None = None
    message: _Message | None = None

    @property
    def thinks(self) -> bool:
        """Whether the model thinks before it answers."""
        message = self.message or _Message()
        said = self.text or message.content or ""
        thought = message.reasoning_content or message.reasoning
        return bool(thought) or begins_to_think(said)


class _Completion(Completion):
    choices: list[_Choice]


class OpenAITopKEndpoint(TextPrompts):
    """A server that is only known to speak OpenAI's protocol. `open` makes one.

    A label's log-prob is that of its first token. The reads of one call are sent at the same time.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        identity: ServerIdentity,
        top: int,
        allow_floor: bool,
    ) -> None:
        super().__init__(transport, identity=identity)
        self.top = top
        self._allow_floor = allow_floor
        self._length_field = "max_tokens"
        self._path = _PATHS[identity.kind]
        self._whole = WholePrompts(transport.url, self._said_after)
        self._sizes: Counter[int] = Counter()  # tokens that an answer names -> such answers
        self._doubled: Counter[str] = Counter()  # label -> answers that name its token twice

    @property
    def notices(self) -> tuple[str, ...]:
        """As `NoticingEndpoint.notices`."""
        found = []
        fewer = sum(count for size, count in self._sizes.items() if size < max(self._sizes))
        if fewer:
            found.append(
                f"{self._transport.url}: {fewer:,} of {self._sizes.total():,} answers name fewer "
                f"than the {max(self._sizes)} tokens that others do. Two of the most probable "
                "tokens are then written alike, and only one of their log-probs is given: a label "
                "written so may have got the other one's. A server that gives log-probs by token "
                "id (vLLM, SGLang, llama.cpp) does not mix them up"
            )
        for label, count in (+self._doubled).items():
            found.append(
                f"{self._transport.url}: in {count:,} answers two of the most probable tokens are "
                f"written as the label {label!r} begins: it got the log-prob of the more probable "
                "one, which may be another token. A server that gives log-probs by token id (vLLM, "
                "SGLang, llama.cpp) does not mix them up"
            )
        if self._whole.uncertain:
            found.append(
                f"{self._transport.url} does not say how many tokens it reads, and its answers "
                "vary too much to see whether it cuts long prompts: make sure that its context "
                "holds the longest one, or say how many tokens it holds with --context-length"
            )
        return tuple(found)

    @classmethod
    async def open(
        cls,
        transport: Transport,
        *,
        model: str | None = None,
        kind: str | None = None,
        allow_floor: bool = False,
        context_length: int | None = None,
    ) -> Self:
        """Find out which route gives log-probs, and how many. Arguments as for `connect`.

        Raises:
            EndpointError: no answer.
            ModelNotFound: `model` is not served, or is None and several are.
            UnsupportedServer: no route gives log-probs; the message says what the server does
                instead.
        """
        entry, characters = await text_model(transport, model, context_length)

        def identity_of(entry: ModelCard, *, route: str, top: int) -> ServerIdentity:
            facts = {
                "kind": route,
                "url": transport.url,  # two services may call their models alike
                "model": entry.id,
                "root": entry.root,
                "top": top,
                "floor": allow_floor,
            }
            return ServerIdentity(route, entry.id, characters, fingerprint(facts))

        refusals: list[Refusal] = []
        for route in (kind,) if kind else (COMPLETIONS, CHAT):
            for top in _TOPS:
                identity = identity_of(entry, route=route, top=top)
                endpoint = cls(transport, identity=identity, top=top, allow_floor=allow_floor)
                refusal = await endpoint._refusal()
                if refusal is not None and refusal.error is None:
                    # llama.cpp leaves them out if it draws a byte of a character.
                    refusal = await endpoint._refusal()
                if refusal is None:
                    return endpoint._guarded_as(entry, partial(identity_of, route=route, top=top))
                refusals.append(refusal)
        raise unsupported(transport.url, entry.id, refusals)

    async def _refusal(self) -> Refusal | None:
        """Why no log-probs come by this route; None where they do."""

        def read(raw: bytes) -> Refusal | None:
            choices = parsed(_Completion, raw).choices
            if any(_pairs(choice.logprobs) for choice in choices):
                self._said_in(raw)
                return None
            return Refusal(self._path, thinks=any(choice.thinks for choice in choices))

        try:
            return await self._asked(_PROBE, _NO_SAMPLING, read, attempts=_PROBE_ATTEMPTS)
        except (AuthenticationRefused, EndpointUnreachable, EndpointOverloaded):
            raise
        except (EndpointError, ScoreError) as error:
            return Refusal(self._path, error)

    async def find_label_token(self, label: str, *, prompt: str, separator: str) -> LabelToken:
        """As `TextEndpoint.find_label_token`: the most probable token that begins the label.

        The model is shown the row with the label a few times, and asked what comes next.
        """
        shown = f"{prompt}{label}{separator}" * _REPEATS + prompt
        said = await self._said_after(shown)
        top = said.top
        # A model that surely thinks first would seem to cut the prompt.
        if not begins_to_think(top[0][0]):
            await self._whole.check(shown, said)
        # An answer in a chat does not begin with the space that continues a text.
        beginnings = (label, label.lstrip()) if self.identity.kind == CHAT else (label,)
        for token, _ in top:
            if token.strip() and any(beginning.startswith(token) for beginning in beginnings):
                return LabelToken(label, token)
        likely = ", ".join(repr(self._transport.redacted(token)) for token, _ in top[:5])
        raise LabelMissing(
            f"{self._transport.url}: after {_REPEATS} times the label {label!r}, none of the "
            f"{len(top)} most probable tokens begins it (they are {likely}, ...). "
            + (self._written_instead(label, top) or _ORDINARY_WORDS)
        )

    def _written_instead(self, label: str, top: Top) -> str | None:
        return written_instead(
            label,
            top,
            is_chat=self.identity.kind == CHAT,
            redacted=self._transport.redacted,
        )

    async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
        """As `Endpoint.read`; one request each, sent at the same time."""
        del lane
        answers: dict[int, Answer] = {}

        async def answer(number: int, read: Read) -> None:
            top = await self._top_after(self._text_of(read.prompt))
            answers[number] = self._answer(read, top)

        async with open_task_group() as tasks:
            for number, read in enumerate(reads):
                tasks.start_soon(answer, number, read)
        found = [answers[number] for number in range(len(reads))]
        self._keep(reads, found)
        return found

    async def _asked_again(self, read: Read) -> Answer:
        return await self.read_sampled(read, _NO_SAMPLING)

    async def read_sampled(self, read: Read, sampling: Mapping[str, float]) -> Answer:
        """As `SampledEndpoint.read_sampled`; `read` checks that prompts are read whole."""
        said = await self._said_after(self._text_of(read.prompt), sampling)
        return self._answer(read, said.top)

    def _answer(self, read: Read, top: Top) -> Answer:
        found = [self._found(self._labels[one], top) for one in read.wanted]
        return Answer(
            tuple(value for value, _ in found), worst(exactness for _, exactness in found)
        )

    async def warm(self, prefix: TokenIds, *, lane: int | None = None) -> None:
        """As `Endpoint.warm`: one token after the bare prefix."""
        del lane
        await self._top_after(self._text_of(prefix))

    def _found(self, label: LabelToken, top: Top) -> tuple[float, Exactness]:
        values = [value for token, value in top if token == label.token]
        if values:
            self._doubled[label.label] += len(values) > 1
            return values[0], Exactness.TOP_K
        if not self._allow_floor:
            raise LabelMissing(
                f"{self._transport.url}: the token {label.token!r} of the label {label.label!r} is "
                f"not among the {len(top)} most probable ones. "
                + (self._written_instead(label.label, top) or _FLOOR)
            )
        rest = 1 - math.fsum(math.exp(value) for _, value in top)
        return min(top[-1][1], math.log(max(rest, _ROUNDING))), Exactness.FLOOR

    async def _top_after(self, text: str) -> Top:
        said = await self._said_after(text)
        await self._whole.check(text, said)
        return said.top

    async def _said_after(self, text: str, sampling: Mapping[str, float] = _NO_SAMPLING) -> Said:
        return await self._asked(text, sampling, self._said_in)

    async def _asked(
        self,
        text: str,
        sampling: Mapping[str, float],
        parse: Callable[[bytes], _T],
        *,
        attempts: int | None = None,
    ) -> _T:
        """`parse` of what follows `text`."""
        # At temperature 1 processed log-probs are the model's own. It does not matter which token
        # is drawn.
        body: dict[str, object] = {
            "model": self.identity.model,
            self._length_field: 1,
            "temperature": 1,
            "top_p": 1,
            **sampling,
        }
        if self.identity.kind == CHAT:
            body |= {
                "messages": [{"role": "user", "content": text}],
                "logprobs": True,
                "top_logprobs": self.top,
            }
        else:
            body |= {"prompt": text, "logprobs": self.top}
        try:
            return await self._transport.post(
                self._path, body, parse, scoring=True, attempts=attempts
            )
        except RequestRefused as error:
            if _LENGTH_FIELD not in str(error) or _LENGTH_FIELD in body:
                raise
        self._length_field = _LENGTH_FIELD
        return await self._asked(text, sampling, parse, attempts=attempts)

    def _said_in(self, raw: bytes) -> Said:
        completion = parsed(_Completion, raw)
        url = f"{self._transport.url}{self._path}"
        self._record(completion)
        if len(completion.choices) != 1:
            raise MalformedAnswer(f"{url}: {len(completion.choices)} choices for one prompt")
        log_probs = completion.choices[0].logprobs
        pairs = _pairs(log_probs)
        if not pairs:
            raise MalformedAnswer(f"{url}: no log-probs of the most probable tokens")
        found = [(token, log_prob(value, token=token)) for token, value in pairs]
        found.sort(key=lambda pair: -pair[1])
        # The token that was drawn may be listed besides the top k.
        top = tuple(found[: self.top])
        if log_probs and not log_probs.content:
            self._sizes[len(top)] += 1
        # 0 means that the server does not count.
        return Said(top, completion.usage.prompt_tokens or None if completion.usage else None)


def _pairs(log_probs: _LogProbs | None) -> list[tuple[str, float | None]]:
    """The first generated token's candidates, in either shape."""
    if log_probs and log_probs.content:
        return [(one.token, one.logprob) for one in log_probs.content[0].top_logprobs]
    if log_probs and log_probs.top_logprobs and log_probs.top_logprobs[0]:
        return list(log_probs.top_logprobs[0].items())
    return []
