"""`check`: ask a server what it does, before a run depends on it."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

import anyio
import numpy as np

from icm_client.coherence.settings import SweepSettings
from icm_client.data import Task, rows_from
from icm_client.data.job import Job, Rows, named_task
from icm_client.endpoints import Endpoint, RetryPolicy, TransportSettings, Waiting, WireEvent
from icm_client.endpoints.probe import Observation, Verdict, failed
from icm_client.errors import EndpointError
from icm_client.runs.check_probes import IN_FLIGHT, OnStep, Probing
from icm_client.runs.run_cost import RunCost
from icm_client.runs.server import Server, open_endpoint
from icm_client.scoring import open_store
from icm_client.task_groups import open_task_group

MADE_UP_ROWS: Final = 64
"""Rows that are made up where none are given: enough for a context and something behind it."""

# A check that hangs tells less than one that fails.
_RETRY: Final = RetryPolicy(attempts=3, attempt_timeout_s=60.0, item_timeout_s=120.0)

_TOLD_WAIT_S: Final = 1.0
_LOOKED_S: Final = 0.1

_STOPPED: Final = Observation(
    "check", Verdict.BAD, "stopped before it was done: what is missing was not asked"
)


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What a check found.

    Attributes:
        observations: one a probe, in the order they were made.
        cost: what a labelling run would take; None where no server answered.
        requests: that the check itself sent.
        tokens: prompt tokens that the check itself had computed.
    """

    observations: tuple[Observation, ...]
    cost: RunCost | None
    requests: int
    tokens: int

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why a run would fail; empty where it would not."""
        bad = (one for one in self.observations if one.verdict is Verdict.BAD)
        return tuple(f"{one.name}: {one.says}" for one in bad)

    @property
    def ready(self) -> bool:
        """Whether a labelling run can start."""
        return not self.reasons

    def summary(self) -> dict[str, object]:
        """Return what `--json` prints."""
        return {
            "ready": self.ready,
            "reasons": list(self.reasons),
            "observations": [
                {
                    "name": one.name,
                    "verdict": one.verdict.value,
                    "says": one.says,
                    "figures": dict(one.figures),
                }
                for one in self.observations
            ],
            "run": None if self.cost is None else self.cost.summary(),
            "requests": self.requests,
            "computed_tokens": self.tokens,
        }


async def check(
    *,
    task: Task | str | os.PathLike[str],
    rows: Rows | None = None,
    run_rows: int | None = None,
    endpoint: Endpoint | Server | str | None = None,
    settings: SweepSettings | None = None,
    store: str | os.PathLike[str] | None = None,
    seed: int | None = None,
    step: OnStep | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> CheckReport:
    """Find out whether a labelling run can work, and what it would cost.

    About 250 short requests and a dozen long ones. A part that fails is an observation, and the
    others are made all the same; on a slow server those for which no time is left are cut off or
    left out, and said to be.

    Args:
        task: as for `icm_client.label`.
        rows: as for `icm_client.label`; None makes some up.
        run_rows: rows of the run whose cost is told; None takes as many as `rows` has.
        endpoint: as for `icm_client.label`; retries and requests in flight are the check's own.
        settings: of the run.
        store: where token ids are kept; None takes the user's own.
        seed: of the prompts; None draws new ones each time, which no cache has seen.
        step: told what is being done, and what a request waits for before it is sent again.
        stopping: once it says so, the check ends with what it has seen.

    Raises:
        InputError: rows or task cannot be used; nothing has been sent.
        StoreError: token ids cannot be kept.
    """
    job = Job.prepare(_made_up(task) if rows is None else rows, task)
    tell = step or (lambda _: None)

    def waits(event: WireEvent) -> None:
        if isinstance(event, Waiting) and event.seconds >= _TOLD_WAIT_S:
            tell(f"waiting {event.seconds:.0f} s: {event.reason}")

    report: CheckReport | None = None
    begun: tuple[Probing, Endpoint] | None = None

    def so_far() -> CheckReport:
        if begun is None:
            return CheckReport((), None, 0, 0)
        probing, server = begun
        cost = probing.run_cost(run_rows or len(job.prompts))
        used = server.usage
        return CheckReport(tuple(probing.observations), cost, used.requests, used.computed_tokens)

    async def work() -> None:
        nonlocal report, begun
        try:
            async with open_endpoint(_for_a_check(endpoint), waits) as server:
                probing = Probing(job, server, kept, np.random.default_rng(seed), tell)
                begun = probing, server
                await probing.ask(settings or SweepSettings())
                report = so_far()
        except EndpointError as error:
            report = CheckReport((failed("server", error, fatal=True),), None, 0, 0)
        tasks.cancel_scope.cancel()

    async def watch() -> None:
        while not stopping():  # noqa: ASYNC110 - a caller tells nobody
            await anyio.sleep(_LOOKED_S)
        tasks.cancel_scope.cancel()

    with open_store(store) as kept:
        tell("finding out who answers")
        async with open_task_group() as tasks:
            tasks.start_soon(work)
            tasks.start_soon(watch)
    if report is not None:
        return report
    seen = so_far()
    return replace(seen, observations=(*seen.observations, _STOPPED))


def _for_a_check(endpoint: Endpoint | Server | str | None) -> Endpoint | Server:
    """The endpoint, or how to open it: few retries, and as many in flight as are measured."""
    if endpoint is not None and not isinstance(endpoint, str | Server):
        return endpoint
    server = endpoint if isinstance(endpoint, Server) else Server(endpoint)
    most = max(IN_FLIGHT)
    return replace(
        server,
        transport=TransportSettings(retry=_RETRY, max_in_flight=most, start_in_flight=most),
    )


def _made_up(task: Task | str | os.PathLike[str]) -> Rows:
    """Rows with the task's fields, none like another."""
    fields = (task if isinstance(task, Task) else named_task(task)).template_fields
    made: Iterable[dict[str, str]] = (
        {field: f"This is the {field} of row {number}, made up for a check." for field in fields}
        for number in range(1, MADE_UP_ROWS + 1)
    )
    return rows_from(made)
