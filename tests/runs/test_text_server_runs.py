"""A whole run on a server that takes only text (OpenAI's completions)."""

from collections.abc import AsyncIterator
from io import StringIO
from pathlib import Path

import pytest
from aiohttp import web
from rich.console import Console

from icm_client import Server, SweepSettings, Task, label, rows_from
from icm_client.cli.terminal import SearchLines
from icm_client.runs.progress import Progress

TEXTS = [f"{word} film {number}" for number in range(8) for word in ("great", "awful")]


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """It finds great films positive, and says what its list of models calls a wildcard."""

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "*"}]})

    async def complete(request: web.Request) -> web.Response:
        prompt = (await request.json())["prompt"]
        row = prompt.rpartition("Review:")[2]
        likely, other = (" positive", " negative") if "great" in row else (" negative", " positive")
        told = {"top_logprobs": [{likely: -0.1, other: -2.5}]}
        return web.json_response({"choices": [{"text": likely, "logprobs": told}]})

    app = web.Application()
    app.router.add_get("/v1/models", models)
    app.router.add_post("/v1/completions", complete)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_no_token_id_is_shown_that_the_server_does_not_have(url: str, tmp_path: Path) -> None:
    console = Console(file=StringIO())
    lines = SearchLines(console)
    seen: list[Progress] = []

    def progress(now: Progress) -> None:
        seen.append(now)
        lines(now)

    found = await label(
        rows_from(TEXTS),
        task=Task(template="Review: {text}\nSentiment:", labels=("positive", "negative")),
        endpoint=Server(url, model="m"),
        store=tmp_path / "scores.sqlite3",
        settings=SweepSettings(initial=4, demos=4, min_sweeps=2, max_sweeps=2, restarts=1),
        progress=progress,
    )
    assert found.labels
    assert {now.label_tokens for now in seen} == {((), ())}
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert told.splitlines()[0] == "Labels: negative, positive"
