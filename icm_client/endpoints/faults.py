"""From what went wrong on the wire to the tree of errors in `icm_client.errors`."""

import json
from collections.abc import Iterable, Mapping
from http import HTTPStatus

from icm_client.endpoints.answers import clipped
from icm_client.endpoints.retry_after import retry_after_s
from icm_client.errors import (
    AuthenticationRefused,
    EndpointFault,
    EndpointOverloaded,
    EndpointTimeout,
    IcmError,
    ModelNotFound,
    PromptTooLong,
    RequestRefused,
    ScoreNotFinite,
)

# llama.cpp: the `type` of its 400. vLLM: words of its 400, whose `type` is only BadRequestError.
_TOO_LONG = (
    "exceed_context_size_error",
    "maximum context length",
    "maximum model length",
    "longer than the maximum",
    # vLLM, of a prompt that fills the context to the last token: none is left for the answer.
    "max_tokens must be at least 1",
)
# OpenAI's 429 for an account without money: no wait heals it.
_NO_QUOTA = "insufficient_quota"
_NOT_FINITE = ("out of range float values", "nan values in")


def error_of_status(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    asked: str,
    secrets: Iterable[str] = (),
) -> IcmError:
    """The error that an answer with a status other than 2xx stands for.

    Args:
        status: the HTTP status, 300 to 599.
        headers: the answer's headers, looked up in lower case.
        body: the answer's body; OpenAI's, vLLM's and llama.cpp's shapes are understood.
        asked: "METHOD URL", for the message.
        secrets: what the message must not show, should the server echo it.
    """
    kind, words = _error_words(body)
    message = f"{asked}: {status} {_reason(status)}"
    if shown := clipped(words, secrets=secrets):
        message = f"{message}: {shown}"
    busy = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
    if status in busy and _NO_QUOTA not in kind:
        return EndpointOverloaded(message, retry_after_s=retry_after_s(headers), status=status)
    # 501: a route that the server has not, as llama.cpp's /metrics without --metrics.
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.NOT_IMPLEMENTED:
        return EndpointFault(message)
    if status < HTTPStatus.BAD_REQUEST:
        target = clipped(headers.get("location", "nowhere"), secrets=secrets)
        return RequestRefused(
            f"{message} (redirects are not followed; it points to {target}: use that URL if it "
            "is the server you mean)"
        )
    return _refusal(status, message, told=f"{kind} {words}".lower())


def _refusal(status: int, message: str, *, told: str) -> IcmError:
    """The error behind a 4xx; `told` is what the server said, in lower case."""
    if status == HTTPStatus.REQUEST_TIMEOUT:
        return EndpointTimeout(message)
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return AuthenticationRefused(f"{message} (set ICM_API_KEY to the server's key)")
    if any(sign in told for sign in _TOO_LONG):
        return PromptTooLong(message)
    if any(sign in told for sign in _NOT_FINITE):
        # vLLM computes NaN logits and then cannot write them as JSON: its own fault, not ours.
        return ScoreNotFinite(message)
    if status == HTTPStatus.NOT_FOUND and "model" in told:
        return ModelNotFound(message)
    return RequestRefused(message)


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "unknown status"


def _error_words(body: bytes) -> tuple[str, str]:
    """The error's type and message, wherever the server put them; else the body. Unclipped."""
    try:
        return _told(json.loads(body))
    except (ValueError, RecursionError):  # no JSON, or nested deeper than any error is
        return "", body.decode("utf-8", "replace")


def _told(answer: object) -> tuple[str, str]:
    error = answer.get("error", answer) if isinstance(answer, dict) else answer
    if isinstance(error, dict):
        message = error.get("message") or error.get("detail") or json.dumps(error)
        return f"{error.get('type', '')} {error.get('code', '')}", str(message)
    return "", error if isinstance(error, str) else json.dumps(error)
