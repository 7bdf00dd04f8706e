"""Faults between a server and its client, each an answer to one request.

A `Fault` answers in place of the server. A script assigns faults to requests: it is a list with one
entry a request, None for an honest answer, or a function of the request's number.
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
    """A request to be answered.

    Attributes:
        request: as it came.
        body: its JSON; empty where it has none.
        honest: gives the server's answer to a body; raises `web.HTTPException` where it refuses.
    """

    request: web.Request
    body: Json
    honest: Callable[[Json], Awaitable[Json]]


Fault = Callable[[Asked], Awaitable[web.StreamResponse]]
Script = Callable[[int], Fault | None]
"""From a request's number, counted from 0, to its fault, or None for an honest answer."""


def scripted(faults: Sequence[Fault | None]) -> Script:
    """One entry a request, in this order: a fault, or None. All later answers are honest."""
    return lambda number: faults[number] if number < len(faults) else None


def after(requests: int, fault: Fault) -> Script:
    """Honest answers to so many requests, and the fault to all later ones."""
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
    """The honest answer, changed in place by `change`, and its bytes by `raw`."""

    async def fault(asked: Asked) -> web.StreamResponse:
        answer = await asked.honest(asked.body)
        change(answer)
        body = raw(orjson.dumps(answer))
        return web.Response(body=body, content_type="application/json")

    return fault


def with_log_prob(written: str) -> Fault:
    """Every log-prob written as `written` in JSON: `NaN`, `null`, `-9999.0`, `"high"`, `0.5`."""
    mark = -0.123456789

    def change(answer: Json) -> None:
        for found in _top_log_probs(answer):
            found.update(dict.fromkeys(found, mark))

    return changed(change, raw=lambda body: body.replace(str(mark).encode(), written.encode()))


def without_label() -> Fault:
    """The log-prob of the first wanted token is missing from the answer."""

    def change(answer: Json) -> None:
        for found in _top_log_probs(answer):
            found.pop(next(iter(found)))

    return changed(change)


def truncating(tokens: int) -> Fault:
    """Prompts are silently cut to their last `tokens`, as by some servers."""

    async def fault(asked: Asked) -> web.StreamResponse:
        cut = [prompt[-tokens:] for prompt in asked.body["prompt"]]
        return web.json_response(await asked.honest({**asked.body, "prompt": cut}))

    return fault


def reset(*, after_bytes: int = 0) -> Fault:
    """The connection is reset: before the answer, or within its body."""

    async def fault(asked: Asked) -> web.StreamResponse:
        if after_bytes == 0:
            return _aborted(asked)
        response, body = await _begun(asked)
        await response.write(body[:after_bytes])
        _aborted(asked)
        return response

    return fault


def short_body(sent_bytes: int) -> Fault:
    """The connection is closed properly after so many bytes of a body that announced more."""

    async def fault(asked: Asked) -> web.StreamResponse:
        response, body = await _begun(asked)
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
    """The honest answer, one byte every `interval_s` seconds: each read of the socket succeeds."""

    async def fault(asked: Asked) -> web.StreamResponse:
        response, body = await _begun(asked)
        for position in range(len(body)):
            await response.write(body[position : position + 1])
            await anyio.sleep(interval_s)
        return response

    return fault


async def _begun(asked: Asked) -> tuple[web.StreamResponse, bytes]:
    """The honest answer with its headers sent, and the body to send."""
    body = orjson.dumps(await asked.honest(asked.body))
    response = web.StreamResponse(headers={"Content-Length": str(len(body))})
    await response.prepare(asked.request)
    return response, body


def _top_log_probs(answer: Json) -> list[dict[str, float]]:
    choices = [choice["logprobs"] for choice in answer["choices"] if choice["logprobs"]]
    return [found for logprobs in choices for found in logprobs["top_logprobs"]]


def _aborted(asked: Asked) -> web.StreamResponse:
    if asked.request.transport is not None:
        asked.request.transport.abort()
    return web.Response()
