"""From what went wrong on the wire to the tree of errors in `icm_client.errors`."""

import json
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Final

from icm_client.endpoints.answers import clipped, page_words
from icm_client.endpoints.retry_after import retry_after_s
from icm_client.errors import (
    AuthenticationRefused,
    EndpointError,
    EndpointFault,
    EndpointOverloaded,
    EndpointTimeout,
    IcmError,
    InputError,
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
# LiteLLM, of a key that it does not know: it looks it up in a database, and has none.
_NO_KEY = ("no_db_connection", "no api key passed in")
# LiteLLM's 400 and `transformers serve`'s, OpenAI's 403 and 404 (the `code`).
_NO_MODEL = (
    "no healthy deployments for this model",
    "invalid model name passed",
    "server is pinned to",
    "model_not_found",
)
# nginx and Go, of http spoken to a port that expects https.
_EXPECTS_HTTPS = ("http request was sent to https port", "http request to an https server")
_NOT_FINITE = ("out of range float values", "nan values in")

_Refusal = type[EndpointError | InputError | ScoreNotFinite]

_SIGNS: Final[Mapping[tuple[str, ...], _Refusal]] = {
    _EXPECTS_HTTPS: InputError,
    _NO_MODEL: ModelNotFound,
    _NO_KEY: AuthenticationRefused,
    _TOO_LONG: PromptTooLong,
    # vLLM computes NaN logits and then cannot write them as JSON: its own fault, not ours.
    _NOT_FINITE: ScoreNotFinite,
}
"""Words of a 4xx, the surest first."""

_STATUSES: Final[Mapping[int, type[EndpointError]]] = {
    HTTPStatus.UNAUTHORIZED: AuthenticationRefused,
    HTTPStatus.FORBIDDEN: AuthenticationRefused,
    HTTPStatus.PROXY_AUTHENTICATION_REQUIRED: AuthenticationRefused,
    HTTPStatus.REQUEST_TIMEOUT: EndpointTimeout,
}


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
    error = _error_of_status(status, headers, body, asked, secrets)
    if isinstance(error, EndpointError):
        error.status = status
    return error


def _error_of_status(
    status: int, headers: Mapping[str, str], body: bytes, asked: str, secrets: Iterable[str]
) -> IcmError:
    kind, words = _error_words(body)
    message = f"{asked}: {status} {_reason(status)}"
    shown = clipped(words, secrets=secrets)
    if shown and shown not in (_reason(status), f"{status} {_reason(status)}"):
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
    return _refusal(status, headers, message, told=f"{kind} {words}".lower())


def _refusal(status: int, headers: Mapping[str, str], message: str, *, told: str) -> IcmError:
    """The error behind a 4xx; `told` is what the server said, in lower case."""
    kind = _kind(status, told)
    advice = _advice(kind, status, headers, told)
    return kind(f"{message} ({advice})" if advice else message)


def _kind(status: int, told: str) -> _Refusal:
    for signs, kind in _SIGNS.items():
        if any(sign in told for sign in signs):
            return kind
    if status == HTTPStatus.NOT_FOUND and "model" in told:
        return ModelNotFound
    if status == HTTPStatus.FORBIDDEN and "logprobs" in told:
        return RequestRefused  # OpenAI, of a model whose log-probs nobody gets, whatever the key
    return _STATUSES.get(status, RequestRefused)


def _advice(
    kind: _Refusal,
    status: int,
    headers: Mapping[str, str],
    told: str,
) -> str | None:
    """What to do, where the server's words do not say it."""
    if kind is AuthenticationRefused:
        return _key_advice(status, headers, told)
    if kind is RequestRefused and status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return (
            "the request is larger than this server, or a proxy before it, accepts: take fewer "
            "--demos, or raise its limit, which nginx calls client_max_body_size"
        )
    return "this port speaks https: give the URL with https://" if kind is InputError else None


def _key_advice(status: int, headers: Mapping[str, str], told: str) -> str:
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return (
            "the proxy of HTTP_PROXY or HTTPS_PROXY asks for a user name and a password: "
            "http://user:password@proxy:port"
        )
    if any(sign in told for sign in _NO_KEY):
        return "LiteLLM got no key, or does not know it: set ICM_API_KEY to one of its keys"
    if headers.get("www-authenticate", "").lower().startswith("basic"):
        return (
            "it asks for a user name and a password, not for a key: put them into the URL, "
            "https://user:password@host"
        )
    return "set ICM_API_KEY to the server's key"


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "unknown status"


def _error_words(body: bytes) -> tuple[str, str]:
    """The error's type and message, wherever the server put them; else the body. Unclipped."""
    try:
        kind, words = _told(json.loads(body))
    except (ValueError, RecursionError):  # no JSON, or nested deeper than any error is
        kind, words = "", body.decode("utf-8", "replace")
    page = page_words(words)
    return kind, words if page is None else page


def _told(answer: object) -> tuple[str, str]:
    error = answer.get("error", answer) if isinstance(answer, dict) else answer
    if isinstance(error, dict):
        message = error.get("message") or error.get("detail") or json.dumps(error)
        return f"{error.get('type', '')} {error.get('code', '')}", str(message)
    return "", error if isinstance(error, str) else json.dumps(error)
