"""vLLM: one-token reads with `logprob_token_ids`, many prompts a request.

Source: https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html (`/v1/completions`,
`/tokenize`, and `prompt_logprobs` among the extra parameters of completions).

`PromptLogProbsEndpoint` is for versions without `logprob_token_ids`: the label goes into the
prompt, whose log-probs are read. The numbers are the same, but vLLM then skips its prefix cache and
computes each prompt once for each label, which took 6 to 12 times as long.
"""

import re
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from typing import ClassVar, Final, TypeVar

import orjson
from pydantic import RootModel

from icm_client.endpoints.parsing import Wire, log_prob, parsed
from icm_client.endpoints.protocol import (
    Answer,
    Exactness,
    PrefixCache,
    TokenIds,
    common_prefix,
)
from icm_client.endpoints.served import Completion, TokenPrompts, TokenUsage, native_answer
from icm_client.endpoints.transport import Transport
from icm_client.errors import (
    IcmError,
    LabelMissing,
    MalformedAnswer,
    PromptTooLong,
    RequestRefused,
)

KIND: Final = "vllm"
PROMPT_LOGPROBS: Final = "prompt-logprobs"

_NO_PRIORITIES: Final = "priority scheduling is not enabled"
"""Words of vLLM's 400 to any priority but 0, unless started with `--scheduling-policy priority`."""

SESSION_IDS: Final = 32
"""Prompts that begin with the same so many ids are one session. So all prompts below a node of the
prefix tree are one: they share more ids (`icm_client.scoring.planner.MIN_SHARED`)."""

_CACHE: Final = re.compile(rb"^vllm:cache_config_info\{(.*)\}", re.MULTILINE)
_CACHE_FIGURE: Final = re.compile(rb'(\w+)="(\d+)"')

_T = TypeVar("_T")


class _LogProbs(Wire):
    top_logprobs: list[dict[str, float | None] | None]


class _PromptLogProb(Wire):
    logprob: float | None


class _Choice(Wire):
    index: int
    logprobs: _LogProbs | None = None
    prompt_logprobs: list[dict[str, _PromptLogProb] | None] | None = None


class _Completion(Completion):
    choices: list[_Choice]
    usage: TokenUsage


class _Version(Wire):
    version: str


class _RenderedPrompt(Wire):
    token_ids: list[int]


class _Rendered(RootModel[list[_RenderedPrompt]]):
    """The answer to `/v1/completions/render`."""


