"""Send planned reads to an endpoint, and hand each answer on as it arrives."""

import heapq
from collections.abc import Callable, Sequence
from typing import NamedTuple

from anyio.abc import TaskGroup

from icm_client.endpoints.protocol import Answer, Endpoint, Read
from icm_client.scoring.lanes import assign_lanes
from icm_client.scoring.planner import Branch
from icm_client.scoring.task_groups import open_task_group

Arrived = Callable[[Sequence[int], Sequence[Answer]], None]
"""Called with indices of reads and their answers, before anything else is awaited."""


async def execute(
    branches: Sequence[Branch],
    reads: Sequence[Read],
    endpoint: Endpoint,
    arrived: Arrived,
    *,
    group_size: int,
    reads_in_flight: int,
) -> None:
    """Have `endpoint` answer every follower of `branches` (indices into `reads`).

    With lanes, each lane is sent its share one read at a time: a slot's cache holds what the read
    before left, so nothing is sent ahead, and a failure loses no answer that has been given.
    Without, prefixes are sent ahead and followers behind them, many at once.

    Raises:
        EndpointError, ScoreError: from the endpoint; the first one cancels the rest.
    """
    if endpoint.lanes > 0:
        async with open_task_group() as tasks:
            for lane, share in enumerate(assign_lanes(branches, reads, endpoint.lanes)):
                tasks.start_soon(_serve_lane, lane, share, reads, endpoint, arrived)
    else:
        async with open_task_group() as tasks:
            waves = _Waves(
                branches,
                reads,
                endpoint,
                arrived,
                tasks,
                group_size=group_size,
                reads_in_flight=reads_in_flight,
            )
            waves.start()


async def _serve_lane(
    lane: int,
    share: Sequence[Branch],
    reads: Sequence[Read],
    endpoint: Endpoint,
    arrived: Arrived,
) -> None:
    for branch in share:
        for index in branch.followers:
            arrived([index], await endpoint.read([reads[index]], lane=lane))


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
        reads: Sequence[Read],
        endpoint: Endpoint,
        arrived: Arrived,
        tasks: TaskGroup,
        *,
        group_size: int,
        reads_in_flight: int,
    ) -> None:
        self._branches = branches
        self._reads = reads
        self._endpoint = endpoint
        self._arrived = arrived
        self._limit = reads_in_flight
        self._tasks = tasks
        self._stages = [_stages(branch, reads, group_size) for branch in branches]
        self._unanswered = [0] * len(branches)  # groups of the branch's present stage
        self._inside: list[list[int]] = [[] for _ in branches]
        self._ready: list[_Job] = []
        self._in_flight = 0
        for number, branch in enumerate(branches):
            if branch.parent is not None:
                self._inside[branch.parent].append(number)

    def start(self) -> None:
        for number, branch in enumerate(self._branches):
            if branch.parent is None:
                self._enter(number)
        self._start_ready()

    def _enter(self, number: int) -> None:
        if self._branches[number].prefix:
            heapq.heappush(self._ready, _Job(number, -1, ()))
        else:
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
        while self._ready and self._in_flight < self._limit:
            job = heapq.heappop(self._ready)
            self._in_flight += max(1, len(job.group))
            self._tasks.start_soon(self._run, job)

    async def _run(self, job: _Job) -> None:
        number, stage, group = job
        if not group:
            await self._endpoint.warm(self._branches[number].prefix)
            self._cached(number)
        else:
            answers = await self._endpoint.read([self._reads[index] for index in group])
            self._arrived(group, answers)
            self._unanswered[number] -= 1
            if not self._unanswered[number]:
                self._next_stage(number, stage + 1)
        self._in_flight -= max(1, len(group))
        self._start_ready()


def _stages(branch: Branch, reads: Sequence[Read], group_size: int) -> list[list[tuple[int, ...]]]:
    # Followers are in lexicographic order, so a label's first token is met before its later ones.
    by_wanted: dict[tuple[int, ...], list[int]] = {}
    for index in branch.followers:
        by_wanted.setdefault(reads[index].wanted, []).append(index)
    return [
        [tuple(same[start : start + group_size]) for start in range(0, len(same), group_size)]
        for same in by_wanted.values()
    ]
