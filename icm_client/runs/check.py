"""`check`: ask a server what it does, before a run depends on it."""

import os
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from icm_client.coherence.settings import SweepSettings
from icm_client.data import Task, rows_from
from icm_client.endpoints import Endpoint, RetryPolicy, TransportSettings
from icm_client.endpoints.probe import Observation, Verdict, failed
from icm_client.errors import EndpointError
from icm_client.runs.check_probes import IN_FLIGHT, OnStep, Probing
from icm_client.runs.job import Job, Rows, named_task
from icm_client.runs.run_cost import RunCost
from icm_client.runs.server import Server, open_endpoint
from icm_client.scoring import open_store

MADE_UP_ROWS: Final = 64
"""Rows that are made up where none are given: enough for a context and something behind it."""

# A check that hangs tells less than one that fails.
_RETRY: Final = RetryPolicy(attempts=3, attempt_timeout_s=60.0, item_timeout_s=120.0)


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
) -> CheckReport:
    """Find out whether a labelling run can work, and what it would cost.

    About 250 short requests and a dozen long ones; each part is cut off after a few seconds. A
    part that fails is an observation, and the others are made all the same.

    Args:
        task: as for `icm_client.label`.
        rows: as for `icm_client.label`; None makes some up.
        run_rows: rows of the run whose cost is told; None takes as many as `rows` has.
        endpoint: as for `icm_client.label`; retries and requests in flight are the check's own.
        settings: of the run.
        store: where token ids are kept; None takes the user's own.
        seed: of the prompts; None draws new ones each time, which no cache has seen.
        step: told what is being done.

    Raises:
        InputError: rows or task cannot be used; nothing has been sent.
        StoreError: token ids cannot be kept.
    """
    job = Job.prepare(_made_up(task) if rows is None else rows, task)
    tell = step or (lambda _: None)
    async with AsyncExitStack() as closing:
        kept = closing.enter_context(open_store(store))
        tell("finding out who answers")
        try:
            server = await closing.enter_async_context(open_endpoint(_for_a_check(endpoint)))
        except EndpointError as error:
            return CheckReport((failed("server", error, fatal=True),), None, 0, 0)
        checking = Probing(job, server, kept, np.random.default_rng(seed), tell)
        await checking.ask(settings or SweepSettings())
        cost = checking.run_cost(run_rows or len(job.prompts))
        usage = server.usage
        return CheckReport(
            tuple(checking.observations), cost, usage.requests, usage.computed_tokens
        )


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
