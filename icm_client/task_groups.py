"""A task group that raises one typed error where anyio raises a group of them."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup

from icm_client.errors import IcmError


@asynccontextmanager
async def open_task_group() -> AsyncIterator[TaskGroup]:
    """Return `anyio.create_task_group()`, with the first failure raised instead of a group.

    The first failure cancels the other tasks, and several may fail before that takes effect. If one
    of them is an `IcmError`, it is raised, with the whole group as its `__cause__`. A single
    failure of another kind is raised without its group; several of another kind, and groups that
    hold a `KeyboardInterrupt` or the like, are raised as groups.

    Raises:
        IcmError: a task raised it.
    """
    try:
        async with anyio.create_task_group() as tasks:
            yield tasks
    except ExceptionGroup as group:
        failures = list(_leaves(group))
        ours = [failure for failure in failures if isinstance(failure, IcmError)]
        if ours:
            raise ours[0] from group
        if len(failures) == 1:
            raise failures[0] from group
        raise


def _leaves(group: ExceptionGroup[Exception]) -> Iterator[Exception]:
    for error in group.exceptions:
        if isinstance(error, ExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
