"""What a person sees: progress on standard error, the result on standard output, warnings last."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from icm_client.cli.documents import print_json as print_json  # noqa: PLC0414 - its old place
from icm_client.coherence.result import Observed, PassRecord, Step, SweepRecord
from icm_client.data.job import Job
from icm_client.data.rows import FailedRow
from icm_client.record.folder import REPORT
from icm_client.runs.progress import OnProgress, Progress
from icm_client.runs.result import Labels
from icm_client.verdict.findings import NO_CONFIDENCE, Finding, Severity, Verdict, many

_REDRAWS_A_SECOND = 4

_SHORTEST_WAIT_S = 1.0
"""Shorter waits are not shown."""

_WAITS_APART_S = 10.0
"""Seconds between two lines on a wait, where no terminal shows it."""

_NAMED_ROWS = 10
"""Rows without a label that are named one by one."""

_STEP_LINES = 10
"""Lines that a search of many steps prints."""

VERDICT_STYLES: dict[Verdict, str] = {
    "trust": "green",
    "check": "yellow",
    "do not trust": "bold red",
}

_FINDING_STYLES: dict[Severity, str] = {"fatal": "bold red", "check": "yellow", "note": "dim"}


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
def progress_display(*, hidden: bool) -> Iterator[OnProgress | None]:
    """Yield what to call with progress: a live display, or plain lines where no terminal is."""
    console = Console(stderr=True, highlight=False)
    lines, waits = SearchLines(console), WaitLines(console)
    with live_display(console, hidden=hidden) as show:

        def report(progress: Progress) -> None:
            lines(progress)
            if show is None:
                waits(progress)
            else:
                show(moment(progress))

        yield None if hidden else report


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


class WaitLines:
    """Prints a line on a wait now and then, where no display shows it.

    Each line after the first says for how long no answer has come.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._printed_s = -_WAITS_APART_S
        self._since_s: float | None = None

    def __call__(self, progress: Progress) -> None:
        """Print what there is to say at this moment."""
        now_s = progress.cost.seconds
        if progress.waiting is None:
            self._since_s = None
            return
        if self._since_s is None:
            self._since_s = now_s
        for_s = now_s - self._since_s
        why = _waiting(progress, for_s)
        if why is not None and now_s - self._printed_s >= _WAITS_APART_S:
            self._printed_s = now_s
            self._console.print(Text(why), soft_wrap=True)


def _waiting(progress: Progress, for_s: float = 0.0) -> str | None:
    """What a run waits for, with no answer for `for_s` seconds; None where the wait is short."""
    waiting = progress.waiting
    if waiting is None or waiting.seconds + for_s < _SHORTEST_WAIT_S:
        return None
    so_far = f", with no answer for {for_s:.0f} s" if for_s >= _WAITS_APART_S else ""
    return f"Waiting {waiting.seconds:.0f} s{so_far}: {waiting.reason}"


class SearchLines:
    """Prints how labels tokenize, then a line for each sweep, training, or tenth of the steps."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._begun = False
        self._printed: Observed | None = None
        self._accepted = 0
        self._trainings: set[str] = set()

    def __call__(self, progress: Progress) -> None:
        """Print what is new at this moment."""
        if not self._begun:
            self._begun = True
            labels = ", ".join(
                f"{word} (token {' '.join(map(str, ids))})" if ids else word
                for word, ids in zip(progress.labels, progress.label_tokens, strict=True)
            )
            self._console.print(Text(f"Labels: {labels}"), soft_wrap=True)
        for training in progress.training:
            if training.name not in self._trainings:
                self._trainings.add(training.name)
                self._console.print(Text(f"training {training.name}"))
        last = progress.last
        if last is None or last is self._printed:
            return
        self._printed = last
        said = (
            _sweep(last, progress.labels)
            if isinstance(last, SweepRecord)
            else self._step(last, progress.of)
        )
        if said is not None:
            cost = progress.cost
            self._console.print(
                Text(f"{said}, {cost.computed_tokens:,} tokens computed, {cost.seconds:.0f} s"),
                soft_wrap=True,
            )

    def _step(self, step: Step, of: int | None) -> str | None:
        self._accepted += step.accepted
        if of is None or step.n % max(1, of // _STEP_LINES):
            return None
        batch = f"batch {step.batch + 1}, " if step.batch else ""
        return (
            f"{batch}step {step.n} of {of}: U {step.U:+.2f}, T {step.T:.2f}, "
            f"alpha {step.alpha:g}, {self._accepted} accepted"
        )


def _sweep(sweep: SweepRecord, labels: tuple[str, ...]) -> str:
    counts = ", ".join(f"{n} {word}" for word, n in zip(labels, sweep.counts, strict=True))
    start = f"start {sweep.restart + 1}, " if sweep.restart else ""
    what = "sweep"
    if isinstance(sweep, PassRecord):
        what = f"trained on {sweep.trained_on:,} labels, pass"
    return f"{start}{what} {sweep.sweep + 1}: U {sweep.utility:+.3f}, {counts}, {sweep.moved} moved"


def moment(progress: Progress) -> Group:
    """What a live display shows: the sweep under way, and the cost so far."""
    cost = progress.cost
    left = "" if progress.left_s is None else f"   about {_duration(progress.left_s)} left"
    retries = f" ({cost.retries:,} of them again)" if cost.retries else ""
    bar = Table.grid(padding=(0, 1))
    last = progress.last
    doing = f"Step {last.n}/{progress.of}" if isinstance(last, Step) else "Scoring"
    bar.add_row(
        Text(doing),
        ProgressBar(total=max(progress.total, 1), completed=progress.done, width=40),
        Text(f"{progress.done}/{progress.total} scores{left}"),
    )
    for training in progress.training:
        steps = "" if training.steps is None else f"/{training.steps}"
        loss = "" if training.loss is None else f", loss {training.loss:.3f}"
        bar.add_row(
            Text(f"Training {training.name}"),
            ProgressBar(total=training.steps, completed=training.step, width=40),
            Text(f"step {training.step}{steps}{loss}, {_duration(training.seconds)}"),
        )
    why = _waiting(progress)
    return Group(
        bar,
        *([Text(why, style="yellow")] if why is not None else []),
        Text(
            f"{cost.requests:,} requests{retries}   {cost.from_store:,} scores from the store   "
            f"tokens: {cost.computed_tokens:,} computed, {cost.cached_tokens:,} cached   "
            f"{_duration(cost.seconds)}",
            style="dim",
        ),
    )


def print_preview(job: Job, *, as_json: bool) -> None:
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
    console = Console(highlight=False)
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
    table.add_row("time", _duration(cost.seconds))
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


def print_table(table: Table) -> None:
    """Print the table; where it does not go to a terminal, no line is cut."""
    wide = None if Console().is_terminal else _WIDTH_OF_A_FILE
    Console(highlight=False, markup=False, width=wide).print(table)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds, 1), 60)
    if minutes:
        return f"{minutes:.0f} min {rest:.0f} s"
    return f"{rest:.1f} s" if rest < 10 else f"{rest:.0f} s"  # noqa: PLR2004
