"""`label`: rows, a task and an endpoint in; labels out. The command line calls this and no more."""

import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np
from anyio.from_thread import start_blocking_portal

from icm_client.analysis.diagnosis import diagnose
from icm_client.coherence.sweep import SearchResult
from icm_client.data import LabelledRow, Task
from icm_client.data.constraint_spec import ConstraintSpec
from icm_client.endpoints import Endpoint, Exactness, WireEvent
from icm_client.runs.first_labels import read_start, start_labels
from icm_client.runs.folder import RunFolder
from icm_client.runs.job import Job, Rows
from icm_client.runs.presets import (
    Observed,
    Preset,
    Settings,
    find_labels,
    fit,
    fitted_notice,
    preset_of,
    preset_settings,
)
from icm_client.runs.progress import OnProgress, ProgressMeter
from icm_client.runs.result import Labels
from icm_client.runs.run_description import RunDescription
from icm_client.runs.run_settings import run_settings
from icm_client.runs.search_journal import SearchJournal
from icm_client.runs.server import Server, open_endpoint
from icm_client.scoring import Scorer, ScoreStore, default_path, tokenize_pieces

P = ParamSpec("P")
T = TypeVar("T")


async def label(
    rows: Rows,
    *,
    task: Task | str | os.PathLike[str],
    endpoint: Endpoint | Server | str | None = None,
    gold: str | None = None,
    prior: Mapping[str, float] | None = None,
    constraint: ConstraintSpec | None = None,
    preset: Preset = "fast",
    settings: Settings | None = None,
    start: str | os.PathLike[str] | None = None,
    seed: int = 0,
    store: str | os.PathLike[str] | None = None,
    runs: str | os.PathLike[str] | None = None,
    command: Sequence[str] | None = None,
    fresh: bool = False,
    progress: OnProgress | None = None,
) -> Labels:
    """Find the labels that the model itself finds most coherent.

    The same call again asks the server nothing that it answered before: scores are kept in
    `store`, and the search is a function of rows, task, settings, seed and scores.

    Args:
        rows: a data file's path, a data set that was read, or mappings (or texts, which become
            the field `text`).
        task: a `Task`, the name of a built-in one, or a task file's path.
        endpoint: a server's base URL, a `Server`, an endpoint that is open (and stays so), or None
            for ICM_ENDPOINT, else the embedded llama.cpp server with gemma-3-270m.
        gold: the field with known labels, used for nothing but `Labels.accuracy`; None takes the
            task's own.
        prior: label -> share of the rows, where known; None takes the task's own.
        constraint: which labels may stand together; None takes the task's own.
        preset: which search: "fast", "paper" or "official".
        settings: of the search, instead of the preset's.
        start: first labels: "random", "balanced", "zero-shot", or a labels file; None leaves them
            to the search.
        seed: of all that is random here.
        store: the score store's file; None takes the user's own.
        runs: the folder in which the run has its own, with its journal; None keeps no record.
        command: what starts the run again from a shell, for that record.
        fresh: start the run's record over; stored scores stay.
        progress: called as the run goes on; be quick, and do not raise.

    Raises:
        InputError: rows or task cannot be used; nothing has been sent.
        EndpointError: the server cannot be reached, refuses, or does not answer.
        ScoreError: it answers with something that is no score.
        StoreError: scores cannot be kept.
        RunError: the run's folder cannot be used.
    """
    job = Job.prepare(rows, task, gold=gold, prior=prior, constraint=constraint)
    first = read_start(start, job) if start is not None else None
    asked = settings or preset_settings(preset)
    meter = ProgressMeter(job.labels, progress)
    journal = SearchJournal(job)

    def observe(seen: Observed | WireEvent) -> None:
        meter.observed(seen)
        journal.observed(seen)

    with ScoreStore.open(Path(store) if store is not None else default_path()) as kept:
        async with open_endpoint(endpoint, observe) as server:
            kept.record_server(server.identity)
            meter.connected(server)
            pieces = await tokenize_pieces(
                job.prompts, job.label_texts, job.task.separator, server, kept
            )
            fitted = fit(asked, pieces, server)
            notice = fitted_notice(asked, fitted, len(job.prompts))
            meter.begin(pieces, fitted)
            scorer = Scorer(
                server, kept, pieces, on_progress=lambda now: meter.scored(now, scorer.stats)
            )
            described = RunDescription.of(job, run_settings(asked, first), seed, server.identity)
            with _record(described, runs, command, fresh=fresh) as folder:
                if folder is not None:
                    journal.open(folder.journal, fitted, notice)
                result = await find_labels(
                    job,
                    fitted,
                    scorer,
                    seed=seed,
                    start=None
                    if first is None
                    else await start_labels(first, job, fitted, scorer, seed=seed),
                    observe=observe,
                )
                found = Labels(
                    rows=_labelled(job, result, scorer.exactness),
                    dataset=job.dataset,
                    labels=job.task.labels,
                    preset=preset_of(fitted),
                    utility=result.utility,
                    coherence=result.coherence,
                    findings=diagnose(result, job.labels, job.row_items),
                    notices=(*job.notices, *kept.notices, *([notice] if notice else [])),
                    server=server.identity,
                    history=result.history,
                    steps=result.steps,
                    restart=result.restart,
                    prior_source=result.prior.source,
                    by_confidence=result.by_confidence,
                    cost=meter.cost(),
                    seed=seed,
                    run=folder.path if folder else None,
                )
                if folder is not None:
                    folder.finish(found.summary(), partial(found.write, format="jsonl"))
                return found


def _in_own_loop(function: Callable[P, Awaitable[T]]) -> Callable[P, T]:
    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        with start_blocking_portal() as portal:
            return portal.call(partial(function, *args, **kwargs))

    return call


label_sync = _in_own_loop(label)
label_sync.__doc__ = """`label` for code that is not async; works in a notebook's running loop too.

It takes the same arguments, and runs in a loop of its own, in another thread, where `progress` is
then called.
"""


@contextmanager
def _record(
    described: RunDescription,
    runs: str | os.PathLike[str] | None,
    command: Sequence[str] | None,
    *,
    fresh: bool,
) -> Iterator[RunFolder | None]:
    """The run's folder while it is worked on, or None where no record is wanted."""
    if runs is None:
        yield None
        return
    with RunFolder.open(described, base=Path(runs), command=command, fresh=fresh) as folder:
        yield folder


def _labelled(
    job: Job, result: SearchResult, exactness: Mapping[int, Exactness]
) -> tuple[LabelledRow, ...]:
    """Translate items and label numbers back into rows and words."""
    own = job.row_items
    log_probs = dict(zip(job.labels, result.log_probs[own].T.tolist(), strict=True))
    return tuple(
        LabelledRow(
            row=row,
            label=job.labels[number],
            confidence=float(np.exp(log_probs[job.labels[number]][r])),
            log_probs={word: log_probs[word][r] for word in job.task.labels},
            exactness=exactness[item].value,
        )
        for r, (row, number, item) in enumerate(
            zip(job.dataset.rows, result.labels[own], own.tolist(), strict=True)
        )
    )
