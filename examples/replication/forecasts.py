"""What a search would take, told before it is begun."""

import math
from dataclasses import replace
from pathlib import Path
from secrets import randbelow
from tempfile import TemporaryDirectory
from typing import Final

from lab import Lab

from icm_client.coherence.anneal import AnnealSettings
from icm_client.coherence.settings import SweepSettings
from icm_client.data.constraint_spec import ConstraintSpec
from icm_client.data.job import Job
from icm_client.endpoints import Endpoint
from icm_client.runs.label import label
from icm_client.runs.progress import Cost, Progress
from icm_client.runs.run_cost import RunCost, forecast_job

PILOT_STEPS: Final = 20
PASSES_A_STEP: Final = 3
"""Where a rule binds the rows: two ways out of a contradiction are tried, and then the labels."""


async def forecast_search(lab: Lab, job: Job, endpoint: Endpoint) -> RunCost:
    """Return what one search over these rows takes: what the first steps suggest, and the most.

    For sweeps both are reckoned from a short probe. What Algorithm 1 takes depends on the steps
    that it accepts, so it is tried: a few steps, carried on to all of them, are the first figure.
    The second is a bound. After `n` steps at most `K + n` rows are labelled, and a step reads one
    leave-one-out pass over them, `PASSES_A_STEP` where a rule binds the rows; one pass over all
    rows is measured.

    Raises:
        IcmError: as `icm_client.label`.
    """
    settings = lab.settings
    if isinstance(settings, SweepSettings):
        return await forecast_job(job, endpoint, settings, store=lab.store)
    tried = max(2, min(PILOT_STEPS, settings.iterations // 10))
    free = Job.prepare(job.dataset, job.task, constraint=ConstraintSpec(kind="none"))
    everything = replace(settings, initial=len(job.items), iterations=0)
    one_pass = (await _measured(free, everything, endpoint))[-1]
    pilot = await _measured(job, replace(settings, iterations=tried), endpoint)
    passes = _passes(settings, len(job.items)) * (PASSES_A_STEP if job.constraint.groups else 1)
    left = max(settings.iterations - tried, 0)

    def likely_and_most(figure: str) -> tuple[float, float]:
        first, last, end = (getattr(cost, figure) for cost in pilot)
        likely = end + (last - first) / (tried - 1) * left
        return likely, max(likely, end + getattr(one_pass, figure) * passes)

    requests, tokens, seconds = map(likely_and_most, ("requests", "computed_tokens", "seconds"))
    return RunCost(
        rows=len(job.dataset.rows),
        requests=(round(requests[0]), round(requests[1])),
        tokens=(round(tokens[0]), round(tokens[1])),
        minutes=(seconds[0] / 60, seconds[1] / 60),
    )


async def _measured(
    job: Job, settings: AnnealSettings, endpoint: Endpoint
) -> tuple[Cost, Cost, Cost]:
    """What a search has taken after its first step, after its last one, and at its end.

    It finds nothing stored, and its order of the rows is one that no prefix cache has seen.
    """
    after: list[Cost] = []
    told: list[object] = [None]

    def hear(moment: Progress) -> None:
        if moment.last is not told[-1]:
            told.append(moment.last)
            after.append(moment.cost)

    with TemporaryDirectory() as folder:
        found = await label(
            job.dataset,
            task=job.task,
            endpoint=endpoint,
            settings=settings,
            seed=randbelow(2**31),
            store=Path(folder) / "scores.sqlite3",
            progress=hear,
        )
    steps = after or [found.cost]
    return steps[0], steps[-1], found.cost


def _passes(settings: AnnealSettings, n_items: int) -> float:
    """How many passes over all items the steps' passes over the labelled ones come to, at most.

    A pass over `m` rows, laid out as a tree, computes about `m log2(m)` of them.
    """
    in_batch = min(n_items, settings.batch or n_items)
    whole = in_batch * math.log2(in_batch)
    labelled = (min(in_batch, settings.initial + n) for n in range(1, settings.iterations + 1))
    return sum(m * math.log2(m) for m in labelled) / whole


def times(cost: RunCost, runs: int) -> RunCost:
    """The same for so many runs."""
    return RunCost(
        rows=cost.rows,
        requests=(cost.requests[0] * runs, cost.requests[1] * runs),
        tokens=(cost.tokens[0] * runs, cost.tokens[1] * runs),
        minutes=None if cost.minutes is None else (cost.minutes[0] * runs, cost.minutes[1] * runs),
    )


def told(cost: RunCost, runs: int) -> str:
    """A forecast for so many runs, for people."""
    return f"Forecast for all {runs} searches together. {times(cost, runs).sentence()}"
