"""What the pages show: a run's report, or how it goes so far; its rows; how runs compare.

Everything here reads files and takes time for a run of many rows, so the server calls it in
threads. What was read of a run is kept until one of its files changes.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from icm_client.errors import InputError
from icm_client.record.archive import Run, read_folder
from icm_client.record.checks import Check, Checks
from icm_client.record.comparison import diff_runs, labels_by_row
from icm_client.record.layout import LABELS, RESULT, WHY
from icm_client.report.charts import Chart, course_charts, line_chart
from icm_client.report.label_table import NO_GOLD
from icm_client.report.report import sections_of, templates
from icm_client.report.report_data import ReportData, page_id, page_rows, read_report
from icm_client.report.run_course import Series, read_course_so_far
from icm_client.stats.agreement import agreements
from icm_client.view.live import RunLine, file_stamps

SECTIONS: Final = ("checks", "figures")
"""The parts of a run's page that are taken anew as it goes on and as rows are checked."""

_KEPT: Final = 4
"""Runs whose rows are kept; 100,000 rows take about 200 MB."""

TEMPLATES: Final = ("icm_client.view", "page")


def rendered(template: str, **values: object) -> str:
    """Return one of the view's templates filled in."""
    return templates(TEMPLATES).get_template(template).render(**values)


class CheckedAccuracy(NamedTuple):
    """What is known of the labels once so many rows were checked, in the order of the answers.

    Attributes:
        checked: how many.
        agreed: share of them whose answer is the run's label; None before one.
        labels: share of the rows with gold whose label is right, with the answers put in place.
        people: share of the checked rows with gold whose answer is the gold label; None before one.
    """

    checked: int
    agreed: float | None
    labels: float
    people: float | None


class _Read(NamedTuple):
    stamps: object
    report: ReportData
    rows: bytes


class RunReader:
    """Reads runs that have labels, and keeps the last few."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Path, _Read] = OrderedDict()
        self._reading = threading.Lock()

    def report(self, folder: Path) -> ReportData:
        """Return what the report of a run shows; errors as `read_report`."""
        return self._read(folder).report

    def rows(self, folder: Path) -> bytes:
        """Return the rows as `page_rows` gives them, as JSON; errors as `read_report`."""
        return self._read(folder).rows

    def _read(self, folder: Path) -> _Read:
        with self._reading:  # the page and its rows are asked for at the same time
            stamps = file_stamps(folder, (LABELS, RESULT, WHY))
            kept = self._kept.get(folder)
            if kept is None or kept.stamps != stamps:
                report = read_report(read_folder(folder))
                kept = _Read(stamps, report, orjson.dumps(page_rows(report.table)))
            self._kept[folder] = kept
            self._kept.move_to_end(folder)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
            return kept


def run_values(reader: RunReader, folder: Path, line: RunLine) -> dict[str, object]:
    """Return what the templates of a run's page show, by the names they use.

    Always there are `line` (the `RunLine`), `labelled` and `charts`; of a run with labels also what
    the report shows (`icm_client.report.report.sections_of`), and `checks_chart`.
    """
    if line.labelled:
        report = reader.report(folder)
        chart = checks_chart(accuracy_by_checks(report, Checks(folder).read()))
        return {"line": line, "labelled": True, "checks_chart": chart, **sections_of(report)}
    charts = course_charts(read_course_so_far(read_folder(folder)))
    return {"line": line, "labelled": False, "charts": charts}


def checks_document(folder: Path, report: ReportData) -> dict[str, Any]:
    """Return the checks of a run and what follows from them, as JSON values."""
    checks = Checks(folder).read()
    return {
        "checks": [{"id": page_id(c.id), "label": c.label, "by": c.by, "at": c.at} for c in checks],
        "accuracy": [one._asdict() for one in accuracy_by_checks(report, checks)],
    }


def accuracy_by_checks(report: ReportData, checks: Sequence[Check]) -> list[CheckedAccuracy]:
    """Return accuracy by number of checked rows; empty where no row has gold."""
    table = report.table
    judged = int(table.judged.sum())
    if not judged:
        return []
    places = {str(row): place for place, row in enumerate(table.ids)}
    held, gold = table.held.tolist(), table.gold.tolist()
    right = int(table.right.sum())
    agreed = said_right = said_judged = 0
    found = [CheckedAccuracy(0, None, right / judged, None)]
    for count, check in enumerate(
        (one for one in checks if str(one.id) in places and one.label in table.words), start=1
    ):
        place = places[str(check.id)]
        said = table.words.index(str(check.label))
        agreed += said == held[place]
        if gold[place] != NO_GOLD:
            said_judged += 1
            said_right += said == gold[place]
            right += (said == gold[place]) - (held[place] == gold[place])
        people = said_right / said_judged if said_judged else None
        found.append(CheckedAccuracy(count, agreed / count, right / judged, people))
    return found


def checks_chart(found: Sequence[CheckedAccuracy]) -> Chart | None:
    """Return accuracy by number of checked rows as a chart; None before one is checked."""
    if len(found) < 2:  # noqa: PLR2004 - the first is of none
        return None
    said = tuple((one.checked, one.people) for one in found if one.people is not None)
    series = (
        Series("labels", tuple((one.checked, one.labels) for one in found)),
        Series("answers", said),
    )
    return line_chart(
        series,
        name="checks",
        title="Accuracy by checked rows",
        note="Share of the rows with gold whose label is right, with the answers put in place, and "
        "of the answers that are the gold label.",
        unit="rows checked",
        y_name="accuracy",
    )


def compare_values(runs: Sequence[Run], lines: Sequence[RunLine]) -> dict[str, object]:
    """Return what the page of a comparison shows, by the names its template uses.

    `lines`: of the runs. `pairs`: each with `first` and `second` (names), `agreement`
    (`icm_client.stats.agreement.Agreement`) and `diff` (`icm_client.record.comparison.RunDiff`).

    Raises:
        InputError: fewer than two runs, one without labels, or runs over different data.
        RunError: a file of a run cannot be read.
    """
    for run in runs:
        if run.result is None:
            raise InputError(f"the run {run.name} has no labels yet (it is {run.state})")
    labels = [{row: found.label for row, found in own.items()} for own in labels_by_row(runs)]
    pairs = [
        {
            "first": runs[one].name,
            "second": runs[other].name,
            "agreement": found,
            "diff": diff_runs(runs[one], runs[other]),
        }
        for (one, other), found in agreements(labels).items()
    ]
    return {"lines": lines, "pairs": pairs}
