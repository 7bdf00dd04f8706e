"""Figures of a run for a paper, drawn by matplotlib, which the extra `report` installs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from icm_client.errors import RunError
from icm_client.experiments.figures import require_matplotlib
from icm_client.report.report_data import ReportData
from icm_client.report.run_course import STEPS_A_POINT, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = ("png", "svg")
"""Of each figure."""

_COLOURS = ("#2166ac", "#c2601a", "#2a7f62", "#8b4a9c", "#7a6a10", "#b03a5b")
_FAINT = 0.4
_INCHES = (3.4, 2.5)
"""A column of a two-column page."""

_MOST_BINS = 40
_MOST_MARKS = 40

Draw = Callable[["Axes"], None]


def draw_run(data: ReportData, folder: Path) -> tuple[Path, ...]:
    """Draw every figure that the run has something to show in; return the files.

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
    require_matplotlib()
    import matplotlib as mpl  # noqa: PLC0415 - an optional extra, and slow to load
    from matplotlib.figure import Figure  # noqa: PLC0415

    written = []
    style: dict[Any, Any] = {
        "svg.hashsalt": "icm-client",  # fixed names within the SVG: the same run is the same file
        "svg.fonttype": "none",
        "font.size": 8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.linewidth": 0.3,
        "legend.frameon": False,
    }
    with mpl.rc_context(style):
        for name, draw in _figures(data):
            figure = Figure(figsize=_INCHES, layout="constrained")
            draw(figure.subplots())
            for kind in FORMATS:
                path = folder / f"{name}.{kind}"
                dated = {"svg": {"Date": None}, "png": {"Software": None}}[kind]
                try:
                    folder.mkdir(parents=True, exist_ok=True)
                    figure.savefig(path, metadata=dated, dpi=300)
                except OSError as error:
                    raise RunError(
                        f"{path}: the figure cannot be written: {error.strerror}. Name another "
                        "folder with --out."
                    ) from error
                written.append(path)
    return tuple(written)


def _figures(data: ReportData) -> list[tuple[str, Draw]]:
    course, unit = data.course, data.course.unit
    sweeps = unit == "sweep"
    moved = ("flips", "labels moved") if sweeps else ("acceptance", f"of {STEPS_A_POINT} accepted")
    lines = [
        ("utility", course.utility, "U (nats an item)" if sweeps else "U (nats)", False),
        ("balance", course.shares, "share of rows", True),
        (moved[0], course.moved, moved[1], True),
        ("accuracy", course.accuracy, "accuracy", True),
    ]
    found: list[tuple[str, Draw]] = [
        (name, _lines(series, unit, y_name, shares=shares))
        for name, series, y_name, shares in lines
        if any(one.points for one in series)
    ]
    found.append(("log_odds" if len(data.table.words) == 2 else "margins", _histogram(data)))  # noqa: PLR2004
    if data.reliability is not None:
        found.append(("reliability", _reliability(data)))
    return found


def _lines(series: Sequence[Series], unit: str, y_name: str, *, shares: bool) -> Draw:
    def draw(axes: "Axes") -> None:
        from matplotlib.ticker import MaxNLocator  # noqa: PLC0415 - slow to load

        drawn = [one for one in series if one.points]
        for number, one in enumerate(drawn):
            xs, ys = zip(*one.points, strict=True)
            axes.plot(
                xs,
                ys,
                color=_COLOURS[number % len(_COLOURS)],
                alpha=1 if one.kept else _FAINT,
                linewidth=1.2,
                marker="o" if len(xs) <= _MOST_MARKS else None,
                markersize=2.5,
                label=one.name,
            )
        axes.set_xlabel(unit)
        axes.set_ylabel(y_name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if shares:
            axes.set_ylim(0, 1.02)
            axes.yaxis.set_major_formatter("{x:.0%}")
        if len(drawn) > 1:
            axes.legend(fontsize=7)

    return draw


def _histogram(data: ReportData) -> Draw:
    def draw(axes: "Axes") -> None:
        table, values = data.table, data.log_odds
        reach = max(float(np.quantile(abs(values), 0.995)), 0.1)
        half = min(_MOST_BINS // 2, max(4, round(len(values) ** 0.5)))
        edges = np.linspace(-reach, reach, 2 * half + 1)  # an edge is exactly the threshold
        shown = values.clip(-reach, reach)
        axes.hist(
            [shown[table.held == number] for number in range(len(table.words))],
            bins=edges.tolist(),
            stacked=True,
            color=[_COLOURS[number % len(_COLOURS)] for number in range(len(table.words))],
            label=list(table.words),
            linewidth=0.3,
            edgecolor="white",
        )
        axes.axvline(0, color="black", linewidth=0.9, linestyle="--")
        one, other = table.words[:2]
        axes.set_xlabel(
            f"log-odds of {one!r} against {other!r} (nats)"
            if len(table.words) == 2  # noqa: PLR2004 - log-odds are of two
            else "log-prob of the label minus the next (nats)"
        )
        axes.set_ylabel("rows")
        axes.legend(fontsize=7)

    return draw


def _reliability(data: ReportData) -> Draw:
    found = data.reliability
    assert found is not None  # noqa: S101 - asked before

    def draw(axes: "Axes") -> None:
        low = min(1 / len(data.table.words), found.bins[0].confidence)
        xs = [one.confidence for one in found.bins]
        ys = [one.accuracy for one in found.bins]
        reach = np.array([[one.accuracy - one.low, one.high - one.accuracy] for one in found.bins])
        axes.plot([low, 1], [low, 1], color="black", linewidth=0.7, linestyle=":")
        axes.errorbar(
            xs,
            ys,
            yerr=reach.clip(0, 1).T,
            color=_COLOURS[0],
            linewidth=1.2,
            elinewidth=0.7,
            marker="o",
            markersize=3,
        )
        axes.set_xlim(low - 0.02, 1.02)
        axes.set_ylim(0, 1.02)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:.0%}")
        axes.set_xlabel("confidence")
        axes.set_ylabel("share that is right")
        axes.annotate(
            f"ECE {found.error:.1%}", (0.02, 0.95), xycoords="axes fraction", va="top", fontsize=7
        )

    return draw
