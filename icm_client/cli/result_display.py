"""What a run ends with: the result on standard output, warnings last, on standard error."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from icm_client.cli.documents import print_json
from icm_client.cli.terminal import duration
from icm_client.data.job import Job
from icm_client.data.outputs import STANDARD_OUTPUT
from icm_client.data.rows import FailedRow
from icm_client.record.layout import REPORT
from icm_client.runs.result import Labels
from icm_client.verdict.findings import NO_CONFIDENCE, Finding, Severity, Verdict, many

_NAMED_ROWS = 10
"""Rows without a label that are named one by one."""

VERDICT_STYLES: dict[Verdict, str] = {
    "trust": "green",
    "check": "yellow",
    "do not trust": "bold red",
}

_FINDING_STYLES: dict[Severity, str] = {"fatal": "bold red", "check": "yellow", "note": "dim"}


def result_console(output: str | None) -> Console:
    """Where a result is printed: on standard output, unless the labels go there."""
    return Console(stderr=output == STANDARD_OUTPUT, highlight=False)


def print_preview(job: Job, console: Console, *, as_json: bool) -> None:
    """Print the first prompt as the model gets it, and the labels that may follow."""
    if as_json:
        shown = {
            "rows": len(job.dataset.rows),
            "first_prompt": job.prompts[0],
            "labels": job.label_texts,
            "notices": job.notices,
        }
        print_json(shown)
        return
    console.print(Text(f"{len(job.dataset.rows):,} rows. The first prompt, and what may follow:\n"))
    console.print(Text(job.prompts[0], style="dim"), soft_wrap=True)
    for text in job.label_texts:
        console.print(Text(f"  {text!r}"))
    console.print()


def print_result(found: Labels, output: str, console: Console | None = None) -> None:
    """Print the table that a run ends with, on standard output or a console of yours."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column()
    table.add_row("verdict", Text(found.verdict, style=VERDICT_STYLES[found.verdict]))
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
    cost = found.cost
    table.add_row("tokens", f"{cost.computed_tokens:,} computed, {cost.cached_tokens:,} cached")
    again = f", {cost.checked:,} of them compared with the server's" if cost.checked else ""
    table.add_row(
        "scores",
        f"{cost.from_server:,} from the server, {cost.from_store:,} from the store{again}",
    )
    table.add_row("time", duration(cost.seconds))
    if found.steps:
        accepted = sum(step.accepted for step in found.steps)
        table.add_row("steps", f"{len(found.steps):,}, {accepted:,} accepted ({found.preset})")
    table.add_row("model", Text(f"{found.server.model} ({found.server.kind})"))
    if found.run is not None:
        report = found.run / REPORT
        table.add_row("record in", Text(str(report if report.exists() else found.run)))
    table.add_row("labels in", Text(output))
    (console or Console(highlight=False)).print(table)


def print_notices(
    notices: Sequence[str], failed: Sequence[FailedRow], console: Console | None = None
) -> None:
    """Print notices, and rows without a label, on standard error or a console of yours."""
    console = console or Console(stderr=True, highlight=False)
    for notice in notices:
        console.print(Text(f"Note: {notice}.", style="yellow"), soft_wrap=True)
    for row in failed[:_NAMED_ROWS]:
        console.print(
            Text(f"Warning: row {row.id!r} (line {row.line}) has no label: {row.reason}", "yellow"),
            soft_wrap=True,
        )
    if len(failed) > _NAMED_ROWS:
        more = len(failed) - _NAMED_ROWS
        console.print(
            Text(f"Warning: {more} more rows have no label; --json lists them all.", "yellow")
        )


def print_warnings(found: Labels) -> None:
    """Print what a person must see before the labels are used, on standard error."""
    console = Console(stderr=True, highlight=False)
    print_notices(found.notices, found.failed, console)
    if found.stopped is not None:
        console.print(
            Text(
                f"Warning: the search was ended early by {found.stopped}: these are the best "
                "labels so far. The same command goes on from here.",
                "yellow",
            ),
            soft_wrap=True,
        )
    print_verdict(found.verdict, found.findings, sure=found.confidence is not None)


def print_verdict(verdict: Verdict, findings: Sequence[Finding], *, sure: bool) -> None:
    """Print a verdict other than trust with its findings, on standard error.

    Args:
        verdict: on the labels.
        findings: worst first.
        sure: whether the labels have a confidence.
    """
    console = Console(stderr=True, highlight=False)
    if verdict != "trust":
        words = Text(f"Warning: the verdict on these labels is: {verdict}. What was found:")
        console.print(words, style=VERDICT_STYLES[verdict], soft_wrap=True)
    if not sure:
        console.print(Text(f"Warning: {NO_CONFIDENCE}", style="yellow"), soft_wrap=True)
    for finding in reversed(findings):  # the worst one last, where it is read
        kind = "Note" if finding.severity == "note" else "Warning"
        console.print(
            Text(f"{kind}: {finding.text}", _FINDING_STYLES[finding.severity]),
            soft_wrap=True,
        )
