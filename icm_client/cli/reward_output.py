"""What `icm-client reward` shows, prints and writes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click
import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from icm_client.cli.terminal import SearchLines, live_display, moment
from icm_client.errors import RunError
from icm_client.record.folder import replace_file
from icm_client.runs.progress import OnProgress, Progress
from icm_client.runs.trainer import TrainingProgress
from icm_client.training.local_settings import LocalSettings
from icm_client.training.reward import OnStep, Scored, Step
from icm_client.training.reward_plan import RewardPlan
from icm_client.training.reward_result import Accuracy, RewardSteps

_LINES: Final = 10
"""That a training, or the scoring of many pairs, prints where there is no terminal."""

_DOING: Final[dict[Step, str]] = {
    "first": "Training the first reward model",
    "scores": "Labelling pairs with the first reward model",
    "final": "Training the final reward model",
    "test": "Testing",
}


@contextmanager
def display(*, hidden: bool) -> Iterator[tuple[OnProgress | None, OnStep]]:
    """Yield what to call with the search's progress, and with that of the later steps."""
    console = Console(stderr=True, highlight=False)
    if hidden:
        yield None, lambda _step, _at: None
    elif console.is_terminal:
        with live_display(console) as live:
            lines = SearchLines(console)

            def searching(progress: Progress) -> None:
                lines(progress)
                live.update(moment(progress))

            yield searching, lambda step, at: live.update(Text(_said(step, at)))
    else:
        yield SearchLines(console), _Lines(console)


class _Lines:
    """Prints a line for each tenth of a step."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told: tuple[Step, int] | None = None

    def __call__(self, step: Step, at: TrainingProgress | Scored) -> None:
        done, of = (at.done, at.total) if isinstance(at, Scored) else (at.step, at.steps or 0)
        tenth = _LINES * done // of if of else 0
        if done and (step, tenth) != self._told:
            self._told = step, tenth
            self._console.print(Text(_said(step, at)), soft_wrap=True)


def _said(step: Step, at: TrainingProgress | Scored) -> str:
    if isinstance(at, Scored):
        return f"{_DOING[step]}: {at.done:,} of {at.total:,} pairs"
    steps = "" if at.steps is None else f" of {at.steps:,}"
    loss = "" if at.loss is None else f", loss {at.loss:.3f} nats a pair"
    return f"{_DOING[step]}: step {at.step:,}{steps}{loss}, {at.seconds:.0f} s"


def print_plan(plan: RewardPlan, settings: LocalSettings, *, as_json: bool) -> None:
    """What would be done."""
    if as_json:
        click.echo(orjson.dumps(plan.summary(), option=orjson.OPT_INDENT_2))
        return
    first, many, passes = len(plan.first), len(plan.many), settings.epochs
    click.echo(f"1. ICM labels {first:,} pairs; a reward model sees them {passes} times")
    click.echo(f"2. That model scores {many:,} pairs")
    click.echo(f"3. The final reward model sees those {passes} times")
    if plan.test:
        click.echo(f"Both are tested on {len(plan.test):,} pairs")


def write(plan: RewardPlan, done: RewardSteps, out: Path) -> list[str]:
    """Write the figures, and a line for each labelled pair; return the files' names.

    Raises:
        RunError: a file cannot be written.
    """
    document = {"plan": plan.summary(), **done.summary()}
    rows = plan.job.dataset.rows
    lines = (
        orjson.dumps(
            {"id": rows[row].id, "label": done.many[row], "icm_label": done.few.get(row)},
            option=orjson.OPT_APPEND_NEWLINE,
        )
        for row in sorted(done.many)
    )
    try:
        replace_file(out / "labels.jsonl", b"".join(lines))
        replace_file(
            out / "reward.json",
            orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE),
        )
    except OSError as error:
        raise RunError(f"{out}: cannot be written: {error.strerror}") from error
    return [str(out / name) for name in ("reward.json", "labels.jsonl")]


def print_steps(done: RewardSteps, written: list[str]) -> None:
    """A table on standard output, and a warning where ICM's labels are not to be trusted."""
    if done.verdict != "trust":
        said = f": {', '.join(done.findings)}" if done.findings else ""
        click.secho(
            f"Warning: the verdict on ICM's labels is: {done.verdict}{said}. Both reward models "
            "are no better than these labels.",
            err=True,
            fg="red" if done.verdict == "do not trust" else "yellow",
        )
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column()
    table.add_row("ICM's labels", f"{len(done.few):,} pairs{_right(done.few_accuracy)}")
    ties = f", {done.ties:,} scored alike and left out" if done.ties else ""
    table.add_row(
        "first model's labels", f"{len(done.many):,} pairs{_right(done.many_accuracy)}{ties}"
    )
    if done.agreement is not None:
        table.add_row("the same as ICM's", f"{done.agreement:.1%} of those that ICM labelled")
    for name, trained in (("first", done.first), ("final", done.final)):
        loss = "" if trained.loss is None else f", last loss {trained.loss:.3f} nats a pair"
        table.add_row(
            f"{name} training", f"{trained.examples:,} pairs, {trained.seconds:.0f} s{loss}"
        )
    if (test := done.test) is not None:
        for name, accuracy in (
            ("first model", test.first),
            ("final model", test.final),
            ("the longer one wins", test.longer),
        ):
            table.add_row(name, f"{accuracy.share:.1%} of {test.pairs:,} pairs{_within(accuracy)}")
        low, high = test.gained.interval
        table.add_row(
            "final less first",
            f"{100 * test.gained.share:+.1f} points (95%: {100 * low:+.1f} to {100 * high:+.1f})",
        )
    table.add_row("reward model", Text(done.final.model))
    table.add_row("written", Text(", ".join(written)))
    Console(highlight=False, soft_wrap=True).print(table)


def _right(accuracy: float | None) -> str:
    return "" if accuracy is None else f", {accuracy:.1%} right"


def _within(accuracy: Accuracy) -> str:
    low, high = accuracy.interval
    return f" (95%: {low:.1%} to {high:.1%})"
