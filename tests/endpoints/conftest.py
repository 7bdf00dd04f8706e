"""A real HTTP server that answers what a test scripts, and the real embedded server."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from served_models import LLAMA_MODELS, PROPS, SETTINGS, VLLM_MODELS

from icm_client.endpoints import EmbeddedEndpoint, LlamaCppEndpoint, Transport, VllmEndpoint

Step = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class ScriptedServer:
    """Answers each request with the next step of `script`; the last one goes on for ever."""

    url: str = ""
    script: list[Step] = field(default_factory=list)
    bodies: list[object] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.paths.append(request.path)
        self.bodies.append(await request.json() if request.can_read_body else None)
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        return await step(request)


def answering(
    body: str | bytes, *, status: int = 200, headers: dict[str, str] | None = None
) -> Step:
    async def step(_: web.Request) -> web.StreamResponse:
        raw = body.encode() if isinstance(body, str) else body
        return web.Response(body=raw, status=status, headers=headers)

    return step


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    scripted = ScriptedServer()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", scripted.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    scripted.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield scripted
    await runner.cleanup()


@pytest.fixture
def say() -> Callable[..., Step]:
    return answering


@pytest.fixture
async def vllm(server: Any, say: Any) -> AsyncIterator[VllmEndpoint]:
    server.script = [say(VLLM_MODELS), say('{"version": "0.32.0"}')]
    endpoint = await VllmEndpoint.open(Transport(server.url, settings=SETTINGS))
    yield endpoint
    await endpoint.aclose()


@pytest.fixture
async def llama(server: Any, say: Any) -> AsyncIterator[LlamaCppEndpoint]:
    server.script = [say(LLAMA_MODELS), say(PROPS)]
    endpoint = await LlamaCppEndpoint.open(Transport(server.url, settings=SETTINGS))
    yield endpoint
    await endpoint.aclose()


@pytest.fixture(scope="module")
async def embedded(users_model: Path) -> AsyncIterator[EmbeddedEndpoint]:
    async with EmbeddedEndpoint(users_model, context_length=2048) as endpoint:
        yield endpoint
