"""Which charts the report of a run has, and what stands above each."""

from collections.abc import Sequence
from dataclasses import dataclass

from icm_client.report.charts import (
    histogram,
    line_chart,
    reliability_chart,
    series_class,
)
from icm_client.report.report_data import ReportData
from icm_client.report.run_course import STEPS_A_POINT, Series


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart with its words.

    Attributes:
        title: above it.
        note: what to see in it.
        svg: the markup.
        legend: name and CSS classes of each series; empty where one needs no name.
    """

    title: str
    note: str
    svg: str
    legend: tuple[tuple[str, str], ...] = ()


def charts_of(data: ReportData) -> list[Chart]:
    """Return the charts that this run has something to show in."""
    found = [_log_odds(data)]
    if data.reliability is not None:
        found.append(_reliability(data))
    course, unit = data.course, data.course.unit
    sweeps = unit == "sweep"
    utility = (
        "How well the labels predict each other, nats an item. It should climb and settle."
        if sweeps
        else "The preset's own objective after each step. It should climb and settle."
    )
    found += _lines("U", utility, course.utility, unit, "U (nats)", shares=False)
    balance = (
        "Share of each label, of the start whose labels these are."
        if sweeps
        else "Share of each label among those that steps have set."
    )
    found += _lines("Balance", balance, course.shares, unit, "share of rows")
    if sweeps:
        flips = "Share of the labels that a sweep moved. The search ends when they stop."
        found += _lines("Flips", flips, course.moved, unit, "labels moved")
    else:
        accepted = f"Share of the last {STEPS_A_POINT} steps that were accepted."
        found += _lines("Acceptance", accepted, course.moved, unit, "accepted")
    accuracy = (
        "Share that is right of the labels with gold, after each sweep. The search sees no gold."
        if sweeps
        else "Share that is right of the labels with gold that steps have set."
    )
    if course.renamed:
        accuracy += " Names are those of the end: the search exchanged them when it was over."
    found += _lines("Accuracy", accuracy, course.accuracy, unit, "accuracy")
    return found


def _lines(
    title: str, note: str, series: Sequence[Series], unit: str, y_name: str, *, shares: bool = True
) -> list[Chart]:
    """One chart, or none where there is no point."""
    drawn = [one for one in series if one.points]
    if not drawn:
        return []
    svg = line_chart(drawn, title=f"{title} by {unit}", x_name=unit, y_name=y_name, shares=shares)
    legend = tuple(
        (one.name, f"{series_class(number)}{'' if one.kept else ' faint'}")
        for number, one in enumerate(drawn)
    )
    return [Chart(f"{title} by {unit}", note, svg, legend if len(drawn) > 1 else ())]


def _log_odds(data: ReportData) -> Chart:
    words = data.table.words
    legend = tuple((word, series_class(number)) for number, word in enumerate(words))
    if len(words) == 2:  # noqa: PLR2004 - log-odds are of two
        title = "Log-odds"
        axis = f"log-odds of {words[0]!r} against {words[1]!r} (nats)"
        note = (
            "How far each row is from the threshold, where its label would change. Two hills with "
            "a valley between them are a concept; one hill over the threshold is a guess."
        )
    else:
        title = "Margins"
        axis = "log-prob of the label minus the next (nats)"
        note = "How clearly each row's label leads. Under 0 a rule decided against the likeliest."
    svg = histogram(data.log_odds, data.table.held, words, title=title, x_name=axis)
    return Chart(title, note, svg, legend)


def _reliability(data: ReportData) -> Chart:
    found = data.reliability
    assert found is not None  # noqa: S101 - asked before
    note = (
        f"Of labels given with 80%, 80% should be right: on the dotted line. Expected calibration "
        f"error {found.error:.1%} over {len(found.bins)} bins of equally many rows; bars are 95% "
        "intervals."
    )
    svg = reliability_chart(found, title="Reliability", lowest=1 / len(data.table.words))
    return Chart("Reliability", note, svg)
