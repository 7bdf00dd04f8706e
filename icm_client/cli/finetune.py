"""`icm-client finetune`: train a model on a run's labels."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import anyio
import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from icm_client.cli.completion import complete_runs
from icm_client.cli.documents import print_json
from icm_client.cli.options import file_options, seed_option, store_option
from icm_client.cli.run_options import runs_option
from icm_client.cli.sections import SectionedCommand, section
from icm_client.cli.terminal import facts_table
from icm_client.cli.trainer_options import (
    epochs_option,
    lora_option,
    rate_option,
    say,
    served_trainer,
)
from icm_client.data import FileOptions
from icm_client.data.constraint_spec import ConstraintSpec
from icm_client.data.job import Job
from icm_client.record.archive import find_run
from icm_client.record.run_labels import RunLabels, read_labels
from icm_client.runs.server import Server
from icm_client.runs.trainer import OnTraining, Trainer, TrainingProgress
from icm_client.serving.model import BUNDLED
from icm_client.training.fine_tune import FineTuned, fine_tune
from icm_client.training.local import LocalTrainer
from icm_client.training.local_settings import LocalSettings, Objective
from icm_client.training.served_job import ServedSettings

Backend = Literal["local", "served"]

_DEFAULTS = LocalSettings()
_LINES = 10
"""Lines that a training prints where there is no terminal."""


@click.command("finetune", cls=SectionedCommand, short_help="Train a model on a run's labels.")
@click.argument("run", metavar="RUN", shell_complete=complete_runs)
@section(
    "Model",
    click.option(
        "--backend",
        type=click.Choice(get_args(Backend)),
        default="local",
        show_default=True,
        help="torch on this machine, or a service with OpenAI's fine-tuning API (--endpoint).",
    ),
    click.option(
        "-m",
        "--model",
        help=f"What to train from: a folder, a GGUF file, a hub's OWNER/NAME. [default: {BUNDLED}]",
    ),
    click.option("-e", "--endpoint", metavar="URL", help="The service. [env: ICM_ENDPOINT]"),
)
@section(
    "Output",
    click.option(
        "--out",
        type=click.Path(path_type=Path),
        help="Where trained models go. [default: models in the run's folder]",
    ),
)
@section(
    "Training",
    lora_option,
    click.option(
        "--rank",
        type=click.IntRange(1),
        help=f"The rank of the adapters. [default: {_DEFAULTS.rank}]",
    ),
    epochs_option(_DEFAULTS.epochs),
    rate_option,
    click.option(
        "--batch-size",
        "batch",
        type=click.IntRange(1),
        help=f"Examples in a forward pass. [default: {_DEFAULTS.batch}]",
    ),
    click.option(
        "--accumulate", type=click.IntRange(1), help="Forward passes in a step. [default: 1]"
    ),
    seed_option,
    click.option(
        "--objective",
        type=click.Choice(get_args(Objective)),
        default="sft",
        show_default=True,
        help="Train on the label after its prompt, or train a reward model on pairs of responses.",
    ),
)
@section(
    "Test",
    click.option(
        "--test", type=click.Path(), help="Rows to test on, which the run has not labelled."
    ),
    click.option("--gold", help="The test rows' field with known labels. [default: the task's]"),
)
@file_options
@section(
    "Record",
    store_option,
    runs_option,
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
def finetune_command(
    *,
    run: str,
    backend: Backend,
    model: str | None,
    endpoint: str | None,
    out: Path | None,
    lora: bool,
    rank: int | None,
    epochs: int,
    rate: float | None,
    batch: int | None,
    accumulate: int | None,
    seed: int,
    objective: Objective,
    test: str | None,
    gold: str | None,
    file: FileOptions,
    store: str | None,
    base: Path,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train a model on the labels of RUN; the loss is on the label alone.

    RUN is a run's name, its beginning, `latest`, or its folder.

    Trained models are kept: the same command goes on from the last checkpoint of one that was
    killed, and after its end prints the same result.
    """
    folder = find_run(run, base).path
    found = read_labels(folder)
    if gold is not None and test is None:
        raise click.UsageError("--gold names a field of the test rows: add --test FILE.")
    job = None if test is None else _test_rows(test, found, gold, objective, file)
    out = out or folder / "models"
    trainer: Trainer
    if backend == "served":
        local_only = {"--rank": rank, "--lr": rate, "--accumulate": accumulate}
        if given := [name for name, value in local_only.items() if value is not None]:
            raise click.UsageError(
                f"A service chooses {', '.join(given)} itself: leave the option out."
            )
        trainer = served_trainer(
            Server(endpoint, allow_floor=True),
            model,
            ServedSettings(epochs=epochs, batch_size=batch),
            out,
            base_option="--model",
        )
    else:
        settings = LocalSettings(
            method="lora" if lora else "full",
            epochs=epochs,
            rate=rate,
            batch=batch or _DEFAULTS.batch,
            accumulate=accumulate or _DEFAULTS.accumulate,
            rank=rank or _DEFAULTS.rank,
        )
        trainer = LocalTrainer(model or BUNDLED, folder=out, settings=settings, say=say)
    _warn(found)
    with _display(hidden=quiet or as_json) as progress:
        work = partial(fine_tune, seed=seed, objective=objective, test=job, store=store)
        done = anyio.run(partial(work, found, trainer, progress=progress))
    if as_json:
        print_json(done.summary())
    else:
        _print(done)


