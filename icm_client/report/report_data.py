"""What the report of a run shows, as plain data read from its folder; nothing is drawn here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from icm_client.coherence.problem import FloatArray
from icm_client.record.archive import Run
from icm_client.report.label_table import LabelTable, read_label_table
from icm_client.report.run_course import Course, read_course
from icm_client.stats.calibration_curve import Reliability, reliability
from icm_client.verdict.findings import (
    VERDICTS,
    Finding,
    Verdict,
    recorded_verdict,
    worst_first,
)

MEANINGS: Mapping[Verdict, str] = {
    "trust": "Nothing in this run speaks against its labels.",
    "check": "Something may be wrong with these labels: look at some rows before you use them.",
    "do not trust": "These labels should not be used as they are.",
}

_MOST_CHARACTERS = 20_000
"""Of a field that the page carries, ..."""

_MOST_OF_ALL = 24_000_000
"""... and of all rows together, so that a browser opens it; ..."""

_FEWEST_CHARACTERS = 400
"""... but so many of each in any case."""


@dataclass(frozen=True, slots=True)
class Starts:
    """How far the starts of a search ended alike; `A` of them, at least two.

    Attributes:
        names: with the `U` that each ended at, shape `[A]`.
        agreement: share of the items that two of them label alike, names aside, shape `[A, A]`.
    """

    names: tuple[str, ...]
    agreement: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class ReportData:
    """Everything that the page shows.

    Attributes:
        run: whose report it is.
        verdict: what the findings add up to.
        derived: whether the verdict was read off the findings, since the record holds none.
        findings: the worst first.
        table: the rows.
        course: how the search went.
        reliability: of the confidences; None where no row has gold, or there are none.
        log_odds: what the histogram shows, nats, shape `[N]`: of two labels the first's log-odds,
            of more each row's margin. The threshold is 0.
        starts: how far they ended alike; None where there was one, or the record tells of none.
    """

    run: Run
    verdict: Verdict
    derived: bool
    findings: tuple[Finding, ...]
    table: LabelTable
    course: Course
    reliability: Reliability | None
    log_odds: FloatArray
    starts: Starts | None

    @property
    def result(self) -> Mapping[str, Any]:
        """The record's summary."""
        return self.run.result or {}

    @property
    def counts(self) -> tuple[tuple[str, int, float], ...]:
        """Of each label its word, its rows, and their share."""
        n = len(self.table.held)
        counts = np.bincount(self.table.held, minlength=len(self.table.words)).tolist()
        return tuple((w, c, c / n) for w, c in zip(self.table.words, counts, strict=True))


def read_report(run: Run, *, gold: str | None = None) -> ReportData:
    """Return what the report of a run shows.

    Args:
        run: one that is done.
        gold: the rows' field with gold labels, where the run was not told of it.

    Raises:
        InputError: the run has no labels yet, or the gold field is not there or holds no labels.
        RunError: a file of the run cannot be read.
    """
    table = read_label_table(run, gold=gold)
    result = run.result or {}
    judged = table.judged
    return ReportData(
        run=run,
        verdict=recorded_verdict(result),
        derived=result.get("verdict") not in VERDICTS,
        findings=worst_first(map(Finding.recorded, result.get("findings", ()))),
        table=table,
        course=read_course(run, table),
        reliability=reliability(table.confidence[judged], table.right[judged])
        if judged.any() and not np.isnan(table.confidence).any()
        else None,
        log_odds=table.log_probs[:, 0] - table.log_probs[:, 1]
        if len(table.words) == 2  # noqa: PLR2004 - log-odds are of two
        else table.margins,
        starts=_starts(result.get("starts") or ()),
    )


def page_rows(table: LabelTable) -> dict[str, Any]:
    """Return the rows as the page's script reads them: JSON values, texts cut to what it carries.

    A row is `[id, label, confidence, margin, gold, exactness, texts, left out]`: labels as numbers
    in `words`, confidence null in a run that is not to be trusted, gold -1 where there is none,
    `left out` the characters that were cut off.
    """
    limit = max(_FEWEST_CHARACTERS, min(_MOST_CHARACTERS, _MOST_OF_ALL // len(table.ids)))
    kinds = sorted(set(table.exactness))
    golds = [-1] * len(table.ids) if table.gold is None else table.gold.tolist()
    rows = zip(
        # JavaScript has whole numbers up to 2**53 only: 1234567890123456789 would end in ...800.
        (name if isinstance(name, str) or abs(name) < 2**53 else str(name) for name in table.ids),
        table.held.tolist(),
        [None if np.isnan(one) else one for one in table.confidence.round(5).tolist()],
        table.margins.round(4).tolist(),
        golds,
        map(kinds.index, table.exactness),
        ([text[:limit] for text in texts] for texts in table.texts),
        (sum(max(0, len(text) - limit) for text in texts) for texts in table.texts),
        strict=True,
    )
    return {
        "words": list(table.words),
        "fields": list(table.fields),
        "exactness": kinds,
        "gold": table.gold is not None,
        "rows": list(rows),
    }


def _starts(told: Sequence[Mapping[str, Any]]) -> Starts | None:
    if len(told) < 2:  # noqa: PLR2004 - one agrees with nothing
        return None
    return Starts(
        tuple(f"start {n} (U {one['utility']:+.2f})" for n, one in enumerate(told, start=1)),
        tuple(tuple(map(float, one["agreement"])) for one in told),
    )
