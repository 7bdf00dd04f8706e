"""Prompts as text, for servers that take nothing else, and which of their models is meant.

A prompt's ids are its Unicode code points: what two prompts share as text they share as ids, and
nothing has to be asked or remembered to turn them into text again. A label is one id above all
code points, a hash of its text, so that it is the same in every process.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from hashlib import blake2b
from typing import Final, Self

from icm_client.endpoints.models import MODELS, ModelCard, models_in
from icm_client.endpoints.protocol import LabelToken, ServerIdentity, TokenIds
from icm_client.endpoints.served import ServedEndpoint, served_model
from icm_client.endpoints.transport import Transport
from icm_client.errors import (
    AuthenticationRefused,
    InputError,
    MalformedAnswer,
    ModelNotFound,
    RequestRefused,
)

CHARACTERS_A_TOKEN: Final = 3
"""Assumed where a context is given in tokens. English has over four. Text with fewer is refused by
the server where it does not fit, and the run then says so."""

ASSUMED_CONTEXT: Final = 4096
"""Tokens, where neither the server nor the user says."""

_FIRST_LABEL: Final = 0x110000
_LABEL_IDS: Final = 2**31 - _FIRST_LABEL


class TextPrompts(ServedEndpoint):
    """A server that takes text: ids are code points. See `protocol.TextEndpoint`."""

    def __init__(self, transport: Transport, *, identity: ServerIdentity) -> None:
        super().__init__(transport, identity=identity)
        self._labels: dict[int, LabelToken] = {}

    async def tokenize(self, text: str, *, add_special: bool) -> TokenIds:
        """The text's code points; the server adds the model's own BOS by itself."""
        del add_special
        return tuple(map(ord, text))

    def name_label(self, found: LabelToken) -> int:
        """As `TextEndpoint.name_label`.

        Raises:
            InputError: two labels have the same number: one chance in two thousand million.
        """
        digest = blake2b("\0".join(found).encode("utf-8", "surrogatepass"), digest_size=8)
        number = _FIRST_LABEL + int.from_bytes(digest.digest()) % _LABEL_IDS
        if self._labels.setdefault(number, found) != found:
            raise InputError(
                f"the labels {found.label!r} and {self._labels[number].label!r} get the same "
                "number here, by chance: change one of them a little"
            )
        return number

    def _guarded_as(
        self, entry: ModelCard, identity_of: Callable[[ModelCard], ServerIdentity]
    ) -> Self:
        """As `_guarded`, for the model that the server lists as `entry`."""

        async def again() -> ServerIdentity:
            is_listed = entry.root is not None
            now, _ = await text_model(self._transport, entry.id, None, is_listed=is_listed)
            return identity_of(now)

        return self._guarded(again)

    def _text_of(self, ids: TokenIds) -> str:
        return "".join(chr(one) if one < _FIRST_LABEL else self._labels[one].label for one in ids)


async def text_model(
    transport: Transport,
    model: str | None,
    context_length: int | None,
    *,
    is_listed: bool = False,
) -> tuple[ModelCard, int]:
    """The model that the user means, and the code points that its context holds.

    Args:
        transport: the way to the server.
        model: its name; None takes the only one that is listed. A name is taken on trust where
            the server lists no names: the first request decides.
        context_length: tokens; None takes what the server says, else `ASSUMED_CONTEXT`.
        is_listed: whether the server has listed its models before, so that no list is an error.

    Raises:
        ModelNotFound: `model` is not among those listed, or is None and not one is.
        EndpointError: no answer.
    """
    try:
        entries = await transport.get(MODELS, models_in)
    except AuthenticationRefused:
        raise
    except (RequestRefused, MalformedAnswer) as error:
        if is_listed:
            raise
        if model is None:
            raise ModelNotFound(
                f"{transport.url} does not list its models ({error}): name one with --model"
            ) from None
        entries = []
    names = [one for one in entries if "*" not in one.id]
    if model is None and not names:
        raise ModelNotFound(f"{transport.url} lists no model by its name: name one with --model")
    if model is not None and await _is_on_trust(transport, model, entries):
        entry = ModelCard(id=model)
    else:
        entry = served_model(transport, names, model)
    tokens = context_length or entry.context_tokens or ASSUMED_CONTEXT
    return entry, tokens * CHARACTERS_A_TOKEN


async def _is_on_trust(transport: Transport, model: str, entries: Sequence[ModelCard]) -> bool:
    """Whether `model` may be served though it is not listed: gateways list wildcards, or nothing.

    In the place of `openai/*` LiteLLM lists the models it knows, unless asked for wildcards.
    Source: https://docs.litellm.ai/docs/proxy/model_discovery
    """
    if any(entry.id == model for entry in entries):
        return False
    if not entries or _has_wildcard_of(model, entries):
        return True
    with suppress(RequestRefused, MalformedAnswer):
        entries = await transport.get(f"{MODELS}?return_wildcard_routes=true", models_in)
    return _has_wildcard_of(model, entries)


def _has_wildcard_of(model: str, entries: Sequence[ModelCard]) -> bool:
    return any("*" in entry.id and fnmatchcase(model, entry.id) for entry in entries)
