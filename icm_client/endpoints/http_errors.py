"""The error that an HTTP status stands for, and how long the server asks to wait.

A status says little: gateways answer 400 to a missing key and 403 with a login page. So the words
of the answer decide too, and the message says what to do where those words do not.

Sources of the waits: RFC 9110, 10.2.3 (`Retry-After` in seconds or as a date); `retry-after-ms` and
the `x-ratelimit-*` headers of OpenAI's API, whose durations are written `6m0s` or `20ms`.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final

from icm_client.endpoints.parsing import clipped, page_words
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
    # vLLM, about a prompt that fills the context to the last token: none is left for the answer.
    "max_tokens must be at least 1",
)
# OpenAI's 429 for an account without credit: waiting does not help.
_NO_QUOTA = "insufficient_quota"
# LiteLLM, about a key that it does not know: it looks it up in a database, and has none.
_NO_KEY = ("no_db_connection", "no api key passed in")
# LiteLLM's 400 and `transformers serve`'s, OpenAI's 403 and 404 (the `code`).
_NO_MODEL = (
    "no healthy deployments for this model",
    "invalid model name passed",
    "server is pinned to",
    "model_not_found",
)
# nginx, Go and Apache, about http spoken to a port that expects https.
_EXPECTS_HTTPS = (
    "http request was sent to https port",
    "http request to an https server",
    "speaking plain http to an ssl-enabled server port",
)
_NOT_FINITE = ("out of range float values", "nan values in")

# A header may list several schemes; a scheme is a word that no `=` follows.
_SCHEME: Final = re.compile(r"(?:^|,)\s*([A-Za-z][\w-]*)(?=\s+[^=\s]|\s*(?:,|$))")
_KEY_SCHEMES: Final = {"bearer", "apikey", "api-key", "key"}

_Refusal = type[EndpointError | InputError | ScoreNotFinite]

_SIGNS: Final[Mapping[tuple[str, ...], _Refusal]] = {
    _EXPECTS_HTTPS: InputError,
    _NO_MODEL: ModelNotFound,
    _NO_KEY: AuthenticationRefused,
    (_NO_QUOTA,): AuthenticationRefused,
    _TOO_LONG: PromptTooLong,
    # vLLM computed NaN logits and then could not write them as JSON: a fault of its own.
    _NOT_FINITE: ScoreNotFinite,
}
"""The words of a 4xx answer that decide its error, the most certain first."""

_STATUSES: Final[Mapping[int, type[EndpointError]]] = {
    HTTPStatus.UNAUTHORIZED: AuthenticationRefused,
    HTTPStatus.PAYMENT_REQUIRED: AuthenticationRefused,
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
    kind, words, is_page = _error_words(body)
    phrase = _phrase(status)
    reason = f"{status} {phrase}".strip()
    message = f"{asked}: {reason}"
    shown = clipped(words, secrets=secrets).removeprefix(f"{status}:").strip()
    if shown and shown not in (phrase, reason):
        message = f"{message}: {shown}"
    busy = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
    error: IcmError
    if status in busy and _NO_QUOTA not in kind:
        error = EndpointOverloaded(message, retry_after_s=retry_after_s(headers))
    # 501: a route that the server does not have, as llama.cpp's /metrics without --metrics.
    elif status >= HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.NOT_IMPLEMENTED:
        error = EndpointFault(message)
    elif status < HTTPStatus.BAD_REQUEST:
        target = clipped(headers.get("location", "nowhere"), secrets=secrets)
        error = RequestRefused(
            f"{message} (redirects are not followed; it points to {target}: use that URL if it "
            "is the server you mean)"
        )
    else:
        if is_page and _has_sign(_EXPECTS_HTTPS, body.decode("utf-8", "replace").lower()):
            words = _EXPECTS_HTTPS[0]  # which Apache says below the title
        said = f"{kind} {words}".lower()
        refusal = _kind(status, said)
        advice = _advice(refusal, status, headers, said, is_page=is_page)
        error = refusal(f"{message} ({advice})" if advice else message)
    if isinstance(error, EndpointError):
        error.status = status
    return error


def _kind(status: int, said: str) -> _Refusal:
    for signs, kind in _SIGNS.items():
        if _has_sign(signs, said):
            return kind
    if status == HTTPStatus.NOT_FOUND and "model" in said:
        return ModelNotFound
    if status == HTTPStatus.FORBIDDEN and "logprobs" in said:
        return RequestRefused  # OpenAI, about a model whose log-probs nobody gets, whatever the key
    return _STATUSES.get(status, RequestRefused)


def _has_sign(signs: Iterable[str], said: str) -> bool:
    return any(sign in said for sign in signs)


def _advice(
    kind: _Refusal, status: int, headers: Mapping[str, str], said: str, *, is_page: bool
) -> str | None:
    """What to do, where the server's words do not say it."""
    if kind is AuthenticationRefused:
        return _key_advice(status, headers, said, is_page=is_page)
    if kind is RequestRefused and status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return (
            "the request is larger than this server, or a proxy before it, accepts: take fewer "
            "--demos, or raise its limit, which nginx calls client_max_body_size"
        )
    return "this port speaks https: give the URL with https://" if kind is InputError else None


