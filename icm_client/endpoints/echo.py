"""For text servers with nothing better: the label goes into the prompt, whose log-probs are read.

This is exact and slow: the server computes every prompt from its first token on, once for each
label. Source: OpenAI's older completions (`echo` with `logprobs`).
"""

import math
from collections.abc import Sequence
from typing import Final, Self

from icm_client.endpoints.parsing import ModelCard, Wire, fingerprint, log_prob, parsed
from icm_client.endpoints.protocol import (
    Answer,
    Exactness,
    LabelToken,
    Read,
    ServerIdentity,
    TokenIds,
)
from icm_client.endpoints.served import Completion, TextPrompts, text_model
from icm_client.endpoints.transport import Transport
from icm_client.errors import LabelMissing, MalformedAnswer, PromptTooLong, UnsupportedServer

ECHO: Final = "echo"

_SOME_ECHO: Final = 8
"""A server that echoes fewer characters does not echo."""

_MOST_OF_IT: Final = 0.98
"""At least this share of a prompt is echoed: tokens with a part of a character may come shorter."""


class _LogProbs(Wire):
    tokens: list[str]
    token_logprobs: list[float | None]


class _Choice(Wire):
    logprobs: _LogProbs | None = None


class _Completion(Completion):
    choices: list[_Choice]


class EchoEndpoint(TextPrompts):
    """A server that takes text and repeats the prompt with its log-probs. `open` makes one.

    Each label, of any number of tokens, takes one request.
    """

    @classmethod
    async def open(
        cls, transport: Transport, *, model: str | None = None, context_length: int | None = None
    ) -> Self:
        """Ask the server for its models; the first read shows whether it echoes."""
        entry, characters = await text_model(transport, model, context_length)

        def identity_of(entry: ModelCard) -> ServerIdentity:
            facts = {"kind": ECHO, "url": transport.url, "model": entry.id, "root": entry.root}
            return ServerIdentity(ECHO, entry.id, characters, fingerprint(facts))

        endpoint = cls(transport, identity=identity_of(entry))
        return endpoint._guarded_as(entry, identity_of)

    async def find_label_token(self, label: str, *, prompt: str, separator: str) -> LabelToken:
        """As `TextEndpoint.find_label_token`; nothing is asked: the whole label is scored."""
        del prompt, separator
        return LabelToken(label, "")

    async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
        """As `Endpoint.read`; one request a label, one after the other."""
        del lane
        answers = [await self._answer(read) for read in reads]
        self._keep(reads, answers)
        return answers

    async def _asked_again(self, read: Read) -> Answer:
        return await self._answer(read)

    async def warm(self, prefix: TokenIds, *, lane: int | None = None) -> None:
        """Do nothing: an echoed prompt is computed from its first token on."""

    async def _answer(self, read: Read) -> Answer:
        prompt = self._text_of(read.prompt)
        labels = [self._labels[one].label for one in read.wanted]
        return Answer(
            tuple([await self._log_prob_of(label, prompt) for label in labels]), Exactness.EXACT
        )

    async def _log_prob_of(self, label: str, prompt: str) -> float:
        body = {
            "model": self.identity.model,
            "prompt": prompt + label,
            "echo": True,
            "logprobs": 1,
            "max_tokens": 1,
            "temperature": 1,
        }
        return await self._transport.post(
            "/v1/completions", body, lambda raw: self._sum_of(raw, prompt, label), scoring=True
        )

    def _sum_of(self, raw: bytes, prompt: str, label: str) -> float:
        """The sum over the label's tokens, which stand before the one that was generated."""
        completion = parsed(_Completion, raw)
        self._record(completion)
        echo = completion.choices[0].logprobs if len(completion.choices) == 1 else None
        if completion.choices and echo is None:
            raise UnsupportedServer(
                f"{self._transport.url}: no log-probs of the echoed prompt; the server does not "
                "take `echo` with `logprobs`: try another --kind"
            )
        if echo is None or len(echo.tokens) != len(echo.token_logprobs):
            raise MalformedAnswer(f"{self._transport.url}: no log-probs of the echoed prompt")
        sent, echoed = len(prompt) + len(label), sum(map(len, echo.tokens[:-1]))
        if _SOME_ECHO <= echoed < _MOST_OF_IT * sent - _SOME_ECHO:
            raise PromptTooLong(
                f"{self._transport.url}: the server cuts prompts without saying so: it echoed "
                f"{echoed:,} of {sent:,} characters. Start it with a larger context, or use fewer "
                "demos",
                cut=True,
            )
        # `text_offset` is not used: some servers count a BOS that is not in the text.
        rest, total = label, []
        for token, value in reversed(list(zip(echo.tokens, echo.token_logprobs, strict=True))[:-1]):
            if not token or not rest.endswith(token):
                break
            rest = rest.removesuffix(token)
            total.append(log_prob(value, token=token))
            if not rest:
                return math.fsum(total)
        raise LabelMissing(
            f"{self._transport.url}: the label {label!r} does not end the echoed tokens "
            f"{echo.tokens[-6:]}: either the server does not echo the prompt, or its tokenizer "
            "joins the label with the template's end. Let the template end in a mark such as ':'"
        )