class VllmEndpoint(TokenPrompts):
    """A vLLM server. `open` makes one. It schedules by itself: `lanes` is 0.

    A text like "<eos>" in a row is what the model's tokenizer makes of it: `/tokenize` cannot be
    asked not to take it for the control token.
    """

    _kind: ClassVar[str] = KIND
    _server: ClassVar[str] = "vLLM"
    _takes_priority = True
    _cache: PrefixCache | None = None
    _renders = True

    @classmethod
    async def _facts(cls, transport: Transport) -> dict[str, str | None]:
        answer = await native_answer(transport, "/version", _Version, server=cls._server)
        return {"version": answer.version}

    async def neighbour_log_probs(self, prompt: TokenIds, *, top: int = 5) -> list[float | None]:
        """The answer to another user's plain `logprobs` request for `prompt`, unchecked.

        vLLM's V1 runner writes -9999.0 into it while reads of ours are in the same batch.
        """
        asked = {"logprobs": top, "return_tokens_as_token_ids": True}

        def found(raw: bytes) -> list[float | None]:
            choices = self._completion_of(raw, [prompt]).choices
            positions = [c.logprobs.top_logprobs[0] for c in choices if c.logprobs]
            return [value for position in positions if position for value in position.values()]

        return await self._complete([prompt], asked, found)

    async def _read(
        self, prompts: Sequence[TokenIds], wanted: TokenIds, sampling: Mapping[str, float]
    ) -> list[Answer]:
        asked = {
            # With `logprobs` alone the answer holds the most probable token. The ids are read over
            # the whole vocabulary, whatever their rank.
            "logprobs": 1,
            "logprob_token_ids": wanted,
            "return_tokens_as_token_ids": True,
            **sampling,
        }
        return await self._complete(prompts, asked, partial(self._answers, prompts, wanted))

    async def warm(self, prefix: TokenIds, *, lane: int | None = None) -> None:
        """As `Endpoint.warm`: a one-token request for the bare prefix.

        A model with sliding-window layers keeps a window only where a request ended, so the prompt
        must be the prefix itself, and not something that begins with it.
        """
        del lane
        await self._complete([prefix], {}, lambda raw: self._completion_of(raw, [prefix]))

    async def tokenize_many(self, texts: Sequence[str]) -> list[TokenIds] | None:
        """As `BatchTokenizer.tokenize_many`, where vLLM was started with `--enable-scale-out`.

        `/v1/completions/render` refuses a list as a whole where one of its texts is empty or longer
        than the context.
        """
        if not self._renders:
            return None
        body = {
            "model": self.identity.model,
            "prompt": list(texts),
            "max_tokens": 1,
            "add_special_tokens": False,
        }
        try:
            found = await self._transport.post(
                "/v1/completions/render", body, lambda raw: parsed(_Rendered, raw), attempts=1
            )
        except (RequestRefused, MalformedAnswer) as error:
            self._renders = isinstance(error, PromptTooLong)
            return None
        ids = [tuple(one.token_ids) for one in found.root]
        return ids if len(ids) == len(texts) else None

    async def prefix_cache(self) -> PrefixCache:
        """As `CachingEndpoint.prefix_cache`; unknown where a gateway hides `/metrics`."""
        if self._cache is None:
            try:
                self._cache = await self._transport.get("/metrics", vllm_prefix_cache, attempts=1)
            except IcmError:  # the reads will show whether the server is well
                return PrefixCache()
        return self._cache

    async def _complete(
        self, prompts: Sequence[TokenIds], asked: Mapping[str, object], parse: Callable[[bytes], _T]
    ) -> _T:
        """`parse` of the answer; a good neighbour's request has the lowest priority.

        A router before several replicas (vLLM's with `--policy consistent_hash`) sends a session
        to one of them, so that its prefixes are computed only there.
        """
        body = {
            "model": self.identity.model,
            "prompt": _written(prompts),
            "max_tokens": 1,
            "temperature": 0,
            "add_special_tokens": False,
            **asked,
        }
        send = partial(
            self._transport.post,
            "/v1/completions",
            parse=parse,
            scoring=True,
            headers={"X-Session-ID": _session(prompts[0])},
        )
        neighbour = self._transport.settings.good_neighbour
        if neighbour is not None and self._takes_priority:
            try:
                return await send({**body, "priority": neighbour.priority})
            except RequestRefused as error:
                if _NO_PRIORITIES not in str(error).lower():
                    raise
            self._takes_priority = False
        return await send(body)

    def _completion_of(self, raw: bytes, prompts: Sequence[TokenIds]) -> _Completion:
        completion = parsed(_Completion, raw)
        usage = completion.usage
        sent = sum(map(len, prompts))
        if usage.prompt_tokens < sent:
            raise PromptTooLong(
                f"{self._transport.url}: the server read {usage.prompt_tokens} of {sent} tokens: "
                "it cuts prompts without saying so. Start it with a larger context, or use fewer "
                "demos",
                cut=True,
            )
        self._count(usage.prompt_tokens, _cached_of_all(usage.cached_tokens, prompts))
        self._marked(completion.system_fingerprint)
        return completion

    def _choices(self, raw: bytes, prompts: Sequence[TokenIds]) -> list[_Choice]:
        """One a prompt, in their order."""
        choices = sorted(self._completion_of(raw, prompts).choices, key=lambda choice: choice.index)
        if [choice.index for choice in choices] != list(range(len(prompts))):
            raise MalformedAnswer(
                f"{self._transport.url}: {len(choices)} choices for {len(prompts)} prompts, or "
                "not one for each"
            )
        return choices

    def _answers(self, prompts: Sequence[TokenIds], wanted: TokenIds, raw: bytes) -> list[Answer]:
        keys = {f"token_id:{token}": token for token in wanted}
        answers = []
        for choice in self._choices(raw, prompts):
            positions = choice.logprobs.top_logprobs if choice.logprobs else []
            if len(positions) != 1 or not (found := positions[0]):
                raise MalformedAnswer(
                    f"{self._transport.url}: a choice without log-probs of its token"
                )
            if missing := [token for key, token in keys.items() if key not in found]:
                raise LabelMissing(
                    f"{self._transport.url}: no log-probs of tokens {missing}; the server ignored "
                    "`logprob_token_ids`: it needs a vLLM whose /v1/completions has that field "
                    "(0.32 does), or --kind prompt-logprobs, which any vLLM has and is slower"
                )
            values = [log_prob(found[key], token=token) for key, token in keys.items()]
            answers.append(Answer(tuple(values), Exactness.EXACT))
        return answers


