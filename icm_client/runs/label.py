"""A run, from rows, a task and an endpoint to labels: `label`, and `label_prepared`.

    read and check all that the request names (`LabelRequest.prepared`)
    until the run is through (where another model answers, `accept_drift` begins again):
        connect; tokenize the rows, and fit the demos to the server's context
        search; start again without a row that cannot be scored and spoils what is built on it
        where the search is interrupted: replay it from the store, to where it stood
        make a few reads a second time: by how much do the server's answers vary?
        diagnose; labels, log-probs and findings become `Labels`
        write them into the run's folder, and the report

The functions below are in this order.
"""

import inspect
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing, nullcontext, suppress
from dataclasses import replace
from functools import partial, wraps
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from anyio.from_thread import start_blocking_portal

from icm_client.coherence.problem import UNLABELLED
from icm_client.coherence.result import Observed, SweepRecord, Watch
from icm_client.data import Task
from icm_client.data.constraint_spec import Rules
from icm_client.data.job import Rows
from icm_client.data.rows import only
from icm_client.endpoints import Endpoint, NoticingEndpoint, Waiting, WireEvent
from icm_client.errors import IcmError, InputError, ModelChanged, Retry, RunError, RunStopped
from icm_client.record.archive import read_folder
from icm_client.record.description import RunDescription
from icm_client.record.folder import RunFolder
from icm_client.record.layout import REPORT
from icm_client.report.report import write_report
from icm_client.runs.fold_training import FoldTraining
from icm_client.runs.frozen import PREDICTOR
from icm_client.runs.labels_file import Pins
from icm_client.runs.predictor import Predictor
from icm_client.runs.presets import (
    Preset,
    Settings,
    TrainingEvent,
    fitted_job,
    preset_of,
    run_settings,
)
from icm_client.runs.progress import (
    Budget,
    BudgetMeter,
    OnProgress,
    ProgressMeter,
    SearchJournal,
)
from icm_client.runs.repeat_reads import read_again, second_fingerprint
from icm_client.runs.request import SEARCH_ROWS, LabelRequest, PreparedRun
from icm_client.runs.result import Labels, labels_found
from icm_client.runs.row_lengths import cut_notice
from icm_client.runs.search import (
    DEFAULT_FAIL_ON_ERROR,
    FailureBudget,
    find_labels,
    search_or_replay,
    stored_scores,
)
from icm_client.runs.server import Server, open_endpoint
from icm_client.runs.trainer import Trainer
from icm_client.scoring import Scorer, ScorerStats, ScoreStore, ScoringProgress, open_store

INTERRUPTED: Final = "an interruption"
"""`Labels.stopped` of a run that was stopped by its caller."""

P = ParamSpec("P")
T = TypeVar("T")

