"""Several label jobs in one client, over planted concepts and a real score store."""

import asyncio
import inspect
import sqlite3
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from client_jobs import Slow, begun, part, until
from planted_reviews import TASK, Failing, planted, reviews

from icm_client import Client, Labels, Progress, label
from icm_client.endpoints import (
    TextEndpoint,
    Waiting,
)
from icm_client.errors import EndpointFault, InputError, RowError, RunError, RunStopped
from icm_client.runs.progress import Budget
from icm_client.runs.request import LabelOptions, LabelRequest
from icm_client.testing import PlantedConcept, PlantedServer
from icm_client.testing.faults import status


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "scores.sqlite3"


def stored(path: Path) -> int:
    with sqlite3.connect(path) as database:
        return int(database.execute("SELECT count(*) FROM scores").fetchone()[0])


def same(one: Labels, other: Labels) -> bool:
    return one.rows == other.rows and one.history == other.history


async def test_jobs_find_what_label_finds_alone(tmp_path: Path, store: Path) -> None:
    alone = [
        await label(part(n), task=TASK, endpoint=planted(48), seed=n, store=tmp_path / f"{n}")
        for n in range(3)
    ]
    endpoint = planted(48)
    async with Client(endpoint, store=store) as client:
        jobs = [client.start(part(n), task=TASK, seed=n) for n in range(3)]
        together = [await job.result() for job in jobs]
    assert all(map(same, together, alone))
    assert stored(store) == sum(found.cost.from_server for found in together)
    # Each is told its own cost, and what they are told adds up.
    assert [found.cost.requests for found in together] == [
        found.cost.from_server for found in together
    ]
    assert sum(found.cost.computed_tokens for found in together) == endpoint.usage.computed_tokens
    assert sum(found.cost.cached_tokens for found in together) == endpoint.usage.cached_tokens


async def test_one_of_three_is_cancelled_and_the_others_do_not_notice(
    tmp_path: Path, store: Path
) -> None:
    alone = [
        await label(part(n), task=TASK, endpoint=planted(48), store=tmp_path / f"{n}")
        for n in range(3)
    ]
    endpoint = Slow(48)
    async with Client(endpoint, store=store) as client:
        jobs = [client.start(part(n), task=TASK) for n in range(3)]
        await begun(jobs[1])
        jobs[1].cancel()
        with pytest.raises(RunStopped, match="job 2 was cancelled"):
            await jobs[1].result()
        assert not jobs[0].done
        assert not jobs[2].done
        assert same(await jobs[0].result(), alone[0])
        assert same(await jobs[2].result(), alone[2])
        answered = stored(store)
        again = await client.start(part(1), task=TASK).result()
    assert same(again, alone[1])
    assert again.cost.from_store >= 10, "the cancelled job's answers are there"
    assert stored(store) == answered + again.cost.from_server


async def test_a_job_may_be_cancelled_before_it_begins(store: Path) -> None:
    endpoint = planted()
    async with Client(endpoint, store=store) as client:
        job = client.start(reviews(32), task=TASK)
        job.cancel()
        with pytest.raises(RunStopped):
            await job.result()
        assert [moment async for moment in job.progress()] == []
    assert endpoint.usage.requests == 0


async def test_what_one_fails_of_is_its_own(store: Path) -> None:
    async with Client(planted(48), store=store) as client:
        good = client.start(part(0), task=TASK)
        bad = client.start([{"txt": "a"}, {"txt": "b"}], task=TASK)
        with pytest.raises(RowError):
            await bad.result()
        with pytest.raises(RowError):
            await bad.result()
        assert bad.done
        assert len((await good.result()).rows) == 16


async def test_errors_that_nobody_asked_for_leave_the_block(store: Path) -> None:
    with pytest.raises(ExceptionGroup, match="job 2, broken") as caught:  # noqa: PT012 - the block
        async with Client(planted(48), store=store) as client:
            good = client.start(part(0), task=TASK)
            client.start([{"txt": "a"}, {"txt": "b"}], task=TASK)
            client.start(part(1), task="sentimet", name="broken")
    assert len((await good.result()).rows) == 16, "the block waited for it"
    assert [type(error).__name__ for error in caught.value.exceptions] == ["RowError", "TaskError"]


async def test_an_error_of_the_block_comes_first_and_comes_bare(store: Path) -> None:
    with pytest.raises(KeyError) as caught:  # noqa: PT012 - the block
        async with Client(Slow(48), store=store) as client:
            running = client.start(part(0), task=TASK)
            failing = client.start([{"txt": "a"}, {"txt": "b"}], task=TASK)
            await until(lambda: failing.done)
            raise KeyError("x")
    assert any("job 2 failed too: RowError" in note for note in caught.value.__notes__)
    with pytest.raises(RunStopped):
        await running.result()


