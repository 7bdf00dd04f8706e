"""Send questions to an endpoint in the planner's order, and pass on each answer as it arrives."""

import heapq
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from typing import Final, NamedTuple

import anyio
from anyio.abc import TaskGroup

from icm_client.endpoints.protocol import Answer, CachingEndpoint, Endpoint, PrefixCache, TokenIds
from icm_client.errors import EndpointError, Retry, RunStopped, ScoreError
from icm_client.scoring.planner import Branch, assign_lanes, plan, prune
from icm_client.scoring.prompts import Question
from icm_client.task_groups import open_task_group

GRACE_S: Final = 10.0
"""How long requests in flight are awaited after a stop. A prompt of thousands of tokens may take a
CPU most of a minute; whatever sends TERM often waits for half a minute only."""

_POLL_S: Final = 0.1


class Caller(NamedTuple):
    """What is called for each request.

    Attributes:
        arrived: called with indices of questions and their answers, before anything is awaited.
        failed: called with the questions of a request that failed for good (none: a prefix). A
            single one is given up, several are asked again in halves. It raises the error where
            nothing may go on.
        stopping: once it returns True, requests in flight are awaited for `GRACE_S` at most, and
            no further request is begun.
    """

    arrived: Callable[[Sequence[int], Sequence[Answer]], None]
    failed: Callable[[Sequence[int], EndpointError | ScoreError], None]
    stopping: Callable[[], bool]


async def execute(
    questions: Sequence[Question],
    missing: Collection[int],
    endpoint: Endpoint,
    caller: Caller,
    *,
    group_size: int,
    reads_in_flight: int,
) -> None:
    """Have `endpoint` answer those of `questions` whose indices are `missing`.

    With lanes, each lane is sent its share one question at a time: a slot's cache holds what the
    question before left, so no prefix is warmed, and a failure loses no answer that has been given.
    Without, prefixes are warmed and followers sent after them, many at once: `reads_in_flight` at
    most, and no more prefixes at a time than half of the server's prefix cache holds, where its
    size is known. The other half is for what followers leave there.

    Prefixes are planned over all `questions`: a run that goes on where another ended warms the same
    ones.
    """
    missing = frozenset(missing)
    async with open_task_group() as watched:
        watched.start_soon(_stop, watched, caller)
        async with open_task_group() as tasks:
            if endpoint.lanes > 0:
                shares = assign_lanes(questions, missing, endpoint.lanes)
                for lane, share in enumerate(shares):
                    tasks.start_soon(_serve_lane, lane, share, questions, endpoint, caller)
            else:
                cache = PrefixCache()
                if isinstance(endpoint, CachingEndpoint):
                    cache = await endpoint.prefix_cache()
                _Waves(
                    prune(plan(questions), missing),
                    questions,
                    endpoint,
                    caller,
                    tasks,
                    cache=cache,
                    group_size=group_size,
                    reads_in_flight=reads_in_flight,
                ).start_ready()
        watched.cancel_scope.cancel()


async def _stop(tasks: TaskGroup, caller: Caller) -> None:
    """Cancel requests that are still in flight `GRACE_S` after the run was to stop."""
    while not caller.stopping():  # noqa: ASYNC110 - a caller sets no event
        await anyio.sleep(_POLL_S)
    await anyio.sleep(GRACE_S)
    tasks.cancel_scope.cancel()


async def _serve_lane(
    lane: int,
    share: Sequence[int],
    questions: Sequence[Question],
    endpoint: Endpoint,
    caller: Caller,
) -> None:
    for index in share:
        if caller.stopping():
            return
        try:
            caller.arrived([index], await endpoint.read([questions[index].read()], lane=lane))
        except RunStopped:
            return
        except (EndpointError, ScoreError) as error:
            if _unrepeated(error, caller):
                return
            caller.failed([index], error)


def _unrepeated(error: EndpointError | ScoreError, caller: Caller) -> bool:
    """Whether a repetition might have healed it: no reason to lose what else is in flight."""
    return caller.stopping() and error.retry is not Retry.NEVER


