"""Pictures of ablations and evaluations, by matplotlib, which the extra `report` installs.

Each has one line a variant or method, with the mean over seeds, the spread, and a dot for each
seed. An evaluation looks like Figures 1 and 3 of arXiv 2506.10139.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from icm_client.experiments.ablation import Compared
from icm_client.experiments.evaluation import TAUGHT_BY, Kind
from icm_client.experiments.evaluation_results import Result
from icm_client.report.run_figures import matplotlib_style, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INCHES_A_LINE = 0.28
_INK, _FAINT = "#1b4965", "#9bb1c0"
_TITLES = {
    "constraint": "constraint",
    "initial": "K, rows labelled to start from",
    "alpha": "alpha",
    "init": "first labels",
    "preset": "preset",
}


def draw_ablations(compared: Sequence[Compared], paths: Sequence[Path], title: str) -> None:
    """Draw accuracy (where there is gold) and coherence of every variant, ablation by ablation.

    A bar is the mean over seeds, a line the range, a dot a run. The same figures give the same
    bytes.

    Args:
        compared: the variants; those whose runs all failed stay empty.
        paths: of the files to write; the extension sets the format.
        title: above the whole picture.

    Raises:
        SetupError: matplotlib is not installed.
        OSError: a file cannot be written.
    """
    figures: list[Literal["accuracy", "coherence"]] = ["accuracy", "coherence"]
    if not any(one.values("accuracy") for one in compared):
        figures.remove("accuracy")
    groups: dict[str, list[Compared]] = {}
    for one in compared:
        groups.setdefault(one.variant.ablation, []).append(one)
    lowest = {
        name: min([0.0, *(v for one in compared for v in one.values(name))]) for name in figures
    }
    heights = [len(group) + 1.5 for group in groups.values()]
    with matplotlib_style(**{"font.size": 9}):
        from matplotlib.figure import Figure  # noqa: PLC0415 - an optional extra, and slow to load

        figure = Figure(
            figsize=(2.2 + 3.4 * len(figures), 1.0 + _INCHES_A_LINE * sum(heights)),
            layout="constrained",
        )
        figure.suptitle(title, fontsize=10)
        grid = figure.subplots(
            len(groups),
            len(figures),
            squeeze=False,
            gridspec_kw={"height_ratios": heights},
        )
        for line, (ablation, group) in enumerate(groups.items()):
            for column, name in enumerate(figures):
                axes = grid[line, column]
                _draw(axes, group, name)
                axes.set_xlim(lowest[name] - 0.05 if lowest[name] < 0 else 0.0, 1.0)
                if column:
                    axes.set_yticklabels([])
                else:
                    axes.set_title(_TITLES[ablation], loc="left", fontsize=9, fontweight="bold")
                if line == len(groups) - 1:
                    axes.set_xlabel(name)
        for path in paths:
            save_figure(figure, path, dpi=150)


def _draw(axes: "Axes", group: Sequence[Compared], name: Literal["accuracy", "coherence"]) -> None:
    for place, one in enumerate(group):
        values = one.values(name)
        if not values:
            axes.annotate("failed", (0, place), fontsize=8, va="center", color=_FAINT)
            continue
        axes.barh(place, sum(values) / len(values), height=0.6, color=_FAINT)
        axes.hlines(place, min(values), max(values), color=_INK, linewidth=1.2)
        axes.plot(values, [place] * len(values), "o", color=_INK, markersize=3)
    axes.set_yticks(range(len(group)), [one.variant.name for one in group])
    axes.set_ylim(len(group) - 0.4, -0.6)  # the first on top
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.grid(visible=True, axis="x", linewidth=0.3)
    axes.spines[["top", "right"]].set_visible(False)


Source = Literal["none", "gold", "human", "ICM"]

_SOURCES: Final[dict[Kind, Source]] = {
    "majority": "gold",
    "same-accuracy": "gold",
    "golden": "gold",
    "human": "human",
    "icm": "ICM",
}
"""Whose labels a method uses; those not listed use none."""

_COLOURS: Final[dict[Source, str]] = {
    "none": "#b4c3cd",
    "gold": "#d9b84a",
    "human": "#8fb593",
    "ICM": "#4a90c2",
}
_LEGEND: Final[dict[Source, str]] = {
    "none": "no labels",
    "gold": "gold labels",
    "human": "human labels",
    "ICM": "ICM's labels",
}
_GOLDEN_LINES: Final[dict[Kind, str]] = {"golden": "--", "finetuned-golden": ":"}
_DARK = "#22303a"
_INCHES_A_BAR = 0.32
_INCHES_OF_GAP = 3.4
_SHARES_SHOWN = (-0.5, 1.5)
"""Beyond these an interval is cut, and a dot stands at the edge."""


def draw_evaluation(found: Sequence[Result], paths: Sequence[Path], title: str) -> None:
    """Draw each method's accuracy on the test rows, and the share of the gap that it recovers.

    A bar is the mean over seeds, a line the bootstrap's 95% interval, a dot a seed. The dashed line
    is the mean of golden labels, the dotted one that of models trained on them. Beside it, where
    the gap from zero-shot to golden labels is known, a dot is the share, and a line its interval;
    0 and 1 are these two. The same figures give the same bytes.

    Args:
        found: the methods; those that failed with every seed stay empty.
        paths: of the files to write; the extension sets the format.
        title: above the picture.

    Raises:
        SetupError: matplotlib is not installed.
        OSError: a file cannot be written.
    """
    with matplotlib_style(**{"font.size": 9}):
        from matplotlib.figure import Figure  # noqa: PLC0415 - an optional extra, and slow to load
        from matplotlib.patches import Patch  # noqa: PLC0415

        compared = any(one.gap for one in found)
        figure = Figure(
            figsize=(6.6 + _INCHES_OF_GAP * compared, 1.5 + _INCHES_A_BAR * len(found)),
            layout="constrained",
        )
        axes, *beside = figure.subplots(
            1, 1 + compared, squeeze=False, sharey=True, width_ratios=(5, 3)[: 1 + compared]
        )[0]
        for place, one in enumerate(found):
            if one.accuracy is None or one.interval is None:
                axes.annotate("failed", (0.01, place), fontsize=8, va="center", color=_DARK)
                continue
            source = _source(one.method.kind)
            axes.barh(place, one.accuracy, height=0.66, color=_COLOURS[source])
            low, high = one.interval
            axes.errorbar(
                one.accuracy,
                place,
                xerr=[[max(one.accuracy - low, 0.0)], [max(high - one.accuracy, 0.0)]],
                color=_DARK,
                linewidth=1.2,
                capsize=3,
                clip_on=False,
            )
            seeds = [each for outcome in one.ended if (each := outcome.accuracy) is not None]
            if len(seeds) > 1:
                axes.plot(
                    seeds,
                    [place] * len(seeds),
                    "o",
                    color="white",
                    mec=_DARK,
                    markersize=3.5,
                    clip_on=False,
                    zorder=3,
                )
            axes.annotate(f"{one.accuracy:.1%}", (1.02, place), va="center", annotation_clip=False)
        for one in found:
            line = _GOLDEN_LINES.get(one.method.kind)
            if line is not None and one.accuracy is not None:
                axes.axvline(
                    one.accuracy, color=_COLOURS["gold"], linewidth=1, linestyle=line, zorder=0
                )
        axes.set_yticks(range(len(found)), [one.method.name for one in found])
        axes.set_ylim(len(found) - 0.4, -0.6)  # the first on top
        axes.set_xlim(0.0, 1.0)
        axes.xaxis.set_major_formatter("{x:.0%}")
        axes.set_xlabel("accuracy on held-out rows")
        axes.grid(visible=True, axis="x", linewidth=0.3)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        for gap_axes in beside:
            _draw_gaps(gap_axes, found)
        figure.suptitle(title, fontsize=10)
        shown = dict.fromkeys(_source(one.method.kind) for one in found)
        figure.legend(
            [Patch(color=_COLOURS[source]) for source in _COLOURS if source in shown],
            [_LEGEND[source] for source in _COLOURS if source in shown],
            loc="outside lower center",
            ncols=len(shown),
            frameon=False,
            fontsize=8,
        )
        for path in paths:
            save_figure(figure, path, dpi=150)


def _draw_gaps(axes: "Axes", found: Sequence[Result]) -> None:
    low, high = _SHARES_SHOWN
    for place, one in enumerate(found):
        if one.gap is None:
            continue
        share, interval = one.gap
        said = "no gap" if share is None else f"{share:.0%}"
        axes.annotate(said, (high, place), xytext=(6, 0), textcoords="offset points", va="center")
        if interval is not None:
            axes.hlines(place, *interval, color=_DARK, linewidth=1.2)
        if share is not None:
            filled = _COLOURS[_source(one.method.kind)] if interval else "white"
            at = min(max(share, low), high)
            axes.plot(at, place, "o", color=filled, mec=_DARK, markersize=5, clip_on=False)
    for end in (0, 1):
        axes.axvline(end, color=_DARK, linewidth=0.8, linestyle="--", zorder=0)
    axes.set_xlim(low, high)
    axes.set_xticks([0, 0.5, 1])
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.set_xlabel("gap recovered")
    axes.grid(visible=True, axis="x", linewidth=0.3)
    axes.tick_params(left=False)
    axes.spines[["left", "top", "right"]].set_visible(False)


def _source(kind: Kind) -> Source:
    return _SOURCES.get(TAUGHT_BY.get(kind, kind), "none")
