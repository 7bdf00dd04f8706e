"""`icm-client salience`: estimate, before a run, whether it would beat chance."""

import anyio
import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from icm_client.cli.documents import print_json
from icm_client.cli.options import (
    file_options,
    limit_option,
    seed_option,
    server_options,
    store_option,
    task_options,
)
from icm_client.cli.sections import SectionedCommand
from icm_client.cli.signals import ended_at_once
from icm_client.cli.terminal import step_display
from icm_client.data import FileOptions, Task
from icm_client.data.job import Job, task_for
from icm_client.data.sources import found_files
from icm_client.experiments.salience import SalienceReport, salience
from icm_client.runs.server import Server
from icm_client.scoring import open_store

FIRST = "how far labels found zero-shot, shown as demos, move other rows towards such labels"
SECOND = "the same for the labels that those rows then get"
WORDS = "the first pull, in standard deviations of shuffled labels; chance is within 2"

_STYLES = {"likely": "bold green", "unclear": "bold yellow", "unlikely": "bold red"}


@click.command(
    "salience",
    cls=SectionedCommand,
    short_help="Estimate, before a run, whether it would beat chance.",
)
@click.argument("data", nargs=-1, required=True, type=click.Path())
@task_options
@file_options
@limit_option
@server_options(wire=True)
@seed_option
@store_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print the result only.")
def salience_command(
    *,
    data: tuple[str, ...],
    task: Task | str | None,
    file: FileOptions,
    limit: int | None,
    server: Server,
    seed: int,
    store: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Estimate from a small sample of DATA whether the model knows a concept that a run could find.

    No gold label is read. The sample has at least 24 rows, and more where they take at most 5% of
    the tokens of a run. The concept may still be another than the one that is meant.

    Exit status: 0 whatever the answer, 1 failed, 2 wrong input.
    """
    with found_files(data) as files:
        job = Job.prepare(files, task_for(data[0], task), file=file, limit=limit)

    async def run() -> SalienceReport:
        with step_display(hidden=as_json or quiet) as step:
            return await salience(
                job.dataset, task=job.task, endpoint=server, seed=seed, store=kept, step=step
            )

    with open_store(store) as kept, ended_at_once(kept):
        report = anyio.run(run)
    for notice in () if as_json else report.notices:
        click.echo(f"Note: {notice}.", err=True)
    if as_json:
        print_json(report.summary())
    else:
        print_salience(report)


def print_salience(report: SalienceReport, console: Console | None = None) -> None:
    """Print verdict, features and cost, on standard output or a console of yours."""
    console = console or Console(highlight=False)
    found = report.found
    console.print(Text(found.verdict.capitalize(), _STYLES[found.verdict]), end="")
    console.print(Text(f": {found.sentence()}"), soft_wrap=True)
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    features = found.features
    table.add_row("first pull", f"{features.first:.2f} nats", FIRST)
    table.add_row("second pull", f"{features.second:.2f} nats", SECOND)
    table.add_row("words", f"{features.words:+.1f} s.d.", WORDS)
    console.print(table)
    console.print(Text(report.cost_sentence()), soft_wrap=True)
