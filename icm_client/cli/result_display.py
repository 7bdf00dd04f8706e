"""What a run, or one for each value of a field, ends with: the result, and warnings last.

The result goes to standard output, the warnings to standard error.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from icm_client.cli.search_display import progress_display
from icm_client.cli.terminal import columns_that_fit, duration, facts_table, share
from icm_client.data.job import Job
from icm_client.data.messages import listed
from icm_client.data.outputs import STANDARD_OUTPUT
from icm_client.data.rows import FailedRow, named_places
from icm_client.record.layout import REPORT
from icm_client.runs.by_field import GroupLabels
from icm_client.runs.progress import Cost, OnProgress, Progress
from icm_client.runs.result import Labels
from icm_client.stats.agreement import Agreement
from icm_client.stats.confusion import Confusion
from icm_client.verdict.findings import NO_CONFIDENCE, Finding, Severity, Verdict, many, of_run

_NAMED_ROWS = 10
"""Rows without a label that are named one by one."""

_GIVEN_SHOWN = 8
"""The most labels of which the terminal shows what was taken for what; --json shows all."""

VERDICT_STYLES: dict[Verdict, str] = {
    "trust": "green",
    "check": "yellow",
    "do not trust": "bold red",
}

_FINDING_STYLES: dict[Severity, str] = {"fatal": "bold red", "check": "yellow", "note": "dim"}


def result_console(output: str | None) -> Console:
    """Where a result is printed: on standard output, unless the labels go there."""
    return Console(stderr=output == STANDARD_OUTPUT, highlight=False)


def print_preview(job: Job, console: Console) -> None:
    """Print the first prompt as the model gets it, and the labels that may follow."""
    console.print(Text(f"{len(job.dataset.rows):,} rows. The first prompt, and what may follow:\n"))
    console.print(Text(job.prompts[0], style="dim"), soft_wrap=True)
    for text in job.label_texts:
        console.print(Text(f"  {text!r}"))
    console.print()


def print_result(found: Labels, output: str, console: Console | None = None) -> None:
    """Print the table that a run ends with, on standard output or a console of yours."""
    table = facts_table()
    verdict = f"{found.verdict}{of_run(found.stopped)}"
    table.add_row("verdict", Text(verdict, style=VERDICT_STYLES[found.verdict]))
    total = len(found.rows)
    for word, count in found.counts.items():
        ends = found.share_intervals.get(word)
        interval = "" if ends is None else f"; 90% interval {ends[0]:.0%} to {ends[1]:.0%}"
        table.add_row(Text(word), f"{count:,} rows ({count / total:.0%}{interval})")
    if found.predicted:
        searched = f"{total - found.predicted:,} rows"
        table.add_row("searched", f"{searched}; {found.predicted:,} predicted from their labels")
    if found.pinned:
        table.add_row("pinned", f"{many(found.pinned, 'row')}, kept by the search")
    if found.accuracy is not None:
        known = f"{found.accuracy:.1%} of {found.rows_with_gold:,} rows with gold"
        table.add_row("accuracy", f"{known}, pinned ones among them" if found.pinned else known)
    table.add_row("coherence", f"{found.coherence:.0%} (U = {found.utility:+.3f} nats an item)")
    cost_rows(table, found.cost)
    if found.steps:
        accepted = sum(step.accepted for step in found.steps)
        table.add_row("steps", f"{len(found.steps):,}, {accepted:,} accepted ({found.preset})")
    table.add_row("model", Text(f"{found.server.model} ({found.server.kind})"))
    if found.run is not None:
        report = found.run / REPORT
        table.add_row("record in", Text(str(report if report.exists() else found.run)))
    table.add_row("labels in", Text(output))
    console = console or Console(highlight=False)
    console.print(table)
    print_confusion(found.confusion, console)


def cost_rows(table: Table, cost: Cost) -> None:
    """Add what a run has used."""
    table.add_row("tokens", f"{cost.computed_tokens:,} computed, {cost.cached_tokens:,} cached")
    again = f", {cost.checked:,} of them compared with the server's" if cost.checked else ""
    table.add_row(
        "scores",
        f"{cost.from_server:,} from the server, {cost.from_store:,} from the store{again}",
    )
    table.add_row("time", duration(cost.seconds))


def print_confusion(confused: Confusion | None, console: Console) -> None:
    """Print how well each label was found, after an empty line; nothing where no gold is known."""
    if confused is not None:
        console.print()
        console.print(_by_label(confused, console))


def _by_label(confused: Confusion, console: Console) -> Table:
    """A line for each gold label: how well it was found, and which labels its rows were given.

    Where the terminal has no room for the labels that were given, they are left out.
    """
    by_label = confused.by_label
    columns: dict[str, list[str]] = {
        "gold label": [one.label for one in by_label],
        "precision": [share(one.precision) for one in by_label],
        "recall": [share(one.recall) for one in by_label],
        "F1": [share(one.f1) for one in by_label],
        "rows": [f"{one.gold:,}" for one in by_label],
    }
    given = [f"as {word}" for word in confused.labels]
    for heading, counts in zip(given, zip(*confused.counts, strict=True), strict=True):
        columns[heading] = [f"{count:,}" for count in counts]
    fitting = columns_that_fit(columns, drop=[*given, "rows"], console=console)
    if len(given) > _GIVEN_SHOWN or len(fitting) < len(columns):
        dropped = {*given, *(columns.keys() - fitting.keys())}
        columns = {heading: columns[heading] for heading in columns if heading not in dropped}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in columns:
        justify: Literal["left", "right"] = "left" if heading == "gold label" else "right"
        table.add_column(Text(heading), justify=justify)
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*map(Text, cells))
    return table


def print_notices(
    notices: Sequence[str], failed: Sequence[FailedRow], *, warnings: Sequence[str] = ()
) -> None:
    """Print what is worth knowing, what to mend, and rows without a label, on standard error."""
    console = Console(stderr=True, highlight=False)
    for notice in notices:
        console.print(Text(f"Note: {notice}.", style="dim"), soft_wrap=True)
    for warning in warnings:
        console.print(Text(f"Warning: {warning}.", style="yellow"), soft_wrap=True)
    for row in failed[:_NAMED_ROWS]:
        where = named_places([(row.place, "")])
        console.print(
            Text(f"Warning: row {row.id!r} ({where}) has no label: {row.reason}", "yellow"),
            soft_wrap=True,
        )
    if len(failed) > _NAMED_ROWS:
        more = len(failed) - _NAMED_ROWS
        console.print(
            Text(f"Warning: {more} more rows have no label; --json lists them all.", "yellow")
        )


def print_warnings(found: Labels, *, notes: bool) -> None:
    """Print what a person must see before the labels are used, on standard error; `notes` too."""
    console = Console(stderr=True, highlight=False)
    print_notices(found.notices if notes else (), found.failed, warnings=found.warnings)
    if found.stopped is not None:
        console.print(
            Text(
                f"Warning: the search was ended early by {found.stopped}: these are the best "
                "labels so far. The same command goes on from here.",
                "yellow",
            ),
            soft_wrap=True,
        )
    sure = found.confidence is not None
    print_verdict(found.verdict, found.findings, sure=sure, notes=notes)


def print_verdict(
    verdict: Verdict, findings: Sequence[Finding], *, sure: bool, notes: bool
) -> None:
    """Print a verdict other than trust with its findings, on standard error.

    The worst of the findings comes last. With `notes` also those that ask for nothing are printed.
    """
    console = Console(stderr=True, highlight=False)
    if verdict != "trust":
        words = Text(f"Warning: the verdict on these labels is: {verdict}. What was found:")
        console.print(words, style=VERDICT_STYLES[verdict], soft_wrap=True)
    if not sure:
        console.print(Text(f"Warning: {NO_CONFIDENCE}", style="yellow"), soft_wrap=True)
    for finding in reversed(findings):  # the worst one last, where it is read
        is_note = finding.severity == "note"
        if is_note and not notes:
            continue
        kind = "Note" if is_note else "Warning"
        console.print(
            Text(f"{kind}: {finding.text}", _FINDING_STYLES[finding.severity]),
            soft_wrap=True,
        )


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
