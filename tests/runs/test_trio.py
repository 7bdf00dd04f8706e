"""Under trio a run finds what it finds under asyncio; its requests go over httpx2's connections."""

from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from anyio.from_thread import start_blocking_portal
from planted_reviews import TASK, planted, reviews

from icm_client import Client, Labels, Server, TransportSettings, label
from icm_client.errors import InputError
from icm_client.testing.server import PlantedServer

N = 24


@pytest.fixture
def url() -> Iterator[str]:
    """A server that runs in a thread of its own, under asyncio."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(PlantedServer(planted(N))) as server,
    ):
        yield server.url


async def _labelled(url: str, store: Path) -> Labels:
    return await label(reviews(N), task=TASK, endpoint=url, store=store)


async def _by_a_client(url: str, store: Path) -> list[Labels]:
    async with Client(url, store=store) as client:
        jobs = [client.start(reviews(N), task=TASK, seed=seed) for seed in range(2)]
        return [await job.result() for job in jobs]


def test_a_run_under_trio_finds_the_same(url: str, tmp_path: Path) -> None:
    asyncio = anyio.run(_labelled, url, tmp_path / "1.sqlite3")
    trio = anyio.run(_labelled, url, tmp_path / "2.sqlite3", backend="trio")
    assert trio.rows == asyncio.rows
    assert trio.cost.requests == asyncio.cost.requests > 0


def test_jobs_of_a_client_under_trio_find_what_label_finds(url: str, tmp_path: Path) -> None:
    alone = anyio.run(_labelled, url, tmp_path / "1.sqlite3")
    first, second = anyio.run(_by_a_client, url, tmp_path / "2.sqlite3", backend="trio")
    assert first.rows == alone.rows
    assert second.cost.from_server > 0


def test_aiohttp_is_refused_under_trio(url: str, tmp_path: Path) -> None:
    async def run() -> None:
        settings = TransportSettings(transport="aiohttp")
        server = Server(url=(url,), transport=settings)
        await label(reviews(N), task=TASK, endpoint=server, store=tmp_path / "store.sqlite3")

    with pytest.raises(InputError, match="this one is trio's; take the transport httpx2"):
        anyio.run(run, backend="trio")
