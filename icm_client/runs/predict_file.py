"""Label the rows of a file into another one: `predict_file`, which can be killed and goes on.

    go through the file once: every row that cannot be used is named before anything is asked
    take up the partial output of an earlier process, where there is one of the same rows and run
    for each batch: read it, label it, append it to the partial output
    put the whole output in its place

Scores are kept besides, so the rows of a batch that a kill has interrupted are not asked again.
"""

import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b, file_digest
from typing import Any, Final

from icm_client.coherence.predict import CONTEXTS
from icm_client.data import FileFormat
from icm_client.data.formats import NO_OPTIONS, FileOptions
from icm_client.data.job import Job
from icm_client.data.label_sink import LabelSink
from icm_client.data.outputs import written_to
from icm_client.data.row_batches import row_batches
from icm_client.data.rows import FailedRow, refused_rows
from icm_client.data.sources import Files, Named, explained, found_files
from icm_client.data.values import write_json
from icm_client.endpoints import Endpoint, ServerIdentity, Waiting, WireEvent
from icm_client.errors import RunStopped
from icm_client.runs.predict import BATCH, Prediction, Totals
from icm_client.runs.predictor import Predictor
from icm_client.runs.progress import Cost, cost_since
from icm_client.runs.row_lengths import NO_LIMIT, RowLimit, cut_notice
from icm_client.runs.search import DEFAULT_FAIL_ON_ERROR
from icm_client.runs.server import Server, open_endpoint
from icm_client.scoring import ScoreStore, ScoringProgress
from icm_client.stats.confusion import Confusion
from icm_client.verdict.findings import Finding, Verdict, verdict_of

_ENOUGH: Final = 10_000
"""Rows that cannot be used, after which no more are looked for."""


