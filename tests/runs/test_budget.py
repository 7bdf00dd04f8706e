import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import anyio
import pytest
from planted_reviews import TASK, planted, reviews

from icm_client import label
from icm_client.coherence.result import SweepRecord
from icm_client.errors import InputError, RunStopped
from icm_client.runs.progress import Budget, BudgetMeter, Cost, Progress
from icm_client.testing import Fault, PlantedServer, after, status


def costs(*spent: tuple[int, int, float]) -> Iterator[Cost]:
    """Requests, computed tokens and seconds after each sweep."""
    for requests, tokens, seconds in spent:
        yield Cost(requests, 0, requests, 0, tokens, 10**9, seconds)


@pytest.mark.parametrize(
    ("budget", "stops"),
    [
        (Budget(), [False, False, False, False]),
        (Budget(max_requests=40), [False, False, False, False]),
        (Budget(max_requests=39), [False, False, True, True]),
        (Budget(max_requests=5), [True, True, True, True]),
        (Budget(max_prompt_tokens=3999), [False, False, True, True]),
        (Budget(max_minutes=1.9), [False, True, True, True]),
        (Budget(max_requests=40, max_minutes=1.9), [False, True, True, True]),
    ],
)
def test_a_sweep_that_would_pass_a_limit_is_not_begun(budget: Budget, stops: list[bool]) -> None:
    steps = costs((10, 1000, 40), (20, 2000, 80), (30, 3000, 120), (30, 3000, 120))
    meter = BudgetMeter(budget, lambda: next(steps))
    assert [meter() for _ in stops] == stops


def test_it_says_which_limit() -> None:
    steps = costs((10, 1000, 40), (20, 2000, 80))
    meter = BudgetMeter(Budget(max_prompt_tokens=2500), lambda: next(steps))
    assert not meter()
    assert meter.spent is None
    assert meter()
    assert meter.spent == "the limit of 2,500 prompt tokens"


def test_a_replay_spends_nothing() -> None:
    steps = costs((0, 0, 0.1), (0, 0, 0.1), (10, 1000, 40), (20, 2000, 80))
    meter = BudgetMeter(Budget(max_requests=25), lambda: next(steps))
    assert [meter() for _ in range(4)] == [False, False, False, True]


@pytest.mark.parametrize("name", ["max_requests", "max_prompt_tokens", "max_minutes"])
@pytest.mark.parametrize("limit", [0, -1, float("nan")])
def test_a_limit_that_is_none_is_refused(name: str, limit: float) -> None:
    with pytest.raises(InputError, match=name):
        Budget(**{name: limit})  # type: ignore[arg-type]


def test_a_sweep_is_broken_off_a_tenth_past_the_time_and_for_no_other_limit() -> None:
    steps = costs((0, 0, 66), (0, 0, 66.1))
    meter = BudgetMeter(Budget(max_minutes=1), lambda: next(steps))
    assert not meter.out_of_time()
    assert meter.spent is None
    assert meter.out_of_time()
    assert meter.spent == "the limit of 1 minutes"
    others = Budget(max_requests=1, max_prompt_tokens=1)
    assert not BudgetMeter(others, lambda: Cost(9, 0, 9, 0, 9, 0, 1e9)).out_of_time()


@pytest.fixture
async def waiting_server() -> AsyncIterator[tuple[PlantedServer, Callable[[Progress], None]]]:
    """A server that answers 429 and asks to wait for ever, from the third sweep on."""
    third = threading.Event()

    def progress(now: Progress) -> None:
        if isinstance(now.last, SweepRecord) and now.last.sweep >= 1:
            third.set()

    def script(_: int) -> Fault | None:
        return status(429, headers={"Retry-After": "60"}) if third.is_set() else None

    async with PlantedServer(planted(), faults=script) as server:
        yield server, progress


async def test_a_server_that_asks_to_wait_for_ever_does_not_outlast_the_time(
    tmp_path: Path, waiting_server: tuple[PlantedServer, Callable[[Progress], None]]
) -> None:
    server, progress = waiting_server
    began = time.monotonic()
    with anyio.fail_after(30):
        found = await label(
            reviews(32),
            task=TASK,
            endpoint=server.url,
            store=tmp_path / "store",
            runs=tmp_path / "runs",
            budget=Budget(max_minutes=3 / 60),
            progress=progress,
        )
    assert time.monotonic() - began < 6
    assert found.stopped == "the limit of 0.05 minutes"
    assert len(found.rows) == 32
    assert found.history[-1].sweep >= 1
    assert "interrupted" in {finding.code for finding in found.findings}
    assert found.run is not None
    assert (found.run / "labels.jsonl").exists()


@pytest.mark.parametrize("answered", [0, 4])
async def test_without_a_whole_sweep_it_says_that_there_was_no_time(
    tmp_path: Path, answered: int
) -> None:
    faults = after(answered, status(429, headers={"Retry-After": "60"}))
    async with PlantedServer(planted(), faults=faults) as server:
        with (
            anyio.fail_after(30),
            pytest.raises(RunStopped, match=r"0\.02 minutes passed") as stopped,
        ):
            await label(
                reviews(32),
                task=TASK,
                endpoint=server.url,
                store=tmp_path / "store",
                budget=Budget(max_minutes=0.02),
            )
    assert stopped.value.labels is None
