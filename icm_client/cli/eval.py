"""`icm-client eval`: compare ICM's labels with labels from other sources on held-out rows."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, get_args

import anyio
import click
import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from icm_client.cli.documents import print_json
from icm_client.cli.options import (
    Names,
    file_options,
    gold_option,
    limit_option,
    rows_alias,
    server_options,
    store_option,
    task_options,
)
from icm_client.cli.search_display import moment
from icm_client.cli.sections import SectionedCommand, section
from icm_client.cli.signals import draining, ended_at_once
from icm_client.cli.terminal import live_display, print_table, share, table_that_fits
from icm_client.cli.trainer_options import (
    TrainerKind,
    trainer_of,
    trainer_options,
)
from icm_client.coherence.anneal import AnnealSettings
from icm_client.coherence.anneal_official import OfficialSettings
from icm_client.coherence.settings import SweepSettings
from icm_client.data import FileOptions, Task, unescape
from icm_client.data.job import Job, task_for
from icm_client.data.messages import listed
from icm_client.data.sources import found_files
from icm_client.endpoints import ServerIdentity
from icm_client.errors import IcmError, RunError
from icm_client.experiments.comparison import Spent, write_results
from icm_client.experiments.evaluation import (
    FIGURE_1,
    KINDS,
    TAUGHT_BY,
    UNTRAINED,
    Evaluation,
    Kind,
    fewest_and_most_reads,
    plan_evaluation,
)
from icm_client.experiments.evaluation_results import (
    Moment,
    OnMoment,
    Outcome,
    Result,
    csv_text,
    document,
    results,
)
from icm_client.experiments.evaluation_run import run_evaluation
from icm_client.experiments.figures import draw_evaluation
from icm_client.runs.presets import InContextSettings, SearchPreset, preset_settings
from icm_client.runs.progress import Progress
from icm_client.runs.server import Server, open_endpoint
from icm_client.runs.trainer import TrainingProgress
from icm_client.scoring import open_store
from icm_client.stats.bootstrap import GapRecovered, Interval
from icm_client.training.base_model import require_training

PICTURES: Final = ("eval.svg", "eval.png")
_DROPPED: Final = (
    *("findings", "requests", "golden 95%", "to golden", "reads", "of training", "95%", "labels"),
    *("verdict", "gap 95%", "seconds", "tokens computed", "gap recovered"),
)
"""What is left out of the table on a narrow terminal, in this order; --json has everything."""


def print_notices(notices: Sequence[str]) -> None:
    """Print notices on standard error."""
    for notice in notices:
        click.echo(f"Note: {notice}.", err=True)


@contextmanager
def display(console: Console, *, hidden: bool) -> Iterator[OnMoment | None]:
    """On a terminal, show the method under way below the lines of those that have ended."""
    with live_display(console, hidden=hidden) as show:
        if show is None:
            yield None
            return

        def report(now: Moment) -> None:
            if isinstance(now.at, Progress):
                show(moment(now.at))
                return
            at = now.at
            said = (
                _training(at)
                if isinstance(at, TrainingProgress)
                else f"{at.done:,} of {at.total:,} reads"
            )
            show(Text(f"{now.method.name}, seed {now.seed}: {said}"))

        yield report


def line_of(outcome: Outcome) -> str:
    """A line on a method that has ended with one seed."""
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
    """Make the folder, before anything is spent.

    Raises:
        RunError: it cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{out}: no folder can be made there: {error.strerror}") from error


def print_plan(evaluation: Evaluation, *, as_json: bool) -> None:
    """Print what would be run, and how many reads it takes."""
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
        print_json(plan)
        return
    for name, some in reads.items():
        said = "unknown" if some is None else f"{some[0]:,}"
        if some is not None and some[0] < some[1]:
            said += f" to {some[1]:,}"
        click.echo(f"{name:<24}{said:>18} reads")
    click.echo(f"{len(evaluation.seeds)} seeds, {train[0]} rows to train on and {test[0]} held out")
    if trainings:
        click.echo(f"{trainings} trainings")


def results_table(found: Sequence[Result]) -> Table:
    """A line for each method; differences to golden labels are in percentage points."""
    lines = [_line(one) for one in found]
    columns = {name: [line[name] for line in lines] for name in lines[0]}
    if all(one.method.kind not in TAUGHT_BY for one in found):
        del columns["of training"]
    numbers = columns.keys() - {"method", "verdict", "findings"}
    return table_that_fits(
        columns, drop=[name for name in _DROPPED if name in columns], numbers=numbers
    )


