"""What the report of a run shows, as plain data read from the run's folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from icm_client.coherence.problem import FloatArray
from icm_client.record.archive import Run
from icm_client.record.explanations import read_explanations
from icm_client.report.label_table import NO_GOLD, LabelTable, read_label_table
from icm_client.report.run_course import Course, read_course
from icm_client.stats.calibration_curve import Reliability, reliability
from icm_client.stats.confusion import Confusion, confusion
from icm_client.verdict.findings import (
    VERDICTS,
    Finding,
    Verdict,
    recorded_finding,
    recorded_verdict,
    worst_first,
)

MEANINGS: Mapping[Verdict, str] = {
    "trust": "Nothing in this run speaks against its labels.",
    "check": "Something may be wrong with these labels: look at some rows before you use them.",
    "do not trust": "These labels should not be used as they are.",
}

_FEWEST_CHARACTERS, _MOST_CHARACTERS = 400, 20_000
"""How much of a row's field the page holds; ..."""

_MOST_OF_ALL = 24_000_000
"""... less than the most where all rows together would be too much for a browser."""


class Said(NamedTuple):
    """Words of the page's script, which differ between a run's labels and an audit's.

    Attributes:
        found: what a row's own label is.
        gold: what the label beside it is.
        first: in which order rows are shown one by one.
        file: where the whole text of a long row stands.
    """

    found: str = "found"
    gold: str = "gold"
    first: str = "least certain first"
    file: str = "labels.jsonl"


OF_A_RUN: Final = Said()


@dataclass(frozen=True, slots=True)
class Starts:
    """How far the `A` starts of a search agree, at least two.

    Attributes:
        names: with the `U` that each ended at, shape `[A]`.
        agreement: share of the items that two starts label alike, names aside, shape `[A, A]`.
    """

    names: tuple[str, ...]
    agreement: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class ReportData:
    """Everything that the page shows.

    Attributes:
        run: the run.
        verdict: on its labels.
        derived: whether the verdict was derived from the findings, for the record holds none.
        findings: the worst first.
        table: the rows.
        course: how the search went.
        confusion: gold labels against the labels found; None where no row has gold.
        reliability: of the confidences; None where no row has gold, or there are none.
        log_odds: what the histogram shows, nats, shape `[N]`: of two labels the first's log-odds,
            of more each row's margin. The threshold is 0.
        starts: how far they agree; None where there was one, or the record does not say.
        explained: rows that were explained, and still have the label that was.
    """

    run: Run
    verdict: Verdict
    derived: bool
    findings: tuple[Finding, ...]
    table: LabelTable
    course: Course
    confusion: Confusion | None
    reliability: Reliability | None
    log_odds: FloatArray
    starts: Starts | None
    explained: Sequence[Mapping[str, Any]] = ()

    @property
    def result(self) -> Mapping[str, Any]:
        """The record's summary."""
        return self.run.result or {}

    @property
    def counts(self) -> tuple[tuple[str, int, float], ...]:
        """Each label's word, its number of rows, and their share."""
        n = len(self.table.held)
        counts = np.bincount(self.table.held, minlength=len(self.table.words)).tolist()
        return tuple((w, c, c / n) for w, c in zip(self.table.words, counts, strict=True))


def read_report(run: Run, *, gold: str | None = None) -> ReportData:
    """Return what the report of a run shows."""
    table = read_label_table(run, gold=gold)
    result = run.result or {}
    judged = table.judged
    return ReportData(
        run=run,
        verdict=recorded_verdict(result),
        derived=result.get("verdict") not in VERDICTS,
        findings=worst_first(map(recorded_finding, result.get("findings", ()))),
        table=table,
        course=read_course(run, table),
        confusion=confusion(
            (
                (None if gold == NO_GOLD else table.words[gold], table.words[label])
                for gold, label in zip(table.gold.tolist(), table.held.tolist(), strict=True)
            ),
            table.words,
        ),
        reliability=reliability(table.confidence[judged], table.right[judged])
        if judged.any() and not np.isnan(table.confidence).any()
        else None,
        log_odds=table.log_probs[:, 0] - table.log_probs[:, 1]
        if len(table.words) == 2  # noqa: PLR2004 - log-odds are of two
        else table.margins,
        starts=_starts(result.get("starts") or ()),
        explained=_explained(run, table),
    )


def page_rows(table: LabelTable, said: Said = OF_A_RUN) -> dict[str, Any]:
    """Return the rows as the page's script reads them: JSON values, long texts cut.

    A row is `[id, label, confidence, margin, gold, exactness, texts, cut]`: labels as numbers in
    `words`, confidence null in a run that is not to be trusted, gold -1 where there is none, `cut`
    the number of characters that were cut off.
    """
    limit = max(_FEWEST_CHARACTERS, min(_MOST_CHARACTERS, _MOST_OF_ALL // len(table.ids)))
    kinds = sorted(set(table.exactness))
    rows = zip(
        map(page_id, table.ids),
        table.held.tolist(),
        [None if np.isnan(one) else one for one in table.confidence.round(5).tolist()],
        table.margins.round(4).tolist(),
        table.gold.tolist(),
        map(kinds.index, table.exactness),
        ([text[:limit] for text in texts] for texts in table.texts),
        (sum(max(0, len(text) - limit) for text in texts) for texts in table.texts),
        strict=True,
    )
    return {
        "words": list(table.words),
        "fields": list(table.fields),
        "exactness": kinds,
        "gold": table.gold_field is not None,
        "said": said._asdict(),
        "rows": list(rows),
    }


def _explained(run: Run, table: LabelTable) -> list[dict[str, Any]]:
    held = {row: table.words[label] for row, label in zip(table.ids, table.held, strict=True)}
    return [one for one in read_explanations(run.path) if one["label"] == held.get(one["row"])]


def page_id(row: str | int) -> str | int:
    """Return a row's id as the page has it: JavaScript's whole numbers end at 2**53.

    Of 1234567890123456789 it would make 1234567890123456800.
    """
    return row if isinstance(row, str) or abs(row) < 2**53 else str(row)


def _starts(starts: Sequence[Mapping[str, Any]]) -> Starts | None:
    if len(starts) < 2:  # noqa: PLR2004 - one agrees with nothing
        return None
    return Starts(
        tuple(f"start {n} (U {one['utility']:+.2f})" for n, one in enumerate(starts, start=1)),
        tuple(tuple(map(float, one["agreement"])) for one in starts),
    )
