"""What a run returns: `Labels`, and how they are made of what a search has found."""

import math
import os
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from icm_client.coherence.confidence import confidences
from icm_client.coherence.problem import UNLABELLED, FloatArray, IntArray
from icm_client.coherence.result import SearchResult, Step, SweepRecord
from icm_client.data import Dataset, FileFormat, LabelledRow, Task, write_labels
from icm_client.data.job import Job
from icm_client.data.outputs import label_records
from icm_client.data.record_files import write_records
from icm_client.data.rows import FailedRow, only
from icm_client.data.values import JsonValue
from icm_client.endpoints import Exactness, ServerIdentity
from icm_client.errors import SetupError
from icm_client.runs.presets import Preset
from icm_client.runs.progress import Cost
from icm_client.runs.row_lengths import NO_LIMIT, RowLimit
from icm_client.stats.confusion import Confusion, confusion
from icm_client.verdict.diagnosis import Evidence, diagnose
from icm_client.verdict.findings import NO_CONFIDENCE, Finding, Verdict, verdict_of
from icm_client.verdict.search_findings import agreement_matrix

if TYPE_CHECKING:
    import datasets
    import pandas as pd
    import polars as pl
    import pyarrow as pa

    from icm_client.runs.predictor import Predictor


@dataclass(frozen=True, slots=True)
class StartEnd:
    """Where one of the search's starts ended.

    Attributes:
        utility: calibrated `U`, nats an item.
        coherence: `utility` as a share of the labels' entropy.
        agreement: the share of the items that each start labels as this one does, names aside.
    """

    utility: float
    coherence: float
    agreement: tuple[float, ...]