def _line(one: Result) -> dict[str, str]:
    golden, gap, spent = one.to_golden, one.gap, one.spent
    failed = len(one.outcomes) - len(one.ended)
    return {
        "method": one.method.name,
        "accuracy": share(one.accuracy),
        "95%": _interval(one.interval, "{:.1%}"),
        "gap recovered": _gap(gap),
        "gap 95%": _interval(gap.interval if gap else None, "{:.0%}"),
        "to golden": f"{100 * golden.difference:+.1f}" if golden else "-",
        "golden 95%": _interval(golden.interval if golden else None, "{:+.1f}", times=100),
        "labels": share(one.label_accuracy),
        "reads": f"{spent.reads:,}",
        "requests": f"{spent.requests:,}",
        "tokens computed": f"{spent.computed_tokens:,}",
        "seconds": f"{spent.seconds:.0f}",
        "of training": f"{spent.training_seconds:.0f}",
        "verdict": f"{failed} failed" if failed else one.verdict or "-",
        "findings": one.findings or "-",
    }


def _interval(interval: Interval | None, written: str, *, times: int = 1) -> str:
    return " to ".join(written.format(times * end) for end in interval) if interval else "-"


def _gap(gap: GapRecovered | None) -> str:
    if gap is None:
        return "-"
    if gap.share is None:
        return "no gap"
    return f"{gap.share:.0%}" + (" (unclear)" if gap.interval is None else "")


_SWEEP = SweepSettings()


def _seeds(_: click.Context, __: click.Parameter, value: str) -> tuple[int, ...]:
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise click.BadParameter(f"{value!r} is not a list of whole numbers, such as 0,1,2")
    return tuple(dict.fromkeys(map(int, parts)))


def _test(_: click.Context, __: click.Parameter, value: float) -> float:
    if value >= 1 and not value.is_integer():
        raise click.BadParameter(f"{value:g} is neither a share under 1 nor a number of rows")
    return value


