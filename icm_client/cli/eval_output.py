"""What `icm-client eval` prints and writes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click
import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from icm_client.cli.terminal import live_display, moment
from icm_client.errors import RunError, SetupError
from icm_client.experiments.evaluation import TAUGHT_BY, Evaluation, fewest_and_most_reads
from icm_client.experiments.evaluation_bench import Moment, OnMoment
from icm_client.experiments.evaluation_figure import draw_evaluation
from icm_client.experiments.evaluation_table import Outcome, Result, Spent, csv_text
from icm_client.record.folder import replace_file
from icm_client.runs.progress import Progress
from icm_client.runs.trainer import TrainingProgress

PICTURES: Final = ("eval.svg", "eval.png")
_PIPED_COLUMNS: Final = 160
_BOLD: Final = ("icm", "finetuned-icm")


def print_notices(notices: Sequence[str]) -> None:
    """Sentences for the user, on standard error."""
    for notice in notices:
        click.echo(f"Note: {notice}.", err=True)


@contextmanager
def display(console: Console, *, hidden: bool) -> Iterator[OnMoment | None]:
    """Where a terminal is, the method under way below the lines of those that ended."""
    if hidden or not console.is_terminal:
        yield None
        return
    with live_display(console) as live:

        def show(now: Moment) -> None:
            if isinstance(now.at, Progress):
                live.update(moment(now.at))
                return
            what = f"{now.method.name}, seed {now.seed}"
            if isinstance(now.at, TrainingProgress):
                live.update(Text(f"{what}: {_training(now.at)}"))
                return
            live.update(Text(f"{what}: {now.at.done:,} of {now.at.total:,} reads"))

        yield show


def line_of(outcome: Outcome) -> str:
    """A line for a method that has ended with a seed."""
    what = f"{outcome.method.name}, seed {outcome.seed}"
    if outcome.accuracy is None:
        return f"{what}: failed: {outcome.error}"
    labels = ""
    if outcome.label_accuracy is not None:
        labels = f" from {outcome.labelled} labels, {outcome.label_accuracy:.1%} right"
    spent = outcome.spent
    says = "".join(f", {said}" for said in (outcome.verdict, *outcome.findings) if said)
    return (
        f"{what}: accuracy {outcome.accuracy:.1%}{labels}, "
        f"{spent.computed_tokens:,} tokens computed, {spent.seconds:.0f} s{_trained(spent)}{says}"
    )


def _trained(spent: Spent) -> str:
    return f" (training {spent.training_seconds:.0f} s)" if spent.training_seconds else ""


def _training(at: TrainingProgress) -> str:
    steps = "" if at.steps is None else f" of {at.steps:,}"
    loss = "" if at.loss is None else f", loss {at.loss:.3f} nats"
    return f"training, step {at.step:,}{steps}{loss}, {at.seconds:.0f} s"


def make_folder(out: Path) -> None:
    """Make the folder before anything is spent.

    Raises:
        RunError: it cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{out}: no folder can be made there: {error.strerror}") from error


def write(
    found: Sequence[Result], shown: dict[str, object], out: Path
) -> tuple[list[str], str | None]:
    """Write figures and pictures; the files written, and why there are no pictures, or None.

    Raises:
        RunError: a file cannot be written.
    """
    title = f"{Path(str(shown['data'])).name}: {shown['rows']} rows"
    as_json = orjson.dumps(shown, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    try:
        replace_file(out / "eval.json", as_json)
        replace_file(out / "eval.csv", csv_text(found).encode())
        written = [str(out / name) for name in ("eval.json", "eval.csv")]
        try:
            draw_evaluation(found, [out / name for name in PICTURES], title)
        except SetupError as error:
            return written, str(error)
    except OSError as error:
        raise RunError(f"{out}: cannot be written: {error.strerror}") from error
    return [*written, *(str(out / name) for name in PICTURES)], None


def print_plan(evaluation: Evaluation, *, as_json: bool) -> None:
    """What would be run, and how much would be read."""
    reads = {
        method.name: fewest_and_most_reads(evaluation, method) for method in evaluation.methods
    }
    train = [len(split.train) for split in evaluation.splits]
    test = [len(split.test) for split in evaluation.splits]
    trained = sum(method.kind in TAUGHT_BY for method in evaluation.methods)
    trainings = trained * len(evaluation.seeds)
    if as_json:
        plan = {
            "seeds": list(evaluation.seeds),
            "train": train,
            "test": test,
            "reads": {name: None if some is None else list(some) for name, some in reads.items()},
            "trainings": trainings,
            "notices": list(evaluation.notices),
        }
        click.echo(orjson.dumps(plan, option=orjson.OPT_INDENT_2))
        return
    for name, some in reads.items():
        said = "nobody knows before" if some is None else f"{some[0]:,}"
        if some is not None and some[0] < some[1]:
            said += f" to {some[1]:,}"
        click.echo(f"{name:<24}{said:>18} reads")
    click.echo(f"{len(evaluation.seeds)} seeds, {train[0]} rows to train on and {test[0]} held out")
    if trainings:
        click.echo(f"{trainings} trainings")


def print_table(found: Sequence[Result]) -> None:
    """A line for each method; differences to golden labels in points."""
    shown = Table(box=None, padding=(0, 2, 0, 0))
    shown.add_column("", no_wrap=True)
    for column in ("accuracy", "95%", "to golden", "95%", "labels", "reads", "requests"):
        shown.add_column(column, header_style="bold", no_wrap=True, justify="right")
    trained = any(one.method.kind in TAUGHT_BY for one in found)
    for column in ("tokens computed", "seconds", *(("of training",) if trained else ())):
        shown.add_column(column, header_style="bold", no_wrap=True, justify="right")
    shown.add_column("says", header_style="bold")
    for one in found:
        against = one.to_golden
        failed = sum(outcome.error is not None for outcome in one.outcomes)
        shown.add_row(
            Text(one.method.name, style="bold" if one.method.kind in _BOLD else ""),
            "-" if one.accuracy is None else f"{one.accuracy:.1%}",
            "-" if one.interval is None else f"{one.interval.low:.1%} to {one.interval.high:.1%}",
            "-" if against is None else f"{100 * against.difference:+.1f}",
            "-"
            if against is None
            else f"{100 * against.interval.low:+.1f} to {100 * against.interval.high:+.1f}",
            "-" if one.label_accuracy is None else f"{one.label_accuracy:.1%}",
            f"{one.spent.reads:,}",
            f"{one.spent.requests:,}",
            f"{one.spent.computed_tokens:,}",
            f"{one.spent.seconds:.0f}",
            *((f"{one.spent.training_seconds:.0f}",) if trained else ()),
            Text(f"{failed} failed" if failed else _says(one) or "-"),
        )
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _PIPED_COLUMNS
    console.print(shown)


def _says(one: Result) -> str:
    return ": ".join(said for said in (one.verdict, one.findings) if said)
