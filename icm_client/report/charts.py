"""Charts as inline SVG, for a page: no library, colours by CSS classes, axes with words.

Every colour is a class (`series-0`, `axis`, ...) that the page's style sheet sets for light and
dark. Text goes through an XML tree, so that whatever a label word holds is escaped.

Which charts the report of a run has, and what stands above each.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from icm_client.coherence.problem import FloatArray, IntArray
from icm_client.report.report_data import ReportData
from icm_client.report.run_course import STEPS_A_POINT, Series
from icm_client.stats.calibration_curve import Reliability

WIDTH, HEIGHT = 360, 232
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 18, 10, 42
COLOURS = 6
"""Series of different colours; the next ones begin again, with dashes."""

_MOST_BINS = 30
_MOST_TICKS = 6
_SHOWN_MARKS = 40

Format = Callable[[float], str]


def percent(value: float) -> str:
    """A share as a whole percentage."""
    return f"{value:.0%}"


def plain(value: float) -> str:
    """A number with as many places as it needs."""
    return f"{value:,.4g}".replace("-", "\N{MINUS SIGN}")


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis.

    Attributes:
        name: what it shows, with its unit.
        low: its start.
        high: its end, above `low`.
        format: of a tick's number.
        whole: ticks are whole numbers.
    """

    name: str
    low: float
    high: float
    format: Format = plain
    whole: bool = False

    def ticks(self) -> list[float]:
        """Round numbers within the axis, at most a handful."""
        return nice_ticks(self.low, self.high, whole=self.whole)