def _chat_prompt(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    try:
        text = Path(value).read_text("utf-8") if Path(value).is_file() else unescape(value)
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{value[:80]!r} cannot be read as UTF-8 text: {error}") from None
    if not text.strip():
        raise click.BadParameter("it is empty")
    return text.rstrip()


@click.command(
    "eval",
    cls=SectionedCommand,
    short_help="Compare ICM labels with gold, human and random labels.",
)
@click.argument("data", nargs=-1, required=True, type=click.Path())
@section(
    "Output",
    click.option(
        "--out", type=click.Path(path_type=Path), help="A folder for the table and the pictures."
    ),
)
@task_options
@file_options
@gold_option
@section(
    "Comparison",
    click.option(
        "--human",
        metavar="FIELD",
        help="Field with human labels: a label word, or a list of words or of ratings.",
    ),
    click.option(
        "--human-positive",
        metavar="LABEL",
        help="The label that ratings above 0 stand for. [default: the task's first]",
    ),
    click.option(
        "--chat-prompt",
        callback=_chat_prompt,
        metavar="TEXT|FILE",
        help="The text before a row for zero-shot-chat, such as the HHH prompt.",
    ),
    click.option(
        "--methods",
        "kinds",
        type=Names(KINDS),
        help=f"Some of {', '.join(KINDS)}, separated by commas. [default: all that train no model; "
        "with --finetune, all that show no demos]",
    ),
)
@section(
    "Training",
    click.option(
        "--finetune",
        is_flag=True,
        help="Train models on the train rows' labels, and test them zero-shot.",
    ),
)
@trainer_options("--finetune")
@section(
    "Comparison",
    click.option(
        "--preset",
        "presets",
        type=click.Choice(get_args(SearchPreset)),
        multiple=True,
        default=("fast",),
        help="ICM's search; repeat it to compare several. [default: fast]",
    ),
    click.option(
        "--steps",
        type=click.IntRange(0),
        help="Steps of the searches paper and official. [default: the preset's]",
    ),
    click.option(
        "--demos",
        type=click.IntRange(2),
        default=_SWEEP.demos,
        show_default=True,
        help="The most few-shot demos of a test row.",
    ),
    click.option(
        "--contexts",
        type=click.IntRange(1),
        default=_SWEEP.averaged,
        show_default=True,
        metavar="M",
        help="Contexts (draws of demos) in which a test row is scored; the scores are averaged.",
    ),
    click.option(
        "--test",
        type=click.FloatRange(0, min_open=True),
        callback=_test,
        default=0.5,
        show_default=True,
        metavar="ROWS",
        help="Rows that are held out: a count if at least 1, else a fraction.",
    ),
)
@limit_option
@rows_alias
@section(
    "Comparison",
    click.option(
        "--seeds",
        callback=_seeds,
        default="0,1,2",
        show_default=True,
        help="Random seeds, each with a split of its own; separated by commas.",
    ),
)
@server_options(wire=True)
@section(
    "Record",
    store_option,
)
@click.option("--dry-run", is_flag=True, help="Print what would be run and read, and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print plan or results as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print no line for each method.")
def eval_command(  # noqa: C901 - options one by one
    *,
    data: tuple[str, ...],
    out: Path | None,
    task: Task | str | None,
    file: FileOptions,
    gold: str | None,
    human: str | None,
    human_positive: str | None,
    chat_prompt: str | None,
    kinds: tuple[Kind, ...] | None,
    finetune: bool,
    trainer_kind: TrainerKind | None,
    train_from: str | None,
    epochs: int | None,
    presets: tuple[SearchPreset, ...],
    steps: int | None,
    demos: int,
    contexts: int,
    test: float,
    limit: int | None,
    seeds: tuple[int, ...],
    server: Server,
    store: str | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Predict held-out rows of DATA, given train rows as demos with labels from several sources.

    ICM's labels are found without gold. All methods that show demos use the same contexts and
    calibration, so that only the labels differ. Each method's cost stands beside the share that it
    recovers of the gap between zero-shot and golden labels. Scores are kept: the same command again
    asks nothing twice, but for a few reads that show that the model is still the same.

    With --finetune, models are trained on the labels instead, and predict the held-out rows
    zero-shot. Trained models are kept too, and a training that was killed goes on.
    """
    kinds = _wanted(kinds, finetune=finetune)
    trainer = trainer_of(
        server,
        purpose=None if finetune else "--finetune",
        kind=trainer_kind,
        train_from=train_from,
        epochs=epochs,
    )
    if human is None and human_positive is not None:
        raise click.UsageError("--human-positive goes with --human FIELD.")
    with found_files(data) as files:
        job = Job.prepare(files, task_for(data[0], task), gold=gold, file=file, limit=limit)
    evaluation = plan_evaluation(
        job,
        kinds=kinds,
        searches=_searches(presets, steps),
        seeds=seeds,
        test=test,
        human=human,
        human_positive=human_positive,
        chat_prompt=chat_prompt,
        demos=demos,
        contexts=contexts,
    )
    if not as_json:
        print_notices(evaluation.notices)
    if dry_run:
        print_plan(evaluation, as_json=as_json)
        return
    if finetune and trainer_kind != "served":
        require_training()
    if out is not None:
        make_folder(out)
    lines = Console(stderr=True, highlight=False)
    of = len(evaluation.methods) * len(seeds)
    outcomes: list[Outcome] = []

    def ended(outcome: Outcome) -> None:
        outcomes.append(outcome)
        if not quiet and not as_json:
            lines.print(Text(f"{len(outcomes)}/{of} {line_of(outcome)}"), soft_wrap=True)

    async def run() -> tuple[tuple[str, ...], ServerIdentity]:
        async with draining() as drain, open_endpoint(server) as endpoint:
            with display(lines, hidden=quiet or as_json) as progress:
                _, notices = await run_evaluation(
                    evaluation,
                    endpoint=endpoint,
                    trainer=trainer,
                    store=kept,
                    ended=ended,
                    progress=progress,
                    stopping=drain.stopping,
                )
            return notices, endpoint.identity

    with open_store(store) as kept, ended_at_once(kept):
        notices, identity = anyio.run(run)
    evaluation = replace(evaluation, notices=(*evaluation.notices, *notices))
    found = results(evaluation, outcomes)
    shown = {
        "data": job.dataset.name,
        "server": {"kind": identity.kind, "model": identity.model},
        **({} if trainer is None else {"trainer": dict(trainer.described)}),
        **document(evaluation, found),
    }
    written: list[str] = []
    missing: str | None = None
    if out is not None:
        as_bytes = orjson.dumps(shown, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        title = f"{Path(job.dataset.name).name}: {shown['rows']} rows"
        written, missing = write_results(
            out,
            {"eval.json": as_bytes, "eval.csv": csv_text(found).encode()},
            PICTURES,
            partial(draw_evaluation, found, title=title),
        )
    if as_json:
        print_json({**shown, "files": written})
    else:
        print_notices(notices)
        print_table(results_table(found))
        if written:
            click.echo(f"Written: {', '.join(written)}")
    if missing is not None:
        click.echo(f"Note: no picture was drawn: {missing}", err=True)
    if failed := sum(outcome.error is not None for outcome in outcomes):
        raise IcmError(f"{failed} of {of} predictions failed: the lines above say why")


def _wanted(kinds: tuple[Kind, ...] | None, *, finetune: bool) -> tuple[Kind, ...]:
    if kinds is None:
        return FIGURE_1 if finetune else UNTRAINED
    trained = [kind for kind in kinds if kind in TAUGHT_BY]
    if trained and not finetune:
        raise click.UsageError(f"Add --finetune, which trains models, for {listed(trained)}.")
    if finetune and not trained:
        raise click.UsageError(
            f"--finetune trains for {listed(TAUGHT_BY)}, and --methods names none of them."
        )
    return kinds


def _searches(presets: Sequence[SearchPreset], steps: int | None) -> list[InContextSettings]:
    searches: list[InContextSettings] = []
    for preset in dict.fromkeys(presets):
        settings = preset_settings(preset)
        if steps is not None and isinstance(settings, AnnealSettings | OfficialSettings):
            settings = replace(settings, iterations=steps)
        searches.append(settings)
    if steps is not None and all(isinstance(settings, SweepSettings) for settings in searches):
        raise click.UsageError("--steps is for --preset paper and official, not for fast.")
    return searches
