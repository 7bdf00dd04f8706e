"""A model that was trained on chat is read by chat, of a service that serves nothing else."""

import math
import zlib
from pathlib import Path

import numpy as np
import orjson
from aiohttp import web
from tuned_reviews import (
    CLASSES,
    EXAMPLES,
    PROMPTS,
    TASK,
    TAUGHT,
    concept,
    learnt,
    trainer,
)

from icm_client.coherence.problem import Query
from icm_client.endpoints import Exactness
from icm_client.scoring import Scorer, ScoreStore, tokenize_pieces
from icm_client.testing.finetuning import FineTuningServer
from icm_client.training.served_job import ServedSettings


class ChatServer(FineTuningServer):
    """Serves chat alone, as services of chat models do: the two most probable answers."""

    def __init__(self) -> None:
        super().__init__(concept(0), learnt)
        self.refuse("/v1/completions")
        self.refuse("/version")

    def _add_routes(self, router: web.UrlDispatcher) -> None:
        super()._add_routes(router)
        router.add_post("/v1/chat/completions", self._chat)

    async def _models(self, request: web.Request) -> web.Response:
        listed = orjson.loads((await super()._models(request)).text or "")
        for entry in listed["data"]:
            entry["owned_by"] = "a service"
        return web.json_response(listed)

    async def _chat(self, request: web.Request) -> web.Response:
        body = await self._note(request)
        text = body["messages"][0]["content"]
        target = next((prompt for prompt in PROMPTS if text.endswith(prompt)), PROMPTS[0])
        knows = learnt(tuple(EXAMPLES)) if body["model"].startswith("ft:") else concept(0)
        pairs = zip(TASK.labels, knows.label_log_probs([], target), strict=True)
        # Every word has a say in a real model's answer, however little.
        little = 1e-18 * zlib.crc32(text.encode())
        top = [{"token": word, "logprob": value - little} for word, value in pairs]
        choice = {"index": 0, "logprobs": {"content": [{"token": "x", "top_logprobs": top}]}}
        return web.json_response({"choices": [choice]})


async def test_a_model_trained_on_chat_is_scored_by_chat(tmp_path: Path) -> None:
    async with ChatServer() as server:
        settings = ServedSettings(format="chat", first_poll_s=0.01, longest_poll_s=0.02)
        by = trainer(server.url, tmp_path, settings=settings)
        trained = await by.train(EXAMPLES, name="chat", seed=0)
        queries = [Query((), item) for item in range(TAUGHT, len(PROMPTS))]
        with ScoreStore.open(tmp_path / "scores.sqlite3") as store:
            async with by.open(trained) as endpoint:
                assert endpoint.identity.kind == "openai-chat"
                pieces = await tokenize_pieces(PROMPTS, TASK.label_texts, "\n\n", endpoint, store)
                scorer = Scorer(endpoint, store, pieces)
                scores = await scorer(queries)
    assert [int(row.argmax()) for row in scores] == CLASSES[TAUGHT:]
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1.0)
    assert not any(math.isinf(value) for value in scores.flat)
    assert set(scorer.exactness.values()) == {Exactness.TOP_K}
