"""A planted concept behind OpenAI's completions: text in, the most probable tokens out.

It can do what such servers do without a word: cut a long prompt, count no tokens, serve other
weights. Log-probs of words that are no labels are a hash over all that it has read, as those of a
model are moved by everything in its context.
"""

from hashlib import blake2b
from typing import Any, Literal, Self

from aiohttp import web

from icm_client.endpoints import Read
from icm_client.testing import PlantedConcept

OTHERS = tuple(f" word{number}" for number in range(18))


class TextServer:
    """A server on a port of this machine; an async context manager.

    Args:
        concept: what it has learnt.
        labels: as they follow a prompt, a token each.
        holds: tokens that it reads at most; None reads all.
        keeps: what it reads of a longer prompt.
        counts: the tokens it says it read: those, only those that it had not read before, those of
            the whole prompt although it was cut (as a gateway that counts by itself), or none.
        noise: nats by which answers to the same prompt differ.
    """

    def __init__(
        self,
        concept: PlantedConcept,
        labels: tuple[str, ...],
        *,
        holds: int | None = None,
        keeps: Literal["first", "last", "both ends"] = "last",
        counts: Literal["all", "uncached", "sent", "none"] = "all",
        noise: float = 0.0,
    ) -> None:
        self.concept = concept
        self.prompts: list[str] = []
        self.models_asked = 0
        self.mark: str | None = None
        self.doubles = False
        self.listed = False
        self.url = ""
        self.holds = holds
        self._labels, self._keeps = labels, keeps
        self._counts, self._noise = counts, noise
        self._before: tuple[int, ...] = ()

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/completions", self._complete)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _models(self, _: web.Request) -> web.Response:
        self.models_asked += 1
        return web.json_response({"data": [{"id": "base", "owned_by": "me"}]})

    async def _complete(self, request: web.Request) -> web.Response:
        text = (await request.json())["prompt"]
        self.prompts.append(text)
        sent = await self.concept.tokenize(text, add_special=True)
        ids = self._cut(sent)
        top = await self._top(ids)
        logprobs: dict[str, Any] = {"top_logprobs": [top]}
        if self.listed:
            named = [*top.items(), (self._labels[0], -5.5)]
            alike = [{"token": token, "logprob": value} for token, value in named]
            logprobs = {"content": [{"top_logprobs": alike}]}
        body: dict[str, Any] = {"choices": [{"index": 0, "text": "x", "logprobs": logprobs}]}
        if self._counts != "none":
            known = _shared(self._before, ids) if self._counts == "uncached" else 0
            read = len(sent) if self._counts == "sent" else len(ids)
            body["usage"] = {"prompt_tokens": read - known}
            self._before = ids
        if self.mark is not None:
            body["system_fingerprint"] = self.mark
        return web.json_response(body)

    def _cut(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        holds = self.holds
        if holds is None or len(ids) <= holds:
            return ids
        if self._keeps == "first":
            return ids[:holds]
        if self._keeps == "last":
            return ids[-holds:]
        return ids[: holds // 2] + ids[-(holds - holds // 2) :]

    async def _top(self, ids: tuple[int, ...]) -> dict[str, float]:
        top = {word: -6.0 - _hashed((word, ids)) for word in OTHERS}
        wanted = [
            (await self.concept.tokenize(label, add_special=False))[0] for label in self._labels
        ]
        try:
            (answer,) = await self.concept.read([Read(ids, tuple(wanted))])
        except ValueError:  # it ends in no planted prompt
            return top | {label: -3.0 - _hashed((label, ids)) for label in self._labels}
        top |= dict(zip(self._labels, answer.log_probs, strict=True))
        if self.doubles:
            del top[OTHERS[0]]
        shift = self._noise * _hashed(len(self.prompts))
        return {word: value - shift for word, value in top.items()}


def _hashed(what: object) -> float:
    """From 0 to 1."""
    digest = blake2b(repr(what).encode(), digest_size=6).digest()
    return int.from_bytes(digest) / 2**48


def _shared(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    pairs = zip(one, other, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
