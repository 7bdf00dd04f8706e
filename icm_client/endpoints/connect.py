"""Which kind of server is it? The server itself is asked, once."""

from collections.abc import Sequence
from typing import Final, Literal, get_args

from pydantic import SecretStr

from icm_client.endpoints import echo, llama_cpp, openai_top_k, sglang, vllm
from icm_client.endpoints.echo import EchoEndpoint
from icm_client.endpoints.llama_cpp import LlamaCppEndpoint
from icm_client.endpoints.openai_top_k import OpenAITopKEndpoint
from icm_client.endpoints.parsing import MODELS, ModelCard, models_in
from icm_client.endpoints.served import NO_ROUTE
from icm_client.endpoints.settings import TransportSettings
from icm_client.endpoints.sglang import SglangEndpoint
from icm_client.endpoints.transport import Transport
from icm_client.endpoints.vllm import PromptLogProbsEndpoint, VllmEndpoint
from icm_client.errors import (
    AuthenticationRefused,
    EndpointFault,
    InputError,
    MalformedAnswer,
    RequestRefused,
    UnsupportedServer,
)

Kind = Literal["vllm", "llama.cpp", "sglang", "openai", "openai-chat", "prompt-logprobs", "echo"]
"""How a server is read:

* `vllm`, `llama.cpp`, `sglang`: any token's log-prob, exact.
* `openai`, `openai-chat`: text prompts, and the most probable tokens of completions or chat.
* `prompt-logprobs`: an older vLLM; the label as part of the prompt, exact and slow.
* `echo`: the same over text, by OpenAI's older completions.
"""

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

ServedModel = VllmEndpoint | LlamaCppEndpoint | SglangEndpoint | OpenAITopKEndpoint | EchoEndpoint

_OWNERS: Final[dict[str, Kind]] = {
    "llamacpp": llama_cpp.KIND,
    "vllm": vllm.KIND,
    "sglang": sglang.KIND,
    "tensorrt_llm": "openai",  # it has a /version too, as vLLM
}

# A gateway may rewrite the list of models; the routes that only one kind has still show it.
_ROUTES: Final[tuple[tuple[str, str, Kind], ...]] = (
    ("/props", "total_slots", llama_cpp.KIND),
    ("/get_model_info", "model_path", sglang.KIND),
    ("/version", "version", vllm.KIND),
)


async def connect(
    url: str,
    *,
    model: str | None = None,
    api_key: str | SecretStr | None = None,
    settings: TransportSettings | None = None,
    kind: Kind | None = None,
    allow_floor: bool = False,
    context_length: int | None = None,
) -> ServedModel:
    """The endpoint at `url`, its model known.

    Args:
        url: the server's root or its OpenAI root: `http://localhost:8000` or `.../v1`.
        model: which of its models; None takes the only one.
        api_key: the server's key, if it has one.
        settings: deadlines and limits of every request.
        kind: how to read it; None asks the server, and reads one of an unknown kind through
            OpenAI's protocol, by its most probable tokens.
        allow_floor: with the most probable tokens only, take an upper bound for a label that is
            not among them. Its rows are marked.
        context_length: tokens, for a server that takes only text and does not say.

    Raises:
        InputError: `url` is not an http or https URL, or an argument is not for this kind.
        EndpointUnreachable: nothing answers there.
        AuthenticationRefused: the key is missing or wrong.
        ModelNotFound: `model` is not served, or is None and several are; the message lists them.
        UnsupportedServer: something answers, but gives no log-probs in any way known here.
    """
    key = SecretStr(api_key) if isinstance(api_key, str) else api_key
    transport = Transport(url, api_key=key, settings=settings)
    try:
        return await _opened(transport, model, kind, allow_floor, context_length)
    except BaseException:
        await transport.aclose()
        raise


async def _opened(
    transport: Transport,
    model: str | None,
    kind: Kind | None,
    allow_floor: bool,
    context_length: int | None,
) -> ServedModel:
    found = kind or await _kind_of(transport, model)
    if found in (openai_top_k.COMPLETIONS, openai_top_k.CHAT):
        return await OpenAITopKEndpoint.open(
            transport,
            model=model,
            kind=kind,
            allow_floor=allow_floor,
            context_length=context_length,
        )
    if allow_floor:
        raise InputError(
            f"{transport.url} is read as {found}, which gives every label's log-prob: leave "
            "--allow-floor out"
        )
    if found == echo.ECHO:
        return await EchoEndpoint.open(transport, model=model, context_length=context_length)
    if context_length is not None:
        raise InputError(
            f"{transport.url} is read as {found}, which says how long a context it serves: leave "
            "--context-length out"
        )
    return await _NATIVE[found].open(transport, model=model)


_NATIVE: Final[dict[str, type[VllmEndpoint] | type[LlamaCppEndpoint] | type[SglangEndpoint]]] = {
    vllm.KIND: VllmEndpoint,
    llama_cpp.KIND: LlamaCppEndpoint,
    sglang.KIND: SglangEndpoint,
    vllm.PROMPT_LOGPROBS: PromptLogProbsEndpoint,
}


async def _entries(transport: Transport, model: str | None) -> Sequence[ModelCard]:
    """The models that are listed; none where a `model` is named, and no list can be had."""
    try:
        return await transport.get(MODELS, models_in)
    except AuthenticationRefused:
        raise
    except (MalformedAnswer, RequestRefused) as error:
        if isinstance(error, MalformedAnswer):
            if not error.is_json:
                raise UnsupportedServer(str(error)) from None
        elif error.status not in NO_ROUTE:
            raise
        if model is None:
            raise UnsupportedServer(
                f"{error}: not an OpenAI-compatible server, or one that does not list its models: "
                "then give --model"
            ) from None
        return ()


async def _kind_of(transport: Transport, model: str | None) -> Kind:
    entries = await _entries(transport, model)
    for entry in entries:
        if owner := _OWNERS.get(entry.owned_by or ""):
            return owner
    for path, key, kind in _ROUTES:
        if await _has(transport, path, key):
            return kind
    return openai_top_k.COMPLETIONS


async def _has(transport: Transport, path: str, key: str) -> bool:
    """Whether `path` answers with JSON that holds `key`."""
    try:
        body = await transport.get(path, bytes)
    except (MalformedAnswer, RequestRefused, EndpointFault):  # a gateway fails on what it lacks
        return False
    return f'"{key}"'.encode() in body
