"""SGLang: one-token reads with `token_ids_logprob`, many prompts a request.

Source: https://docs.sglang.ai/basic_usage/native_api.html and `GenerateReqInput` in
https://github.com/sgl-project/sglang/blob/main/python/sglang/srt/managers/io_struct.py. The answer
to `/generate` holds, for each prompt, `meta_info.output_token_ids_logprobs`: a position for each
generated token, with `[log-prob, token id, text or null]` for each id asked. `/v1/score` gives
similar numbers, but reads a label that is not there as probability 0: it is not used.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

from pydantic import RootModel

from icm_client.endpoints.parsing import Wire, log_prob, parsed
from icm_client.endpoints.protocol import Answer, Exactness, TokenIds
from icm_client.endpoints.served import TokenPrompts
from icm_client.endpoints.transport import Transport
from icm_client.errors import (
    LabelMissing,
    MalformedAnswer,
    PromptTooLong,
    RequestRefused,
)

KIND: Final = "sglang"

# Without these a server's own defaults (`--sampling-defaults model`) could change log-probs.
_PLAIN_SAMPLING: Final[Mapping[str, float]] = {
    "temperature": 0.0,
    "top_p": 1.0,
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
}


class _Meta(Wire):
    prompt_tokens: int
    cached_tokens: int = 0
    output_token_ids_logprobs: list[list[tuple[float | None, int, str | None]] | None] | None = None


class _Generation(Wire):
    meta_info: _Meta


class _Generations(RootModel[list[_Generation]]):
    pass


class _Info(Wire):
    model_path: str | None = None
    tokenizer_path: str | None = None
    weight_version: str | None = None
    version: str | None = None


class SglangEndpoint(TokenPrompts):
    """An SGLang server. `open` makes one. It schedules by itself: `lanes` is 0."""

    _kind: ClassVar[str] = KIND
    _server: ClassVar[str] = "SGLang"
    _tokenize_path: ClassVar[str] = "/v1/tokenize"

    @classmethod
    async def _facts(cls, transport: Transport) -> dict[str, str | None]:
        # Both routes were renamed; the old names still work for a while.
        weights = await _info(transport, "/model_info", "/get_model_info")
        server = await _info(transport, "/server_info", "/get_server_info")
        return {
            "path": weights.model_path,
            "tokenizer": weights.tokenizer_path,
            "weights": weights.weight_version,
            "version": server.version,
        }

    async def warm(self, prefix: TokenIds, *, lane: int | None = None) -> None:
        """As `Endpoint.warm`: a one-token request for the bare prefix."""
        del lane
        await self._transport.post(
            "/generate",
            self._body_for([prefix], {}),
            lambda raw: self._generations(raw, [prefix]),
            scoring=True,
        )

    async def _read(
        self, prompts: Sequence[TokenIds], wanted: TokenIds, sampling: Mapping[str, float]
    ) -> list[Answer]:
        body = self._body_for(prompts, sampling) | {
            "return_logprob": True,
            # From the generated token on: for log-probs of the prompt, the server would compute
            # again what its prefix cache holds.
            "logprob_start_len": -1,
            "token_ids_logprob": [wanted for _ in prompts],
        }
        return await self._transport.post(
            "/generate",
            body,
            lambda raw: [self._answer(each, wanted) for each in self._generations(raw, prompts)],
            scoring=True,
        )

    def _body_for(
        self, prompts: Sequence[TokenIds], sampling: Mapping[str, float]
    ) -> dict[str, object]:
        body: dict[str, object] = {
            "input_ids": prompts,
            "sampling_params": {"max_new_tokens": 1, **_PLAIN_SAMPLING, **sampling},
        }
        return body | ({"lora_path": [self._adapter] * len(prompts)} if self._adapter else {})

    def _generations(self, raw: bytes, prompts: Sequence[TokenIds]) -> list[_Generation]:
        """One a prompt, in their order."""
        generations = parsed(_Generations, raw).root
        if len(generations) != len(prompts):
            raise MalformedAnswer(
                f"{self._transport.url}: {len(generations)} answers to {len(prompts)} prompts"
            )
        for generation, prompt in zip(generations, prompts, strict=True):
            meta = generation.meta_info
            self._count(meta.prompt_tokens, meta.cached_tokens)
            if meta.prompt_tokens < len(prompt):
                raise PromptTooLong(
                    f"{self._transport.url}: the server read {meta.prompt_tokens} of {len(prompt)} "
                    "tokens: it cuts prompts without saying so. Start it without "
                    "--allow-auto-truncate and with a larger context, or use fewer demos",
                    cut=True,
                )
            if meta.prompt_tokens > len(prompt):
                raise MalformedAnswer(
                    f"{self._transport.url}: the server read {meta.prompt_tokens} tokens where "
                    f"{len(prompt)} were sent"
                )
        return generations

    def _answer(self, generation: _Generation, wanted: TokenIds) -> Answer:
        positions = generation.meta_info.output_token_ids_logprobs
        if not positions or not positions[0]:
            raise LabelMissing(
                f"{self._transport.url}: no log-probs of tokens {list(wanted)}; the server ignored "
                "`token_ids_logprob`: it needs an SGLang whose /generate has that field (0.4.4 "
                "and later)"
            )
        found = {token: value for value, token, _ in positions[0]}
        missing = [token for token in wanted if token not in found]
        if missing:
            raise LabelMissing(f"{self._transport.url}: no log-probs of tokens {missing}")
        return Answer(
            tuple(log_prob(found[token], token=token) for token in wanted), Exactness.EXACT
        )


async def _info(transport: Transport, *paths: str) -> _Info:
    """What the server says at the first of `paths` that it has; nothing if it has none."""
    for path in paths:
        try:
            return await transport.get(path, lambda body: parsed(_Info, body))
        except (RequestRefused, MalformedAnswer):
            continue
    return _Info()