async def test_a_result_that_was_not_waited_for_is_not_taken_for_told(store: Path) -> None:
    with pytest.raises(ExceptionGroup, match="job 1"):  # noqa: PT012 - the block
        async with Client(Failing(60), store=store) as client:
            job = client.start(reviews(32), task=TASK)
            with anyio.move_on_after(0):
                await job.result()


async def test_the_servers_failure_is_told_by_each_result(store: Path) -> None:
    async with Client(Failing(60), store=store) as client:
        for job in [client.start(reviews(16), task=TASK, seed=seed) for seed in range(3)]:
            with pytest.raises(EndpointFault):
                await job.result()


async def test_leaving_by_an_exception_cancels_and_loses_no_answer(
    tmp_path: Path, store: Path
) -> None:
    class LeavingError(Exception):
        pass

    endpoint = Slow(48)
    with pytest.raises(LeavingError):  # noqa: PT012 - the block
        async with Client(endpoint, store=store) as client:
            jobs = [client.start(part(n), task=TASK) for n in range(3)]
            for job in jobs:
                await begun(job)
            raise LeavingError
    assert all(job.done for job in jobs)
    assert stored(store) == endpoint.usage.requests
    fresh = planted(48)
    async with Client(fresh, store=store) as client:
        resumed = [await client.start(part(n), task=TASK).result() for n in range(3)]
    whole = [
        await label(part(n), task=TASK, endpoint=planted(48), store=tmp_path / f"{n}")
        for n in range(3)
    ]
    assert all(map(same, resumed, whole))
    assert fresh.usage.requests + endpoint.usage.requests == sum(
        found.cost.from_server for found in whole
    )


async def test_a_cancellation_around_the_block_ends_it(store: Path) -> None:
    with anyio.move_on_after(0.2) as scope:
        async with Client(Slow(48, 0.01), store=store) as client:
            job = client.start(part(0), task=TASK)
    assert scope.cancelled_caught
    assert job.done


async def test_the_client_cancels_all_and_may_go_on(store: Path) -> None:
    async with Client(Slow(48), store=store) as client:
        jobs = [client.start(part(n), task=TASK) for n in range(3)]
        await begun(jobs[0])
        client.cancel()
        for job in jobs:
            with pytest.raises(RunStopped):
                await job.result()
        assert len((await client.start(part(0), task=TASK).result()).rows) == 16


async def test_the_same_client_may_be_opened_again_but_not_twice(store: Path) -> None:
    client = Client(planted(), store=store)
    with pytest.raises(RunError, match="not open"):
        client.start(reviews(32), task=TASK)
    async with client:
        first = await client.start(reviews(32), task=TASK).result()
        with pytest.raises(RunError, match="open already"):
            async with client:
                pass
        assert same(await client.start(reviews(32), task=TASK).result(), first)
    async with client:
        again = await client.start(reviews(32), task=TASK).result()
    assert same(again, first)
    assert again.cost.from_server == 0
    with pytest.raises(RunError, match="not open"):
        client.start(reviews(32), task=TASK)


async def test_the_same_job_twice_at_once_finds_the_same(store: Path) -> None:
    async with Client(Slow(32, 0), store=store) as client:
        one, other = (client.start(reviews(32), task=TASK) for _ in range(2))
        assert same(await one.result(), await other.result())


async def test_each_job_has_its_run_folder(store: Path, tmp_path: Path) -> None:
    async with Client(planted(48), store=store, runs=tmp_path / "runs") as client:
        found = [client.start(part(n), task=TASK) for n in range(2)]
        folders = {(await job.result()).run for job in found}
    assert len(folders) == 2
    assert all(folder and (folder / "result.json").exists() for folder in folders)


async def test_progress_may_be_left_early_and_taken_up_again(store: Path) -> None:
    async with Client(Slow(48), store=store) as client:
        job = client.start(part(0), task=TASK)
        first = await begun(job, 1)  # leaves
        seen = [moment async for moment in job.progress()]
        found = await job.result()
        assert [moment async for moment in job.progress()] == [seen[-1]]
    assert first.from_server <= seen[0].cost.from_server
    assert seen[-1].cost.from_server == found.cost.from_server


async def test_who_looks_on_slowly_misses_moments_but_not_the_last(store: Path) -> None:
    async with Client(planted(48), store=store) as client:
        job, slow = client.start(part(0), task=TASK), list[Progress]()
        async for moment in job.progress():
            slow.append(moment)
            await until(lambda: job.done)
        found = await job.result()
    assert len(slow) <= 2, "nothing is kept for who does not look"
    assert slow[-1].cost.from_server == found.cost.from_server