_LOG = logging.getLogger("icm_client")


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
    unlike: Sequence[str | os.PathLike[str]] = (),
    easy: str | os.PathLike[str] | None = None,
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
    search_rows: int = SEARCH_ROWS,
    limit: int | None = None,
    max_row_tokens: int | None = None,
    truncate: bool = False,
    progress: OnProgress | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> Labels:
    """Find the labels that the model itself finds most coherent.

    The same call again asks the server nothing that it answered before, but for at most
    8 reads that show that it still serves the same model (none where the model's own digest is
    known, as of the embedded server): scores are kept in `store`, and the search is a function of
    rows, task, settings, seed and scores.

    Args:
        rows: a data file's path, a data set that was read, mappings (or texts, which become the
            field `text`), or a table of pandas, polars, pyarrow, DuckDB or `datasets`.
        task: a `Task`, the name of a built-in one, or a task file's path.
        endpoint: a server's base URL, a `Server`, an endpoint that is open (and stays so), or None
            for ICM_ENDPOINT, else the embedded llama.cpp server with gemma-3-270m.
        gold: the field with known labels, used for nothing but `Labels.accuracy`; None takes the
            task's own.
        prior: label -> share of the rows, where known; None takes the task's own.
        constraint: which labels may stand together, one rule or several that hold at once; None
            takes the task's own.
        preset: which search: "fast", "paper", "official", "folds", "iterate", or one of the simpler
            methods "zero-shot", "zero-shot-calibrated", "random" and "bootstrap".
        settings: of the search, instead of the preset's.
        start: first labels: "random", "balanced", "zero-shot", or a labels file; None leaves them
            to the search.
        pins: labels that a person has checked, as a labels file or by row id, or several of these,
            of which the last that names a row counts: the search keeps them, learns from them, and
            lets them name the classes where the words do not.
        unlike: folders of runs over these rows, or labels files: find another concept, labels that
            are coherent and independent of all of these. Their label words may be others.
        easy: a file of further rows whose labels are known, with the field that holds them, such as
            "easy.jsonl:label": they say which concept is meant. They are searched with the others
            as pinned rows, and are not among those returned.
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
            not distinguish the two, the stored scores are dropped. Only where the endpoint is
            opened here.
        store: the score store's file, or one that is open (and stays so, in its thread); None takes
            the user's own.
        runs: the folder in which the run has its own, with its journal; None keeps no record.
        command: what starts the run again from a shell, for that record.
        fresh: start the run's record over; stored scores stay.
        search_rows: the most rows that are searched. Of more, so many are drawn (by the seed,
            related rows together), and the others are predicted from their labels, one read each;
            "folds" and "iterate" search all.
        limit: label a sample of so many rows alone, the same ones each time, related rows together;
            None labels all.
        max_row_tokens: the most tokens that a row's own prompt may take; a row that takes more is
            one that cannot be used (`skip_bad_rows`).
        truncate: cut such rows to `max_row_tokens` instead, their longest text from its end;
            `LabelledRow.cut_tokens` says which.
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
    prepared = LabelRequest(
        rows,
        task,
        gold=gold,
        prior=prior,
        constraint=constraint,
        preset=preset,
        settings=settings,
        start=start,
        pins=pins,
        unlike=unlike,
        easy=easy,
        trainer=trainer,
        seed=seed,
        budget=budget,
        fail_on_error=fail_on_error,
        skip_bad_rows=skip_bad_rows,
        accept_drift=accept_drift,
        runs=runs,
        command=command,
        fresh=fresh,
        search_rows=search_rows,
        limit=limit,
        max_row_tokens=max_row_tokens,
        truncate=truncate,
    ).prepared()
    with open_store(store) as kept:
        return await label_prepared(
            prepared, endpoint=endpoint, store=kept, progress=progress, stopping=stopping
        )


async def label_prepared(
    prepared: PreparedRun,
    *,
    endpoint: Endpoint | Server | str | None,
    store: ScoreStore,
    progress: OnProgress | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> Labels:
    """Find the labels that are asked for; arguments and errors are those of `label`."""
    if inspect.iscoroutinefunction(progress):
        raise InputError(
            "progress must be a plain function: it is called, not awaited. The jobs of "
            "icm_client.Client have an async iterator instead: async for moment in job.progress()"
        )
    run = _Run(prepared, progress, stopping)
    opened_here = endpoint is None or isinstance(endpoint, str | Server)
    while True:
        try:
            async with open_endpoint(endpoint, run.observe, run.stopping) as server:
                return await run.over(server, store)
        except ModelChanged as change:
            if not (prepared.request.accept_drift and opened_here):
                raise
            if change.stored is not None and not store.forget(
                (change.stored, second_fingerprint(change.stored))
            ):
                raise  # there is nothing to drop: the server answers differently each time
        except IcmError as error:
            ended = run.without_labels(error)
            if ended is None:
                raise
            raise ended from error


class _Run:
    """A run and those who follow it; taken to another server where the first one changes."""

    def __init__(
        self, prepared: PreparedRun, progress: OnProgress | None, stopping: Callable[[], bool]
    ) -> None:
        self._prepared = prepared
        self._caller_stops = stopping
        self._meter = ProgressMeter(prepared.job.labels, progress)
        self._limit = BudgetMeter(prepared.request.budget or Budget(), self._meter.cost)
        self._journal = SearchJournal(
            prepared.job, prepared.searched, len(prepared.whole.dataset.rows), self._meter
        )

    def observe(self, seen: Observed | WireEvent | TrainingEvent) -> None:
        """Log and report what the search, its trainings and the wire report."""
        if isinstance(seen, Waiting):
            _LOG.warning("waiting %.1f s: %s", seen.seconds, seen.reason)
        elif isinstance(seen, SweepRecord):
            _LOG.info(
                "start %d, sweep %d: U %+.3f nats an item, %d labels moved",
                seen.restart + 1,
                seen.sweep + 1,
                seen.utility,
                seen.moved,
            )
        self._meter.observed(seen)
        self._journal.observed(seen)

    def scored(self, progress: ScoringProgress) -> None:
        """Report how far the scorer is."""
        self._meter.scored(progress)
        self._journal.scored()

    def stopping(self) -> bool:
        """Whether no further request is to be begun: the caller stops the run, or its time is over.

        A search that trains models is broken off by its caller only: what a trained model answered
        cannot be replayed, so there would be no labels.
        """
        return self._caller_stops() or (
            self._prepared.request.trainer is None and self._limit.out_of_time()
        )

    def without_labels(self, error: IcmError) -> RunStopped | None:
        """What to raise instead of `error` where the run ended for want of time; else None."""
        heals = isinstance(error, RunStopped) or error.retry is not Retry.NEVER
        if self._caller_stops() or not heals or not self.stopping():
            return None
        return RunStopped(
            f"{self._limit.spent} passed before the search had labels: leave it more time",
            goes_on=error.goes_on,
        )

    async def over(self, server: Endpoint, store: ScoreStore) -> Labels:
        """Label with this server, to the end or to a limit; errors are those of `label`."""
        prepared, meter = self._prepared, self._meter
        request, job = prepared.request, prepared.job
        store.record_server(server.identity)
        meter.connected(server)
        within = await prepared.within_limit(server, store)
        job = within.job
        pieces, settings, unusable, notice = await fitted_job(
            job,
            prepared.settings,
            server,
            store,
            skip_bad_rows=request.skip_bad_rows,
            too_long=within.too_long,
        )
        failures = FailureBudget(job, settings, request.fail_on_error, unusable)
        scorer = Scorer(
            server,
            store,
            pieces,
            on_progress=self.scored,
            on_failed=failures.failed,
            stopping=self.stopping,
            unusable=unusable,
        )
        meter.begin(pieces, settings, scorer.stats)
        train = None
        if request.trainer is not None:
            train = FoldTraining(
                job,
                request.trainer,
                store,
                scorer,
                seed=request.seed,
                observe=self.observe,
                opened=meter.opened,
                on_progress=self.scored,
                on_failed=failures.failed,
                stopping=self.stopping,
            )
        with (
            self._folder(server) as folder,
            self._journal.into(folder.journal if folder else None, settings, notice),
        ):
            result, stopped = await search_or_replay(
                lambda score, watch: find_labels(
                    job,
                    settings,
                    score,
                    train,
                    seed=request.seed,
                    first=prepared.first,
                    pinned=prepared.pinned,
                    unlike=prepared.unlike,
                    left_out=failures.left_out,
                    watch=watch,
                ),
                scorer,
                stored_scores(server, store, pieces, unusable),
                failures,
                Watch(self.observe, self._limit),
            )
            repeated = None
            if result.last_asked and not result.stopped:  # a limit is not passed for this
                labelled = [q for q in result.last_asked if result.labels[q.target] != UNLABELLED]
                try:
                    repeated = await read_again(
                        labelled,
                        server,
                        store,
                        pieces,
                        scorer,
                        on_progress=self.scored,
                        stopping=self.stopping,
                    )
                except RunStopped as late:  # these were the last reads of all
                    stopped = late
            found = labels_found(
                job,
                result,
                repeated=repeated,
                interrupted=stopped is not None,
                exactness=scorer.exactness,
                pinned=prepared.pinned,
                preset=preset_of(settings),
                warnings=(*prepared.whole.warnings, *within.warnings),
                notices=(
                    *prepared.whole.notices,
                    *store.notices,
                    *(server.notices if isinstance(server, NoticingEndpoint) else ()),
                    *([notice] if notice else []),
                ),
                row_limit=request.row_limit,
                cut=within.cut,
                failed=failures.without_label(result.labels),
                stopped=self._why(stopped) if result.stopped or stopped else None,
                server=server.identity,
                cost=meter.cost(),
                seed=request.seed,
                run=folder.path if folder else None,
            )
            if stopped is None:
                found, stopped = await self._with_the_rest(found, server, store, scorer.stats)
            found = found.without(prepared.easy)
            if (cut := cut_notice(found.cut, len(found.rows), request.row_limit)) is not None:
                found = replace(found, notices=(*found.notices, cut))
            if folder is not None:
                try:
                    folder.finish(found.summary(), partial(found.write, format="jsonl"))
                except (RunError, InputError) as error:  # the labels stand without it
                    lost = f"the run has no record: {error}".rstrip(".")
                    found = replace(found, run=None, warnings=(*found.warnings, lost))
        if found.run is not None:
            # The labels stand without it, and `icm-client report` says what is in the way.
            with suppress(RunError):
                write_report(read_folder(found.run), found.run / REPORT)
        if stopped is not None and self._caller_stops():
            raise RunStopped(str(stopped), labels=found) from stopped
        return found

    def _folder(self, server: Endpoint) -> AbstractContextManager[RunFolder | None]:
        """The run's folder while it is worked on; None where no record is wanted."""
        prepared, request = self._prepared, self._prepared.request
        if request.runs is None:
            return nullcontext()
        described = run_settings(
            prepared.settings, prepared.first, request.trainer, prepared.pinned, prepared.unlike
        )
        described |= request.row_limit.settings
        if prepared.searched is not None:
            described["search_rows"] = request.search_rows
        return RunFolder.open(
            RunDescription.of(
                prepared.whole, described, request.seed, server.identity, prepared.part
            ),
            base=Path(request.runs),
            command=request.command,
            fresh=request.fresh,
        )

    def _why(self, stopped: RunStopped | None) -> str | None:
        """What ended the run early: its caller, or a limit."""
        return INTERRUPTED if stopped is not None and self._caller_stops() else self._limit.spent

    async def _with_the_rest(
        self, found: Labels, server: Endpoint, store: ScoreStore, stats: ScorerStats
    ) -> tuple[Labels, RunStopped | None]:
        """Predict the rows that were not searched, as far as that goes before it is to stop."""
        prepared, request = self._prepared, self._prepared.request
        if prepared.searched is None or found.stopped is not None:
            return found, None
        whole, rest = prepared.whole.dataset, prepared.rest
        rows, failed = list(found.rows), list(found.failed)
        stopped, findings = None, found.findings
        if len({row.label for row in rows}) < 2:  # noqa: PLR2004
            why = "the rows that were searched all have one label, and nothing follows from that"
            failed += [row.failed(why) for row in rest.rows]
        else:
            predictor = Predictor.of(found)
            try:
                prediction = await predictor.begin(
                    server,
                    store,
                    stats=stats,
                    on_progress=self.scored,
                    stopping=self.stopping,
                    skip_bad_rows=request.skip_bad_rows,
                    fail_on_error=request.fail_on_error,
                )
                async with aclosing(prediction.batches(rest)) as batches:
                    async for batch in batches:
                        rows += batch.rows
                        failed += batch.failed
                        findings = prediction.findings
            except RunStopped as late:
                stopped = late
        place = {row.id: number for number, row in enumerate(whole.rows)}
        rows.sort(key=lambda one: place[one.row.id])
        searched = f"{len(found.rows):,} of {len(whole.rows):,} rows were searched"
        found = replace(
            found,
            rows=tuple(rows),
            dataset=only(whole, [place[one.row.id] for one in rows]),
            predicted=len(rows) - len(found.rows),
            findings=findings,
            share_intervals={},  # they were of the rows that were searched
            notices=(*found.notices, f"{searched}, the others predicted from their labels"),
            failed=tuple(sorted(failed, key=lambda row: row.number)),
            stopped=None if stopped is None else self._why(stopped),
            cost=self._meter.cost(),
        )
        if found.predicted and found.run is not None:
            # The run's labels are all of these now, and its contexts stay those of the searched.
            with suppress(RunError):
                digest = Predictor.of(found).found.digest
                replace(prediction.frozen, found=digest).save(found.run / PREDICTOR)
        return found, stopped


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
