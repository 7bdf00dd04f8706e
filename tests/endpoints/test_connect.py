"""Which kind of server it is, which model, and what is said where neither is found."""

import json
from typing import Any

import pytest
from served_models import LLAMA_MODELS, PROPS, SETTINGS, VLLM_MODELS

from icm_client.endpoints import (
    LlamaCppEndpoint,
    VllmEndpoint,
    connect,
)
from icm_client.endpoints.parsing import fingerprint
from icm_client.errors import (
    AuthenticationRefused,
    ModelNotFound,
    RequestRefused,
    UnsupportedServer,
)


async def test_connect_finds_vllm(server: Any, say: Any) -> None:
    server.script = [say(VLLM_MODELS), say(VLLM_MODELS), say('{"version": "0.32.0"}')]
    endpoint = await connect(f"{server.url}/v1", settings=SETTINGS)
    assert endpoint.identity.kind == "vllm"
    assert endpoint.identity.context_length == 64
    assert endpoint.lanes == 0
    await endpoint.aclose()


async def test_connect_finds_llama_cpp_by_alias(server: Any, say: Any) -> None:
    server.script = [say(LLAMA_MODELS), say(LLAMA_MODELS), say(PROPS)]
    endpoint = await connect(server.url, model="gem", settings=SETTINGS)
    assert (endpoint.identity.kind, endpoint.identity.model, endpoint.lanes) == (
        "llama.cpp",
        "g",
        2,
    )
    await endpoint.aclose()


@pytest.mark.parametrize("model", [None, "other"])
async def test_connect_lists_the_models_it_may_not_choose_from(
    server: Any, say: Any, model: str | None
) -> None:
    entry = {"root": None, "max_model_len": 64, "owned_by": "vllm"}
    models = json.dumps({"data": [entry | {"id": "alpha"}, entry | {"id": "beta"}]})
    server.script = [say(models)]
    with pytest.raises(ModelNotFound, match="alpha, beta"):
        await connect(server.url, model=model, settings=SETTINGS)


async def test_connect_takes_a_stranger_for_openai_and_says_what_it_answered(
    server: Any, say: Any
) -> None:
    models = '{"data": [{"id": "x", "owned_by": "somebody"}]}'
    server.script = [say(models), *[say("", status=404)] * 3, say(models), say("", status=404)]
    with pytest.raises(UnsupportedServer, match=r"no /v1/completions and.*completions: 404"):
        await connect(server.url, settings=SETTINGS)
    server.script = [say("<html>")]
    with pytest.raises(UnsupportedServer, match=r"/v1/models: a web page came instead"):
        await connect(server.url, settings=SETTINGS)
    server.script = [say("", status=404)]
    with pytest.raises(UnsupportedServer, match=r"models: 404.*OpenAI-compatible.*give --model"):
        await connect(server.url, settings=SETTINGS)
    server.script = [say("", status=302, headers={"Location": "http://elsewhere"})]
    with pytest.raises(RequestRefused, match="it points to http://elsewhere"):
        await connect(server.url, settings=SETTINGS)


async def test_tensorrt_llm_is_not_taken_for_the_vllm_whose_routes_it_has(
    server: Any, say: Any
) -> None:
    models = '{"data": [{"id": "x", "owned_by": "tensorrt_llm"}]}'
    server.script = [say(models), say(models), say("", status=404)]
    with pytest.raises(UnsupportedServer, match=r"no /v1/completions and.*completions: 404"):
        await connect(server.url, settings=SETTINGS)


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        ({"/props": PROPS, "/v1/models": LLAMA_MODELS.replace("llamacpp", "me")}, "llama.cpp"),
        (
            {"/version": '{"version": "1"}', "/v1/models": VLLM_MODELS.replace('"vllm"', '"me"')},
            "vllm",
        ),
        (
            {
                "/get_model_info": '{"model_path": "/m"}',
                "/v1/models": VLLM_MODELS.replace('"vllm"', '"sglang"'),
            },
            "sglang",
        ),
        (
            {
                "/get_model_info": '{"model_path": "/m"}',
                "/v1/models": VLLM_MODELS.replace('"vllm"', '"me"'),
            },
            "sglang",
        ),
    ],
)
async def test_connect_asks_the_native_routes_where_the_list_does_not_tell(
    server: Any, say: Any, answers: Any, kind: str
) -> None:
    async def by_path(request: Any) -> Any:
        body = answers.get(request.path)
        return await say(body or "", status=200 if body else 404)(request)

    server.script = [by_path]
    async with await connect(server.url, settings=SETTINGS) as endpoint:
        assert endpoint.identity.kind == kind


