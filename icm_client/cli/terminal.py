"""Where a command prints for people: consoles, live displays and tables.

Nothing that takes long is imported here: `icm-client runs list` is to be there at once.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import click
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

_REDRAWS_A_SECOND = 4


@contextmanager
def live_display(
    console: Console, *, hidden: bool
) -> Iterator[Callable[[RenderableType], None] | None]:
    """Yield what shows something below the printed lines; it disappears at the end.

    Yield None where nothing is to be shown, or no terminal is there.
    """
    if hidden or not console.is_terminal:
        yield None
        return
    with Live(
        Text("Starting ..."),
        console=console,
        refresh_per_second=_REDRAWS_A_SECOND,
        transient=True,
    ) as live:
        yield live.update  # drawn at the display's own pace


@contextmanager
def step_display(*, hidden: bool, prefix: str = "") -> Iterator[Callable[[str], None] | None]:
    """Yield a callback for each step of a probe: it updates a status line, or prints a line."""
    console = Console(stderr=True, highlight=False)
    if hidden:
        yield None
    elif console.is_terminal:
        with console.status(Text("Starting ...")) as status:
            yield lambda step: status.update(Text(f"{prefix}{step} ..."))
    else:
        yield lambda step: console.print(Text(f"{prefix}{step}"), soft_wrap=True)


def output_console() -> Console:
    """Standard output; with wide lines where it does not go to a terminal but, say, to grep."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    return console


_WIDTH_OF_A_FILE = 1000
"""Columns of a table that goes to a file or a pipe: no line is cut there."""


def share(value: object) -> str:
    """A share as a percentage; a dash where there is none."""
    return f"{value:.1%}" if isinstance(value, float) else "-"


def columns_that_fit(
    columns: Mapping[str, Sequence[str]], *, drop: Sequence[str], console: Console | None = None
) -> dict[str, Sequence[str]]:
    """Return the columns that there is room for; all of them where no terminal is.

    Args:
        columns: cells by heading; between two columns there are two spaces.
        drop: headings in the order in which columns are left out; the others always stay.
        console: where they go; None for standard output.
    """
    kept = dict(columns)
    console = console or Console()
    if not console.is_terminal:
        return kept
    widths = {
        heading: max(cell_len(text) for text in (heading, *cells))
        for heading, cells in columns.items()
    }
    for heading in drop:
        if sum(widths[one] + 2 for one in kept) - 2 <= console.width:
            break
        del kept[heading]
    return kept


def table_that_fits(
    columns: Mapping[str, Sequence[str]], *, drop: Sequence[str], numbers: Collection[str]
) -> Table:
    """Return a table of the columns that standard output has room for, in plain text."""
    table = Table(box=None, pad_edge=False)
    columns = {heading: [plain(cell) for cell in cells] for heading, cells in columns.items()}
    kept = columns_that_fit(columns, drop=drop)
    for heading in kept:
        table.add_column(heading, no_wrap=True, justify="right" if heading in numbers else "left")
    for cells in zip(*kept.values(), strict=True):
        table.add_row(*cells)
    return table


def facts_table() -> Table:
    """Return an empty table of names and what is known of them."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    return table


_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""What a terminal obeys instead of showing it, without tabs and newlines; and half characters."""


def plain(text: object) -> str:
    r"""Return a text whose control characters are shown, as `\x1b` is, and not obeyed."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def beginning(text: str, most: int) -> str:
    """Return a text as one plain line of at most so many characters, with an ellipsis if cut."""
    line = plain(" ".join(text.split()))
    return line if len(line) <= most else f"{line[: most - 1]}\u2026"


def print_table(table: Table) -> None:
    """Print the table; where it does not go to a terminal, no line is cut."""
    if Console().is_terminal:
        Console(highlight=False, markup=False).print(table)
        return
    console = Console(highlight=False, markup=False, width=_WIDTH_OF_A_FILE)
    with console.capture() as printed:
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in printed.get().splitlines()))


def duration(seconds: float) -> str:
    """`7.5 s`, `40 s`, `3 min 2 s`."""
    minutes, rest = divmod(round(seconds, 1), 60)
    if minutes:
        return f"{minutes:.0f} min {rest:.0f} s"
    return f"{rest:.1f} s" if rest < 10 else f"{rest:.0f} s"  # noqa: PLR2004
