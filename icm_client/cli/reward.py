"""`icm-client reward`: train a reward model on unlabelled pairs, in three steps."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, get_args

import anyio
import click
import orjson
from rich.console import Console
from rich.text import Text

from icm_client.cli.documents import print_json
from icm_client.cli.eval import make_folder, print_notices
from icm_client.cli.options import (
    file_options,
    limit_option,
    seed_option,
    server_options,
    store_option,
)
from icm_client.cli.search_display import SearchLines, moment
from icm_client.cli.sections import SectionedCommand, section
from icm_client.cli.signals import draining
from icm_client.cli.terminal import facts_table, live_display
from icm_client.cli.trainer_options import (
    TrainerKind,
    epochs_option,
    local_trainer,
    lora_option,
    rate_option,
)
from icm_client.data import Dataset, FileOptions, Task
from icm_client.data.job import Job, task_for
from icm_client.data.whole_files import replace_file
from icm_client.errors import RunError
from icm_client.runs.label import label
from icm_client.runs.presets import SearchPreset, preset_settings
from icm_client.runs.progress import OnProgress, Progress
from icm_client.runs.result import Labels
from icm_client.runs.server import Server
from icm_client.runs.trainer import TrainingProgress
from icm_client.training.base_model import require_training
from icm_client.training.local_settings import LocalSettings
from icm_client.training.reward import (
    FIRST,
    OnStep,
    RewardPlan,
    RewardSteps,
    Scored,
    Step,
    plan_reward,
    reward_in_three_steps,
)
from icm_client.training.reward_model import LocalRewardTrainer
from icm_client.training.reward_scores import Accuracy

_LINES: Final = 10
"""Lines that a training, or the scoring of many pairs, prints where there is no terminal."""

_DOING: Final[dict[Step, str]] = {
    "first": "Training the first reward model",
    "scores": "Labelling pairs with the first reward model",
    "final": "Training the final reward model",
    "test": "Testing",
}


@contextmanager
def display(*, hidden: bool) -> Iterator[tuple[OnProgress | None, OnStep]]:
    """Yield a callback for the search's progress, and one for that of the later steps."""
    console = Console(stderr=True, highlight=False)
    lines = SearchLines(console)
    with live_display(console, hidden=hidden) as show:
        if hidden:
            yield None, lambda _step, _at: None
        elif show is None:
            yield lines, _Lines(console)
        else:

            def searching(progress: Progress) -> None:
                lines(progress)
                show(moment(progress))

            yield searching, lambda step, at: show(Text(_said(step, at)))


class _Lines:
    """Prints a line for each tenth of a step."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._printed: tuple[Step, int] | None = None

    def __call__(self, step: Step, at: TrainingProgress | Scored) -> None:
        done, of = (at.done, at.total) if isinstance(at, Scored) else (at.step, at.steps or 0)
        tenth = _LINES * done // of if of else 0
        if done and (step, tenth) != self._printed:
            self._printed = step, tenth
            self._console.print(Text(_said(step, at)), soft_wrap=True)


def _said(step: Step, at: TrainingProgress | Scored) -> str:
    if isinstance(at, Scored):
        return f"{_DOING[step]}: {at.done:,} of {at.total:,} pairs"
    steps = "" if at.steps is None else f" of {at.steps:,}"
    loss = "" if at.loss is None else f", loss {at.loss:.3f} nats a pair"
    return f"{_DOING[step]}: step {at.step:,}{steps}{loss}, {at.seconds:.0f} s"


def print_plan(plan: RewardPlan, settings: LocalSettings, *, as_json: bool) -> None:
    """Print what would be done."""
    if as_json:
        print_json(plan.summary())
        return
    first, many, epochs = len(plan.first), len(plan.many), settings.epochs
    click.echo(f"1. ICM labels {first:,} pairs; a reward model is trained on them, {epochs} epochs")
    click.echo(f"2. That model scores {many:,} pairs")
    click.echo(f"3. The final reward model is trained on those, {epochs} epochs")
    if plan.test:
        click.echo(f"Both are tested on {len(plan.test):,} pairs")


def write(plan: RewardPlan, done: RewardSteps, out: Path) -> list[str]:
    """Write the results, and a line for each labelled pair; return the files' names.

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
    """Print a table, and on standard error a warning where ICM's labels cannot be trusted."""
    if done.verdict != "trust":
        said = f": {', '.join(done.findings)}" if done.findings else ""
        click.secho(
            f"Warning: the verdict on ICM's labels is: {done.verdict}{said}. Both reward models "
            "are no better than these labels.",
            err=True,
            fg="red" if done.verdict == "do not trust" else "yellow",
        )
    table = facts_table()
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


_DEFAULTS: Final = LocalSettings()


