"""`icm-client finetune`."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import anyio
import click
import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from icm_client.data.constraint_spec import ConstraintSpec
from icm_client.data.job import Job
from icm_client.errors import InputError
from icm_client.record.archive import read_run
from icm_client.record.folder import DEFAULT_BASE
from icm_client.runs.trainer import OnTraining, Trainer, TrainingProgress
from icm_client.serving.model import BUNDLED
from icm_client.settings import Environment
from icm_client.training.fine_tune import FineTuned, fine_tune
from icm_client.training.local import LocalTrainer
from icm_client.training.local_settings import LocalSettings, Objective
from icm_client.training.run_labels import RunLabels, read_labels
from icm_client.training.served import ServedTrainer
from icm_client.training.served_job import ServedSettings

Backend = Literal["local", "served"]

_DEFAULTS = LocalSettings()
_LINES = 10
"""That a training prints where there is no terminal."""


@click.command("finetune", short_help="Train a model on a run's labels.")
@click.argument("run")
@click.option(
    "--backend",
    type=click.Choice(get_args(Backend)),
    default="local",
    show_default=True,
    help="torch on this machine, or a service with OpenAI's fine-tuning API (--endpoint).",
)
@click.option(
    "-m",
    "--model",
    help=f"To train from: a folder, a GGUF file, a hub's OWNER/NAME. [default: {BUNDLED}]",
)
@click.option("-e", "--endpoint", metavar="URL", help="The service. [env: ICM_ENDPOINT]")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Where trained models go. [default: models in the run's folder]",
)
@click.option("--lora/--full", default=True, help="Adapters, or all weights. [default: lora]")
@click.option(
    "--rank", type=click.IntRange(1), help=f"Of the adapters. [default: {_DEFAULTS.rank}]"
)
@click.option(
    "--epochs", type=click.IntRange(1), default=_DEFAULTS.epochs, show_default=True, help="Passes."
)
@click.option(
    "--lr",
    "rate",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="The learning rate. [default: the paper's, scaled by size]",
)
@click.option(
    "--batch-size",
    "batch",
    type=click.IntRange(1),
    help=f"Examples a forward pass. [default: {_DEFAULTS.batch}]",
)
@click.option("--accumulate", type=click.IntRange(1), help="Forward passes a step. [default: 1]")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of training.")
@click.option(
    "--objective",
    type=click.Choice(get_args(Objective)),
    default="sft",
    show_default=True,
    help="The label behind its prompt, or a reward model for pairs of responses.",
)
@click.option("--test", type=click.Path(), help="Rows that the run did not label, to test on.")
@click.option("--gold", help="The test rows' field with known labels. [default: the task's]")
@click.option("--store", type=click.Path(), help="The score store. [default: in the user's cache]")
@click.option(
    "--runs",
    type=click.Path(path_type=Path),
    default=DEFAULT_BASE,
    show_default=True,
    help="The folder of all runs.",
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
    store: str | None,
    runs: Path,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train a model on the labels of RUN (a run's name or folder), the loss on the label alone.

    What is trained is found again: the same command goes on from the last checkpoint of one that
    was killed, and after its end prints the same result.
    """
    found, folder = _labels(run, runs)
    if gold is not None and test is None:
        raise click.UsageError("--gold names a field of the rows of --test, which are missing.")
    job = None if test is None else _test_rows(test, found, gold, objective)
    out = out or folder / "models"
    trainer: Trainer
    if backend == "served":
        local_only = {"--rank": rank, "--lr": rate, "--accumulate": accumulate}
        if given := [name for name, value in local_only.items() if value is not None]:
            raise click.UsageError(f"{', '.join(given)}: a service chooses this itself.")
        trainer = _served(endpoint, model, out, ServedSettings(epochs=epochs, batch_size=batch))
    else:
        settings = LocalSettings(
            method="lora" if lora else "full",
            epochs=epochs,
            rate=rate,
            batch=batch or _DEFAULTS.batch,
            accumulate=accumulate or _DEFAULTS.accumulate,
            rank=rank or _DEFAULTS.rank,
        )
        trainer = LocalTrainer(model or BUNDLED, folder=out, settings=settings, say=_say)
    _warn(found)
    with _display(hidden=quiet or as_json) as progress:
        work = partial(fine_tune, seed=seed, objective=objective, test=job, store=store)
        done = anyio.run(partial(work, found, trainer, progress=progress))
    if as_json:
        click.echo(orjson.dumps(done.summary(), option=orjson.OPT_INDENT_2))
    else:
        _print(done)


def _test_rows(test: str, found: RunLabels, gold: str | None, objective: Objective) -> Job:
    # Rows are labelled one by one: which labels may stand together is the search's business. A
    # rule also says which label prefers the first response, though.
    rule = ConstraintSpec(kind="none") if objective == "sft" else None
    return Job.prepare(test, found.task, gold=gold, constraint=rule)


def _labels(run: str, runs: Path) -> tuple[RunLabels, Path]:
    named = Path(run)
    folder = named.resolve() if (named / "run.json").is_file() else read_run(run, runs).path
    return read_labels(folder), folder


def _served(
    url: str | None, model: str | None, out: Path, settings: ServedSettings
) -> ServedTrainer:
    environment = Environment()
    url = url or environment.endpoint
    if url is None or not isinstance(url, str):
        raise InputError("which service trains? name it with --endpoint URL or ICM_ENDPOINT")
    if model is None:
        raise InputError("which of the service's models is trained from? name it with --model")
    return ServedTrainer(
        url, model, folder=out, api_key=environment.api_key, settings=settings, allow_floor=True
    )


def _say(words: str) -> None:
    click.echo(words, err=True)


def _warn(found: RunLabels) -> None:
    verdict = found.result.get("verdict")
    if verdict in ("check", "do not trust"):
        click.secho(
            f"Warning: the verdict on these labels is: {verdict}. What is trained on them is no "
            "better than they are.",
            err=True,
            fg="red" if verdict == "do not trust" else "yellow",
        )


@contextmanager
def _display(*, hidden: bool) -> Iterator[OnTraining | None]:
    """A bar on a terminal, else a line for each tenth of the steps."""
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
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column()
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
