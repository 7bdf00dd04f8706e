"""How a search or a reading goes on: a live display, or plain lines where no terminal is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as BarProgress
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from icm_client.cli.terminal import duration, live_display
from icm_client.coherence.result import Observed, PassRecord, Step, SweepRecord
from icm_client.runs.progress import OnProgress, Progress
from icm_client.scoring import ScoringProgress

_SHORTEST_WAIT_S = 1.0
"""Shorter waits are not shown."""

_WAITS_APART_S = 10.0
"""Seconds between two lines on a wait, where no terminal shows it."""

_STEP_LINES = 10
"""Lines that a search of many steps prints at least; ..."""

_LINES_APART_S = 60.0
"""... and where no terminal shows a display, seconds after which there is always another line."""


@contextmanager
def progress_display(*, hidden: bool) -> Iterator[OnProgress | None]:
    """Yield what to call with progress: a live display, or plain lines where no terminal is."""
    console = Console(stderr=True, highlight=False)
    seen = console.is_terminal and not hidden
    lines = SearchLines(console, apart_s=None if seen else _LINES_APART_S)
    waits = WaitLines(console)
    with live_display(console, hidden=hidden) as show:

        def report(progress: Progress) -> None:
            lines(progress)
            if show is None:
                waits(progress)
            else:
                show(moment(progress))

        yield None if hidden else report


def rows_bar(console: Console) -> BarProgress:
    """Return a bar of the rows done, with the time that the others take; gone at the end."""
    return BarProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


@contextmanager
def reading_display(*, hidden: bool) -> Iterator[Callable[[ScoringProgress], None] | None]:
    """Yield what to call as rows are read: a bar on a terminal, None elsewhere."""
    console = Console(stderr=True, highlight=False)
    if hidden or not console.is_terminal:
        yield None
        return
    with rows_bar(console) as bar:
        rows = bar.add_task("Reading", total=None)
        yield lambda at: bar.update(rows, completed=at.done, total=at.total)


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
    """Prints how labels tokenize, then a line for each sweep, training, or tenth of the steps.

    Args:
        console: where to.
        apart_s: seconds after which there is a line in any case; None where a display shows how the
            search goes on.
    """

    def __init__(self, console: Console, *, apart_s: float | None = None) -> None:
        self._console = console
        self._apart_s = apart_s
        self._printed_s = 0.0
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
        cost, last = progress.cost, progress.last
        said = None
        if last is not None and last is not self._printed:
            self._printed = last
            if isinstance(last, SweepRecord):
                said = _sweep(last, progress.labels)
            else:
                self._accepted += last.accepted
                if progress.of and last.n % max(1, progress.of // _STEP_LINES) == 0:
                    said = self._step(last, progress.of)
        overdue = self._apart_s is not None and cost.seconds - self._printed_s >= self._apart_s
        if said is None and overdue:
            said = self._under_way(progress)
        if said is not None:
            self._printed_s = cost.seconds
            self._console.print(
                Text(f"{said}, {cost.computed_tokens:,} tokens computed, {cost.seconds:.0f} s"),
                soft_wrap=True,
            )

    def _step(self, step: Step, of: int) -> str:
        batch = f"batch {step.batch + 1}, " if step.batch else ""
        return (
            f"{batch}step {step.n} of {of}: U {step.U:+.2f}, T {step.T:.2f}, "
            f"alpha {step.alpha:g}, {self._accepted} accepted"
        )

    def _under_way(self, progress: Progress) -> str | None:
        """How far a step or a sweep is, between two lines on what has ended."""
        if isinstance(progress.last, Step) and progress.of:
            return self._step(progress.last, progress.of)
        if not progress.total:
            return None
        left = "" if progress.left_s is None else f", about {duration(progress.left_s)} left"
        return f"{progress.done:,} of {progress.total:,} scores{left}"


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
    left = "" if progress.left_s is None else f"about {duration(progress.left_s)} left   "
    retries = f" ({cost.retries:,} of them again)" if cost.retries else ""
    bar = Table.grid(padding=(0, 1))
    last = progress.last
    doing = f"Step {last.n}/{progress.of}" if isinstance(last, Step) else "Scoring"
    bar.add_row(
        Text(doing),
        ProgressBar(total=max(progress.total, 1), completed=progress.done, width=40),
        Text(f"{progress.done}/{progress.total} scores"),
    )
    for training in progress.training:
        steps = "" if training.steps is None else f"/{training.steps}"
        loss = "" if training.loss is None else f", loss {training.loss:.3f}"
        bar.add_row(
            Text(f"Training {training.name}"),
            ProgressBar(total=training.steps, completed=training.step, width=40),
            Text(f"step {training.step}{steps}{loss}, {duration(training.seconds)}"),
        )
    why = _waiting(progress)
    return Group(
        bar,
        *([Text(why, style="yellow")] if why is not None else []),
        Text(
            f"{left}{cost.requests:,} requests{retries}   "
            f"{cost.from_store:,} scores from the store   "
            f"tokens: {cost.computed_tokens:,} computed, {cost.cached_tokens:,} cached   "
            f"{duration(cost.seconds)}",
            style="dim",
        ),
    )
