"""From bytes to values: how every answer of a server is parsed, and when it is refused.

No answer is trusted: a body is parsed against a pydantic model, and a log-prob is taken only if it
can be one. A server's words are made fit for a message here too. `/v1/models` is parsed in one way
for all kinds of servers: OpenAI's list, and what vLLM, SGLang, llama.cpp, OpenRouter, Together and
Groq add to its entries.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from html.parser import HTMLParser
from typing import Annotated, Any, Final, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from icm_client.errors import MalformedAnswer, ScoreNotFinite

MODELS: Final = "/v1/models"

PROTOCOL_VERSION: Final = 1
"""Goes up when a change here changes the log-probs that the same server gives."""

CLIPPED_LENGTH: Final = 300
"""Characters of a server's own words that may stand in an error message."""

_ROUNDING_NATS: Final = 1e-6
"""A log-softmax in float32 may end this far above 0 for a certain token."""

_PADDING: Final = -9999.0
"""vLLM's JSON has no -inf; it writes this instead, for tokens it did not score."""

_SURELY_A_KEY: Final = 8
"""A secret of so many characters is taken out wherever it stands. A shorter one may be a part of an
ordinary word (a key "token", in "max_tokens"), and is taken out only where it stands by itself."""

_LISTED: Final = 20
"""A message lists so many names at most."""

_PAGE_BEGINS: Final = 1000
"""A web page shows in its first so many characters that it is one."""

# A letter of `%20`, or of an escape of JSON, is no part of a word.
_NO_WORD_BEFORE: Final = r"(?:(?<!\w)|(?<=%[0-9a-fA-F]{2})|(?<=\\[bfnrt])|(?<=\\u[0-9a-fA-F]{4}))"

# XML too: object stores answer with it. LiteLLM puts a page into a message of its own.
_PAGE = re.compile(r"<(?:html|head|body)\b|<!doctype\s|\A\s*<[a-z?]", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
_USERINFO = re.compile(r"(?<=://)[^/\s@]*@")

_Model = TypeVar("_Model", bound=BaseModel)


class Wire(BaseModel):
    """A body as a server sends it: unknown keys are ignored, known ones are checked strictly."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


def parsed(model: type[_Model], body: bytes) -> _Model:
    """`body` as `model`; else MalformedAnswer: cut off, no JSON, or an `error` with status 200."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "body"
        reason = f"{place}: {first['msg']}"
    # Raised outside the handler: pydantic's error holds the whole body, and a traceback would show
    # it. The transport, which knows what must not be shown, adds how the body begins.
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
        if len(secret) >= _SURELY_A_KEY:
            text = text.replace(secret, "***")
        else:
            text = re.sub(rf"{_NO_WORD_BEFORE}{re.escape(secret)}(?!\w)", "***", text)
    # JSON may hold half of a surrogate pair, which no terminal or log can be sent.
    text = text[: 20 * CLIPPED_LENGTH].encode("utf-8", "replace").decode("utf-8")
    line = _CONTROL.sub(" ", without_credentials(text)).strip()
    return line if len(line) <= CLIPPED_LENGTH else f"{line[:CLIPPED_LENGTH]}..."


def listed(names: Sequence[str], *, like: str | None = None) -> str:
    """Names for a message: no more than a person reads, those most `like` one first."""
    if like is not None and len(names) > _LISTED:
        names = sorted(names, key=lambda name: -SequenceMatcher(None, like, name).ratio())
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more:,} more" if more > 0 else "")


def page_words(text: str) -> str | None:
    """A web page's title, or how its text begins; None where `text` is no web page.

    Proxies and login portals answer with one.
    """
    if not _PAGE.search(text[:_PAGE_BEGINS]):
        return None
    page = _Page()
    page.feed(text[: 20 * _PAGE_BEGINS])
    return " ".join((page.title or page.text).split())


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.title = self.text = ""
        self._within: str | None = None

    def handle_starttag(self, tag: str, attrs: object) -> None:
        del attrs
        self._within = tag

    def handle_endtag(self, tag: str) -> None:
        del tag
        self._within = None

    def handle_data(self, data: str) -> None:
        if self._within == "title":
            self.title += data
        elif self._within not in ("script", "style"):
            self.text += f" {data}"


def without_credentials(url: str) -> str:
    """`url` with any `user:password@` taken out."""
    return _USERINFO.sub("", url)


def fingerprint(facts: Mapping[str, str | int | float | bool | None]) -> str:
    """SHA-256, in hex, over `facts` and the protocol version."""
    text = json.dumps({**facts, "protocol": PROTOCOL_VERSION}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _or_absent(value: object, handler: ValidatorFunctionWrapHandler) -> Any:
    """`value`, or None if it is of another type: another server may use the field otherwise."""
    try:
        return handler(value)
    except ValidationError:
        return None


_T = TypeVar("_T")
_Optional = Annotated[_T | None, WrapValidator(_or_absent)]


class ModelMeta(Wire):
    """What only llama.cpp says of a model."""

    n_ctx: int | None = None
    n_vocab: int | None = None
    n_params: int | None = None
    size: int | None = None
    ftype: str = ""


class ModelCard(Wire):
    """An entry of the list. Most servers give no more than the name."""

    id: str
    owned_by: _Optional[str] = None
    aliases: _Optional[list[str]] = None  # llama.cpp
    root: _Optional[str] = None  # vLLM, SGLang, and the next two
    parent: _Optional[str] = None  # the base of a LoRA adapter
    max_model_len: _Optional[int] = None  # absent for a LoRA adapter
    context_length: _Optional[int] = None  # OpenRouter, Together
    context_window: _Optional[int] = None  # Groq
    meta: _Optional[ModelMeta] = None

    @property
    def context_tokens(self) -> int | None:
        """Tokens of the context, in whichever field the server gives them."""
        lengths = (self.max_model_len, self.context_length, self.context_window)
        return next(
            (length for length in lengths if length), self.meta.n_ctx if self.meta else None
        )


class _ModelList(Wire):
    """Together's has no object around it: https://docs.together.ai/reference/models-1."""

    data: list[ModelCard] | None  # null: Ollama, without a model

    @model_validator(mode="before")
    @classmethod
    def _around(cls, value: object) -> object:
        return {"data": value} if isinstance(value, list) else value


def models_in(body: bytes) -> list[ModelCard]:
    """The models that the answer to `MODELS` lists. Raises `MalformedAnswer` as `parsed`."""
    return parsed(_ModelList, body).data or []


def adapter_facts(entry: ModelCard, models: Sequence[ModelCard]) -> dict[str, str | None]:
    """The base of a LoRA adapter, for the fingerprint; empty for a model that is no adapter.

    So the fingerprint of a model without adapters is what it was before this was asked.
    """
    if entry.parent is None:
        return {}
    roots = [model.root for model in models if model.id == entry.parent]
    return {"parent": entry.parent, "parent_root": roots[0] if roots else None}


def context_length_of(entry: ModelCard, models: Sequence[ModelCard]) -> int | None:
    """Tokens; an adapter has those of its base, which is the one there is where none is found."""
    if entry.max_model_len is not None:
        return entry.max_model_len
    parent = entry.parent
    bases = [model for model in models if parent and parent in (model.id, model.root)] or models
    lengths = {model.max_model_len for model in bases if model.max_model_len is not None}
    return lengths.pop() if len(lengths) == 1 else None
