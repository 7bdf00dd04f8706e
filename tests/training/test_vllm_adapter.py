"""Adapters on a served vLLM: named by their contents, loaded, scored, unloaded; refusals.

The refusals' words are those of vLLM 0.32 (`vllm.entrypoints.openai.models.serving`).
"""

from collections.abc import Sequence
from pathlib import Path

import anyio
import numpy as np
import orjson
import pytest
from aiohttp import web
from tuned_reviews import CLASSES, EXAMPLES, PROMPTS, TASK, concept, quick

from icm_client.coherence.problem import Query
from icm_client.endpoints.transport import Transport
from icm_client.errors import (
    AuthenticationRefused,
    EndpointOverloaded,
    EndpointTimeout,
    EndpointUnreachable,
    TrainingError,
)
from icm_client.runs.trainer import Example, OnTraining, Trained
from icm_client.scoring import Scorer, ScoreStore, tokenize_pieces
from icm_client.testing import Fault, PlantedServer, status
from icm_client.testing.faults import Json, hang
from icm_client.testing.finetuning import FineTuningServer
from icm_client.training import vllm_adapter
from icm_client.training.vllm_adapter import (
    VllmAdapterTrainer,
    adapter_name,
    load_adapter,
    open_adapter,
    unload_adapter,
)


class LoraServer(FineTuningServer):
    """Loads adapters as vLLM does; each answers as one that has learnt the concept."""

    def __init__(
        self,
        *,
        refusals: Sequence[Fault] = (),
        unloading: Fault | None = None,
        api_key: str | None = None,
    ) -> None:
        super().__init__(concept(0), lambda _: concept(6), api_key=api_key)
        self.loaded: dict[str, str] = {}
        self._refusals = list(refusals)
        self._unloading = unloading

    def _add_routes(self, router: web.UrlDispatcher) -> None:
        super()._add_routes(router)
        router.add_post("/v1/load_lora_adapter", self._load)
        router.add_post("/v1/unload_lora_adapter", self._unload)

    async def _load(self, request: web.Request) -> web.StreamResponse:
        body = await self._note(request)
        if self._refusals:
            return await self._refusals.pop(0)(None)  # type: ignore[arg-type]
        if body["lora_name"] in self.loaded:
            return refused(400, f"The lora adapter '{body['lora_name']}' has already been loaded.")
        self.loaded[body["lora_name"]] = body["lora_path"]
        return web.Response(text="Success: LoRA adapter added successfully.")

    async def _unload(self, request: web.Request) -> web.StreamResponse:
        body = await self._note(request)
        if self._unloading is not None:
            return await self._unloading(None)  # type: ignore[arg-type]
        if self.loaded.pop(body["lora_name"], None) is None:
            return refused(404, f"The lora adapter '{body['lora_name']}' cannot be found.")
        return web.Response(text="Success")

    async def _models(self, request: web.Request) -> web.Response:
        listed = orjson.loads((await super()._models(request)).text or "")
        (base,) = listed["data"]
        listed["data"] += [
            {**base, "id": name, "root": path, "parent": base["id"], "max_model_len": None}
            for name, path in self.loaded.items()
        ]
        return web.json_response(listed)

    async def _answer_to(self, body: Json) -> Json:
        if body["model"] not in self.loaded:
            return await super()._answer_to(body)
        return await PlantedServer(concept(6), model=body["model"])._answer_to(body)


def refused(code: int, words: str) -> web.Response:
    return web.json_response({"error": {"message": words, "code": code}}, status=code)


