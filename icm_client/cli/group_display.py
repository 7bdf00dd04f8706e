"""What `label --by FIELD` shows: each value's run as it goes on, and how far the labels agree."""

from contextlib import ExitStack

from rich.console import Console
from rich.table import Table
from rich.text import Text

from icm_client.cli.result_display import VERDICT_STYLES, print_notices, print_verdict
from icm_client.cli.search_display import progress_display
from icm_client.data.messages import listed
from icm_client.runs.by_field import GroupLabels
from icm_client.runs.progress import OnProgress, Progress
from icm_client.stats.agreement import Agreement

_MOST_COLUMNS = 6
"""Values whose agreements are shown as a matrix; those of more are listed, the lowest first."""

_MOST_PAIRS = 15

_CLEAR = 0.5
"""Kappa from which exchanged names are worth a line: of two labels that agree in less than half, an
exchange always agrees in more."""


class RunsProgress:
    """Shows one of several runs, the one under way, under a title, until it is closed."""

    def __init__(self, *, hidden: bool) -> None:
        self._hidden = hidden
        self._shown = ExitStack()
        self._report: OnProgress | None = None

    def close(self) -> None:
        """End the display of the last run."""
        self._shown.close()

    def begin(self, title: str) -> None:
        """Show that a run begins."""
        self.close()
        if not self._hidden:
            Console(stderr=True, highlight=False).print(Text(title, style="bold"), soft_wrap=True)
        self._report = self._shown.enter_context(progress_display(hidden=self._hidden))

    def __call__(self, progress: Progress) -> None:
        """Show a moment of it."""
        if self._report is not None:
            self._report(progress)


def print_groups(found: GroupLabels, output: str, console: Console | None = None) -> None:
    """Print the shares of the labels by value, and how far the values agree."""
    console = console or Console(highlight=False)
    words = found.prepared.whole.whole.task.labels
    table = Table(box=None, padding=(0, 2, 0, 0))
    gold = any(labels.accuracy is not None for labels in found.runs.values())
    numbers = ("rows", *words, *(("accuracy",) if gold else ()))
    for title in (found.prepared.field, *numbers, "verdict", "record in"):
        table.add_column(Text(title), justify="right" if title in numbers else "left")
    for value, labels in found.runs.items():
        shares = (f"{count / len(labels.rows):.0%}" for count in labels.counts.values())
        verdict = Text(labels.verdict, style=VERDICT_STYLES[labels.verdict])
        run = "-" if labels.run is None else str(labels.run)
        right = "-" if labels.accuracy is None else f"{labels.accuracy:.1%}"
        cells = (f"{len(labels.rows):,}", *shares, *((right,) if gold else ()))
        table.add_row(Text(value), *cells, verdict, Text(run))
    console.print(table)
    console.print()
    _print_agreements(found, console)
    console.print(Text(f"labels in {output}"), soft_wrap=True)


def _print_agreements(found: GroupLabels, console: Console) -> None:
    fields, pairs = found.prepared.matched_by, found.agreements
    if not pairs:
        where = f"the same in {listed(fields)}" if fields else "the same but for it"
        console.print(
            Text(
                f"No rows of two values are {where}, so only the shares can be compared. --match "
                "FIELD names what the same rows share.\n"
            ),
            soft_wrap=True,
        )
        return
    same = listed(fields)
    console.print(
        Text(f"Agreement of rows that are the same in {same}: share (kappa), rows of both\n"),
        soft_wrap=True,
    )
    values = list(found.runs)
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=len(values) <= _MOST_COLUMNS)
    if len(values) <= _MOST_COLUMNS:
        table.add_column("")
        for value in values[1:]:
            table.add_column(Text(value))
        for number, value in enumerate(values[:-1]):
            cells = [_cell(pairs.get((value, other))) for other in values[number + 1 :]]
            table.add_row(Text(value), *[""] * number, *cells)
    else:
        table.add_column()
        table.add_column()
        lowest = sorted(pairs.items(), key=lambda pair: pair[1].share)
        for (one, other), agreed in lowest[:_MOST_PAIRS]:
            table.add_row(Text(f"{one}, {other}"), _cell(agreed))
        if len(lowest) > _MOST_PAIRS:
            table.add_row(f"{len(lowest) - _MOST_PAIRS:,} more agree as much or more", "(--json)")
    console.print(table)
    for (one, other), agreed in pairs.items():
        if agreed.names and (agreed.exchanged_kappa or 0.0) >= _CLEAR:
            console.print(
                Text(
                    f"{one} and {other} would agree in {agreed.exchanged_share:.0%} with the names "
                    f"of {other}'s labels exchanged: one of the two searches may have found the "
                    "classes under each other's names."
                ),
                soft_wrap=True,
            )
    console.print()


def _cell(agreed: Agreement | None) -> str:
    if agreed is None:
        return "no rows"
    kappa = "-" if agreed.kappa is None else f"{agreed.kappa:.2f}"
    return f"{agreed.share:.0%} ({kappa}), {agreed.rows:,}"


def print_group_warnings(found: GroupLabels, *, notes: bool) -> None:
    """Print what a person must see before the labels are used, on standard error; `notes` too."""
    console = Console(stderr=True, highlight=False)
    prepared = found.prepared
    print_notices(prepared.notices if notes else (), found.failed, warnings=prepared.warnings)
    for value, labels in found.runs.items():
        if labels.warnings or labels.findings or (notes and labels.notices):
            console.print(Text(f"{prepared.field} = {value}:", style="bold"), soft_wrap=True)
        print_notices(labels.notices if notes else (), (), warnings=labels.warnings)
        sure = labels.confidence is not None
        print_verdict(labels.verdict, labels.findings, sure=sure, notes=notes)
    if found.stopped is not None:
        console.print(
            Text(
                f"Warning: the runs were ended early by {found.stopped}: these are the best labels "
                "so far. The same command goes on from here.",
                "yellow",
            ),
            soft_wrap=True,
        )
