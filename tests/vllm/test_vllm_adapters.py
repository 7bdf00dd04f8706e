"""Adapters on a running vLLM: read as any model is, refused in its own words, taken away again."""

import json
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import click
import httpx2
import pytest
from pydantic import SecretStr
from vllm_adapter import write_adapter
from vllm_questions import ONE_SERVER, OTHER_ENGINE, forward, open_server, reads_for, weights
from vllm_server import MODEL, PYTHON, VllmServer

from icm_client.endpoints import Endpoint, Read, RetryPolicy, Transport, TransportSettings
from icm_client.errors import ModelNotFound, TrainingError
from icm_client.training.vllm_adapter import load_adapter, open_adapter, unload_adapter

pytest_plugins = ["vllm_fixtures"]
pytestmark = pytest.mark.skipif(PYTHON is None, reason="no vLLM given: scripts/test-vllm")

ADAPTERS = ("fold-1", "fold-2")
QUICK = TransportSettings(retry=RetryPolicy(initial_wait_s=0.01, maximum_wait_s=0.02))


@pytest.fixture(scope="module")
def config() -> dict[str, int]:
    found: dict[str, int] = json.loads((weights() / "config.json").read_text("utf-8"))
    return found


def listed(vllm: VllmServer) -> list[str]:
    answer = httpx2.get(f"{vllm.url}/v1/models", headers={"Authorization": f"Bearer {vllm.key}"})
    return [entry["id"] for entry in answer.json()["data"]]


async def test_two_adapters_are_models_of_their_own_and_the_base_stays(
    vllm: VllmServer, folder: Path, config: dict[str, int]
) -> None:
    for seed, name in enumerate(ADAPTERS):
        write_adapter(folder / name, config, seed=seed)
    async with AsyncExitStack() as base_open:
        base = await open_server(vllm)
        base_open.push_async_callback(base.aclose)
        reads = (await reads_for(base))[2:4]
        before = await log_probs(base, reads)
        begun = anyio.current_time()
        async with AsyncExitStack() as adapters_open:
            models: dict[str, Endpoint] = {"base": base}
            for name in ADAPTERS:
                adapter = open_adapter(vllm.url, folder / name, name=name, api_key=vllm.key)
                models[name] = await adapters_open.enter_async_context(adapter)
            loaded_in_s = anyio.current_time() - begun
            assert set(listed(vllm)) == {MODEL, *(models[name].identity.model for name in ADAPTERS)}
            found = await at_once(models, reads)
        assert listed(vllm) == [MODEL]
        after = await log_probs(base, reads)
        with pytest.raises(ModelNotFound, match=MODEL):
            await open_server(vllm, models["fold-1"].identity.model)
    assert len({model.identity.fingerprint for model in models.values()}) == 3
    assert found["base"] == pytest.approx(before, abs=ONE_SERVER)
    assert after == pytest.approx(before, abs=ONE_SERVER)
    assert abs(found["fold-1"][0] - before[0]) > 0.01
    assert abs(found["fold-1"][0] - found["fold-2"][0]) > 0.01
    own = forward(reads, folder / "fold-2")
    apart = max(abs(one - other) for one, other in zip(found["fold-2"], own, strict=True))
    click.echo(
        f"\ntwo adapters loaded in {loaded_in_s:.1f} s; {apart:.1e} from transformers at most"
    )
    assert apart <= OTHER_ENGINE


async def log_probs(model: Endpoint, reads: Sequence[Read]) -> list[float]:
    return [value for answer in await model.read(reads) for value in answer.log_probs]


async def at_once(models: Mapping[str, Endpoint], reads: Sequence[Read]) -> dict[str, list[float]]:
    """What each says while all are asked, so that one batch of the server's holds several."""
    found: dict[str, list[float]] = {}

    async def ask(name: str) -> None:
        found[name] = await log_probs(models[name], reads)

    async with anyio.create_task_group() as group:
        for name in models:
            group.start_soon(ask, name)
    return found


async def test_an_adapter_that_cannot_be_loaded_is_refused_with_vllms_own_words(
    vllm: VllmServer, folder: Path, config: dict[str, int]
) -> None:
    write_adapter(folder / "rank", config, seed=2, rank=64)
    write_adapter(folder / "module", config, seed=3, module="no_proj")
    cases = {
        "rank": "LoRA rank 64 is greater than max_lora_rank 16.*larger --lora-rank",
        "module": "expected target modules in .*no_proj.*cannot use what it holds",
        "nowhere": "No adapter found for .*does not find .*nowhere",
    }
    async with Transport(vllm.url, api_key=SecretStr(vllm.key), settings=QUICK) as transport:
        for name, told in cases.items():
            with pytest.raises(TrainingError, match=told) as raised, anyio.fail_after(60):
                await load_adapter(transport, folder / name, name)
            click.echo(f"\n{raised.value}")
    assert listed(vllm) == [MODEL]


async def test_an_adapter_is_loaded_once_and_unloaded_as_often_as_one_likes(
    vllm: VllmServer, folder: Path, config: dict[str, int]
) -> None:
    write_adapter(folder / "twice", config, seed=4)
    async with Transport(vllm.url, api_key=SecretStr(vllm.key), settings=QUICK) as transport:
        assert await load_adapter(transport, folder / "twice", "twice")
        assert not await load_adapter(transport, folder / "twice", "twice")
        assert listed(vllm) == [MODEL, "twice"]
        await unload_adapter(transport, "twice")
        await unload_adapter(transport, "twice")
    assert listed(vllm) == [MODEL]
