"""Which charts the report of a run has, as plain data: axes, lines, bars, and what stands above.

`chart_svg` draws them for the page, without a library, and each colour is a CSS class that the
page's style sheet sets for light and dark; `run_figures.py` draws them for papers. Text goes
through an XML tree, so that whatever a label word holds is escaped.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple
from xml.etree import ElementTree as ET

import numpy as np

from icm_client.coherence.problem import FloatArray, IntArray
from icm_client.report.report_data import ReportData
from icm_client.report.run_course import STEPS_A_POINT, Course, Series
from icm_client.stats.calibration_curve import Reliability

_MOST_BINS = 30
_MOST_TICKS = 6
_MOST_MARKS = 40
"""Points of a line up to which each has a mark."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis.

    Attributes:
        name: what it shows, with its unit.
        low: its start.
        high: its end, above `low`.
        percent: values are shares, shown as whole percentages.
        whole: ticks are whole numbers.
    """

    name: str
    low: float
    high: float
    percent: bool = False
    whole: bool = False

    def text(self, value: float) -> str:
        """The value with as many places as it needs."""
        if self.percent:
            return f"{value:.0%}"
        return f"{value:,.4g}".replace("-", "\N{MINUS SIGN}")

    def ticks(self) -> list[float]:
        """Round numbers within the axis, at most a handful."""
        step = _round_step((self.high - self.low) / (_MOST_TICKS - 1))
        if self.whole:
            step = max(1.0, round(step))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(number * step, 10) + 0.0 for number in range(first, last + 1)]


class Bar(NamedTuple):
    """A bar of the series of this number; `note` is its figures in words."""

    series: int
    left: float
    right: float
    bottom: float
    top: float
    note: str


class StraightLine(NamedTuple):
    """What figures are to be compared with, or the interval that a figure may lie in."""

    start: tuple[float, float]
    end: tuple[float, float]
    kind: Literal["zero", "threshold", "ideal", "interval"]


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart with its words.

    Attributes:
        name: of a file with it.
        title: above it.
        note: what to see in it.
        x: the horizontal axis.
        y: the vertical one.
        series: each in a colour of its own; the points of one are joined, and each point with a
            note has a mark.
        bars: under all else.
        straight: between the bars and the series.
        figure: what a paper would print within the chart; empty for nothing.
    """

    name: str
    title: str
    note: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    bars: tuple[Bar, ...] = ()
    straight: tuple[StraightLine, ...] = ()
    figure: str = ""

    @property
    def legend(self) -> tuple[Series, ...]:
        """The series to name; none where there is only one."""
        return self.series if len(self.series) > 1 else ()


def charts_of(data: ReportData) -> list[Chart]:
    """Return the charts that this run has something to show in."""
    words = data.table.words
    found = [histogram(data.log_odds, data.table.held, words)]
    if data.reliability is not None:
        found.append(reliability_chart(data.reliability, lowest=1 / len(words)))
    return found + course_charts(data.course)


def course_charts(course: Course) -> list[Chart]:
    """Return the charts of how a search goes, or went."""
    sweeps = course.unit == "sweep"
    if sweeps:
        utility = (
            "How well the labels predict each other, nats an item. It should climb and settle."
        )
        balance = "Share of each label, in the start whose labels were kept."
        moved = "Share of the labels that a sweep changed. The search ends when they stop changing."
        accuracy = "Share of the rows with gold whose label was right after each sweep. The search "
        accuracy += "sees no gold."
    else:
        utility = "The preset's own objective after each step. It should climb and settle."
        balance = "Share of each label among the labels that steps have set."
        moved = f"Share of the last {STEPS_A_POINT} steps that were accepted."
        accuracy = "Share of the labels with gold that steps have set and that are right."
    if course.renamed:
        accuracy += " Label names are the final ones: the search exchanged them at its end."
    drawn = [
        ("utility", "U", utility, course.utility, "U (nats an item)" if sweeps else "U (nats)"),
        ("balance", "Balance", balance, course.shares, "share of rows"),
        ("flips", "Flips", moved, course.moved, "labels changed")
        if sweeps
        else ("acceptance", "Acceptance", moved, course.moved, "steps accepted"),
        ("accuracy", "Accuracy", accuracy, course.accuracy, "accuracy"),
    ]
    return [
        line_chart(
            series,
            name=name,
            title=f"{title} by {course.unit}",
            note=note,
            unit=course.unit,
            y_name=y_name,
            percent=name != "utility",
        )
        for name, title, note, series, y_name in drawn
        if any(one.points for one in series)
    ]


