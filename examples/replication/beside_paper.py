"""Measured figures beside the paper's: the table that a check ends with, and the same as JSON."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import click
import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from icm_client.data.whole_files import replace_file
from icm_client.errors import InputError

MEANS_NOTHING: Final = (
    "These figures mean nothing: a 270-million-parameter model on a few rows shows that every part "
    "runs, and no more."
)
_PIPED_COLUMNS: Final = 120


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table.

    Attributes:
        name: what was measured.
        measured: a share a seed, from 0 to 1; empty where it could not be measured.
        paper: what the paper has for it, in percent or words; None where it has nothing.
        remark: what else is to be known of it.
    """

    name: str
    measured: tuple[float, ...]
    paper: str | None = None
    remark: str = ""

    @property
    def mean(self) -> float | None:
        """Over the seeds."""
        return statistics.mean(self.measured) if self.measured else None


@dataclass(frozen=True, slots=True)
class Result:
    """What a check found.

    Attributes:
        check: its name.
        figures: line by line.
        notes: how the figures stand to the paper's, one sentence each.
        ran: what was run: rows, seeds, preset, model.
        embedded: whether the embedded model answered, on a few rows.
    """

    check: str
    figures: tuple[Figure, ...]
    notes: tuple[str, ...]
    ran: Mapping[str, object]
    embedded: bool

    def document(self) -> dict[str, object]:
        """Everything as JSON values."""
        return {
            "check": self.check,
            "figures": [{**asdict(figure), "mean": figure.mean} for figure in self.figures],
            "notes": [*self.notes, *([MEANS_NOTHING] if self.embedded else [])],
            "ran": dict(self.ran),
        }


def show(result: Result, *, as_json: bool, out: Path | None) -> None:
    """Print the table, or the JSON in its place; write the JSON to `out` where one is named.

    Raises:
        InputError: `out` cannot be written.
    """
    document = orjson.dumps(result.document(), option=orjson.OPT_INDENT_2)
    if out is not None:
        try:
            replace_file(out, document + b"\n")
        except OSError as error:
            raise InputError(f"{out}: cannot be written: {error.strerror}") from error
    if as_json:
        click.echo(document)
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _PIPED_COLUMNS)
    console.print(_table(result))
    for note in result.notes:
        console.print(Text(note, style="dim"))
    if result.embedded:
        console.print(Text(MEANS_NOTHING, style="bold yellow"))


def _table(result: Result) -> Table:
    ran = ", ".join(f"{name} {value}" for name, value in result.ran.items())
    table = Table(title=Text(f"{result.check}: {ran}"), title_justify="left")
    table.add_column("")
    table.add_column("paper", justify="right")
    table.add_column("here", justify="right")
    table.add_column("least to most", justify="right")
    table.add_column("")
    for figure in result.figures:
        table.add_row(
            Text(figure.name),
            Text(figure.paper or "-"),
            Text("-" if figure.mean is None else f"{figure.mean:.1%}"),
            Text(_spread(figure.measured)),
            Text(figure.remark),
        )
    return table


def _spread(measured: Sequence[float]) -> str:
    if len(measured) < 2:  # noqa: PLR2004 - one seed has no spread
        return "-"
    return f"{min(measured):.1%} to {max(measured):.1%}"
