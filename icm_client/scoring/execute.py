"""Send planned reads to an endpoint, and hand each answer on as it arrives."""

import heapq
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

import anyio
from anyio.abc import TaskGroup

from icm_client.endpoints.protocol import Answer, CachingEndpoint, Endpoint, PrefixCache, TokenIds
from icm_client.errors import EndpointError, Retry, RunStopped, ScoreError
from icm_client.scoring.planner import Branch, assign_lanes
from icm_client.scoring.prompts import Asked, written_out
from icm_client.task_groups import open_task_group

GRACE_S: Final = 10.0
"""How long what is under way is awaited after a stop. A prompt of thousands of tokens may take a
CPU most of a minute; who sends TERM often waits for half a minute only."""

_LOOKED_S: Final = 0.1


class Caller(NamedTuple):
    """Who is told of each request, and asked for leave.

    Attributes:
        arrived: told of indices of reads and their answers, before anything else is awaited.
        failed: told of the reads of a request that failed for good (none: a prefix sent ahead). A
            single one is given up, several are asked again in halves. It raises the error where
            nothing may go on.
        stopping: once it says so, what is under way is awaited, for `GRACE_S` at most, and no
            further request is begun.
    """

    arrived: Callable[[Sequence[int], Sequence[Answer]], None]
    failed: Callable[[Sequence[int], EndpointError | ScoreError], None]
    stopping: Callable[[], bool]


async def execute(
    branches: Sequence[Branch],
    reads: Sequence[Asked],
    endpoint: Endpoint,
    caller: Caller,
    *,
    group_size: int,
    reads_in_flight: int,
) -> None:
    """Have `endpoint` answer every follower of `branches` (indices into `reads`).

    With lanes, each lane is sent its share one read at a time: a slot's cache holds what the read
    before left, so nothing is sent ahead, and a failure loses no answer that has been given.
    Without, prefixes are sent ahead and followers behind them, many at once: `reads_in_flight` at
    most, and no more prefixes at a time than half of the server's prefix cache holds, where it
    tells its size. The other half is for what followers leave there.

    Raises:
        EndpointError, ScoreError: what `caller.failed` raises; the first one cancels the rest.
    """
    async with _grace(caller):
        if endpoint.lanes > 0:
            async with open_task_group() as tasks:
                for lane, share in enumerate(assign_lanes(branches, reads, endpoint.lanes)):
                    tasks.start_soon(_serve_lane, lane, share, reads, endpoint, caller)
        else:
            cache = PrefixCache()
            if isinstance(endpoint, CachingEndpoint):
                cache = await endpoint.prefix_cache()
            async with open_task_group() as tasks:
                waves = _Waves(
                    branches,
                    reads,
                    endpoint,
                    caller,
                    tasks,
                    cache=cache,
                    group_size=group_size,
                    reads_in_flight=reads_in_flight,
                )
                waves.start()


@asynccontextmanager
async def _grace(caller: Caller) -> AsyncIterator[None]:
    """What is under way when the run is to stop has `GRACE_S` to end; then it is cancelled."""

    async def watch(tasks: TaskGroup) -> None:
        while not caller.stopping():  # noqa: ASYNC110 - a caller sets no event
            await anyio.sleep(_LOOKED_S)
        await anyio.sleep(GRACE_S)
        tasks.cancel_scope.cancel()

    async with open_task_group() as tasks:
        tasks.start_soon(watch, tasks)
        yield
        tasks.cancel_scope.cancel()


async def _serve_lane(
    lane: int,
    share: Sequence[Branch],
    reads: Sequence[Asked],
    endpoint: Endpoint,
    caller: Caller,
) -> None:
    for index in (index for branch in share for index in branch.followers):
        if caller.stopping():
            return
        try:
            caller.arrived([index], await endpoint.read([written_out(reads[index])], lane=lane))
        except RunStopped:
            return
        except (EndpointError, ScoreError) as error:
            if _unrepeated(error, caller):
                return
            caller.failed([index], error)


def _unrepeated(error: EndpointError | ScoreError, caller: Caller) -> bool:
    """Whether a repetition might have healed it: no reason to lose what else is under way."""
    return caller.stopping() and error.retry is not Retry.NEVER


class _Job(NamedTuple):
    """One request. Jobs are started in this tuple's order: depth first over the plan.

    A prefix is evicted from a full cache by what is sent after it, so what hangs below one prefix
    is sent before the next prefix is.
    """

    branch: int
    stage: int
    group: tuple[int, ...]  # empty: the branch's prefix is sent ahead