async def test_progress_ends_where_the_job_fails(store: Path) -> None:
    async with Client(Failing(60), store=store) as client:
        job = client.start(reviews(32), task=TASK)
        seen = [moment async for moment in job.progress()]
        with pytest.raises(EndpointFault):
            await job.result()
    assert 0 < seen[-1].cost.from_server <= 60


async def test_a_wait_on_the_wire_is_told_by_all_that_run(store: Path) -> None:
    seen: dict[int, list[Waiting]] = {0: [], 1: []}
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(PlantedServer(planted(48), latency_s=0.002))
        client = await stack.enter_async_context(Client(server.url, store=store))
        tasks = await stack.enter_async_context(anyio.create_task_group())
        jobs = [client.start(part(n), task=TASK) for n in range(2)]

        async def follow(n: int) -> None:
            async for moment in jobs[n].progress():
                if moment.waiting:
                    seen[n].append(moment.waiting)

        for n in range(2):
            tasks.start_soon(follow, n)
            await begun(jobs[n], 1)
        server.script = lambda _: status(503)
        await until(lambda: all(seen.values()))
        server.script = lambda _: None
    assert all("503" in waits[0].reason for waits in seen.values())


def test_it_works_among_plain_asyncio_tasks(store: Path) -> None:
    async def cell() -> tuple[Labels, Labels]:
        async with Client(Slow(48), store=store) as client:
            jobs = [client.start(part(n), task=TASK) for n in range(3)]
            looking_on = asyncio.create_task(begun(jobs[0], 1))
            tasks = [asyncio.create_task(job.result()) for job in jobs]
            assert (await looking_on).from_server > 0
            tasks[1].cancel()
            with pytest.raises(asyncio.CancelledError):
                await tasks[1]
            assert not jobs[1].done, "who waits may go, and the job goes on"
            jobs[1].cancel()
            with pytest.raises(RunStopped):
                await asyncio.wait_for(jobs[1].result(), 20)
            first, last = await asyncio.gather(tasks[0], tasks[2])
            return first, last

    first, last = asyncio.run(cell())
    assert len(first.rows) == len(last.rows) == 16


async def test_a_spent_budget_ends_one_job(store: Path) -> None:
    async with Client(planted(48), store=store) as client:
        short = client.start(part(0), task=TASK, budget=Budget(max_requests=40))
        whole = client.start(part(1), task=TASK)
        assert (await short.result()).cost.requests <= 40 < (await whole.result()).cost.requests


async def test_an_endpoint_that_takes_text_is_one_for_the_jobs_too(store: Path) -> None:
    class Texts(PlantedConcept):
        async def find_label_token(self, label: str, *, prompt: str, separator: str) -> object:
            raise NotImplementedError

        def name_label(self, found: object) -> int:
            raise NotImplementedError

    for endpoint, takes_text in ((Texts({}, TASK.label_texts), True), (planted(), False)):
        async with Client(endpoint, store=store) as client:
            assert client._shares is not None
            assert isinstance(client._shares.share(), TextEndpoint) is takes_text


async def test_an_open_endpoint_stays_open_and_one_of_ours_does_not(
    monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    class Closing(PlantedConcept):
        closed = 0

        async def aclose(self) -> None:
            self.closed += 1

    endpoint = Closing(planted()._planted, TASK.label_texts)
    async with Client(endpoint, store=store) as client:
        await client.start(reviews(32), task=TASK).result()
    assert endpoint.closed == 0
    monkeypatch.setattr("icm_client.runs.server.EmbeddedEndpoint", lambda: endpoint)
    async with Client(store=store) as client:
        await client.start(reviews(32), task=TASK).result()
    assert endpoint.closed == 1


async def test_what_cannot_be_opened_says_so_at_once() -> None:
    with pytest.raises(InputError):
        async with Client("ftp://nowhere"):
            pass


def test_jobs_take_what_label_takes() -> None:
    clients = {"rows", "task", "endpoint", "store", "runs", "command", "progress"}
    # The server is everybody's, and a job is stopped by cancelling it.
    clients |= {"accept_drift", "stopping"}
    assert set(inspect.signature(label).parameters) - clients == set(LabelOptions.__annotations__)


def test_a_request_has_the_arguments_of_label_and_their_defaults() -> None:
    elsewhere = {"endpoint", "store", "progress", "stopping"}
    arguments = inspect.signature(label).parameters
    fields = inspect.signature(LabelRequest).parameters
    assert set(fields) == set(arguments) - elsewhere
    assert all(field.default == arguments[name].default for name, field in fields.items())
