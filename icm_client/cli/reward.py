"""`icm-client reward`."""

from pathlib import Path
from typing import Final, get_args

import anyio
import click
import orjson

from icm_client.cli.eval_output import make_folder, print_notices
from icm_client.cli.reward_output import display, print_plan, print_steps, write
from icm_client.cli.server_options import server_options
from icm_client.cli.signals import draining
from icm_client.cli.trainer_options import TrainerKind, local_trainer
from icm_client.data import Dataset, Task, find_beside
from icm_client.data.job import Job, named_task
from icm_client.errors import TaskError
from icm_client.runs.label import label
from icm_client.runs.presets import InContextPreset, preset_settings
from icm_client.runs.result import Labels
from icm_client.runs.server import Server
from icm_client.training.base_model import require_training
from icm_client.training.local_settings import LocalSettings
from icm_client.training.reward import LocalRewardTrainer, reward_in_three_steps
from icm_client.training.reward_plan import FIRST, plan_reward
from icm_client.training.reward_result import RewardSteps

_DEFAULTS: Final = LocalSettings()


@click.command("reward", short_help="Train a reward model on pairs, in three steps.")
@click.argument("pairs", type=click.Path())
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The folder for models, labels and figures (required).",
)
@click.option(
    "-t",
    "--task",
    "task_name",
    help="A task file, or a built-in task, that shows pairs in both orders. Default: "
    "NAME.task.toml or task.toml beside PAIRS.",
)
@click.option(
    "--first",
    type=click.IntRange(1),
    default=FIRST,
    show_default=True,
    metavar="N",
    help="Pairs that ICM labels, a seeded sample.",
)
@click.option(
    "--many",
    type=click.IntRange(1),
    metavar="N",
    help="Pairs that the first reward model labels. [default: all]",
)
@click.option("--test", type=click.Path(), help="Pairs with known labels, to test both models on.")
@click.option("--gold", help="The field with known labels. [default: the task's]")
@click.option(
    "--preset",
    type=click.Choice(get_args(InContextPreset)),
    default="fast",
    show_default=True,
    help="ICM's search.",
)
@server_options(wire=True)
@click.option(
    "--trainer",
    "trainer_kind",
    type=click.Choice(get_args(TrainerKind)),
    default="local",
    show_default=True,
    help="What trains: torch on this machine. Fine-tuning APIs train no reward models.",
)
@click.option(
    "--train-from",
    metavar="MODEL",
    help="The model that is trained: a folder, a GGUF file, a hub's OWNER/NAME. [default: the "
    "embedded server's]",
)
@click.option("--lora/--full", default=True, help="Adapters, or all weights. [default: lora]")
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
    default=_DEFAULTS.batch,
    show_default=True,
    help="Pairs a forward pass.",
)
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0), help="Of all that is random."
)
@click.option("--store", type=click.Path(), help="The score store. [default: in the user's cache]")
@click.option("--dry-run", is_flag=True, help="Check pairs and task, say what would be done, stop.")
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
    preset: InContextPreset,
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
    """Train a reward model from PAIRS of responses without a label.

    ICM labels a sample of them, a first reward model is trained on that, its scores label all, and
    the final reward model is trained on those labels. What is done is kept: the same command goes
    on where an interrupted one stopped.
    """
    if trainer_kind == "served":
        raise click.UsageError(
            "a fine-tuning API trains no reward models: leave --trainer served out, and training "
            "is done with torch on this machine."
        )
    if out is None and not dry_run:
        raise click.UsageError("Missing option '--out': where should the models go?")
    task = _task(pairs, task_name)
    plan = plan_reward(
        _job(pairs, task, gold),
        first=first,
        many=many,
        test=None if test is None else Job.prepare(test, task, gold=gold),
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
        click.echo(orjson.dumps(shown, option=orjson.OPT_INDENT_2))
    else:
        print_steps(done, written)


def _job(pairs: str, task: Task, gold: str | None) -> Job:
    """The pairs, where they have the gold field without it in any prompt."""
    job = Job.prepare(pairs, task)
    if gold is not None and any(gold in row.fields for row in job.dataset.rows):
        return Job.prepare(pairs, task, gold=gold)
    return job


def _task(pairs: str, name: str | None) -> Task:
    if name is not None:
        return named_task(name)
    beside = find_beside(pairs)
    if beside is None:
        raise TaskError(
            "no task: name one with --task (pairwise-preference, or a task file with `exchange`), "
            f"or put a task.toml beside {pairs}"
        )
    return Task.from_toml(beside)
