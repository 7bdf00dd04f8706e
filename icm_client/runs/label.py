"""`label`: rows, a task and an endpoint in; labels out. The command line calls this and no more."""

import operator
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial, wraps
from typing import ParamSpec, TypeVar

from anyio.from_thread import start_blocking_portal

from icm_client.data import Task
from icm_client.data.constraint_spec import Rules
from icm_client.data.job import Job, Rows
from icm_client.endpoints import Endpoint
from icm_client.errors import IcmError, InputError, ModelChanged
from icm_client.runs.failures import DEFAULT_FAIL_ON_ERROR
from icm_client.runs.label_run import LabelRun, Record
from icm_client.runs.labels_file import Pins, read_pins, read_start
from icm_client.runs.presets import (
    Preset,
    Settings,
    check_start_of,
    check_trainer,
    settings_for,
)
from icm_client.runs.progress import Budget, OnProgress, check_progress
from icm_client.runs.repeat_reads import second_fingerprint
from icm_client.runs.result import Labels
from icm_client.runs.server import Server, open_endpoint
from icm_client.runs.trainer import Trainer
from icm_client.scoring import ScoreStore, open_store

P = ParamSpec("P")
T = TypeVar("T")


async def label(
    rows: Rows,
    *,
    task: Task | str | os.PathLike[str],
    endpoint: Endpoint | Server | str | None = None,
    gold: str | None = None,
    prior: Mapping[str, float] | None = None,
    constraint: Rules | None = None,
    preset: Preset = "fast",
    settings: Settings | None = None,
    start: str | os.PathLike[str] | None = None,
    pins: Pins | None = None,
    trainer: Trainer | None = None,
    seed: int = 0,
    budget: Budget | None = None,
    fail_on_error: float = DEFAULT_FAIL_ON_ERROR,
    skip_bad_rows: bool = False,
    accept_drift: bool = False,
    store: ScoreStore | str | os.PathLike[str] | None = None,
    runs: str | os.PathLike[str] | None = None,
    command: Sequence[str] | None = None,
    fresh: bool = False,
    progress: OnProgress | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> Labels:
    """Find the labels that the model itself finds most coherent.

    The same call again asks the server nothing that it answered before, but for at most
    8 reads that show that it still serves the same model (none where the model's own digest is
    known, as of the embedded server): scores are kept in `store`, and the search is a function of
    rows, task, settings, seed and scores.

    Args:
        rows: a data file's path, a data set that was read, or mappings (or texts, which become
            the field `text`).
        task: a `Task`, the name of a built-in one, or a task file's path.
        endpoint: a server's base URL, a `Server`, an endpoint that is open (and stays so), or None
            for ICM_ENDPOINT, else the embedded llama.cpp server with gemma-3-270m.
        gold: the field with known labels, used for nothing but `Labels.accuracy`; None takes the
            task's own.
        prior: label -> share of the rows, where known; None takes the task's own.
        constraint: which labels may stand together, one rule or several that hold at once; None
            takes the task's own.
        preset: which search: "fast", "paper", "official", "folds" or "iterate".
        settings: of the search, instead of the preset's.
        start: first labels: "random", "balanced", "zero-shot", or a labels file; None leaves them
            to the search.
        pins: labels that a person has checked, as a labels file or by row id: the search keeps
            them, learns from them, and lets them name the classes where the words do not.
        trainer: what trains the models of "folds" and "iterate"; for no other preset.
        seed: of all that is random here.
        budget: what may be spent; the run then ends with the best labels so far.
        fail_on_error: rows that the server refuses, or fails on for good, that end the run: so
            many from 1 on, under 1 that share of the rows. Fewer are left without a label.
        skip_bad_rows: leave rows that cannot be used (broken, empty, too long for the server)
            without a label, in `Labels.failed`; else one such row is a `RowError`, before anything
            is scored.
        accept_drift: where another model answers in mid-run, or than the one whose scores are
            stored, label with that one from the start, instead of ending. Where the server does
            not tell the two apart, the stored scores are dropped. Only where the endpoint is
            opened here.
        store: the score store's file, or one that is open (and stays so, in its thread); None takes
            the user's own.
        runs: the folder in which the run has its own, with its journal; None keeps no record.
        command: what starts the run again from a shell, for that record.
        fresh: start the run's record over; stored scores stay.
        progress: called as the run goes on; be quick, and do not raise.
        stopping: asked before each request; once it says so, what is under way is awaited and
            stored, and `RunStopped` is raised.

    Raises:
        InputError: rows or task cannot be used; nothing has been sent.
        EndpointError: the server cannot be reached, refuses, or does not answer.
        ScoreError: it answers with something that is no score, for too many rows.
        TrainingError: a model cannot be trained.
        StoreError: scores cannot be kept.
        RunError: the run's folder cannot be used.
        RunStopped: `stopping` said so; its `labels` are those found so far. Or the time that
            `budget` gives was used up before there were any.
    """
    check_progress(progress)
    seed = _checked_seed(seed)
    settings = settings_for(preset, settings)
    check_trainer(settings, given=trainer is not None)
    check_start_of(settings, given=start is not None)
    job = Job.prepare(
        rows, task, gold=gold, prior=prior, constraint=constraint, skip_bad_rows=skip_bad_rows
    )
    run = LabelRun(
        job,
        settings,
        first=None if start is None else read_start(start, job),
        pinned=None if pins is None else read_pins(pins, job),
        trainer=trainer,
        seed=seed,
        fail_on_error=fail_on_error,
        budget=budget or Budget(),
        record=Record(runs, command, fresh),
        progress=progress,
        stopping=stopping,
        skip_bad_rows=skip_bad_rows,
    )
    opened_here = endpoint is None or isinstance(endpoint, str | Server)
    with open_store(store) as kept:
        while True:
            try:
                async with open_endpoint(endpoint, run.observe, run.stopping) as server:
                    return await run.over(server, kept)
            except ModelChanged as change:
                if not (accept_drift and opened_here):
                    raise
                if change.stored is not None and not kept.forget(
                    (change.stored, second_fingerprint(change.stored))
                ):
                    raise  # there is nothing to drop: the server answers differently each time
            except IcmError as error:
                ended = run.without_labels(error)
                if ended is None:
                    raise
                raise ended from error


def _checked_seed(seed: int) -> int:
    """The seed as Python's own integer; raises `InputError` where it is none, or below 0."""
    try:
        number = operator.index(seed)
    except TypeError:
        raise InputError(f"the seed must be a whole number, not {seed!r}") from None
    if number < 0:
        raise InputError(f"the seed must be 0 or more, not {number}")
    return number


def _in_own_loop(function: Callable[P, Awaitable[T]], name: str) -> Callable[P, T]:
    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        if isinstance(kwargs.get("store"), ScoreStore):
            raise InputError(
                f"{name} works in a thread of its own, and an open score store stays in the thread "
                "that opened it: give the store's path"
            )
        with start_blocking_portal() as portal:
            return portal.call(partial(function, *args, **kwargs))

    call.__name__ = call.__qualname__ = name  # it is pickled by its name
    return call


label_sync = _in_own_loop(label, "label_sync")
label_sync.__doc__ = """`label` for code that is not async; works in a notebook's running loop too.

It takes the same arguments, and runs in a loop of its own, in another thread, where `progress` is
then called.
"""