class Canvas:
    """A chart under way: axes are drawn when it is made; marks are added in data units."""

    def __init__(self, title: str, x: Axis, y: Axis) -> None:
        self._x, self._y = x, y
        self.root = ET.Element(
            "svg",
            {
                "xmlns": "http://www.w3.org/2000/svg",
                "viewBox": f"0 0 {WIDTH} {HEIGHT}",
                "role": "img",
                "aria-label": title,
                "class": "chart",
            },
        )
        for tick in y.ticks():
            self.line((x.low, tick), (x.high, tick), "grid")
            place = self._at(x.low, tick)
            self.text(place[0] - 6, place[1] + 3.5, y.format(tick), "tick end")
        for tick in x.ticks():
            place = self._at(tick, y.low)
            self.text(place[0], place[1] + 15, x.format(tick), "tick middle")
        self.line((x.low, y.low), (x.high, y.low), "axis")
        middle = (_TOP + HEIGHT - _BOTTOM) / 2
        self.text((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 8, x.name, "name middle")
        turned = self.text(11, middle, y.name, "name middle")
        turned.set("transform", f"rotate(-90 11 {middle:g})")

    def _at(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self._x.low) / (self._x.high - self._x.low)
        up = (y - self._y.low) / (self._y.high - self._y.low)
        return (
            _LEFT + across * (WIDTH - _LEFT - _RIGHT),
            HEIGHT - _BOTTOM - up * (HEIGHT - _TOP - _BOTTOM),
        )

    def text(self, x: float, y: float, content: str, css: str) -> ET.Element:
        """Add text at pixels."""
        attributes = {"x": f"{x:.1f}", "y": f"{y:.1f}", "class": css}
        element = ET.SubElement(self.root, "text", attributes)
        element.text = content
        return element

    def line(self, start: tuple[float, float], end: tuple[float, float], css: str) -> None:
        """Add a straight line."""
        (x1, y1), (x2, y2) = self._at(*start), self._at(*end)
        ends = {"x1": f"{x1:.1f}", "y1": f"{y1:.1f}", "x2": f"{x2:.1f}", "y2": f"{y2:.1f}"}
        ET.SubElement(self.root, "line", {**ends, "class": css})

    def path(self, points: Sequence[tuple[float, float]], css: str) -> None:
        """Add a line through points."""
        places = (self._at(*point) for point in points)
        told = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        ET.SubElement(self.root, "polyline", {"points": told, "class": css})

    def dot(self, point: tuple[float, float], css: str, title: str) -> None:
        """Add a point that says its figures when it is pointed at."""
        x, y = self._at(*point)
        attributes = {"cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": "3", "class": css}
        ET.SubElement(ET.SubElement(self.root, "circle", attributes), "title").text = title

    def bar(self, x: tuple[float, float], y: tuple[float, float], css: str, title: str) -> None:
        """Add a bar from `x[0]` to `x[1]` and from `y[0]` up to `y[1]`."""
        (left, bottom), (right, top) = self._at(x[0], y[0]), self._at(x[1], y[1])
        attributes = {
            "x": f"{left + 0.5:.1f}",
            "y": f"{top:.1f}",
            "width": f"{max(right - left - 1, 0.5):.1f}",
            "height": f"{max(bottom - top, 0):.1f}",
            "class": css,
        }
        ET.SubElement(ET.SubElement(self.root, "rect", attributes), "title").text = title

    def svg(self) -> str:
        """Return the markup."""
        return ET.tostring(self.root, encoding="unicode")


def series_class(number: int) -> str:
    """The CSS classes of a series' colour and dash."""
    return f"series-{number % COLOURS}{' dashed' if number >= COLOURS else ''}"


def line_chart(
    series: Sequence[Series], *, title: str, x_name: str, y_name: str, shares: bool = False
) -> str:
    """Return lines over sweeps or steps.

    Args:
        series: with at least one point in all.
        title: for whoever cannot see it.
        x_name: what x counts.
        y_name: what y shows, with its unit.
        shares: y runs from 0 to 1, as percentages.

    Raises:
        ValueError: no point.
    """
    xs, ys = zip(*(point for one in series for point in one.points), strict=True)
    x = _counted(x_name, min(xs), max(xs))
    y = Axis(y_name, 0.0, 1.0, percent) if shares else _around(y_name, min(ys), max(ys))
    canvas = Canvas(title, x, y)
    if y.low < 0 < y.high:
        canvas.line((x.low, 0), (x.high, 0), "zero")
    for number, one in enumerate(series):
        css = f"{series_class(number)}{'' if one.kept else ' faint'}"
        canvas.path(one.points, f"line {css}")
        if len(one.points) <= _SHOWN_MARKS:
            for point in one.points:
                said = f"{one.name}, {x_name} {point[0]:g}: {y.format(point[1])}"
                canvas.dot(point, f"dot {css}", said)
    return canvas.svg()


def histogram(
    values: FloatArray, groups: IntArray, names: Sequence[str], *, title: str, x_name: str
) -> str:
    """Return a stacked histogram with the threshold at 0.

    The furthest half percent at either end is counted in the last bars.

    Args:
        values: shape `[N]`, N at least 1.
        groups: shape `[N]`, which of `names` each belongs to.
        names: of the stacks, from the bottom.
        title: for whoever cannot see it.
        x_name: what x shows, with its unit.
    """
    reach = max(float(_quantile(abs(values), 0.995)), 0.1)
    half = min(_MOST_BINS // 2, max(4, math.ceil(math.sqrt(len(values)))))
    width = _nice_step(reach / half)
    half = math.ceil(reach / width - 1e-9)  # a bar ends exactly at 0
    places = ((values / width) // 1).astype(int).clip(-half, half - 1)
    first, last = min(int(places.min()), 0), max(int(places.max()), -1)
    counts = [[0] * (last + 1 - first) for _ in names]
    for place, group in zip(places.tolist(), groups.tolist(), strict=True):
        counts[group][place - first] += 1
    highest = max(map(sum, zip(*counts, strict=True)))
    x = Axis(x_name, first * width, (last + 1) * width)
    canvas = Canvas(title, x, Axis("rows", 0, highest * 1.05, plain, whole=True))
    for place in range(last + 1 - first):
        bottom = 0
        left = (place + first) * width
        for group, name in enumerate(names):
            if count := counts[group][place]:
                said = f"{name}: {count:,} rows from {plain(left)} to {plain(left + width)} nats"
                top = bottom + count
                canvas.bar((left, left + width), (bottom, top), f"bar {series_class(group)}", said)
                bottom = top
    canvas.line((0, 0), (0, highest * 1.05), "threshold")
    return canvas.svg()


def reliability_chart(found: Reliability, *, title: str, lowest: float) -> str:
    """Return the reliability curve; a bar reaches over each bin's 95% interval.

    Args:
        found: the curve.
        title: for whoever cannot see it.
        lowest: where the axis of confidences starts.
    """
    low = min(lowest, found.bins[0].confidence)
    low = math.floor(low * 10) / 10
    x = Axis("confidence", low, 1.0, percent)
    canvas = Canvas(title, x, Axis("share that is right", 0.0, 1.0, percent))
    canvas.line((low, low), (1, 1), "ideal")
    for one in found.bins:
        canvas.line((one.confidence, one.low), (one.confidence, one.high), "interval")
    canvas.path([(one.confidence, one.accuracy) for one in found.bins], "line series-0")
    for one in found.bins:
        said = (
            f"{one.rows:,} rows, mean confidence {one.confidence:.1%}: {one.accuracy:.1%} right "
            f"(95% interval {one.low:.0%} to {one.high:.0%})"
        )
        canvas.dot((one.confidence, one.accuracy), "dot series-0", said)
    return canvas.svg()


def nice_ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Return round numbers from `low` to `high`, at most a handful."""
    step = _nice_step((high - low) / (_MOST_TICKS - 1))
    if whole:
        step = max(1.0, round(step))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(number * step, 10) + 0.0 for number in range(first, last + 1)]


def _nice_step(least: float) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that is no less."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= least * (1 - 1e-9))


def _counted(name: str, low: float, high: float) -> Axis:
    return Axis(name, low, high if high > low else low + 1, plain, whole=True)


def _around(name: str, low: float, high: float) -> Axis:
    low = min(low, 0.0)
    reach = (high - low) or 1.0
    return Axis(name, low - 0.04 * reach * (low < 0), high + 0.06 * reach)


def _quantile(values: FloatArray, share: float) -> float:
    ordered = sorted(values.tolist())
    return float(ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)])


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