@dataclass(frozen=True, slots=True)
class PredictProgress:
    """A moment of a prediction.

    Attributes:
        rows: that are labelled and written, those of an earlier process too.
        total: of the file.
        batch: rows of the batch under way; 0 while the run's own rows are read in the contexts.
        scored: reads under way that have an answer.
        to_score: reads that are needed.
        waiting: why a request is to be sent again; None once an answer has come since.
    """

    rows: int
    total: int
    batch: int = 0
    scored: int = 0
    to_score: int = 0
    waiting: Waiting | None = None

    @property
    def done(self) -> int:
        """Rows, those of the batch under way in proportion to its reads."""
        return self.rows + (self.batch * self.scored // self.to_score if self.to_score else 0)


@dataclass(frozen=True, slots=True)
class Predicted:
    """What has come of a file.

    Attributes:
        run: whose labels were used.
        labels: the label words, in the task's order.
        totals: of all rows.
        findings: what a person must know before the labels are used; worst first.
        server: who answered.
        cost: of this process.
        output: the file with the labels; None where no row has one.
        row_limit: how many tokens a row could take.
    """

    run: str
    labels: tuple[str, ...]
    totals: Totals
    findings: tuple[Finding, ...]
    server: ServerIdentity
    cost: Cost
    output: str | None
    row_limit: RowLimit = NO_LIMIT

    @property
    def notices(self) -> tuple[str, ...]:
        """Sentences on the rows that the user should see."""
        cut = cut_notice(self.totals.cut, self.labelled, self.row_limit)
        return () if cut is None else (cut,)

    @property
    def verdict(self) -> Verdict:
        """What the findings add up to."""
        return verdict_of(self.findings)

    @property
    def labelled(self) -> int:
        """Rows that have a label."""
        return sum(self.totals.counts.values())

    @property
    def confidence(self) -> float | None:
        """The rows' mean; None where the run is not to be trusted."""
        return self.totals.sure / self.labelled if self.labelled and self.totals.sure else None

    @property
    def accuracy(self) -> float | None:
        """Share of the rows with gold whose label is the gold one; None where no row has gold."""
        totals = self.totals
        return totals.right / totals.with_gold if totals.with_gold else None

    @property
    def confusion(self) -> Confusion | None:
        """Gold labels against the labels given.

        None where no row has gold, or where an older version began the output: it did not count
        them.
        """
        counts = {
            (gold, word): count
            for gold, given in self.totals.confused.items()
            for word, count in given.items()
        }
        if not counts or sum(counts.values()) < self.totals.with_gold:
            return None
        return Confusion.of(counts, self.labels)

    def summary(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "run": self.run,
            "rows": self.totals.rows,
            "labelled": self.labelled,
            "verdict": self.verdict,
            "confidence": self.confidence,
            "counts": self.totals.counts,
            "accuracy": self.accuracy,
            "rows_with_gold": self.totals.with_gold,
            "confusion": None if (found := self.confusion) is None else found.summary(),
            "findings": [finding.summary() for finding in self.findings],
            "notices": list(self.notices),
            "without_label": self.totals.without_label,
            "failed": [row.summary() for row in self.totals.failed],
            "server": asdict(self.server),
            "cost": asdict(self.cost),
            "output": self.output,
        }


async def predict_file(
    predictor: Predictor,
    data: Named | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    endpoint: Endpoint | Server | str | None,
    store: ScoreStore,
    contexts: int = CONTEXTS,
    batch: int = BATCH,
    gold: str | None = None,
    file: FileOptions = NO_OPTIONS,
    output_format: FileFormat | None = None,
    skip_bad_rows: bool = False,
    fail_on_error: float = DEFAULT_FAIL_ON_ERROR,
    accept_other_model: bool = False,
    fresh: bool = False,
    limit: int | None = None,
    progress: Callable[[PredictProgress], None] = lambda _: None,
    stopping: Callable[[], bool] = lambda: False,
) -> Predicted:
    """Label the rows of `data` into `output`, in their order.

    The options are those of `Predictor.label`. What goes to `-`, standard output, is printed when
    all is done, and a kill loses it; scores are kept. A `limit` labels the first rows alone: so
    many, and what is left of a group that goes on. `fresh` begins a partial output over.

    Raises:
        RowError: rows cannot be used; nothing has been asked.
        InputError: the output cannot be written, or its partial file is of other rows or another
            run.
        RunStopped: it was to stop; the same call goes on.
        ModelChanged, TooManyFailed, EndpointError, ScoreError, StoreError: as
            `icm_client.runs.predict.Prediction.batches`.
    """
    began = time.monotonic()
    if limit is not None:
        batch = math.ceil(limit / math.ceil(limit / batch))  # so that no batch goes far beyond it
    with found_files(data) as files, written_to(output, output_format) as target:
        total = _checked(
            predictor, files, batch, gold, file, limit=limit, skip_bad_rows=skip_bad_rows
        )
        state = PredictProgress(0, total)

        def moved(**changed: Any) -> None:
            nonlocal state
            state = replace(state, **changed)
            progress(state)

        def observe(event: WireEvent) -> None:
            if isinstance(event, Waiting):
                moved(waiting=event)

        prediction: Prediction | None = None

        def scored(at: ScoringProgress) -> None:
            batch = 0 if prediction is None else prediction.under_way
            moved(batch=batch, scored=at.done, to_score=at.total, waiting=None)

        async with open_endpoint(endpoint, observe, stopping) as server:
            store.record_server(server.identity)
            usage = replace(server.usage)
            options = [asdict(file), contexts, gold, *([] if limit is None else [limit])]
            identity = _identity(predictor, files, server, *options)
            with LabelSink.open(
                target, format=output_format, identity=identity, fresh=fresh
            ) as sink:
                moved(rows=sink.rows_done)
                prediction = await predictor.begin(
                    server,
                    store,
                    contexts=contexts,
                    accept_other_model=accept_other_model,
                    on_progress=scored,
                    stopping=stopping,
                    batch=batch,
                    gold=gold,
                    file=file,
                    skip_bad_rows=skip_bad_rows,
                    fail_on_error=fail_on_error,
                    totals=Totals.of(sink.state) if sink.state else None,
                )
                try:
                    until = None if limit is None else total
                    some = prediction.batches(files, after=sink.rows_done, until=until)
                    async with aclosing(some) as batches:
                        async for done in batches:
                            sink.append(
                                done.rows,
                                rows_read=done.came,
                                gold=done.gold,
                                gold_field=done.gold_field,
                                state=prediction.totals.document(),
                            )
                            moved(rows=sink.rows_done, batch=0, scored=0, to_score=0)
                except RunStopped as error:
                    error.goes_on = error.goes_on or store.answers > 0 or sink.rows_done > 0
                    raise
                written = sink.rows_labelled > 0
                if written:
                    sink.finish()
            return Predicted(
                predictor.found.run,
                predictor.found.task.labels,
                prediction.totals,
                prediction.findings,
                server.identity,
                cost_since(began, [(server, usage)], prediction.stats),
                os.fspath(output) if written else None,
                predictor.found.row_limit,
            )


def _checked(
    predictor: Predictor,
    files: Files,
    batch: int,
    gold: str | None,
    file: FileOptions,
    *,
    limit: int | None,
    skip_bad_rows: bool,
) -> int:
    """Read and render every row, up to the limit, and return how many there are."""
    task = predictor.found.task
    total = usable = 0
    bad: list[FailedRow] = []
    for dataset in row_batches(
        files, size=batch, task=task, gold=gold, file=file, skip_bad_rows=True
    ):
        job = Job.prepare(dataset, task, skip_bad_rows=True)
        usable += len(job.dataset.rows)
        total += len(job.dataset.rows) + len(job.dataset.skipped)
        if not skip_bad_rows:
            bad += job.dataset.skipped
        if len(bad) >= _ENOUGH or (limit is not None and total >= limit):
            break
    if bad:
        raise refused_rows(bad, path=files.name, usable=usable)
    return total


def _identity(
    predictor: Predictor,
    files: Files,
    server: Endpoint,
    *options: object,
) -> str:
    """What decides the output: another digest belongs to another partial file.

    `skip_bad_rows` is not among it: who meets a row that is too long after an hour goes on with it.
    """
    content = []
    for file in files.files:
        with explained(file.name), file.path.open("rb") as opened:
            content.append([file_digest(opened, "blake2b").hexdigest(), file.sheet])
    found = predictor.found.digest
    described = [found, server.identity.fingerprint, content, *options]
    return blake2b(write_json(described), digest_size=16).hexdigest()
