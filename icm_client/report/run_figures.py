"""Figures of a run for a paper, drawn by matplotlib, which the extra `report` installs."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icm_client.errors import RunError, SetupError
from icm_client.report.charts import Chart, charts_of
from icm_client.report.report_data import ReportData

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "svg")
"""Each figure is written in all of them."""

_COLOURS = ("#2166ac", "#c2601a", "#2a7f62", "#8b4a9c", "#7a6a10", "#b03a5b")
_FAINT = 0.4
_INCHES = (3.4, 2.5)
"""A column of a two-column page."""

_STYLE: dict[str, Any] = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.3,
    "legend.frameon": False,
    "legend.fontsize": 7,
}
_STRAIGHT: dict[str, dict[str, Any]] = {
    "zero": {"color": "black", "linewidth": 0.7, "linestyle": ":"},
    "ideal": {"color": "black", "linewidth": 0.7, "linestyle": ":"},
    "threshold": {"color": "black", "linewidth": 0.9, "linestyle": "--"},
    "interval": {"color": _COLOURS[0], "linewidth": 0.7},
}


def draw_run(data: ReportData, folder: Path) -> tuple[Path, ...]:
    """Draw every chart of the report into a folder, and return the files.

    `utility`, `balance`, `flips` (of steps: `acceptance`), `log_odds` (of more than two labels:
    `margins`), and where there is gold `reliability` and `accuracy`. The same run gives the same
    bytes.

    Args:
        data: of the run.
        folder: where to; made if it is not there.

    Raises:
        SetupError: matplotlib is not installed.
        RunError: a file cannot be written.
    """
    written = []
    with matplotlib_style(**_STYLE):
        from matplotlib.figure import Figure  # noqa: PLC0415 - an optional extra, and slow to load

        for chart in charts_of(data):
            figure = Figure(figsize=_INCHES, layout="constrained")
            _draw(figure.subplots(), chart)
            for kind in FORMATS:
                path = folder / f"{chart.name}.{kind}"
                try:
                    folder.mkdir(parents=True, exist_ok=True)
                    save_figure(figure, path, dpi=300)
                except OSError as error:
                    raise RunError(
                        f"{path}: the figure cannot be written: {error.strerror}. Name another "
                        "folder with --out."
                    ) from error
                written.append(path)
    return tuple(written)


def _draw(axes: "Axes", chart: Chart) -> None:
    for bar in chart.bars:
        width, height = bar.right - bar.left, bar.top - bar.bottom
        axes.bar(
            bar.left,
            height,
            width,
            bar.bottom,
            align="edge",
            color=_colour(bar.series),
            edgecolor="white",
            linewidth=0.3,
        )
    for one in chart.straight:
        axes.plot(*zip(one.start, one.end, strict=True), **_STRAIGHT[one.kind])
    for number, series in enumerate(chart.series):
        axes.plot(
            [x for x, _ in series.points],
            [y for _, y in series.points],
            color=_colour(number),
            alpha=1 if series.kept else _FAINT,
            linestyle="-" if number < len(_COLOURS) else "--",
            linewidth=1.2,
            marker="o" if series.notes else None,
            markersize=2.5,
        )
    for axis, shown in ((axes.xaxis, chart.x), (axes.yaxis, chart.y)):
        ticks = shown.ticks()
        axis.set_ticks(ticks, [shown.text(tick) for tick in ticks])
        axis.set_label_text(shown.name)
    # Marks at the ends of an axis are drawn whole.
    edge = 0.0 if chart.bars else 0.02 * (chart.x.high - chart.x.low)
    axes.set_xlim(chart.x.low - edge, chart.x.high + edge)
    axes.set_ylim(chart.y.low, chart.y.high + (0.02 if chart.y.percent else 0))
    if chart.legend:
        from matplotlib.patches import Patch  # noqa: PLC0415 - slow to load

        swatches = [
            Patch(color=_colour(number), alpha=1 if series.kept else _FAINT)
            for number, series in enumerate(chart.legend)
        ]
        axes.legend(swatches, [series.name for series in chart.legend])
    if chart.figure:
        axes.annotate(chart.figure, (0.02, 0.95), xycoords="axes fraction", va="top", fontsize=7)


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


@contextmanager
def matplotlib_style(**style: Any) -> Iterator[None]:
    """Draw in this style within the block, so that the same figures give the same file.

    Args:
        style: settings of matplotlib, `font_size=8` or `**{"font.size": 8}`.
    """
    try:
        import matplotlib as mpl  # noqa: PLC0415 - an optional extra, and slow to load
        import matplotlib.figure  # noqa: PLC0415
    except ImportError:
        raise SetupError("pictures need matplotlib: pip install 'icm-client[report]'") from None
    # Names within an SVG do not change from run to run, and a label word is no formula.
    fixed: dict[Any, Any] = {
        "svg.hashsalt": "icm-client",
        "svg.fonttype": "none",
        "text.parse_math": False,
    }
    with mpl.rc_context(fixed | style):
        yield


def save_figure(figure: "Figure", path: Path, *, dpi: int) -> None:
    """Write a figure, in the format that the file's extension names, without date or version."""
    dated = {".svg": {"Date": None}, ".png": {"Software": None}}
    figure.savefig(path, metadata=dated.get(path.suffix), dpi=dpi)
