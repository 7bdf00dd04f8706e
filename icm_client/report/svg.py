"""Charts as inline SVG for the page: no library, and every colour is a CSS class.

The page's style sheet sets the classes (`series-0`, `axis`, ...) for light and dark. Text goes
through an XML tree, so that whatever a label word holds is escaped.
"""

from collections.abc import Sequence
from xml.etree import ElementTree as ET

from icm_client.report.charts import Axis, Bar, Chart

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