@click.command(
    "reward", cls=SectionedCommand, short_help="Train a reward model on pairs, in three steps."
)
@click.argument("pairs", type=click.Path())
@section(
    "Output",
    click.option(
        "--out",
        type=click.Path(path_type=Path),
        help="The folder for models, labels and figures (required).",
    ),
)
@section(
    "Task",
    click.option(
        "-t",
        "--task",
        "task_name",
        help="A task file, or a built-in task, that shows pairs in both orders. Default: "
        "NAME.task.toml or task.toml beside PAIRS.",
    ),
)
@section(
    "Pairs",
    click.option(
        "--first",
        type=click.IntRange(1),
        default=FIRST,
        show_default=True,
        metavar="N",
        help="Pairs that ICM labels, a random sample.",
    ),
    click.option(
        "--many",
        type=click.IntRange(1),
        metavar="N",
        help="Pairs that the first reward model labels. [default: all]",
    ),
    click.option(
        "--test", type=click.Path(), help="Pairs with known labels, to test both models on."
    ),
    click.option("--gold", help="The field with known labels. [default: the task's]"),
)
@file_options
@limit_option
@section(
    "Search",
    click.option(
        "--preset",
        type=click.Choice(get_args(SearchPreset)),
        default="fast",
        show_default=True,
        help="ICM's search.",
    ),
)
@server_options(wire=True)
@section(
    "Training",
    click.option(
        "--trainer",
        "trainer_kind",
        type=click.Choice(get_args(TrainerKind)),
        default="local",
        show_default=True,
        help="What trains: torch on this machine. Fine-tuning APIs cannot train reward models.",
    ),
    click.option(
        "--train-from",
        metavar="MODEL",
        help="The model to train from: a folder, a GGUF file, a hub's OWNER/NAME. [default: the "
        "embedded server's]",
    ),
    lora_option,
    epochs_option(_DEFAULTS.epochs),
    rate_option,
    click.option(
        "--batch-size",
        "batch",
        type=click.IntRange(1),
        default=_DEFAULTS.batch,
        show_default=True,
        help="Pairs in a forward pass.",
    ),
)
@seed_option
@section(
    "Record",
    store_option,
)
@click.option(
    "--dry-run", is_flag=True, help="Check pairs and task, print what would be done, stop."
)
@click.option("--json", "as_json", is_flag=True, help="Print plan or result as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@click.pass_context
def reward_command(
    context: click.Context,
    /,
    *,
    pairs: str,
    out: Path | None,
    task_name: str | None,
    first: int,
    many: int | None,
    test: str | None,
    gold: str | None,
    file: FileOptions,
    limit: int | None,
    preset: SearchPreset,
    server: Server,
    trainer_kind: TrainerKind,
    train_from: str | None,
    lora: bool,
    epochs: int,
    rate: float | None,
    batch: int,
    seed: int,
    store: str | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train a reward model from PAIRS of responses that have no labels.

    ICM labels a sample of them, a first reward model is trained on these labels, its scores label
    all pairs, and the final reward model is trained on those. Finished steps are kept: the same
    command goes on where an interrupted one stopped.
    """
    if trainer_kind == "served":
        raise click.UsageError(
            "a fine-tuning API cannot train reward models: leave --trainer out to train with torch "
            "on this machine."
        )
    if out is None and not dry_run:
        raise click.UsageError("Missing option '--out': where should the models go?")
    task = task_for(pairs, task_name, such_as="pairwise-preference, or a task file with `exchange`")
    plan = plan_reward(
        _job(pairs, task, gold, file, limit),
        first=first,
        many=many,
        test=None if test is None else Job.prepare(test, task, gold=gold, file=file),
        seed=seed,
    )
    settings = LocalSettings("lora" if lora else "full", epochs, rate, batch)
    if not as_json:
        print_notices(plan.notices)
    if dry_run or out is None:
        print_plan(plan, settings, as_json=as_json)
        return
    trainer = local_trainer(server, train_from, settings, out / "models")
    require_training()
    make_folder(out)

    async def run() -> RewardSteps:
        async with draining() as drain:
            with display(hidden=quiet or as_json) as (labelling, progress):

                async def label_few(rows: Dataset) -> Labels:
                    return await label(
                        rows,
                        task=Task(**{**task.model_dump(), "gold": None, "loader": None}),
                        endpoint=server,
                        settings=preset_settings(preset),
                        seed=seed,
                        store=store,
                        runs=out / "runs",
                        command=context.find_root().obj,
                        progress=labelling,
                        stopping=drain.stopping,
                    )

                return await reward_in_three_steps(
                    plan,
                    label_few=label_few,
                    trainer=LocalRewardTrainer(trainer),
                    folder=out,
                    progress=progress,
                    stopping=drain.stopping,
                )

    done = anyio.run(run)
    written = write(plan, done, out)
    if as_json:
        shown = {"plan": plan.summary(), **done.summary(), "files": written}
        print_json(shown)
    else:
        print_steps(done, written)


def _job(pairs: str, task: Task, gold: str | None, file: FileOptions, limit: int | None) -> Job:
    """The pairs; the gold field, where they have it, is kept out of every prompt."""
    job = Job.prepare(pairs, task, file=file, limit=limit)
    if gold is not None and any(gold in row.fields for row in job.dataset.rows):
        return Job.prepare(pairs, task, gold=gold, file=file, limit=limit)
    return job
