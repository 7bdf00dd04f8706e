"""Label new rows with what a run has found: `Predictor`.

    predictor = labels.predictor()                  # or Predictor.load("runs/reviews-0123456789")
    async for row in predictor.label(rows, endpoint=URL):
        print(row.label, row.confidence)

Each row is read once a context, and a row's label depends on no row but those that a rule of the
task relates to it. Rows come and go in batches, so memory does not grow with them.
"""

import os
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import numpy as np
from anyio.from_thread import start_blocking_portal

from icm_client.coherence.assignment import JointAssignment
from icm_client.coherence.predict import CONTEXTS
from icm_client.coherence.problem import UNLABELLED, FloatArray, Query
from icm_client.data import Dataset, FileFormat, LabelledRow
from icm_client.data.job import Job, Rows
from icm_client.data.row_batches import row_batches
from icm_client.data.rows import FailedRow, only, path_of, refused_rows
from icm_client.endpoints import Endpoint, ServerIdentity
from icm_client.endpoints.identity_check import described
from icm_client.errors import ModelChanged, TooManyFailed
from icm_client.record.archive import find_run
from icm_client.record.folder import DEFAULT_BASE
from icm_client.record.run_labels import read_labels
from icm_client.runs.frozen import PREDICTOR, Found, Frozen
from icm_client.runs.result import Labels
from icm_client.runs.search import DEFAULT_FAIL_ON_ERROR
from icm_client.runs.server import Server, open_endpoint
from icm_client.scoring import (
    Pieces,
    Scorer,
    ScorerStats,
    ScoreStore,
    ScoringProgress,
    context_ids,
    open_store,
    with_prompts,
)
from icm_client.scoring.call import FailedItem
from icm_client.scoring.drift import DriftCheck
from icm_client.verdict.findings import Finding, recorded_finding, verdict_of, worst_first
from icm_client.verdict.shift import ShiftMeter, signals

BATCH: Final = 2048
"""Rows that are read, scored and handed on together."""

READS_A_REQUEST: Final = 64
"""On a server without lanes; so many rows have one context, and nobody waits for the first."""

MOST_LISTED: Final = 1000
"""Rows without a label that are kept to be listed; beyond these they are only counted."""