def _key_advice(status: int, headers: Mapping[str, str], said: str, *, is_page: bool) -> str:
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return (
            "the proxy of HTTP_PROXY or HTTPS_PROXY asks for a user name and a password: "
            "http://user:password@proxy:port"
        )
    if status == HTTPStatus.PAYMENT_REQUIRED or _NO_QUOTA in said:
        return "the account has no credit left, and waiting does not help: top it up"
    if _has_sign(_NO_KEY, said):
        return "LiteLLM got no key, or does not know it: set ICM_API_KEY to one of its keys"
    if (login := _login_advice(headers)) is not None:
        return login
    if is_page:
        return (
            "a web page came instead of an answer: a firewall or a login page stands before the "
            "model server; if it takes a key, set ICM_API_KEY, else ask its owner for a URL that "
            "goes past it"
        )
    return "set ICM_API_KEY to the server's key"


def _login_advice(headers: Mapping[str, str]) -> str | None:
    """What to do where the server asks for another login than a key."""
    schemes = _SCHEME.findall(headers.get("www-authenticate", ""))
    ways = {scheme.lower() for scheme in schemes}
    if "basic" in ways:
        return (
            "it asks for a user name and a password, not for a key: put them into the URL, "
            "https://user:password@host"
        )
    if schemes and not ways & _KEY_SCHEMES:
        return (
            f"it asks for a login of the kind {schemes[0]}, which is not known here: ask its "
            "owner for a URL that takes a key, or a user name and a password"
        )
    return None


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:  # Cloudflare's 520 to 530
        return ""


def _error_words(body: bytes) -> tuple[str, str, bool]:
    """The error's type, its message, and whether the body is a web page.

    The message is the whole body where the server put none into it, and a page's title. It is not
    clipped.
    """
    try:
        kind, words = _type_and_message(json.loads(body))
    except (ValueError, RecursionError):  # no JSON, or nested deeper than any error is
        kind, words = "", body.decode("utf-8", "replace")
    page = page_words(words)
    return kind, words if page is None else page, page is not None


def _type_and_message(answer: object) -> tuple[str, str]:
    error = answer.get("error", answer) if isinstance(answer, dict) else answer
    if isinstance(error, dict):
        message = error.get("message") or error.get("detail") or json.dumps(error)
        return f"{error.get('type', '')} {error.get('code', '')}", str(message)
    return "", error if isinstance(error, str) else json.dumps(error)


_UNIT_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER: Final = r"[0-9]{1,12}(?:\.[0-9]{0,12})?"
_PLAIN = re.compile(_NUMBER)
_PART = re.compile(rf"({_NUMBER})(ms|[dhms])")
_DURATION = re.compile(rf"(?:{_NUMBER}(?:ms|[dhms]))+")
_QUOTAS: Final = ("requests", "tokens")


def retry_after_s(headers: Mapping[str, str], *, now: datetime | None = None) -> float | None:
    """The seconds that `headers` ask to wait, at least 0, or None where they ask for none.

    Args:
        headers: an answer's, looked up in lower case.
        now: what a date is counted from; None takes the present.
    """
    value = headers.get("retry-after", "").strip()
    asked = (
        _plain_s(headers.get("retry-after-ms", "").strip(), "ms"),
        _plain_s(value, "s"),
        _duration_s(value),
        _seconds_until(value, now or datetime.now(UTC)),
        _quota_reset_s(headers),
    )
    return next((seconds for seconds in asked if seconds is not None), None)


def _plain_s(text: str, unit: str) -> float | None:
    return float(text) * _UNIT_S[unit] if _PLAIN.fullmatch(text) else None


def _duration_s(text: str) -> float | None:
    text = text.strip().lower().replace(" ", "")
    if not _DURATION.fullmatch(text):
        return None
    return sum(float(number) * _UNIT_S[unit] for number, unit in _PART.findall(text))


def _seconds_until(text: str, now: datetime) -> float | None:
    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = (moment - now).total_seconds()
    except (ValueError, OverflowError, TypeError, IndexError):  # it is the server's text
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _quota_reset_s(headers: Mapping[str, str]) -> float | None:
    """Seconds until all quotas that are used up begin anew."""
    resets = [
        _duration_s(headers.get(f"x-ratelimit-reset-{quota}", ""))
        for quota in _QUOTAS
        if headers.get(f"x-ratelimit-remaining-{quota}", "").strip() == "0"
    ]
    return max((reset for reset in resets if reset is not None), default=None)