@dataclass(frozen=True, slots=True, repr=False)
class Labels:
    """The labels found, and what is to be known about them.

    Attributes:
        rows: each row that has a label, with confidence and log-probs, in the order of the data.
        dataset: those rows as they were read.
        task: what the rows were asked.
        preset: which search found them.
        utility: calibrated `U`, nats an item.
        coherence: `utility` as a share of the labels' entropy: 0 for chance, at most 1.
        findings: what a person must know before the labels are used; worst first.
        warnings: sentences on what the user should mend before the labels are used.
        notices: sentences on what is worth knowing about data, store, server and settings.
        failed: rows that have no label: the server refused them or failed on them for good, or
            they cannot be used and were to be skipped.
        stopped: what ended the search before its end: a limit, or an interruption; None where
            nothing did.
        server: who answered.
        history: every sweep of "fast".
        steps: every step of "paper" and "official".
        restart: which restart's labels these are.
        starts: where each restart of "fast" ended, in order.
        label_mass: mean share of the next token's probability on any label word, over the rows.
        prior_source: "given", "mixture" or "even": where the labels' shares came from.
        share_intervals: each label's 90% interval of its share of the rows, where the scores of two
            labels show it; else empty.
        by_confidence: groups too large to try all labellings of: the most confident row decided.
        cost: requests, tokens, seconds.
        seed: of the run.
        run: the run's folder, where a record is kept.
        predicted: rows that were not searched, but labelled by one read in the context of others'
            labels (`icm_client.runs.predict`).
        row_limit: how many tokens a row could take.
    """

    rows: tuple[LabelledRow, ...]
    dataset: Dataset
    task: Task
    preset: Preset
    utility: float
    coherence: float
    findings: tuple[Finding, ...]
    warnings: tuple[str, ...]
    notices: tuple[str, ...]
    failed: tuple[FailedRow, ...]
    stopped: str | None
    server: ServerIdentity
    history: tuple[SweepRecord, ...]
    steps: tuple[Step, ...]
    restart: int
    starts: tuple[StartEnd, ...]
    label_mass: float | None
    prior_source: str
    share_intervals: dict[str, tuple[float, float]]
    by_confidence: int
    cost: Cost
    seed: int
    run: Path | None
    predicted: int = 0
    row_limit: RowLimit = NO_LIMIT

    def __repr__(self) -> str:
        """Return a line: the rows themselves may be thousands."""
        counts = ", ".join(f"{label}: {count:,}" for label, count in self.counts.items())
        return (
            f"<Labels of {len(self.rows):,} rows ({counts}), {self.verdict}, "
            f"coherence {self.coherence:.0%}>"
        )

    @property
    def by_id(self) -> dict[str, str]:
        """Row id, as text -> label."""
        return {str(row.row.id): row.label for row in self.rows}

    def without(self, ids: Collection[str]) -> "Labels":
        """The same without some of the rows, by their ids."""
        if not ids:
            return self
        kept = [place for place, row in enumerate(self.rows) if str(row.row.id) not in ids]
        return replace(
            self,
            rows=tuple(self.rows[place] for place in kept),
            dataset=only(self.dataset, kept),
            failed=tuple(row for row in self.failed if str(row.id) not in ids),
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """The task's label words, in its order."""
        return self.task.labels

    @property
    def verdict(self) -> Verdict:
        """What the findings add up to; gold has no part in it."""
        return verdict_of(self.findings)

    @property
    def confidence(self) -> float | None:
        """The mean of the rows': how many labels are estimated to be right; None where none is."""
        found = [row.confidence for row in self.rows if row.confidence is not None]
        return math.fsum(found) / len(found) if found else None

    @property
    def counts(self) -> dict[str, int]:
        """Rows of each label, in the task's order."""
        found = Counter(row.label for row in self.rows)
        return {label: found[label] for label in self.labels}

    @property
    def pinned(self) -> int:
        """Rows whose labels are pinned ones; their confidence and log-probs are the model's."""
        return sum(row.pinned for row in self.rows)

    @property
    def cut(self) -> int:
        """Rows that were cut to `row_limit`, and labelled by what is left of them."""
        return sum(bool(row.cut_tokens) for row in self.rows)

    @property
    def exactness(self) -> dict[str, int]:
        """Rows by the least reliable kind of log-prob that their scores rest on."""
        return dict(Counter(row.exactness for row in self.rows))

    @property
    def rows_with_gold(self) -> int:
        """Rows whose gold label is known."""
        return sum(gold is not None for gold in self.dataset.gold or ())

    @property
    def accuracy(self) -> float | None:
        """Share of the rows with gold whose label is the gold one; None where no row has gold."""
        known = self.rows_with_gold
        if not known:
            return None
        pairs = zip(self.rows, self.dataset.gold or (), strict=True)
        return sum(row.label == gold for row, gold in pairs) / known

    @property
    def confusion(self) -> Confusion | None:
        """Gold labels against the labels found; None where no row has gold."""
        gold = self.dataset.gold or (None,) * len(self.rows)
        pairs = zip(gold, (row.label for row in self.rows), strict=True)
        return confusion(pairs, self.labels)

    def write(self, path: str | os.PathLike[str], *, format: FileFormat | None = None) -> None:  # noqa: A002 - the word that users know
        """Write one line a row: id, label, confidence, log-probs, then the row's own fields.

        The file is complete or not there: it is moved into place when it has been written.

        Args:
            path: where to; the extension says JSONL, CSV or Parquet.
            format: which of them, where the extension does not say it.

        Raises:
            InputError: the file cannot be written.
        """
        write_labels(
            path,
            self.rows,
            format=format,
            gold=self.dataset.gold,
            gold_field=self.dataset.gold_field,
        )

    def to_pandas(self) -> "pd.DataFrame":
        """Return what `write` writes, as a pandas data frame with the same columns.

        Raises:
            SetupError: pandas is not installed.
        """
        columns, records = self._records()
        return _library("pandas").DataFrame(records, columns=columns)

    def to_arrow(self) -> "pa.Table":
        """Return what `write` writes to a Parquet file, as a table of pyarrow.

        A column in which numbers, texts or truth values are mixed holds text.

        Raises:
            SetupError: pyarrow is not installed.
        """
        parquet, file = _library("pyarrow.parquet"), BytesIO()
        write_records(file, "labels", "parquet", *self._records())
        return parquet.read_table(file)

    def to_polars(self) -> "pl.DataFrame":
        """Return the table of `to_arrow` as a polars data frame.

        Raises:
            SetupError: polars or pyarrow is not installed.
        """
        polars = _library("polars")
        frame: pl.DataFrame = polars.from_arrow(self.to_arrow())
        return frame

    def to_dataset(self) -> "datasets.Dataset":
        """Return the table of `to_arrow` as a dataset of `datasets`.

        Raises:
            SetupError: datasets is not installed.
        """
        return _library("datasets").Dataset(self.to_arrow())

    def _records(self) -> tuple[list[str], list[dict[str, JsonValue]]]:
        return label_records(self.rows, self.dataset.gold, self.dataset.gold_field)

    def predictor(self) -> "Predictor":
        """Return what labels new rows as these were labelled, each with one read."""
        # Imported here: who only labels rows needs none of it.
        from icm_client.runs.predictor import Predictor  # noqa: PLC0415

        return Predictor.of(self)

    def summary(self) -> dict[str, Any]:
        """Everything but the rows, as JSON values."""
        return {
            "data": self.dataset.name,
            "rows": len(self.rows),
            "verdict": self.verdict,
            "preset": self.preset,
            "confidence": self.confidence,
            "no_confidence": NO_CONFIDENCE if self.confidence is None else None,
            "counts": self.counts,
            "accuracy": self.accuracy,
            "rows_with_gold": self.rows_with_gold,
            "gold_field": self.dataset.gold_field,
            "confusion": None if (found := self.confusion) is None else found.summary(),
            "utility": self.utility,
            "coherence": self.coherence,
            "findings": [finding.summary() for finding in self.findings],
            "warnings": list(self.warnings),
            "notices": list(self.notices),
            "failed": [row.summary() for row in self.failed],
            "stopped": self.stopped,
            "server": asdict(self.server),
            "seed": self.seed,
            "restart": self.restart,
            "starts": [asdict(start) for start in self.starts],
            "label_mass": self.label_mass,
            "pinned": self.pinned,
            "predicted": self.predicted,
            **({"cut": self.cut} if self.row_limit.truncate else {}),
            "prior_source": self.prior_source,
            "share_intervals": {word: list(ends) for word, ends in self.share_intervals.items()},
            "groups_by_confidence": self.by_confidence,
            "exactness": self.exactness,
            "sweeps": [record.summary() for record in self.history],
            "steps": len(self.steps),
            "steps_accepted": sum(step.accepted for step in self.steps),
            "cost": asdict(self.cost),
            "run": None if self.run is None else str(self.run),
        }


def _telling_fields(job: Job) -> dict[str, list[str | None]]:
    """The rows' fields that hold single values, and that may explain a label.

    Gold is no field of a row. Where the user has not said which field holds gold, one that holds
    label words and nothing else is left out: it would be compared with the labels.
    """
    rows, words = job.dataset.rows, {word.casefold() for word in job.labels}
    fields: dict[str, list[str | None]] = {}
    for name in dict.fromkeys(name for row in rows for name in row.fields):
        values = [row.fields.get(name) for row in rows]
        known = {str(value).strip() for value in values if isinstance(value, str | int)} - {""}
        if not {value.casefold() for value in known} <= words:
            fields[name] = [
                (str(value).strip() or None) if isinstance(value, str | int) else None
                for value in values
            ]
    return fields


def _library(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError:
        package = name.partition(".")[0]
        extra = "'icm-client[parquet]'" if package == "pyarrow" else package
        raise SetupError(f"this needs {package}: pip install {extra}") from None


def labels_found(
    job: Job,
    result: SearchResult,
    *,
    repeated: FloatArray | None,
    interrupted: bool,
    exactness: Mapping[int, Exactness],
    pinned: IntArray | None,
    preset: Preset,
    warnings: tuple[str, ...],
    notices: tuple[str, ...],
    failed: tuple[FailedRow, ...],
    stopped: str | None,
    server: ServerIdentity,
    cost: Cost,
    seed: int,
    run: Path | None,
    row_limit: RowLimit,
    cut: Mapping[int, int] | None,
) -> Labels:
    """Diagnose what a search has found, and translate items and label numbers into rows and words.

    Where the findings say not to trust the labels, no row has a confidence: how likely each is
    right cannot be estimated then. `repeated`, shape `[R, K]`, is by how many nats reads made twice
    differ, `exactness` that of each item's log-probs, `pinned`, shape `[N]`, the labels that a
    person has given, and `cut` how many tokens were cut from each row's prompt. All from `preset`
    on are as for `Labels`.
    """
    items = job.row_items
    shown = job.task.exchange or job.task.template_fields
    texts = [tuple(f"{row.fields[name]}" for name in shown) for row in job.dataset.rows]
    if job.task.exchange is None:
        texts = [("\n".join(text),) for text in texts]
    evidence = Evidence(
        items,
        texts,
        _telling_fields(job),
        job.constraint,
        job.prior,
        repeated,
        pinned,
        interrupted,
    )
    findings = diagnose(result, job.labels, evidence)
    rows = np.flatnonzero(result.labels[items] != UNLABELLED)
    confidence: list[float | None] = [None] * len(result.labels)
    if verdict_of(findings) != "do not trust":
        confidence = confidences(result.log_probs, result.labels).tolist()
    numbers, log_probs = result.labels.tolist(), result.log_probs.tolist()
    order = [(word, job.labels.index(word)) for word in job.task.labels]
    labelled = tuple(
        LabelledRow(
            row=job.dataset.rows[row],
            label=job.labels[numbers[item]],
            confidence=confidence[item],
            log_probs={word: log_probs[item][k] for word, k in order},
            exactness=exactness[item].value,
            pinned=pinned is not None and bool(pinned[item] == numbers[item]),
            cut_tokens=None if cut is None else cut[row],
        )
        for row, item in zip(rows.tolist(), items[rows].tolist(), strict=True)
    )
    label_mass = None
    if result.label_mass is not None and not np.isnan(result.label_mass[items[rows]]).all():
        label_mass = float(np.nanmean(result.label_mass[items[rows]]))
    alike = agreement_matrix([end.labels for end in result.restarts], len(job.labels)).tolist()
    share_intervals = {}
    if result.prior.interval is not None:
        low, high = result.prior.interval
        share = sum(row.label == job.labels[0] for row in labelled) / max(len(labelled), 1)
        if low <= share <= high:  # else a rule or pins have decided against the scores
            share_intervals = dict(zip(job.labels, ((low, high), (1 - high, 1 - low)), strict=True))
    return Labels(
        rows=labelled,
        dataset=only(job.dataset, rows.tolist()),
        task=job.task,
        preset=preset,
        utility=result.utility,
        coherence=result.coherence,
        findings=findings,
        warnings=warnings,
        notices=notices,
        failed=failed,
        stopped=stopped,
        server=server,
        history=result.history,
        steps=result.steps,
        restart=result.restart,
        starts=tuple(
            StartEnd(end.utility, end.coherence, tuple(agreeing))
            for end, agreeing in zip(result.restarts, alike, strict=True)
        ),
        label_mass=label_mass,
        prior_source=result.prior.source,
        share_intervals=share_intervals,
        by_confidence=result.by_confidence,
        cost=cost,
        seed=seed,
        run=run,
        row_limit=row_limit,
    )
