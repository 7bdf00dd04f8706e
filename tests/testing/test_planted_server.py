"""The server that users' own tests run against is the one that the client knows."""

import ast
import random
import re
from pathlib import Path
from typing import Any

import anyio
import pytest

from icm_client import Task, label, rows_from
from icm_client.coherence.settings import SweepSettings
from icm_client.endpoints import Read, RetryPolicy, TransportSettings, connect
from icm_client.errors import PromptTooLong, RequestRefused
from icm_client.testing import (
    Asked,
    PlantedConcept,
    PlantedServer,
    after,
    scripted,
    sometimes,
    status,
)

TASK = Task(template="Review: {text}\nSentiment:", labels=("positive", "negative"))
TEXTS = [f"words of row {n}" for n in range(24)]
PROMPTS = TASK.render_all(rows_from(TEXTS))
PLANTED = {prompt: n * 7 % 5 % 2 for n, prompt in enumerate(PROMPTS)}
QUICK = TransportSettings(retry=RetryPolicy(initial_wait_s=0.0))


def concept(**formula: Any) -> PlantedConcept:
    return PlantedConcept(PLANTED, TASK.label_texts, **formula)


async def test_a_run_over_http_is_the_run_on_the_concept_itself(tmp_path: Path) -> None:
    settings = SweepSettings(demos=8, max_sweeps=5)
    direct = await label(
        TEXTS, task=TASK, endpoint=concept(), settings=settings, store=tmp_path / "direct"
    )
    with anyio.fail_after(60):
        async with PlantedServer(concept()) as server:
            served = await label(
                TEXTS, task=TASK, endpoint=server.url, settings=settings, store=tmp_path / "served"
            )
    assert [row.log_probs for row in served.rows] == [row.log_probs for row in direct.rows]
    assert [row.label for row in served.rows] == [TASK.labels[PLANTED[p]] for p in PROMPTS]


async def test_tokens_and_log_probs_are_the_concepts() -> None:
    direct = concept()
    async with PlantedServer(concept()) as server, await connect(server.url) as endpoint:
        prompt = await endpoint.tokenize(PROMPTS[0], add_special=True)
        assert prompt == await direct.tokenize(PROMPTS[0], add_special=True)
        labels = [await direct.tokenize(text, add_special=False) for text in TASK.label_texts]
        wanted = tuple(label[0] for label in labels)
        reads = [Read(prompt, wanted)] * 2
        assert await endpoint.read(reads) == await direct.read(reads)
        assert endpoint.usage.cached_tokens > 0
        assert (endpoint.identity.kind, endpoint.identity.context_length) == ("vllm", 8192)


async def test_a_prompt_beyond_the_context_is_refused_as_vllm_does() -> None:
    async with (
        PlantedServer(concept(context_length=16)) as server,
        await connect(server.url, settings=QUICK) as endpoint,
    ):
        with pytest.raises(PromptTooLong, match="maximum context length is 16 tokens"):
            await endpoint.warm(tuple(range(2, 40)))


async def test_a_prompt_that_is_not_planted_is_refused_with_the_reason() -> None:
    async with (
        PlantedServer(concept()) as server,
        await connect(server.url, settings=QUICK) as endpoint,
    ):
        (wanted,) = await endpoint.tokenize(" positive", add_special=False)
        with pytest.raises(RequestRefused, match="does not end in a planted one"):
            await endpoint.read([Read((2, 3, 4), (wanted,))])
        assert endpoint.usage.retries == 0


async def test_a_restart_keeps_the_port_and_breaks_what_is_open() -> None:
    async with (
        PlantedServer(concept()) as server,
        await connect(server.url, settings=QUICK) as endpoint,
    ):
        url = server.url
        assert server.open_connections == 1
        await server.restart()
        assert (server.url, server.open_connections) == (url, 0)
        assert await endpoint.tokenize("a b", add_special=False)


async def test_a_hang_ends_with_its_client() -> None:
    hung = anyio.Event()

    async def hang(_: Asked) -> Any:
        try:
            await anyio.sleep_forever()
        finally:
            hung.set()

    async with PlantedServer(concept(), faults=[hang]) as server:
        with anyio.move_on_after(0.3):
            async with await connect(server.url) as endpoint:
                await endpoint.warm((2, 3))
        with anyio.fail_after(5):
            await hung.wait()
            await server.all_closed()


def test_scripts_say_which_request_meets_what() -> None:
    fault = status(500)
    assert [scripted([None, fault])(number) for number in range(3)] == [None, fault, None]
    assert [after(1, fault)(number) for number in range(3)] == [None, fault, fault]
    script = sometimes(0.25, fault, random.Random(0))
    assert 200 < sum(script(number) is fault for number in range(1000)) < 300


async def test_the_example_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "faults.md").read_text("utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    block = compile(code, "faults.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    await eval(block, {})  # noqa: S307 - our own documentation
    assert capsys.readouterr().out == "('positive', 'negative') 32\n"
