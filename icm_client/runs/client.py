"""`Client`: several label jobs at once, over one connection to one server."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import count
from types import TracebackType
from typing import Self, Unpack

import anyio
from anyio.abc import TaskGroup

from icm_client.data import Task
from icm_client.data.job import Rows
from icm_client.endpoints import Endpoint, Waiting, WireEvent
from icm_client.errors import RunError, RunStopped
from icm_client.runs.label import label_prepared
from icm_client.runs.progress import OnProgress, Progress
from icm_client.runs.request import LabelOptions, LabelRequest
from icm_client.runs.result import Labels
from icm_client.runs.server import Server, open_endpoint
from icm_client.runs.turns import Shares
from icm_client.scoring import ScoreStore, open_store

Find = Callable[[OnProgress], Awaitable[Labels]]
"""Finds the labels, and reports how far it is to the callback it is given."""


class LabelJob:
    """A run of `label` in a client; made with `Client.start`.

    Attributes:
        name: for messages.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._scope = anyio.CancelScope()
        self._changed = anyio.Event()
        self._ended = anyio.Event()
        self._latest: Progress | None = None
        self._reported = 0
        self._found: Labels | None = None
        self._error: Exception | None = None
        self._seen = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, done={self.done})"

    @property
    def done(self) -> bool:
        """Whether it has ended: with labels, with an error, or cancelled."""
        return self._ended.is_set()

    @property
    def unseen(self) -> Exception | None:
        """The error that ended it, where no call of `result` has raised it."""
        return None if self._seen else self._error

    def cancel(self) -> None:
        """End it soon; what was answered is stored. Once it is done, this does nothing."""
        self._scope.cancel()

    async def result(self) -> Labels:
        """Wait for the labels; where the caller is cancelled, the job goes on.

        Raises:
            RunStopped: it was cancelled.
            IcmError: what `label` raises; the client's block then does not raise it again.
        """
        await self._ended.wait()
        if self._error is not None:
            self._seen = True
            raise self._error
        if self._found is None:
            raise RunStopped(f"{self.name} was cancelled; what was answered is in the score store")
        return self._found

    async def progress(self) -> AsyncIterator[Progress]:
        """Yield the latest moment whenever there is a new one, until the job ends.

        A slow loop misses moments, but not the last one. It may be left early and taken up again,
        and several loops may follow one job. `result` says how the job ended.
        """
        seen = 0
        while True:
            if self._latest is not None and self._reported > seen:
                seen = self._reported
                yield self._latest
            elif self.done:
                return
            else:
                await self._changed.wait()

    def _report(self, moment: Progress) -> None:
        self._latest = moment
        self._reported += 1
        self._wake()

    def _noticed(self, event: WireEvent) -> None:
        """Report a wait on the connection that all jobs share."""
        if isinstance(event, Waiting) and self._latest is not None and not self.done:
            self._report(replace(self._latest, waiting=event))

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def _run(self, find: Find) -> None:
        try:
            with self._scope:
                self._found = await find(self._report)
        except Exception as error:  # noqa: BLE001 - kept for `result`, whatever it is
            self._error = error
        finally:
            self._ended.set()
            self._wake()


class Client:
    """Label jobs that share a server's connections, its limit of requests in flight and a store.

        async with Client("http://localhost:8000") as client:
            reviews = client.start("reviews.jsonl", task="sentiment")
            claims = client.start("claims.jsonl", task="truthfulqa")
            print((await reviews.result()).counts, (await claims.result()).counts)

    Jobs get equal shares of the server, whatever their size, so that none waits for another to end
    (`icm_client.runs.turns`). They are independent: one that fails or is cancelled leaves the
    others running.

    The block is a task group: at its end it waits for the jobs that still run. An exception that
    leaves it, a cancellation too, cancels them first. Errors that no `result` has raised are raised
    then, as an `ExceptionGroup`: always as a group, so that the number of failed jobs does not
    decide what has to be caught. Where another exception leaves the block, they become notes to it.

    Args:
        endpoint: as for `label`; an endpoint that is open stays so.
        store: the score store's file; None takes the user's own.
        runs: the folder in which each job has its own, with its journal; None keeps no record.
    """

    def __init__(
        self,
        endpoint: Endpoint | Server | str | None = None,
        *,
        store: str | os.PathLike[str] | None = None,
        runs: str | os.PathLike[str] | None = None,
    ) -> None:
        self.store = store
        self.runs = runs
        self._endpoint = endpoint
        self._running: list[LabelJob] = []
        self._failed: list[LabelJob] = []
        self._numbers = count(1)
        self._shares: Shares | None = None
        self._kept: ScoreStore | None = None
        self._tasks: TaskGroup | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Connect to the server, and open the store.

        Raises:
            EndpointError: nothing usable answers.
            InputError: as `label`.
            StoreError: the store cannot be opened.
            RunError: the client is open already.
        """
        if self._shares is not None:
            raise RunError("this client is open already: make another one for another block")
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(open_endpoint(self._endpoint, self._noticed))
            self._kept = stack.enter_context(open_store(self.store))
            self._tasks = await stack.enter_async_context(anyio.create_task_group())
            self._shares = Shares(server)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait for the jobs, or cancel them; close what was opened.

        Raises:
            ExceptionGroup: jobs failed, and nobody has asked for their results.
        """
        try:
            if error is None or isinstance(error, anyio.get_cancelled_exc_class()):
                await self._stack.__aexit__(kind, error, traceback)
            else:  # the task group would wrap it
                self.cancel()
                await self._stack.aclose()
        finally:
            failed, self._failed = self._failed, []
            self._shares = self._tasks = None
        unseen = [(job.name, job.unseen) for job in failed if job.unseen is not None]
        if error is not None:
            for name, one in unseen:
                error.add_note(f"{name} failed too: {type(one).__name__}: {one}")
        elif unseen:
            names = ", ".join(name for name, _ in unseen)
            raise ExceptionGroup(f"failed, and nobody asked why: {names}", [e for _, e in unseen])

    def start(
        self,
        rows: Rows,
        *,
        task: Task | str | os.PathLike[str],
        name: str | None = None,
        **options: Unpack[LabelOptions],
    ) -> LabelJob:
        """Begin to label, and return at once.

        Args:
            rows: as for `label`.
            task: as for `label`.
            name: of the job, for messages; None takes a number.
            options: as for `label`.

        Raises:
            RunError: the client is not open.
        """
        if self._shares is None or self._tasks is None or self._kept is None:
            raise RunError("the client is not open: async with Client(...) as client: ...")
        request = LabelRequest(rows, task, runs=self.runs, **options)
        endpoint, store = self._shares.share(), self._kept

        async def find(progress: OnProgress) -> Labels:
            try:
                return await label_prepared(
                    request.prepared(), endpoint=endpoint, store=store, progress=progress
                )
            finally:
                await endpoint.aclose()  # the share, not the server

        job = LabelJob(name or f"job {next(self._numbers)}")
        self._running.append(job)
        self._tasks.start_soon(self._run, job, find)
        return job

    def cancel(self) -> None:
        """Cancel every job that still runs."""
        for job in self._running:
            job.cancel()

    async def _run(self, job: LabelJob, find: Find) -> None:
        try:
            await job._run(find)  # noqa: SLF001
        finally:
            self._running.remove(job)
            if job.unseen is not None:
                self._failed.append(job)

    def _noticed(self, event: WireEvent) -> None:
        for job in self._running:
            job._noticed(event)  # noqa: SLF001