def refusing(code: int, words: str) -> Fault:
    return status(code, orjson.dumps({"error": {"message": words, "type": "", "code": code}}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return adapter(tmp_path / "adapter", b"weights")


def adapter(folder: Path, weights: bytes) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (folder / "adapter_model.safetensors").write_bytes(weights)
    return folder


def test_each_version_has_a_name_of_its_own(tmp_path: Path, folder: Path) -> None:
    name = adapter_name(folder, "fold 1/7")
    assert name == adapter_name(adapter(tmp_path / "copy", b"weights"), "fold 1/7")
    assert name.startswith("fold_1_7-")
    assert name != adapter_name(adapter(tmp_path / "other", b"weightz"), "fold 1/7")
    (folder / "README.md").write_text("what does not change what the adapter says")
    assert name == adapter_name(folder, "fold 1/7")


async def test_an_adapter_is_loaded_scored_and_unloaded(tmp_path: Path, folder: Path) -> None:
    queries = [Query((), item) for item in range(len(PROMPTS))]
    async with LoraServer() as server:
        async with open_adapter(server.url, folder, name="fold-1", settings=quick()) as endpoint:
            assert server.loaded == {endpoint.identity.model: str(folder)}
            with ScoreStore.open(tmp_path / "scores.sqlite3") as store:
                pieces = await tokenize_pieces(PROMPTS, TASK.label_texts, "\n\n", endpoint, store)
                scores = await Scorer(endpoint, store, pieces)(queries)
        assert not server.loaded
    right = [concept(6).label_log_probs([], prompt) for prompt in PROMPTS]
    np.testing.assert_allclose(scores, right, atol=1e-9)
    assert [int(row.argmax()) for row in scores] == CLASSES


async def test_an_adapter_that_somebody_else_loaded_is_used_and_left_to_them(folder: Path) -> None:
    async with LoraServer() as server, Transport(server.url, settings=quick()) as transport:
        name = adapter_name(folder, "adapter")
        assert await load_adapter(transport, folder, name)
        assert not await load_adapter(transport, folder, name)
        async with open_adapter(server.url, folder, settings=quick()) as endpoint:
            assert endpoint.identity.model == name
        assert set(server.loaded) == {name}
        await unload_adapter(transport, name)
        await unload_adapter(transport, name)
        assert not server.loaded


async def test_it_is_unloaded_when_the_work_with_it_fails(folder: Path) -> None:
    async with LoraServer() as server:
        with pytest.raises(ZeroDivisionError):
            async with open_adapter(server.url, folder, settings=quick()):
                raise ZeroDivisionError
        assert not server.loaded


REFUSALS = {
    "no route": (404, "Not Found", "started for adapters.*--enable-lora.*VLLM_ALLOW_RUNTIME_LORA"),
    "no lora": (500, "LoRA is not enabled. Use --enable-lora to enable LoRA.", "--lora"),
    "rank": (500, "LoRA rank 128 is greater than max_lora_rank 64.", "larger --lora-rank"),
    "path": (404, "Loading lora a failed: No adapter found for /a", "does not find"),
}


@pytest.mark.parametrize("case", REFUSALS)
async def test_a_refusal_names_what_the_server_was_not_started_with(
    folder: Path, case: str
) -> None:
    code, words, advice = REFUSALS[case]
    async with LoraServer(refusals=[refusing(code, words)] * 3) as server:
        with pytest.raises(TrainingError, match=advice) as raised, anyio.fail_after(10):
            async with open_adapter(server.url, folder, settings=quick()):
                pass
        assert words in str(raised.value)
        asked = [one.path for one in server.received]
        assert asked == ["/v1/load_lora_adapter"], "what will never work is asked once"


async def test_a_server_in_trouble_for_a_while_still_loads_it(folder: Path) -> None:
    for trouble in ([500, 503, 500], [503, 503, 500]):
        async with (
            LoraServer(refusals=[status(code) for code in trouble]) as server,
            open_adapter(server.url, folder, settings=quick()),
        ):
            assert len(server.loaded) == 1


async def test_a_server_that_always_refuses_is_given_up_after_five_attempts(folder: Path) -> None:
    words = "While loading /a, expected target modules in {'q_proj'} but received ['head']."
    async with LoraServer(refusals=[refusing(500, words)] * 9) as server:
        with pytest.raises(TrainingError, match="cannot use what it holds") as raised:
            async with open_adapter(server.url, folder, settings=quick()):
                pass
        assert words in str(raised.value)
        assert len(server.received) == 5
    async with LoraServer(refusals=[status(503)] * 9) as server:
        with pytest.raises(EndpointOverloaded):
            async with open_adapter(server.url, folder, settings=quick()):
                pass
        assert len(server.received) == 5


@pytest.mark.parametrize("before", [[], [status(500)]])
async def test_a_server_that_never_answers_is_an_error_after_an_attempts_deadline(
    folder: Path, before: list[Fault]
) -> None:
    hurried = quick(attempt_timeout_s=0.2, item_timeout_s=0.5)
    async with LoraServer(refusals=[*before, *[hang()] * 9]) as server:
        with (
            pytest.raises(EndpointTimeout, match=r"no complete answer in .* s.*its log says"),
            anyio.fail_after(5),
        ):
            async with open_adapter(server.url, folder, settings=hurried):
                pass
        assert {one.path for one in server.received} == {"/v1/load_lora_adapter"}


async def test_an_unreachable_server_is_an_error_at_once(folder: Path) -> None:
    async with LoraServer() as server:
        gone = server.url
    with pytest.raises(EndpointUnreachable), anyio.fail_after(5):
        async with open_adapter(gone, folder):
            pass


async def test_an_unanswered_unloading_is_not_waited_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_adapter, "_UNLOAD_S", 0.2)
    async with LoraServer(unloading=hang()) as server:
        with anyio.fail_after(5):
            async with open_adapter(server.url, folder, settings=quick()):
                pass
        assert server.received[-1].path == "/v1/unload_lora_adapter"
        assert len(server.loaded) == 1


async def test_a_wrong_key_is_refused(folder: Path) -> None:
    async with LoraServer(api_key="right") as server:
        with pytest.raises(AuthenticationRefused):
            async with open_adapter(server.url, folder, api_key="wrong", settings=quick()):
                pass


async def test_a_whole_model_is_refused_before_anything_is_sent(
    tmp_path: Path,
) -> None:
    async with LoraServer() as server:
        with pytest.raises(TrainingError, match=r"no adapter_config\.json"):
            async with open_adapter(server.url, tmp_path, settings=quick()):
                pass
        assert not server.received


class _FolderTrainer:
    """Trains nothing: the adapter lies there."""

    parallel = 3

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def train(
        self,
        examples: Sequence[Example],
        *,
        name: str,
        seed: int,
        progress: OnTraining | None = None,
    ) -> Trained:
        del seed, progress
        return Trained(name, str(self.folder), "base", len(examples), None, 1.0)

    def open(self, trained: Trained) -> None:
        del trained
        raise AssertionError("the served one is asked")


async def test_what_another_trainer_trained_is_opened_on_the_server(folder: Path) -> None:
    async with LoraServer() as server:
        by = VllmAdapterTrainer(_FolderTrainer(folder), server.url, settings=quick())  # type: ignore[arg-type]
        assert by.parallel == 3
        trained = await by.train(EXAMPLES, name="fold-2", seed=0)
        async with by.open(trained) as endpoint:
            assert endpoint.identity.model == adapter_name(folder, "fold-2")