class _Waves:
    """A branch's prefix first; when it is cached, its followers and the branches inside it.

    The followers go in groups of equal `wanted`. The groups of one `wanted` are a stage, and the
    stages follow one another: the later tokens of a label find its first one cached.

    Requests are started depth first over the plan: a prefix is evicted from a full cache by what is
    sent after it, so what hangs below one prefix is sent before the next prefix is.
    """

    def __init__(
        self,
        branches: Sequence[Branch],
        questions: Sequence[Question],
        endpoint: Endpoint,
        caller: Caller,
        tasks: TaskGroup,
        *,
        cache: PrefixCache,
        group_size: int,
        reads_in_flight: int,
    ) -> None:
        self._questions = questions
        self._endpoint = endpoint
        self._caller = caller
        self._tasks = tasks
        self._limit = reads_in_flight
        self._in_flight = 0
        self._room = math.inf if cache.tokens is None else cache.tokens / 2
        # A branch's number with a group of its followers, or with () for its prefix.
        self._ready: list[tuple[int, tuple[int, ...]]] = []
        self._parents = [branch.parent for branch in branches]
        self._inside: defaultdict[int | None, list[int]] = defaultdict(list)
        self._warmed: list[TokenIds] = []  # what is sent of each branch's prefix
        self._own: list[int] = []  # tokens that the branch adds to the prefix around it
        self._stages = [_stages(branch, questions, group_size) for branch in branches]
        self._unanswered = [0] * len(branches)  # groups of the branch's present stage
        # A prefix is in use until all below it is answered: so many groups, and branches inside.
        self._unfinished = [sum(map(len, stages)) for stages in self._stages]
        for number, (prefix, _, parent) in enumerate(branches):
            around = 0 if parent is None else len(branches[parent].prefix)
            self._own.append(len(prefix) - around)
            self._inside[parent].append(number)
            if parent is not None:
                self._unfinished[parent] += 1
            warmed = prefix
            if cache.block > 1:
                # A server that caches whole blocks is sent whole blocks, where the branch adds any:
                # less would be computed by all followers, and more by this request and by them
                # again. The one token more is there because a server with sliding-window layers
                # keeps what the same prompt could resume at, which leaves its last token out.
                whole = len(prefix) // cache.block * cache.block
                adds = whole > around // cache.block * cache.block
                warmed = (*prefix[:whole], prefix[0]) if adds else ()
            self._warmed.append(warmed)
        self._go_on(None)

    def _go_on(self, number: int | None) -> None:
        """Make ready a branch's next stage and, before the first, the branches inside it.

        The branch's prefix is cached by now; None stands for the whole plan.
        """
        if number is not None and self._stages[number]:
            groups = self._stages[number].pop(0)
            self._unanswered[number] = len(groups)
            for group in groups:
                heapq.heappush(self._ready, (number, group))
        for inside in self._inside.pop(number, ()):
            if self._warmed[inside]:
                heapq.heappush(self._ready, (inside, ()))
            else:
                self._room -= self._own[inside]
                self._go_on(inside)

    def start_ready(self) -> None:
        while self._ready and self._in_flight < self._limit and not self._caller.stopping():
            number, group = self._ready[0]
            if not group and self._own[number] > self._room and self._in_flight:
                return  # what is in flight makes room, or leads deeper
            heapq.heappop(self._ready)
            if not group:
                self._room -= self._own[number]
            self._in_flight += max(1, len(group))
            self._tasks.start_soon(self._send, number, group)

    async def _send(self, number: int, group: tuple[int, ...]) -> None:
        halves: list[tuple[int, ...]] = []
        try:
            if group:
                reads = [self._questions[index].read() for index in group]
                self._caller.arrived(group, await self._endpoint.read(reads))
            else:
                await self._endpoint.warm(self._warmed[number])
        except RunStopped:
            return
        except (EndpointError, ScoreError) as error:
            if _unrepeated(error, self._caller):
                return
            self._caller.failed(group, error)
            middle = len(group) // 2
            halves = [group[:middle], group[middle:]] if middle else []
        if not group:  # where it failed, what follows it is asked all the same
            self._go_on(number)
        else:
            for half in halves:
                heapq.heappush(self._ready, (number, half))
            self._unanswered[number] += len(halves) - 1
            self._unfinished[number] += len(halves)
            self._finished(number)
            if not self._unanswered[number]:
                self._go_on(number)
        self._in_flight -= max(1, len(group))
        self.start_ready()

    def _finished(self, number: int) -> None:
        """Count a group of the branch, or a branch inside it, as done."""
        self._unfinished[number] -= 1
        parent = self._parents[number]
        if not self._unfinished[number]:
            self._room += self._own[number]
            if parent is not None:
                self._finished(parent)


def _stages(
    branch: Branch, questions: Sequence[Question], group_size: int
) -> list[list[tuple[int, ...]]]:
    # Followers are in lexicographic order, so a label's first token is met before its later ones.
    by_wanted: dict[TokenIds, list[int]] = {}
    for index in branch.followers:
        by_wanted.setdefault(questions[index].wanted, []).append(index)
    return [
        [tuple(same[start : start + group_size]) for start in range(0, len(same), group_size)]
        for same in by_wanted.values()
    ]
