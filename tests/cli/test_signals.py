"""Ctrl-C and TERM, sent to a real run against a real server."""

import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio.abc import Process

from icm_client.scoring import ScoreStore
from icm_client.scoring.drift import FIRST_CHECKED
from icm_client.testing import PlantedConcept, PlantedServer
from icm_client.testing.server import COMPLETIONS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="no signals in an event loop"),
]

RUN = """
import sys
from pathlib import Path
import anyio, numpy as np
from icm_client import Task, rows_from
from icm_client.cli.signals import Interrupted, draining
from icm_client.coherence.fast import search
from icm_client.coherence.settings import SweepSettings
from icm_client.coherence.problem import Problem
from icm_client.endpoints import connect
from icm_client.scoring import Scorer, ScoreStore, tokenize_pieces

N = 64
TASK = Task(template="Review: {text}\\nSentiment:", labels=("positive", "negative"))
PROMPTS = TASK.render_all(rows_from([f"words of row {i}" for i in range(N)]))

async def run():
    async with draining() as drain, await connect(sys.argv[1]) as server:
        with ScoreStore.open(Path(sys.argv[2])) as store:
            pieces = await tokenize_pieces(PROMPTS, TASK.label_texts, "\\n\\n", server, store)
            scorer = Scorer(server, store, pieces, group_size=1, stopping=drain.stopping)
            chance = np.random.default_rng(0)
            found = await search(Problem(N, 2), scorer, settings=SweepSettings(), rng=chance)
            print(found.labels.tolist())

if __name__ == "__main__":
    try:
        anyio.run(run)
    except Interrupted as stopped:
        sys.exit(stopped.status)
"""


def served(latency_s: float) -> PlantedServer:
    prompts = {f"Review: words of row {i}\nSentiment:": i * 7 % 5 % 2 for i in range(64)}
    concept = PlantedConcept(prompts, (" positive", " negative"))
    return PlantedServer(concept, latency_s=latency_s)


@asynccontextmanager
async def started(server: PlantedServer, folder: Path) -> AsyncIterator[Process]:
    script = folder / "run.py"
    script.write_text(RUN)
    command = [sys.executable, str(script), server.url, str(folder / "store")]
    async with await anyio.open_process(command, stderr=None) as process:
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()


def stored(folder: Path) -> int:
    with ScoreStore.open(folder / "store") as store:
        (count,) = store._db.execute("SELECT count(*) FROM scores").fetchone()
    return int(count)


def asked(server: PlantedServer) -> int:
    """Requests for log-probs; those that only send a prefix ahead want none."""
    return sum(bool(one.body.get("logprob_token_ids")) for one in server.received)


async def reads_under_way(server: PlantedServer, least: int) -> None:
    with anyio.fail_after(60):
        while asked(server) < least:  # noqa: ASYNC110 - another process makes it true
            await anyio.sleep(0.01)


async def output(process: Process) -> str:
    assert process.stdout is not None
    return b"".join([part async for part in process.stdout]).decode()


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "term"]
)
async def test_one_signal_keeps_what_is_under_way_and_the_run_goes_on_from_there(
    tmp_path: Path, number: signal.Signals, status: int
) -> None:
    async with served(0.3) as server:
        async with started(server, tmp_path) as process:
            await reads_under_way(server, 2)
            process.send_signal(number)
            with anyio.fail_after(30):
                assert await process.wait() == status
        begun = asked(server)
        assert 2 <= begun < 56 + 64, "it did not go on to the end"
        assert stored(tmp_path) == begun, "each answer that was asked for is kept"
    async with served(0.0) as server:
        async with started(server, tmp_path) as process:
            resumed = await output(process)
            assert await process.wait() == 0
        again = asked(server)
    alone = tmp_path / "alone"
    alone.mkdir()
    async with served(0.0) as server, started(server, alone) as process:
        assert await output(process) == resumed
        assert await process.wait() == 0
        # What the resumed run asked twice are the stored answers that it compared.
        assert 0 < begun + again - asked(server) <= FIRST_CHECKED


async def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    async with served(60.0) as server, started(server, tmp_path) as process:
        with anyio.fail_after(60):
            while not any(one.path == COMPLETIONS for one in server.received):  # noqa: ASYNC110
                await anyio.sleep(0.01)
        process.send_signal(signal.SIGINT)
        await anyio.sleep(0.5)
        assert process.returncode is None, "the first waits for what is under way"
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        with anyio.fail_after(30):
            assert await process.wait() == 130
        assert time.monotonic() - began < 15
        assert stored(tmp_path) == 0


async def test_without_a_signal_nothing_is_different(tmp_path: Path) -> None:
    async with served(0.0) as server, started(server, tmp_path) as process:
        assert "[" in await output(process)
        assert await process.wait() == 0
