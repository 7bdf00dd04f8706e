"""Which server is it? Asked of the server itself, once."""

from typing import Final

from pydantic import SecretStr

from icm_client.endpoints import llama_cpp, vllm
from icm_client.endpoints.answers import Wire, parsed
from icm_client.endpoints.llama_cpp import LlamaCppEndpoint
from icm_client.endpoints.settings import TransportSettings
from icm_client.endpoints.transport import Transport
from icm_client.endpoints.vllm import VllmEndpoint
from icm_client.errors import (
    AuthenticationRefused,
    MalformedAnswer,
    RequestRefused,
    UnsupportedServer,
)

_SUPPORTED: Final = "vLLM (`vllm serve`) and llama.cpp (`llama-server`) are supported"


class _Entry(Wire):
    id: str
    owned_by: str | None = None


class _Models(Wire):
    data: list[_Entry]


async def connect(
    url: str,
    *,
    model: str | None = None,
    api_key: str | SecretStr | None = None,
    settings: TransportSettings | None = None,
) -> LlamaCppEndpoint | VllmEndpoint:
    """The endpoint behind `url`, with its model known.

    Args:
        url: the server's root or its OpenAI root: `http://localhost:8000` or `.../v1`.
        model: which of its models; None takes the only one.
        api_key: the server's key, if it has one.
        settings: deadlines and limits of every request.

    Raises:
        InputError: `url` is not an http or https URL.
        EndpointUnreachable: nothing answers there.
        AuthenticationRefused: the key is missing or wrong.
        ModelNotFound: `model` is not served, or is None and several are; the message lists them.
        UnsupportedServer: something answers, but neither vLLM nor llama.cpp.
    """
    key = SecretStr(api_key) if isinstance(api_key, str) else api_key
    transport = Transport(url, api_key=key, settings=settings)
    try:
        if await _kind_of(transport) == llama_cpp.KIND:
            return await LlamaCppEndpoint.open(transport, model=model)
        return await VllmEndpoint.open(transport, model=model)
    except BaseException:
        await transport.aclose()
        raise


async def _kind_of(transport: Transport) -> str:
    try:
        models = await transport.get("/v1/models", lambda body: parsed(_Models, body))
    except AuthenticationRefused:
        raise
    except (MalformedAnswer, RequestRefused) as error:
        raise UnsupportedServer(f"not an OpenAI-compatible server: {error}; {_SUPPORTED}") from None
    owners = {entry.owned_by for entry in models.data if entry.owned_by}
    if "llamacpp" in owners:
        return llama_cpp.KIND
    if "vllm" in owners:
        return vllm.KIND
    # Behind a gateway that rewrites the list of models, the native routes still tell.
    if await _has(transport, "/props", "total_slots"):
        return llama_cpp.KIND
    if await _has(transport, "/version", "version"):
        return vllm.KIND
    found = transport.told(", ".join(sorted(owners))) or "nobody"
    raise UnsupportedServer(f"{transport.url}: its models are owned by {found}; {_SUPPORTED}")


async def _has(transport: Transport, path: str, key: str) -> bool:
    """Whether `path` answers with JSON that holds `key`."""
    try:
        body = await transport.get(path, bytes)
    except (MalformedAnswer, RequestRefused):
        return False
    return f'"{key}"'.encode() in body
