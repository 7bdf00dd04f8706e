"""New rows, labelled in frozen contexts: `Prediction`.

Each row is read once a context, and a row's label depends on no row but those that a rule of the
task relates to it. Rows come and go in batches, so memory does not grow with them.
"""

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, NamedTuple, Self

import numpy as np

from icm_client.coherence.assignment import JointAssignment
from icm_client.coherence.problem import UNLABELLED, FloatArray, Query
from icm_client.data import Dataset, LabelledRow
from icm_client.data.formats import NO_OPTIONS, FileOptions
from icm_client.data.job import Job, Rows
from icm_client.data.row_batches import row_batches
from icm_client.data.rows import FailedRow, only, path_of, refused_rows
from icm_client.endpoints import Endpoint
from icm_client.errors import TooManyFailed
from icm_client.runs.frozen import Frozen
from icm_client.runs.row_lengths import within_limit
from icm_client.runs.search import DEFAULT_FAIL_ON_ERROR
from icm_client.scoring import (
    Pieces,
    Scorer,
    ScorerStats,
    ScoreStore,
    ScoringProgress,
    context_ids,
    with_prompts,
)
from icm_client.scoring.call import FailedItem
from icm_client.scoring.drift import DriftCheck
from icm_client.verdict.findings import Finding, verdict_of, worst_first
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
        confused: gold label -> label -> how many of these.
        failed: rows without a label; not all of many.
        without_label: how many there are.
        without_score: those of them that the server refused, or failed on for good.
        shift: signal -> counts, as `ShiftMeter.counts`.
        cut: rows with a label that were cut before they were read.
    """

    rows: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    sure: float = 0.0
    right: int = 0
    with_gold: int = 0
    confused: dict[str, dict[str, int]] = field(default_factory=dict)
    failed: list[FailedRow] = field(default_factory=list)
    without_label: int = 0
    without_score: int = 0
    shift: dict[str, list[int]] = field(default_factory=dict)
    cut: int = 0

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


class Prediction:
    """One use of a predictor: which server, with which limits, and what has come of it.

    The options are those of `icm_client.Predictor.label`; `totals` are those of an earlier process
    that began this, and `stats` counts the reads.

    Attributes:
        frozen: the contexts.
        totals: what has come of the rows so far.
        stats: reads.
        under_way: rows of the batch that is being labelled; 0 before the first.
    """

    def __init__(
        self,
        frozen: Frozen,
        server: Endpoint,
        store: ScoreStore,
        *,
        batch: int = BATCH,
        gold: str | None = None,
        file: FileOptions = NO_OPTIONS,
        skip_bad_rows: bool = False,
        fail_on_error: float = DEFAULT_FAIL_ON_ERROR,
        totals: Totals | None = None,
        stats: ScorerStats | None = None,
        on_progress: Callable[[ScoringProgress], None] | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.totals = totals or Totals()
        self.stats = stats or ScorerStats()
        self.under_way = 0
        self.frozen, self._server, self._store = frozen, server, store
        self._batch, self._gold, self._file = batch, gold, file
        self._skip, self._limit = skip_bad_rows, fail_on_error
        self._on_progress, self._stopping = on_progress, stopping
        self._drift = DriftCheck(server)

    async def batches(
        self, rows: Rows, *, after: int = 0, until: int | None = None
    ) -> AsyncGenerator[Batch]:
        """Label the rows, in order, from the one after the first `after`.

        No batch is begun once `until` rows have been read; None reads all.

        Raises:
            TooManyFailed: as many rows as `fail_on_error` says have no score.
            RowError: rows cannot be used, and are not to be skipped.
            InputError, EndpointError, ScoreError, StoreError: as `icm_client.label`.
            RunStopped: it was to stop.
        """
        frozen = self.frozen
        demos = await frozen.pieces(self._server, self._store)
        meter = ShiftMeter(frozen.usual, self.totals.shift)
        came = row_batches(
            rows,
            size=self._batch,
            task=frozen.task,
            gold=self._gold,
            file=self._file,
            skip_bad_rows=self._skip,
            after=after,
        )
        read = after
        while until is None or read < until:
            if (dataset := next(came, None)) is None:
                return
            self.under_way = len(dataset.rows) + len(dataset.skipped)
            read += self.under_way
            yield await self._labelled(dataset, frozen, demos, meter)

    async def _labelled(
        self, dataset: Dataset, frozen: Frozen, demos: Pieces, meter: ShiftMeter
    ) -> Batch:
        job = Job.prepare(dataset, frozen.task, skip_bad_rows=self._skip)
        within = await within_limit(job, frozen.row_limit, self._server, self._store)
        job, cut = within.job, within.cut
        scores = await self._scored(job, frozen, demos, within.too_long)
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
                    cut_tokens=None if cut is None else cut[row],
                )
            )
            kept.append(row)
        there = ~np.isnan(decided).any(axis=1)
        meter.add(signals(decided[there], scores.label_mass[there], scores.length[there]))
        batch = Batch(
            tuple(labelled),
            only(job.dataset, kept).gold,
            job.dataset.gold_field,
            tuple(sorted(failed, key=lambda row: row.number)),
            len(job.dataset.rows) + len(job.dataset.skipped),
        )
        self._count(batch)
        return batch

    async def _scored(
        self, job: Job, frozen: Frozen, demos: Pieces, too_long: Mapping[int, str]
    ) -> "_Scored":
        pieces, unusable = await with_prompts(demos, job.prompts, self._server, self._store)
        unusable |= too_long
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
        rows = job.by_row(unusable)
        if rows and not self._skip:
            bad = [job.dataset.rows[row].failed(why) for row, why in rows.items()]
            raise refused_rows(bad, path=path_of(job.dataset), usable=len(job.dataset.rows))
        unusable = job.by_item(rows)
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
            totals.cut += bool(row.cut_tokens)
            totals.sure += row.confidence or 0.0
        for row, known in zip(batch.rows, batch.gold or (), strict=False):
            if known is not None:
                totals.with_gold += 1
                totals.right += known == row.label
                given = totals.confused.setdefault(known, {})
                given[row.label] = given.get(row.label, 0) + 1
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
        return findings_on(self.frozen, self.totals)


def findings_on(frozen: Frozen, totals: Totals) -> tuple[Finding, ...]:
    """What a person must know of labels that are predicted, worst first."""
    shifted = ShiftMeter(frozen.usual, totals.shift).finding()
    return worst_first([*frozen.findings, *([] if shifted is None else [shifted])])


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
