"""`/v1/models`: what a server lists, parsed in one way for all kinds of servers.

Sources: OpenAI's `GET /v1/models`, and what vLLM, SGLang, llama.cpp, OpenRouter, Together and Groq
add to its entries. Together's list has no object around it
(https://docs.together.ai/reference/models-1).
"""

from collections.abc import Sequence
from typing import Any, Final

from pydantic import (
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from icm_client.endpoints.parsing import Wire, parsed

MODELS: Final = "/v1/models"


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
    owned_by: str | None = None
    aliases: list[str] = Field(default_factory=list)  # llama.cpp
    root: str | None = None  # vLLM, SGLang, and the next two
    parent: str | None = None  # the base of a LoRA adapter
    max_model_len: int | None = None  # absent for a LoRA adapter
    context_length: int | None = None  # OpenRouter, Together
    context_window: int | None = None  # Groq
    meta: ModelMeta | None = None

    @field_validator(
        "owned_by",
        "aliases",
        "root",
        "parent",
        "max_model_len",
        "context_length",
        "context_window",
        "meta",
        mode="wrap",
    )
    @classmethod
    def _absent_if_of_another_type(
        cls, value: object, handler: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> Any:
        """One server's field is no reason to refuse the list of another that uses its name."""
        try:
            return handler(value)
        except ValidationError:
            return cls.model_fields[info.field_name or ""].get_default(call_default_factory=True)

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