def line_chart(
    series: Sequence[Series],
    *,
    name: str,
    title: str,
    note: str,
    unit: str,
    y_name: str,
    percent: bool = True,
) -> Chart:
    """Return lines over sweeps or steps (`unit`); `percent`: of shares, from 0 to 100%."""
    series = [one for one in series if one.points]
    xs, ys = zip(*(point for one in series for point in one.points), strict=True)
    low = min(*ys, 0.0)
    reach = (max(ys) - low) or 1.0
    y = Axis(y_name, low - 0.04 * reach * (low < 0), max(ys) + 0.06 * reach)
    if percent:
        y = Axis(y_name, 0.0, 1.0, percent=True)
    x = Axis(unit, min(xs), max(*xs, min(xs) + 1), whole=True)
    marked = [
        replace(one, notes=tuple(f"{one.name}, {unit} {a:g}: {y.text(b)}" for a, b in one.points))
        if len(one.points) <= _MOST_MARKS
        else one
        for one in series
    ]
    zero = [StraightLine((x.low, 0), (x.high, 0), "zero")] if y.low < 0 < y.high else []
    return Chart(name, title, note, x, y, tuple(marked), straight=tuple(zero))


def histogram(values: FloatArray, held: IntArray, words: Sequence[str]) -> Chart:
    """Return a stacked histogram of log-odds or, of three labels and more, of margins.

    The furthest half percent at either end is counted in the last bars.

    Args:
        values: shape `[N]`, N at least 1, nats; the threshold is 0.
        held: shape `[N]`, each row's label as a number in `words`.
        words: the labels.
    """
    reach = max(float(np.quantile(abs(values), 0.995, method="inverted_cdf")), 0.1)
    half = min(_MOST_BINS // 2, max(4, math.ceil(math.sqrt(len(values)))))
    width = _round_step(reach / half)
    half = math.ceil(reach / width - 1e-9)  # a bar ends exactly at 0
    places = (values // width).astype(int).clip(-half, half - 1)
    first, last = min(int(places.min()), 0), max(int(places.max()), -1)
    counts = np.zeros((last + 1 - first, len(words)), dtype=int)
    np.add.at(counts, (places - first, held), 1)
    tops = counts.cumsum(axis=1)
    highest = float(tops.max()) * 1.05
    two = len(words) == 2  # noqa: PLR2004 - log-odds are of two
    x = Axis(
        f"log-odds of {words[0]!r} against {words[1]!r} (nats)"
        if two
        else "log-prob of the label minus the next (nats)",
        first * width,
        (last + 1) * width,
    )
    bars = tuple(
        Bar(
            label,
            left := (first + place) * width,
            left + width,
            tops[place, label] - counts[place, label],
            tops[place, label],
            f"{word}: {counts[place, label]:,} rows from {x.text(left)} to "
            f"{x.text(left + width)} nats",
        )
        for place in range(len(counts))
        for label, word in enumerate(words)
        if counts[place, label]
    )
    return Chart(
        "log_odds" if two else "margins",
        "Log-odds" if two else "Margins",
        "How far each row is from the threshold, where its label would change. Two hills with a "
        "valley between them are a concept; one hill over the threshold is a guess."
        if two
        else "How clearly each row's label leads. Under 0 a rule decided against the likeliest.",
        x,
        Axis("rows", 0, highest, whole=True),
        tuple(Series(word, ()) for word in words),
        bars,
        (StraightLine((0, 0), (0, highest), "threshold"),),
    )


def reliability_chart(found: Reliability, *, lowest: float) -> Chart:
    """Return the reliability curve with each bin's 95% interval.

    Args:
        found: the curve.
        lowest: where the axis of confidences starts, at the latest.
    """
    low = math.floor(min(lowest, found.bins[0].confidence) * 10) / 10
    notes = tuple(
        f"{one.rows:,} rows, mean confidence {one.confidence:.1%}: {one.accuracy:.1%} right "
        f"(95% interval {one.low:.0%} to {one.high:.0%})"
        for one in found.bins
    )
    points = tuple((one.confidence, one.accuracy) for one in found.bins)
    intervals = [
        StraightLine((one.confidence, one.low), (one.confidence, one.high), "interval")
        for one in found.bins
    ]
    return Chart(
        "reliability",
        "Reliability",
        "Of labels given with 80%, 80% should be right: on the dotted line. Expected calibration "
        f"error {found.error:.1%} over {len(found.bins)} bins of equally many rows; bars are 95% "
        "intervals.",
        Axis("confidence", low, 1.0, percent=True),
        Axis("share that is right", 0.0, 1.0, percent=True),
        (Series("accuracy", points, notes=notes),),
        straight=(StraightLine((low, low), (1, 1), "ideal"), *intervals),
        figure=f"ECE {found.error:.1%}",
    )


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that is no less."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= least * (1 - 1e-9))


WIDTH, HEIGHT = 360, 232
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 18, 10, 42
_COLOURS = 6


def series_class(number: int, *, faint: bool = False) -> str:
    """The CSS classes of a series: beyond the last colour they begin again, with dashes."""
    dashed = " dashed" if number >= _COLOURS else ""
    return f"series-{number % _COLOURS}{dashed}{' faint' if faint else ''}"


def chart_svg(chart: Chart) -> str:
    """Return the chart's markup."""
    canvas = _Canvas(chart.title, chart.x, chart.y)
    for bar in chart.bars:
        canvas.bar(bar)
    for one in chart.straight:
        canvas.line(one.start, one.end, one.kind)
    for number, series in enumerate(chart.series):
        css = series_class(number, faint=not series.kept)
        canvas.polyline(series.points, f"line {css}")
        for point, note in zip(series.points, series.notes, strict=bool(series.notes)):
            canvas.dot(point, f"dot {css}", note)
    return ET.tostring(canvas.root, encoding="unicode")


class _Canvas:
    """Axes, drawn when it is made, and shapes at places in units of the axes."""

    def __init__(self, title: str, x: Axis, y: Axis) -> None:
        self._x, self._y = x, y
        attributes = {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {WIDTH} {HEIGHT}",
            "role": "img",
            "aria-label": title,
            "class": "chart",
        }
        self.root = ET.Element("svg", attributes)
        for tick in y.ticks():
            self.line((x.low, tick), (x.high, tick), "grid")
            left, height = self._pixels(x.low, tick)
            self._text(left - 6, height + 3.5, y.text(tick), "tick end")
        for tick in x.ticks():
            across, bottom = self._pixels(tick, y.low)
            self._text(across, bottom + 15, x.text(tick), "tick middle")
        self.line((x.low, y.low), (x.high, y.low), "axis")
        middle = (_TOP + HEIGHT - _BOTTOM) / 2
        self._text((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 8, x.name, "name middle")
        turned = self._text(11, middle, y.name, "name middle")
        turned.set("transform", f"rotate(-90 11 {middle:g})")

    def _pixels(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self._x.low) / (self._x.high - self._x.low)
        up = (y - self._y.low) / (self._y.high - self._y.low)
        return (
            _LEFT + across * (WIDTH - _LEFT - _RIGHT),
            HEIGHT - _BOTTOM - up * (HEIGHT - _TOP - _BOTTOM),
        )

    def _add(self, tag: str, css: str, note: str = "", **places: float) -> ET.Element:
        attributes = {name: f"{place:.1f}" for name, place in places.items()}
        element = ET.SubElement(self.root, tag, {**attributes, "class": css})
        if note:
            ET.SubElement(element, "title").text = note
        return element

    def _text(self, x: float, y: float, content: str, css: str) -> ET.Element:
        element = self._add("text", css, x=x, y=y)
        element.text = content
        return element

    def line(self, start: tuple[float, float], end: tuple[float, float], css: str) -> None:
        (x1, y1), (x2, y2) = self._pixels(*start), self._pixels(*end)
        self._add("line", css, x1=x1, y1=y1, x2=x2, y2=y2)

    def polyline(self, points: Sequence[tuple[float, float]], css: str) -> None:
        if points:
            places = " ".join("{:.1f},{:.1f}".format(*self._pixels(*point)) for point in points)
            self._add("polyline", css).set("points", places)

    def dot(self, point: tuple[float, float], css: str, note: str) -> None:
        x, y = self._pixels(*point)
        self._add("circle", css, note, cx=x, cy=y, r=3)

    def bar(self, bar: Bar) -> None:
        x1, y1 = self._pixels(bar.left, bar.bottom)
        x2, y2 = self._pixels(bar.right, bar.top)
        width, height = max(x2 - x1 - 1, 0.5), max(y1 - y2, 0)
        css = f"bar {series_class(bar.series)}"
        self._add("rect", css, bar.note, x=x1 + 0.5, y=y2, width=width, height=height)
