"""Twelve items behind a planted vLLM, scored through the whole client: transport to scorer."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import numpy as np

from icm_client.coherence.problem import Demo, FloatArray, Query
from icm_client.endpoints import Endpoint, RetryPolicy, TransportSettings, VllmEndpoint
from icm_client.endpoints.transport import Transport
from icm_client.scoring import Scorer, ScoreStore, tokenize_pieces
from icm_client.testing import PlantedConcept, PlantedServer

LABELS = (" positive", " negative")
PROMPTS = [f"Review: the words of row {n}\nSentiment:" for n in range(12)]
GROUP_SIZE = 3

# Each target behind all the others but one: 12 contexts, 12 different prompts.
QUERIES = [
    Query(tuple(Demo(item, item % 2) for item in range(12) if item not in (n, 5 - n % 5)), n)
    for n in range(12)
]


def concept(**formula: Any) -> PlantedConcept:
    planted = {prompt: number * 7 % 5 % 2 for number, prompt in enumerate(PROMPTS)}
    return PlantedConcept(planted, LABELS, **formula)


def settings(observe: Any = None, **retry: Any) -> TransportSettings:
    """No back-off; deadlines that an honest answer meets on a busy machine."""
    retry = {
        "attempts": 4,
        "initial_wait_s": 0.0,
        "retry_after_cap_s": 0.05,
        "attempt_timeout_s": 20.0,
    } | retry
    return TransportSettings(retry=RetryPolicy(**retry), observe=observe, max_body_bytes=200_000)


@asynccontextmanager
async def opened(
    server: PlantedServer, chosen: TransportSettings | None = None
) -> AsyncIterator[VllmEndpoint]:
    transport = Transport(server.url, settings=chosen or settings())
    async with await VllmEndpoint.open(transport) as endpoint:
        yield endpoint


async def scores(endpoint: Endpoint, folder: Path) -> FloatArray:
    """`log P(label | context, target)` of `QUERIES`, kept in a store in `folder`."""
    with ScoreStore.open(folder / "scores.sqlite3") as store:
        pieces = await tokenize_pieces(PROMPTS, LABELS, "\n\n", endpoint, store)
        return await Scorer(endpoint, store, pieces, group_size=GROUP_SIZE)(QUERIES)


async def honest(folder: Path) -> FloatArray:
    """The right scores: the formula asked directly."""
    folder = folder / "honest"
    folder.mkdir(exist_ok=True)
    return await scores(concept(), folder)


async def read_through(
    server: PlantedServer, folder: Path, chosen: TransportSettings | None = None
) -> FloatArray:
    """`scores` by way of HTTP, within a deadline, with no connection left open."""
    try:
        with anyio.fail_after(30):
            async with opened(server, chosen) as endpoint:
                return await scores(endpoint, folder)
    finally:
        with anyio.move_on_after(5, shield=True):
            await server.all_closed()
        assert server.open_connections == 0


async def assert_nothing_lost_or_invented(server: PlantedServer, folder: Path) -> None:
    """After a failure: the same run again asks only for what is missing, and all of it is right."""
    server.script = lambda _: None
    with ScoreStore.open(folder / "scores.sqlite3") as store:
        async with opened(server) as endpoint:
            pieces = await tokenize_pieces(PROMPTS, LABELS, "\n\n", endpoint, store)
            scorer = Scorer(endpoint, store, pieces, group_size=GROUP_SIZE)
            np.testing.assert_array_equal(await scorer(QUERIES), await honest(folder))
            assert scorer.stats.asked + scorer.stats.from_store == len(QUERIES)


def quick(chosen: TransportSettings, timeout_s: float) -> TransportSettings:
    return replace(chosen, retry=replace(chosen.retry, attempt_timeout_s=timeout_s))