@pytest.mark.parametrize(
    ("models", "who"),
    [
        (LLAMA_MODELS, "llama.cpp {} does not pass /props"),
        (VLLM_MODELS, "vLLM {} does not pass /v"),
    ],
)
@pytest.mark.parametrize("answer", [("", 404), ("<html><title>Home</title></html>", 200)])
async def test_a_gateway_that_passes_only_v1_is_said(
    server: Any, say: Any, models: str, who: str, answer: tuple[str, int]
) -> None:
    async def gateway(request: Any) -> Any:
        if request.path == "/v1/models":
            return await say(models)(request)
        return await say(answer[0], status=answer[1])(request)

    server.script = [gateway]
    sentence = who.format("behind a gateway that") + ".*--kind openai"
    with pytest.raises(UnsupportedServer, match=sentence) as caught:
        await connect(server.url, settings=SETTINGS)
    assert server.url in str(caught.value)


async def test_connect_without_the_key_says_how_to_set_it(server: Any, say: Any) -> None:
    server.script = [say("", status=401)]
    with pytest.raises(AuthenticationRefused, match="ICM_API_KEY"):
        await connect(server.url, settings=SETTINGS)


BASE = {"id": "base", "root": "org/base", "max_model_len": 64, "owned_by": "vllm"}


@pytest.mark.parametrize("parent", ["base", "org/base", None, "renamed"])
async def test_an_adapter_has_the_context_of_its_base(
    server: Any, say: Any, parent: str | None
) -> None:
    models = json.dumps({"data": [BASE, {"id": "lora", "parent": parent, "owned_by": "vllm"}]})
    server.script = [say(models), say(models), say('{"version": "0.32.0"}')]
    async with await connect(server.url, model="lora", api_key="k", settings=SETTINGS) as endpoint:
        assert endpoint.identity.context_length == 64


async def test_a_list_of_models_that_a_gateway_rewrote_is_explained(server: Any, say: Any) -> None:
    server.script = [say('{"data": [{"id": "x", "owned_by": "vllm"}]}')]
    with pytest.raises(UnsupportedServer, match=r"no max_model_len for x.*gateway"):
        await connect(server.url, settings=SETTINGS)
    server.script = [say('{"data": [{"id": "g", "owned_by": "llamacpp", "meta": null}]}')]
    with pytest.raises(UnsupportedServer, match="no `meta` for g"):
        await connect(server.url, settings=SETTINGS)


async def test_scores_stored_before_adapters_were_asked_for_are_found(
    vllm: VllmEndpoint, llama: LlamaCppEndpoint
) -> None:
    """Fingerprints of servers without adapters, as they have always been."""
    assert vllm.identity.fingerprint == fingerprint(
        {
            "kind": "vllm",
            "model": "base",
            "root": "org/base",
            "context_length": 64,
            "version": "0.32.0",
        }
    )
    assert llama.identity.fingerprint == fingerprint(
        {
            "kind": "llama.cpp",
            "model": "g",
            "context_length": 64,
            "n_params": 1,
            "size": 2,
            "n_vocab": 5000,
            "ftype": "Q4",
            "path": "",
            "build": "b1",
        }
    )