@dataclass(slots=True)
class Totals:
    """What has become of new rows so far.

    Attributes:
        rows: that came, those without a label too.
        counts: label -> rows.
        sure: the rows' confidence, added up.
        right: rows whose label is the gold one.
        with_gold: rows that have a label, and whose gold label is known.
        failed: rows without a label; not all of many.
        without_label: how many there are.
        without_score: those of them that the server refused, or failed on for good.
        shift: signal -> counts, as `ShiftMeter.counts`.
    """

    rows: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    sure: float = 0.0
    right: int = 0
    with_gold: int = 0
    failed: list[FailedRow] = field(default_factory=list)
    without_label: int = 0
    without_score: int = 0
    shift: dict[str, list[int]] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Return what `document` returned, read again."""
        made = cls(**document)
        made.failed = [FailedRow(**one) for one in document["failed"]]
        return made


class Batch(NamedTuple):
    """Some rows in their order, labelled.

    Attributes:
        rows: those that have a label.
        gold: their gold labels, aligned with `rows`; None where no gold field was named.
        gold_field: the field that held these.
        failed: those that have none.
        came: how many rows came, with and without a label.
    """

    rows: tuple[LabelledRow, ...]
    gold: tuple[str | None, ...] | None
    gold_field: str | None
    failed: tuple[FailedRow, ...]
    came: int


class Predictor:
    """Labels new rows, each on its own, with what a run has found.

    Args:
        found: the run's labels.
        folder: the run's, where contexts once measured are kept; None keeps them in memory.

    Attributes:
        found: the run's labels.
    """

    def __init__(self, found: Found, folder: Path | None = None) -> None:
        self.found = found
        self._folder = folder
        self._frozen: Frozen | None = None

    @classmethod
    def load(
        cls, run: str | os.PathLike[str], *, runs: str | os.PathLike[str] = DEFAULT_BASE
    ) -> Self:
        """Return the predictor of a run that has ended, by the run's folder or name.

        Raises:
            InputError: there is no such run, or it has no labels yet.
            RunError: its folder cannot be read, or is damaged.
        """
        kept = find_run(os.fspath(run), Path(runs))
        labels = read_labels(kept.path)
        result = kept.result or {}
        return cls(
            Found(
                kept.name,
                labels.task,
                labels.labelled,
                ServerIdentity(**kept.record["server"]),
                int(kept.record["seed"]),
                tuple(recorded_finding(one) for one in result.get("findings", ())),
            ),
            kept.path,
        )

    @classmethod
    def of(cls, labels: Labels) -> Self:
        """Return the predictor of labels that are in memory."""
        return cls(
            Found(
                labels.run.name if labels.run is not None else labels.dataset.name,
                labels.task,
                labels.rows,
                labels.server,
                labels.seed,
                labels.findings,
            ),
            labels.run,
        )

    def __repr__(self) -> str:
        return f"<Predictor of {len(self.found.rows):,} rows of {self.found.run}>"

    async def label(
        self,
        rows: Rows,
        *,
        endpoint: Endpoint | Server | str | None = None,
        store: ScoreStore | str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> AsyncGenerator[LabelledRow]:
        """Yield each row with its label, in order; rows without one are left out.

        Args:
            rows: as for `icm_client.label`; an iterator is read as it is needed.
            endpoint: as for `icm_client.label`: the model that the run asked.
            store: as for `icm_client.label`.
            options: those of `Prediction`.

        Raises:
            ModelChanged: another model answers than the run's.
            InputError, EndpointError, ScoreError, StoreError: as `icm_client.label`.
        """
        with open_store(store) as kept:
            async with open_endpoint(endpoint) as server:
                prediction = Prediction(self, server, kept, **options)
                async with aclosing(prediction.batches(rows)) as batches:
                    async for batch in batches:
                        for row in batch.rows:
                            yield row

    def label_sync(self, rows: Rows, **options: Any) -> Iterator[LabelledRow]:
        """`label` for code that is not async; works in a notebook's running loop too."""
        with start_blocking_portal() as portal:
            labelled = self.label(rows, **options)
            try:
                while (row := portal.call(_next, labelled)) is not None:
                    yield row
            finally:
                portal.call(labelled.aclose)

    async def frozen(
        self,
        server: Endpoint,
        store: ScoreStore,
        *,
        contexts: int = CONTEXTS,
        accept_other_model: bool = False,
        on_progress: Callable[[ScoringProgress], None] | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> Frozen:
        """Return the contexts measured under this server's model, measuring them where need be.

        Raises:
            ModelChanged: it is not the run's model, and `accept_other_model` is not set.
            RunError: what the run's folder keeps cannot be read or written.
            EndpointError, ScoreError, StoreError: the run's rows could not be read.
        """
        found = self.found
        own = server.identity.fingerprint == found.server.fingerprint
        if not own and not accept_other_model:
            raise ModelChanged(
                f"the run {found.run} was made with another model ({found.server.model}) than the "
                f"one that answers now, {described(server.identity)}: name its server with "
                "--endpoint, or take this model with --accept-other-model",
                last_confirmed_at=0.0,
            )
        path = self._folder / PREDICTOR if own and self._folder is not None else None
        if self._frozen is None and path is not None and path.exists():
            self._frozen = Frozen.load(path)
        kept = self._frozen
        asked = (found.digest, server.identity.fingerprint, contexts)
        if kept is None or (kept.of, kept.server.fingerprint, len(kept.contexts)) != asked:
            kept = await Frozen.measure(
                found,
                server,
                store,
                contexts=contexts,
                on_progress=on_progress,
                stopping=stopping,
            )
            if path is not None:
                kept.save(path)
            self._frozen = kept
        return kept


class Prediction:
    """One use of a predictor: which server, with which limits, and what has come of it.

    Args:
        predictor: of a run.
        server: open.
        store: where scores are kept; the same call again asks nothing twice.
        contexts: `M`, in which each row is read.
        batch: rows at a time.
        gold: the field with known labels, used for nothing but the accuracy; None takes the task's.
        data_format: of a file, where its name does not show it.
        skip_bad_rows: leave rows that cannot be used without a label; else one is a `RowError`.
        fail_on_error: as for `icm_client.label`, of the rows that have come so far.
        accept_other_model: take another model than the run's; a finding then says so.
        totals: of an earlier process that began this.
        on_progress: called as rows are scored.
        stopping: as for `icm_client.label`.

    Attributes:
        totals: what has come of the rows so far.
        stats: reads.
    """

    def __init__(
        self,
        predictor: Predictor,
        server: Endpoint,
        store: ScoreStore,
        *,
        contexts: int = CONTEXTS,
        batch: int = BATCH,
        gold: str | None = None,
        data_format: FileFormat | None = None,
        skip_bad_rows: bool = False,
        fail_on_error: float = DEFAULT_FAIL_ON_ERROR,
        accept_other_model: bool = False,
        totals: Totals | None = None,
        on_progress: Callable[[ScoringProgress], None] | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.totals = totals or Totals()
        self.stats = ScorerStats()
        self._predictor, self._server, self._store = predictor, server, store
        self._contexts, self._batch, self._gold = contexts, batch, gold
        self._format = data_format
        self._skip, self._limit = skip_bad_rows, fail_on_error
        self._accept = accept_other_model
        self._on_progress, self._stopping = on_progress, stopping
        self._drift = DriftCheck(server)
        self._frozen: Frozen | None = None

    async def batches(self, rows: Rows, *, after: int = 0) -> AsyncGenerator[Batch]:
        """Label the rows, in order, from the one after the first `after`.

        Raises:
            TooManyFailed: as many rows as `fail_on_error` says have no score.
            ModelChanged, InputError, RunError, EndpointError, ScoreError, StoreError: as
                `Predictor.label`.
            RunStopped: it was to stop.
        """
        frozen = self._frozen = await self._predictor.frozen(
            self._server,
            self._store,
            contexts=self._contexts,
            accept_other_model=self._accept,
            on_progress=self._on_progress,
            stopping=self._stopping,
        )
        demos = await frozen.pieces(self._server, self._store)
        meter = ShiftMeter(frozen.usual, self.totals.shift)
        came = row_batches(
            rows,
            size=self._batch,
            task=frozen.task,
            gold=self._gold,
            format=self._format,
            skip_bad_rows=self._skip,
            after=after,
        )
        for dataset in came:
            yield await self._labelled(dataset, frozen, demos, meter)

    async def _labelled(
        self, dataset: Dataset, frozen: Frozen, demos: Pieces, meter: ShiftMeter
    ) -> Batch:
        job = Job.prepare(dataset, frozen.task, skip_bad_rows=self._skip)
        scores = await self._scored(job, frozen, demos)
        decided = frozen.calibration.decide(scores.log_probs)
        labels = JointAssignment(job.constraint, len(job.labels))(decided).labels
        trusted = verdict_of(frozen.findings) != "do not trust"
        order = [(word, job.labels.index(word)) for word in job.task.labels]
        labelled, kept = [], []
        failed = list(job.dataset.skipped)
        for row, item in enumerate(job.row_items.tolist()):
            label = int(labels[item])
            if label == UNLABELLED:
                failed.append(job.dataset.rows[row].failed(scores.failed[item]))
                continue
            log_probs = decided[item].tolist()
            labelled.append(
                LabelledRow(
                    row=job.dataset.rows[row],
                    label=job.labels[label],
                    confidence=float(np.exp(log_probs[label])) if trusted else None,
                    log_probs={word: log_probs[k] for word, k in order},
                    exactness=scores.exactness[item],
                )
            )
            kept.append(row)
        there = ~np.isnan(decided).any(axis=1)
        meter.add(signals(decided[there], scores.label_mass[there], scores.length[there]))
        batch = Batch(
            tuple(labelled),
            only(job.dataset, kept).gold,
            job.dataset.gold_field,
            tuple(sorted(failed, key=lambda row: row.line)),
            len(job.dataset.rows) + len(job.dataset.skipped),
        )
        self._count(batch)
        return batch

    async def _scored(self, job: Job, frozen: Frozen, demos: Pieces) -> "_Scored":
        pieces, unusable = await with_prompts(demos, job.prompts, self._server, self._store)
        first, n_items = len(demos.prompts), len(job.prompts)
        longest = max(len(context_ids(demos, context)) for context in frozen.contexts)
        length = np.array([len(ids) for ids in pieces.prompts[first:]])
        room = self._server.identity.context_length - longest - max(map(len, pieces.labels))
        for item in np.flatnonzero(length > room).tolist():
            unusable.setdefault(
                item,
                f"its prompt takes {length[item]:,} tokens, and the server's context has room for "
                f"{room:,} beside the demos: shorten the text",
            )
        rows = {job.items[item].row: why for item, why in sorted(unusable.items(), reverse=True)}
        if rows and not self._skip:
            bad = [job.dataset.rows[row].failed(why) for row, why in sorted(rows.items())]
            raise refused_rows(bad, path=path_of(job.dataset), usable=len(job.dataset.rows))
        unusable = {n: rows[one.row] for n, one in enumerate(job.items) if one.row in rows}
        failed: dict[int, str] = {}

        def note(items: Mapping[int, FailedItem]) -> None:
            failed.update({item - first: str(one.error) for item, one in items.items()})

        scorer = Scorer(
            self._server,
            self._store,
            pieces,
            group_size=READS_A_REQUEST,
            on_progress=self._on_progress,
            on_failed=note,
            stopping=self._stopping,
            drift=self._drift,
            unusable=[first + item for item in unusable],
        )
        scorer.stats = self.stats
        asked = [
            Query(context, first + item) for context in frozen.contexts for item in range(n_items)
        ]
        log_probs = (await scorer(asked)).reshape(len(frozen.contexts), n_items, len(job.labels))
        if failed:
            self._check_failures(failed, job)
        return _Scored(
            log_probs,
            np.exp(log_probs).sum(axis=2).mean(axis=0),
            length,
            {item - first: one.value for item, one in scorer.exactness.items()},
            unusable | failed,
        )

    def _count(self, batch: Batch) -> None:
        totals = self.totals
        totals.rows += batch.came
        for row in batch.rows:
            totals.counts[row.label] = totals.counts.get(row.label, 0) + 1
            totals.sure += row.confidence or 0.0
        for row, known in zip(batch.rows, batch.gold or (), strict=False):
            totals.with_gold += known is not None
            totals.right += known == row.label
        totals.without_label += len(batch.failed)
        totals.failed += batch.failed[: max(0, MOST_LISTED - len(totals.failed))]

    def _check_failures(self, reasons: Mapping[int, str], job: Job) -> None:
        """Raise `TooManyFailed` where too many of all rows so far have no score."""
        rows = self.totals.rows + len(job.dataset.rows)
        failed = self.totals.without_score = self.totals.without_score + len(
            {job.items[item].row for item in reasons}
        )
        ends = self._limit if self._limit >= 1 else max(self._limit * rows, 2)
        if failed >= ends:
            item, reason = next(iter(reasons.items()))
            row = job.dataset.rows[job.items[item].row]
            raise TooManyFailed(
                "too many rows cannot be scored: mend them, or allow more with --fail-on-error "
                f"({failed:,} of the first {rows:,} have no score). One of them, {row.id!r}: "
                f"{reason}"
            )

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What a person must know: of the run's labels, of another model, of rows that differ."""
        if self._frozen is None:
            return ()
        return findings_on(self._frozen, self._predictor.found, self.totals)


def findings_on(frozen: Frozen, run: Found, totals: Totals) -> tuple[Finding, ...]:
    """What a person must know of labels that are predicted, worst first.

    Args:
        frozen: the contexts, with the findings on the run's labels.
        run: the run.
        totals: what has come of the new rows.
    """
    found = list(frozen.findings)
    if frozen.server.fingerprint != run.server.fingerprint:
        found.append(
            Finding(
                "other-model",
                f"The labels of the run {run.run} were found with another model.",
                "Look at some of the rows that this one labels.",
                "check",
                f"Found with {run.server.model}, predicted with {frozen.server.model}",
            )
        )
    shifted = ShiftMeter(frozen.usual, totals.shift).finding()
    found += [shifted] if shifted is not None else []
    return worst_first(found)


async def _next(labelled: AsyncGenerator[LabelledRow]) -> LabelledRow | None:
    return await anext(labelled, None)


class _Scored(NamedTuple):
    """The items of a batch, read.

    Attributes:
        log_probs: shape `[M, n, K]`, nats; NaN where an item has no score.
        label_mass: shape `[n]`.
        length: shape `[n]`, tokens.
        exactness: item -> of its log-probs.
        failed: item -> why it has no score.
    """

    log_probs: FloatArray
    label_mass: FloatArray
    length: FloatArray
    exactness: Mapping[int, str]
    failed: Mapping[int, str]