class PromptLogProbsEndpoint(VllmEndpoint):
    """A vLLM server that does not know `logprob_token_ids`. `open` makes one."""

    _kind: ClassVar[str] = PROMPT_LOGPROBS

    async def _read(
        self, prompts: Sequence[TokenIds], wanted: TokenIds, sampling: Mapping[str, float]
    ) -> list[Answer]:
        """Send each prompt with each wanted token after it, in one request."""
        asked = [(*prompt, token) for prompt in prompts for token in wanted]

        def answers(raw: bytes) -> list[Answer]:
            last = [
                self._last(choice.prompt_logprobs, prompt)
                for choice, prompt in zip(self._choices(raw, asked), asked, strict=True)
            ]
            return [
                Answer(tuple(last[start : start + len(wanted)]), Exactness.EXACT)
                for start in range(0, len(last), len(wanted))
            ]

        return await self._complete(asked, {"prompt_logprobs": 0, **sampling}, answers)

    def _last(
        self, positions: Sequence[Mapping[str, _PromptLogProb] | None] | None, prompt: TokenIds
    ) -> float:
        """The log-prob of the prompt's last token, given all before it."""
        if not positions or len(positions) != len(prompt):
            raise LabelMissing(
                f"{self._transport.url}: no log-probs of the prompt's tokens; the server ignored "
                "`prompt_logprobs`: try another --kind"
            )
        token = prompt[-1]
        found = (positions[-1] or {}).get(str(token))
        if found is None:
            raise LabelMissing(f"{self._transport.url}: no log-prob of the prompt's token {token}")
        return log_prob(found.logprob, token=token)


def _written(prompts: Sequence[TokenIds]) -> list[orjson.Fragment]:
    """The prompts as JSON; what all begin with, most often a context, is written once."""
    first = min(prompts)
    shared = common_prefix(first, max(prompts)) if len(prompts) > 1 else 0
    head = b"".join((orjson.dumps(first[:shared])[:-1], b","))
    whole = shared == 0 or any(len(prompt) == shared for prompt in prompts)
    return [
        orjson.Fragment(orjson.dumps(prompt) if whole else head + orjson.dumps(prompt[shared:])[1:])
        for prompt in prompts
    ]


def _session(prompt: TokenIds) -> str:
    """The same text for all requests whose first prompts begin alike."""
    begins = prompt[:SESSION_IDS]
    return blake2b(struct.pack(f"<{len(begins)}q", *begins), digest_size=8).hexdigest()


def _cached_of_all(cached: int, prompts: Sequence[TokenIds]) -> int:
    """Tokens of all `prompts` that came from the cache, if `cached` of the last one did.

    vLLM (0.32) adds up the prompt tokens of a request, and gives the cached ones only of its last
    prompt. What another prompt shares with those was in the cache for it too.
    """
    found = prompts[-1][:cached]
    return sum(common_prefix(prompt, found) for prompt in prompts)


def vllm_prefix_cache(metrics: bytes) -> PrefixCache:
    """What vLLM's `/metrics` says in `vllm:cache_config_info`, one line an engine.

    Models with several kinds of attention find prefixes again in coarser steps than `block_size`
    (`cache_hit_alignment_tokens`), and hold fewer tokens than blocks times their size
    (`kv_cache_size_tokens`). vLLM 0.32 gives both, older versions do not.
    """
    engines = [
        {name.decode(): int(value) for name, value in _CACHE_FIGURE.findall(engine)}
        for engine in _CACHE.findall(metrics)
    ]
    if not engines:
        return PrefixCache()
    block = max(
        engine.get("cache_hit_alignment_tokens") or engine.get("block_size") or 1
        for engine in engines
    )
    sizes = [
        engine.get("kv_cache_size_tokens")
        or engine.get("num_gpu_blocks", 0) * engine.get("block_size", 0)
        for engine in engines
    ]
    return PrefixCache(block, sum(sizes) if all(sizes) else None)
