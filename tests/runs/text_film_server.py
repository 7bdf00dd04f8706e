"""A server that takes text alone, and finds what is great positive."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web


@asynccontextmanager
async def text_film_server(
    model: str, sure: Callable[[str], float] = lambda _: -0.1
) -> AsyncIterator[str]:
    """Give its URL.

    Args:
        model: what its list of models says.
        sure: prompt -> log-prob of the likelier label.
    """

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": model}]})

    async def complete(request: web.Request) -> web.Response:
        prompt = (await request.json())["prompt"]
        row = prompt.rpartition("Review:")[2]
        likely, other = (" positive", " negative") if "great" in row else (" negative", " positive")
        found = {"top_logprobs": [{likely: sure(prompt), other: -2.5}]}
        return web.json_response({"choices": [{"text": likely, "logprobs": found}]})

    app = web.Application()
    app.router.add_get("/v1/models", models)
    app.router.add_post("/v1/completions", complete)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
