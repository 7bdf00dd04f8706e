"""What can go wrong between a server and its client, each as an answer to one request.

A `Fault` answers instead of the server. A script says which request meets which: a list, one entry
a request and None for an honest answer, or a function of the request's number.
"""

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import anyio
import orjson
from aiohttp import web

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that is to be answered.

    Attributes:
        request: as it came.
        body: its JSON; empty where it has none.
        honest: what the server would say to a body; raises `web.HTTPException` where it refuses.
    """

    request: web.Request
    body: Json
    honest: Callable[[Json], Awaitable[Json]]


Fault = Callable[[Asked], Awaitable[web.StreamResponse]]
Script = Callable[[int], Fault | None]
"""From a request's number, counted from 0, to what it meets."""


def scripted(faults: Sequence[Fault | None]) -> Script:
    """One fault a request in this order; honest answers (None) are entries too, and follow."""
    return lambda number: faults[number] if number < len(faults) else None


def after(requests: int, fault: Fault) -> Script:
    """Honest answers to so many requests, and the fault for ever after."""
    return lambda number: fault if number >= requests else None


def sometimes(probability: float, fault: Fault, rng: random.Random) -> Script:
    """The fault with this probability, drawn from `rng` for each request."""
    return lambda _: fault if rng.random() < probability else None


def status(code: int, body: str | bytes = b"", headers: Mapping[str, str] | None = None) -> Fault:
    """An answer with this status, such as 429 with `{"Retry-After": "1"}`."""

    async def fault(_: Asked) -> web.StreamResponse:
        raw = body.encode() if isinstance(body, str) else body
        return web.Response(status=code, body=raw, headers=headers)

    return fault


def answering(body: str | bytes, *, headers: Mapping[str, str] | None = None) -> Fault:
    """Status 200 with this body: HTML, half a JSON document, nested brackets."""
    return status(200, body, headers)


def error_200(message: str = "out of memory") -> Fault:
    """`{"error": ...}` with status 200, as some gateways send it."""
    return answering(orjson.dumps({"error": {"message": message}}))


def redirect(to: str, code: int = 307) -> Fault:
    """A redirect to this URL."""
    return status(code, headers={"Location": to})


def changed(change: Callable[[Json], None], *, raw: Callable[[bytes], bytes] = bytes) -> Fault:
    """The honest answer, after `change` has been at it in place, and `raw` at its bytes."""

    async def fault(asked: Asked) -> web.StreamResponse:
        answer = await asked.honest(asked.body)
        change(answer)
        body = raw(orjson.dumps(answer))
        return web.Response(body=body, content_type="application/json")

    return fault


def with_log_prob(written: str) -> Fault:
    """Every log-prob as `written` in the JSON: `NaN`, `null`, `-9999.0`, `"high"`, `0.5`."""
    mark = -0.123456789

    def change(answer: Json) -> None:
        for found in _top_log_probs(answer):
            found.update(dict.fromkeys(found, mark))

    return changed(change, raw=lambda body: body.replace(str(mark).encode(), written.encode()))


def without_label() -> Fault:
    """The first wanted token's log-prob is not among those in the answer."""

    def change(answer: Json) -> None:
        for found in _top_log_probs(answer):
            found.pop(next(iter(found)))

    return changed(change)


def truncating(tokens: int) -> Fault:
    """Prompts are cut to their last `tokens` without a word, as some servers do."""

    async def fault(asked: Asked) -> web.StreamResponse:
        cut = [prompt[-tokens:] for prompt in asked.body["prompt"]]
        return web.json_response(await asked.honest({**asked.body, "prompt": cut}))

    return fault


def reset(*, after_bytes: int = 0) -> Fault:
    """The connection is reset: before the answer, or within its body."""

    async def fault(asked: Asked) -> web.StreamResponse:
        if after_bytes == 0:
            return _aborted(asked)
        body = orjson.dumps(await asked.honest(asked.body))
        response = web.StreamResponse(headers={"Content-Length": str(len(body))})
        await response.prepare(asked.request)
        await response.write(body[:after_bytes])
        _aborted(asked)
        return response

    return fault


def short_body(sent_bytes: int) -> Fault:
    """The connection is closed in good order after so many bytes of a body that promised more."""

    async def fault(asked: Asked) -> web.StreamResponse:
        body = orjson.dumps(await asked.honest(asked.body))
        response = web.StreamResponse(headers={"Content-Length": str(len(body))})
        await response.prepare(asked.request)
        await response.write(body[:sent_bytes])
        if asked.request.transport is not None:
            asked.request.transport.close()
        return response

    return fault


def hang() -> Fault:
    """No answer, ever."""

    async def fault(_: Asked) -> web.StreamResponse:
        await anyio.sleep_forever()
        raise AssertionError

    return fault


def drip(interval_s: float) -> Fault:
    """The honest answer, one byte each `interval_s` seconds: every read succeeds."""

    async def fault(asked: Asked) -> web.StreamResponse:
        body = orjson.dumps(await asked.honest(asked.body))
        response = web.StreamResponse(headers={"Content-Length": str(len(body))})
        await response.prepare(asked.request)
        for position in range(len(body)):
            await response.write(body[position : position + 1])
            await anyio.sleep(interval_s)
        return response

    return fault


def _top_log_probs(answer: Json) -> list[dict[str, float]]:
    choices = [choice["logprobs"] for choice in answer["choices"] if choice["logprobs"]]
    return [found for logprobs in choices for found in logprobs["top_logprobs"]]


def _aborted(asked: Asked) -> web.StreamResponse:
    if asked.request.transport is not None:
        asked.request.transport.abort()
    return web.Response()