def _test_rows(
    test: str, found: RunLabels, gold: str | None, objective: Objective, file: FileOptions
) -> Job:
    # Test rows are predicted one by one, so that no rule binds them; but for pairs of responses the
    # rule also says which label prefers the first one.
    rule = ConstraintSpec(kind="none") if objective == "sft" else None
    return Job.prepare(test, found.task, gold=gold, constraint=rule, file=file)


def _warn(found: RunLabels) -> None:
    verdict = found.result.get("verdict")
    if verdict in ("check", "do not trust"):
        click.secho(
            f"Warning: the verdict on these labels is: {verdict}. A model trained on them is no "
            "better than they are.",
            err=True,
            fg="red" if verdict == "do not trust" else "yellow",
        )


@contextmanager
def _display(*, hidden: bool) -> Iterator[OnTraining | None]:
    """Show a bar on a terminal, else print a line for each tenth of the steps."""
    console = Console(stderr=True, highlight=False)
    if hidden:
        yield None
    elif console.is_terminal:
        columns = (
            TextColumn("Training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("", total=None, loss="")

            def show(moment: TrainingProgress) -> None:
                loss = "" if moment.loss is None else f"loss {moment.loss:.3f}"
                bar.update(task, completed=moment.step, total=moment.steps, loss=loss)

            yield show
    else:
        yield _lines


def _lines(moment: TrainingProgress) -> None:
    if moment.steps and moment.step % max(1, moment.steps // _LINES) == 0 and moment.loss:
        click.echo(
            f"step {moment.step} of {moment.steps}: loss {moment.loss:.3f}, {moment.seconds:.0f} s",
            err=True,
        )


def _print(done: FineTuned) -> None:
    table = facts_table()
    trained = done.trained
    table.add_row("trained on", f"{trained.examples:,} {_UNITS[done.objective]}")
    table.add_row("from", Text(trained.base))
    if trained.loss is not None:
        table.add_row("last loss", f"{trained.loss:.3f} nats")
    table.add_row("time", f"{trained.seconds:.0f} s")
    for when, held_out in (("before", done.before), ("after", done.after)):
        if held_out is not None:
            table.add_row(
                f"accuracy {when}",
                f"{held_out.accuracy:.1%} of {held_out.rows:,} rows, "
                f"{held_out.calibrated:.1%} calibrated",
            )
    if done.pair_accuracy is not None:
        table.add_row("accuracy", f"{done.pair_accuracy:.1%} of {done.pairs:,} pairs")
    table.add_row("model", Text(trained.model))
    Console(highlight=False, soft_wrap=True).print(table)


_UNITS = {"sft": "labels", "reward": "pairs"}
