"""One run over one open server: from a job to labels, with a record where one is wanted."""

import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from icm_client.coherence.confidence import confidences
from icm_client.coherence.initial_labels import Start
from icm_client.coherence.problem import UNLABELLED, FloatArray, IntArray, Score
from icm_client.coherence.result import Observed, SearchResult, SweepRecord, Watch
from icm_client.data import LabelledRow
from icm_client.data.job import Job
from icm_client.data.rows import only
from icm_client.endpoints import Endpoint, Exactness, NoticingEndpoint, Waiting, WireEvent
from icm_client.errors import IcmError, InputError, Retry, RunError, RunStopped
from icm_client.record.archive import read_run
from icm_client.record.description import RunDescription
from icm_client.record.folder import REPORT, RunFolder
from icm_client.report.report import write_report
from icm_client.runs.failures import FailureBudget, labelled_rows
from icm_client.runs.fold_training import FoldTraining
from icm_client.runs.labels_file import start_labels
from icm_client.runs.presets import (
    Settings,
    TrainingEvent,
    find_labels,
    fitted_job,
    fitted_notice,
    preset_of,
    run_settings,
)
from icm_client.runs.progress import Budget, BudgetMeter, OnProgress, ProgressMeter, SearchJournal
from icm_client.runs.repeat_reads import read_again
from icm_client.runs.result import Labels, StartEnd
from icm_client.runs.so_far import search_so_far
from icm_client.runs.trainer import Trainer
from icm_client.scoring import Scorer, ScoreStore
from icm_client.verdict.diagnosis import Evidence, diagnose
from icm_client.verdict.findings import verdict_of
from icm_client.verdict.search_findings import agreement_matrix

INTERRUPTED: Final = "an interruption"
"""`Labels.stopped` of a run that was told to stop."""

_LOG = logging.getLogger("icm_client")


@dataclass(frozen=True, slots=True)
class Record:
    """Where a run's record is kept.

    Attributes:
        runs: the folder of all runs; None keeps no record.
        command: what starts the run again from a shell.
        fresh: start the record over.
    """

    runs: str | os.PathLike[str] | None = None
    command: Sequence[str] | None = None
    fresh: bool = False


