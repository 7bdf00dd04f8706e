"""`/v1/models`: what a server lists, parsed in one way for all kinds of servers.

Sources: OpenAI's `GET /v1/models`, and what vLLM, SGLang, llama.cpp, OpenRouter, Together and Groq
add to its entries. Together's list has no object around it
(https://docs.together.ai/reference/models-1).
"""

from collections.abc import Sequence
from typing import Annotated, Any, Final, TypeVar

from pydantic import (
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from icm_client.endpoints.parsing import Wire, parsed

MODELS: Final = "/v1/models"


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
