"""From bytes to values: how every answer of a server is read, and when it is refused.

Nothing of the server's is trusted: a body is parsed against a pydantic model, and a log-prob is
taken only when it can be one.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from icm_client.errors import MalformedAnswer, ScoreNotFinite

PROTOCOL_VERSION: Final = 1
"""Raised when a change here changes the log-probs that the same server yields."""

CLIPPED_LENGTH: Final = 300
"""Characters of a server's own words that may stand in an error message."""

_ROUNDING_NATS: Final = 1e-6
"""A log-softmax in float32 may end this far above 0 for a certain token."""

_PADDING: Final = -9999.0
"""vLLM's JSON has no -inf; it writes this instead, for tokens it did not score."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
_USERINFO = re.compile(r"(?<=://)[^/\s@]*@")

_Model = TypeVar("_Model", bound=BaseModel)


class Wire(BaseModel):
    """A body as a server sends it: unknown keys are ignored, known ones are checked strictly."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


def parsed(model: type[_Model], body: bytes) -> _Model:
    """`body` as `model`.

    Raises:
        MalformedAnswer: not JSON, cut off, or JSON of another shape (an `error` with status 200).
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "body"
        reason = f"{place}: {first['msg']}"
    # Outside the handler: pydantic's error holds the whole body, and a traceback would show it.
    # The transport, which knows what must not be shown, adds how the body begins.
    raise MalformedAnswer(f"the answer is not what this server's protocol says ({reason})")


def log_prob(value: float | None, *, token: int | str) -> float:
    """`value` as a natural-log probability (nats), at most 0.

    Raises:
        ScoreNotFinite: null, NaN, infinite, above 0 by more than rounding, or the -9999 padding.
    """
    if value is None or not math.isfinite(value) or not _PADDING < value <= _ROUNDING_NATS:
        raise ScoreNotFinite(f"the server gave {value} as the log-prob of token {token!r}")
    return min(value, 0.0)


def clipped(text: str, *, secrets: Iterable[str] = ()) -> str:
    """A server's words, fit for a message: one line, no control characters, no credentials.

    `secrets` are taken out before the text is cut, so that no half of one is left at its end.
    """
    for secret in secrets:
        text = text.replace(secret, "***")
    # JSON may hold half of a surrogate pair, which no terminal or log can be sent.
    text = text[: 20 * CLIPPED_LENGTH].encode("utf-8", "replace").decode("utf-8")
    line = _CONTROL.sub(" ", without_credentials(text)).strip()
    return line if len(line) <= CLIPPED_LENGTH else f"{line[:CLIPPED_LENGTH]}..."


def without_credentials(url: str) -> str:
    """`url` with any `user:password@` taken out."""
    return _USERINFO.sub("", url)


def fingerprint(facts: Mapping[str, str | int | float | bool | None]) -> str:
    """SHA-256, in hex, over `facts` and the protocol version."""
    text = json.dumps({**facts, "protocol": PROTOCOL_VERSION}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