class LabelRun:
    """A run, with those who hear of it; it may be taken to another server if the first one changes.

    Args:
        job: rows and task.
        settings: of the search, before they are fitted to the server.
        first: first labels, or their kind; None leaves them to the search.
        pinned: labels that the search keeps, shape `[N]`, `UNLABELLED` where an item is free.
        trainer: what trains the models of a search that trains any.
        seed: of all that is random.
        fail_on_error: rows without a score that end the run: a count, or a share under 1.
        budget: what may be spent.
        record: where the run is written down.
        progress: called as it goes on.
        stopping: asked before a request is begun; once it says so, the run ends with `RunStopped`.
        skip_bad_rows: leave rows without a label that the server's tokenizer or context refuses.
    """

    def __init__(
        self,
        job: Job,
        settings: Settings,
        *,
        first: Start | IntArray | None,
        pinned: IntArray | None = None,
        trainer: Trainer | None,
        seed: int,
        fail_on_error: float,
        budget: Budget,
        record: Record,
        progress: OnProgress | None,
        stopping: Callable[[], bool],
        skip_bad_rows: bool = False,
    ) -> None:
        self._job, self._settings, self._first, self._seed = job, settings, first, seed
        self._trainer, self._pinned = trainer, pinned
        self._fail_on_error, self._record, self._stopping = fail_on_error, record, stopping
        self._skip_bad_rows = skip_bad_rows
        self._meter = ProgressMeter(job.labels, progress)
        self._limit = BudgetMeter(budget, self._meter.cost)
        self._journal = SearchJournal(job)
        self._seen: list[Observed] = []

    def observe(self, seen: Observed | WireEvent | TrainingEvent) -> None:
        """Hear from the search, from its trainings, and from the wire."""
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

    def stopping(self) -> bool:
        """Whether no further request is to be begun: it was told to stop, or is out of time.

        A search that trains models is broken off only when told to: what they were asked cannot be
        replayed, so there would be no labels.
        """
        return self._stopping() or (self._trainer is None and self._limit.out_of_time())

    def without_labels(self, error: IcmError) -> RunStopped | None:
        """What to say instead of `error` where the run ended for want of time; None elsewhere."""
        heals = isinstance(error, RunStopped) or error.retry is not Retry.NEVER
        if self._stopping() or not heals or not self.stopping():
            return None
        return RunStopped(
            f"{self._limit.spent} passed before the search had labels: leave it more time",
            goes_on=error.goes_on,
        )

    async def over(self, server: Endpoint, store: ScoreStore) -> Labels:
        """Run to the end, or to a limit.

        Raises:
            RunStopped: it was to stop, with the labels of the last whole sweep or step; or it was
                out of time, and there were none.
            IcmError: as `icm_client.label`.
        """
        job = self._job
        store.record_server(server.identity)
        self._meter.connected(server)
        pieces, fitted, unusable = await fitted_job(
            job, self._settings, server, store, skip_bad_rows=self._skip_bad_rows
        )
        notice = fitted_notice(self._settings, fitted, len(job.prompts) - len(unusable))
        self._meter.begin(pieces, fitted)
        failures = FailureBudget(job, fitted, self._fail_on_error, unusable)
        scorer = Scorer(
            server,
            store,
            pieces,
            on_progress=lambda now: self._meter.scored(now, scorer.stats),
            on_failed=failures.hear,
            stopping=self.stopping,
            unusable=unusable,
        )
        train = None
        if self._trainer is not None:
            train = FoldTraining(
                job,
                self._trainer,
                store,
                scorer,
                seed=self._seed,
                observe=self.observe,
                opened=self._meter.opened,
                on_progress=lambda now: self._meter.scored(now, scorer.stats),
                on_failed=failures.hear,
                stopping=self.stopping,
            )
        with self._folder(server) as folder:
            broken_off: RunStopped | None = None
            with self._journal.into(folder.journal if folder else None, fitted, notice):
                try:
                    result = await failures.searched(
                        partial(self._search, fitted, scorer, train), scorer
                    )
                except RunStopped as stopped:
                    stored = Scorer(
                        server,
                        store,
                        pieces,
                        drift=scorer.drift,
                        unusable=unusable,
                        stopping=lambda: True,
                    )
                    so_far = await self._so_far(fitted, stored, train, failures.left_out)
                    if so_far is None:
                        raise
                    result, broken_off = replace(so_far, stopped=True), stopped
            repeated = None
            if result.last_asked and not result.stopped:  # a limit is not passed for this
                try:
                    repeated = await read_again(
                        [
                            asked
                            for asked in result.last_asked
                            if result.labels[asked.target] != UNLABELLED
                        ],
                        server,
                        store,
                        pieces,
                        drift=scorer.drift,
                        stats=scorer.stats,
                        on_progress=lambda now: self._meter.scored(now, scorer.stats),
                        stopping=self.stopping,
                    )
                except RunStopped as stopped:  # the last thing that was to be asked
                    broken_off = stopped
            rows = labelled_rows(job, result)
            evidence = replace(
                _evidence(job, repeated, self._pinned), interrupted=broken_off is not None
            )
            findings = diagnose(result, job.labels, evidence)
            interrupted = broken_off is not None and self._stopping()
            believed = verdict_of(findings) != "do not trust"
            found = Labels(
                rows=_labelled(
                    job, result, scorer.exactness, rows, self._pinned, believed=believed
                ),
                dataset=only(job.dataset, rows),
                labels=job.task.labels,
                preset=preset_of(fitted),
                utility=result.utility,
                coherence=result.coherence,
                findings=findings,
                notices=(
                    *job.notices,
                    *store.notices,
                    *(server.notices if isinstance(server, NoticingEndpoint) else ()),
                    *([notice] if notice else []),
                ),
                failed=failures.without_label(result),
                stopped=INTERRUPTED
                if interrupted
                else self._limit.spent
                if result.stopped or broken_off is not None
                else None,
                server=server.identity,
                history=result.history,
                steps=result.steps,
                restart=result.restart,
                starts=_starts(result, len(job.labels)),
                label_mass=_label_mass(result, job.row_items[list(rows)]),
                prior_source=result.prior.source,
                share_intervals=_share_intervals(result, job.labels),
                by_confidence=result.by_confidence,
                cost=self._meter.cost(),
                seed=self._seed,
                run=folder.path if folder else None,
            )
            if folder is not None:
                try:
                    folder.finish(found.summary(), partial(found.write, format="jsonl"))
                except (RunError, InputError) as error:  # the labels stand without it
                    notice = f"the run has no record: {error}".rstrip(".")
                    found = replace(found, run=None, notices=(*found.notices, notice))
        if found.run is not None:
            # The labels stand without it, and `icm-client report` says what is in the way.
            with suppress(RunError):
                write_report(read_run(found.run.name, found.run.parent), found.run / REPORT)
        if interrupted:
            raise RunStopped(str(broken_off), labels=found) from broken_off
        return found

    @contextmanager
    def _folder(self, server: Endpoint) -> Iterator[RunFolder | None]:
        """The run's folder while it is worked on, or None where no record is wanted."""
        record = self._record
        if record.runs is None:
            yield None
            return
        settings = run_settings(self._settings, self._first, self._trainer, self._pinned)
        described = RunDescription.of(self._job, settings, self._seed, server.identity)
        with RunFolder.open(
            described, base=Path(record.runs), command=record.command, fresh=record.fresh
        ) as folder:
            yield folder

    async def _search(
        self,
        fitted: Settings,
        scorer: Scorer,
        train: FoldTraining | None,
        left_out: Collection[int],
    ) -> SearchResult:
        """Search among the items that can be scored."""
        self._seen = []

        def observe(seen: Observed) -> None:
            self._seen.append(seen)
            self.observe(seen)

        return await self._searched(
            fitted, train, left_out, scorer, scorer, watch=Watch(observe, self._limit)
        )

    async def _so_far(
        self,
        fitted: Settings,
        stored: Scorer,
        train: FoldTraining | None,
        left_out: Collection[int],
    ) -> SearchResult | None:
        """Where the interrupted search stood, without a request; None where it had no labels."""
        left_out = tuple(sorted(left_out))

        async def again(score: Score, watch: Watch) -> SearchResult:
            return await self._searched(fitted, train, left_out, stored, score, watch=watch)

        return await search_so_far(again, stored, self._seen)

    async def _searched(
        self,
        fitted: Settings,
        train: FoldTraining | None,
        left_out: Collection[int],
        scorer: Scorer,
        score: Score,
        *,
        watch: Watch,
    ) -> SearchResult:
        start = None
        if self._first is not None:
            start = await start_labels(self._first, self._job, fitted, scorer, seed=self._seed)
        problem = self._job.problem(start=start, pinned=self._pinned, left_out=left_out)
        return await find_labels(problem, fitted, score, train, seed=self._seed, watch=watch)