class _Waves:
    """A branch's prefix first; when it is cached, what follows it and the branches inside it.

    The followers go in groups of equal `wanted`. The groups of one `wanted` are a stage, and the
    stages follow one another: the later tokens of a label find its first one cached.
    """

    def __init__(
        self,
        branches: Sequence[Branch],
        reads: Sequence[Asked],
        endpoint: Endpoint,
        caller: Caller,
        tasks: TaskGroup,
        *,
        cache: PrefixCache,
        group_size: int,
        reads_in_flight: int,
    ) -> None:
        self._branches = branches
        self._reads = reads
        self._endpoint = endpoint
        self._caller = caller
        self._limit = reads_in_flight
        self._tasks = tasks
        self._stages = [_stages(branch, reads, group_size) for branch in branches]
        self._unanswered = [0] * len(branches)  # groups of the branch's present stage
        self._inside: list[list[int]] = [[] for _ in branches]
        self._ready: list[_Job] = []
        self._in_flight = 0
        self._block = cache.block
        self._room = math.inf if cache.tokens is None else cache.tokens / 2
        # A prefix is in use until all below it is answered: so many groups, and branches inside.
        self._unfinished = [sum(map(len, stages)) for stages in self._stages]
        for number, branch in enumerate(branches):
            if branch.parent is not None:
                self._inside[branch.parent].append(number)
                self._unfinished[branch.parent] += 1

    def start(self) -> None:
        for number, branch in enumerate(self._branches):
            if branch.parent is None:
                self._enter(number)
        self._start_ready()

    def _enter(self, number: int) -> None:
        if self._sent_ahead(number):
            heapq.heappush(self._ready, _Job(number, -1, ()))
        else:
            self._room -= self._own_tokens(number)
            self._cached(number)

    def _cached(self, number: int) -> None:
        self._next_stage(number, 0)
        for inside in self._inside[number]:
            self._enter(inside)

    def _next_stage(self, number: int, stage: int) -> None:
        if stage < len(self._stages[number]):
            groups = self._stages[number][stage]
            self._unanswered[number] = len(groups)
            for group in groups:
                heapq.heappush(self._ready, _Job(number, stage, group))

    def _start_ready(self) -> None:
        while self._ready and self._in_flight < self._limit and not self._caller.stopping():
            number, _, group = self._ready[0]
            if not group and self._own_tokens(number) > self._room and self._in_flight:
                return  # what is in flight makes room, or leads deeper
            job = heapq.heappop(self._ready)
            if not group:
                self._room -= self._own_tokens(number)
            self._in_flight += max(1, len(group))
            self._tasks.start_soon(self._run, job)

    async def _run(self, job: _Job) -> None:
        number, stage, group = job
        halves: list[tuple[int, ...]] = []
        try:
            if group:
                answers = await self._endpoint.read(
                    [written_out(self._reads[index]) for index in group]
                )
                self._caller.arrived(group, answers)
            else:
                await self._endpoint.warm(self._sent_ahead(number))
        except RunStopped:
            return
        except (EndpointError, ScoreError) as error:
            if _unrepeated(error, self._caller):
                return
            self._caller.failed(group, error)
            middle = len(group) // 2
            halves = [group[:middle], group[middle:]] if middle else []
        if not group:  # where it failed, what follows it is asked all the same
            self._cached(number)
        else:
            for half in halves:
                heapq.heappush(self._ready, _Job(number, stage, half))
            self._unanswered[number] += len(halves) - 1
            self._unfinished[number] += len(halves)
            self._finished(number)
            if not self._unanswered[number]:
                self._next_stage(number, stage + 1)
        self._in_flight -= max(1, len(group))
        self._start_ready()

    def _finished(self, number: int) -> None:
        """A group of the branch, or a branch inside it, is done with."""
        self._unfinished[number] -= 1
        parent = self._branches[number].parent
        if not self._unfinished[number]:
            self._room += self._own_tokens(number)
            if parent is not None:
                self._finished(parent)

    def _sent_ahead(self, number: int) -> TokenIds:
        """What of the prefix a server that keeps whole blocks can use; () where that is nothing.

        Less would be computed by all followers, and more by this request and by them again. The
        one token more than whole blocks is there because a server with sliding-window layers keeps
        what the same prompt could resume at, which leaves its last token out.
        """
        prefix = self._branches[number].prefix
        if self._block == 1:
            return prefix
        whole = len(prefix) - len(prefix) % self._block
        return (*prefix[:whole], prefix[0]) if self._whole(number) else ()

    def _own_tokens(self, number: int) -> int:
        """What the branch adds to the prefix around it."""
        return len(self._branches[number].prefix) - self._around(number)

    def _whole(self, number: int) -> int:
        """Tokens of the branch's own in blocks that are its own, in part at least."""
        length, around = len(self._branches[number].prefix), self._around(number)
        return (length // self._block - around // self._block) * self._block

    def _around(self, number: int) -> int:
        parent = self._branches[number].parent
        return 0 if parent is None else len(self._branches[parent].prefix)


def _stages(branch: Branch, reads: Sequence[Asked], group_size: int) -> list[list[tuple[int, ...]]]:
    # Followers are in lexicographic order, so a label's first token is met before its later ones.
    by_wanted: dict[tuple[int, ...], list[int]] = {}
    for index in branch.followers:
        by_wanted.setdefault(reads[index].wanted, []).append(index)
    return [
        [tuple(same[start : start + group_size]) for start in range(0, len(same), group_size)]
        for same in by_wanted.values()
    ]