def _evidence(job: Job, repeated: FloatArray | None, pinned: IntArray | None) -> Evidence:
    """What a diagnosis may look at: rows and task, no gold."""
    shown = job.task.exchange or job.task.template_fields
    texts = [tuple(f"{row.fields[name]}" for name in shown) for row in job.dataset.rows]
    if job.task.exchange is None:
        texts = [("\n".join(text),) for text in texts]
    return Evidence(job.row_items, texts, job.constraint, job.prior, repeated, pinned)


def _starts(result: SearchResult, n_labels: int) -> tuple[StartEnd, ...]:
    """Where each start ended, and how far it agrees with all."""
    alike = agreement_matrix([end.labels for end in result.restarts], n_labels)
    return tuple(
        StartEnd(end.utility, end.coherence, tuple(agreeing))
        for end, agreeing in zip(result.restarts, alike.tolist(), strict=True)
    )


def _share_intervals(
    result: SearchResult, labels: tuple[str, ...]
) -> dict[str, tuple[float, float]]:
    if result.prior.interval is None:
        return {}
    low, high = result.prior.interval
    return dict(zip(labels, ((low, high), (1 - high, 1 - low)), strict=True))


def _label_mass(result: SearchResult, items: IntArray) -> float | None:
    """The mean over labelled rows; None where no search says it."""
    if result.label_mass is None or not len(items):
        return None
    mass = float(np.nanmean(result.label_mass[items]))
    return None if np.isnan(mass) else mass


def _labelled(
    job: Job,
    result: SearchResult,
    exactness: Mapping[int, Exactness],
    rows: Sequence[int],
    pinned: IntArray | None,
    *,
    believed: bool,
) -> tuple[LabelledRow, ...]:
    """Translate items and label numbers back into rows and words.

    Where labels are not believed, how likely each is right cannot be estimated: no row has a
    confidence.
    """
    own = job.row_items.tolist()
    log_probs = dict(zip(job.labels, result.log_probs.T.tolist(), strict=True))
    held = result.labels.tolist()
    confidence: list[float | None] = [None] * len(held)
    if believed:
        confidence = confidences(result.log_probs, result.labels).tolist()
    return tuple(
        LabelledRow(
            row=job.dataset.rows[row],
            label=job.labels[held[own[row]]],
            confidence=confidence[own[row]],
            log_probs={word: log_probs[word][own[row]] for word in job.task.labels},
            exactness=exactness[own[row]].value,
            pinned=pinned is not None and bool(pinned[own[row]] == result.labels[own[row]]),
        )
        for row in rows
    )
