"""`icm-client salience`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import anyio
import click
import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from icm_client.cli.options import server_options, task_option
from icm_client.cli.signals import ended_at_once
from icm_client.data import read_rows
from icm_client.data.job import task_for
from icm_client.experiments.salience import SalienceReport, salience
from icm_client.runs.server import Server
from icm_client.scoring import open_store

FIRST = "how far labels that the words suggest move other rows towards such labels"
SECOND = "the same by the labels that those suggest in turn"
WORDS = "the first pull in what shuffled labels give; chance is within 2"

_STYLES = {"likely": "bold green", "unclear": "bold yellow", "unlikely": "bold red"}


@click.command("salience", short_help="Find out, before a run, whether it would beat chance.")
@click.argument("data", type=click.Path())
@task_option
@server_options(wire=True)
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0), help="Of all that is random."
)
@click.option("--store", type=click.Path(), help="The score store. [default: in the user's cache]")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print the result only.")
def salience_command(
    *,
    data: str,
    task_name: str | None,
    server: Server,
    seed: int,
    store: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Tell from a small sample of DATA whether the model holds a concept that a run could find.

    No gold label is read. The sample has at least 24 rows, and more where that takes at most 5% of
    the tokens that a run takes. What is found may still be another concept than the one meant.

    Exit status: 0 whatever the answer, 1 failed, 2 wrong input.
    """
    task = task_for(data, task_name)
    rows = read_rows(data, loader=task.loader, template_fields=task.template_fields)

    async def run() -> SalienceReport:
        with _steps(hidden=as_json or quiet) as step:
            return await salience(
                rows, task=task, endpoint=server, seed=seed, store=kept, step=step
            )

    with open_store(store) as kept, ended_at_once(kept):
        report = anyio.run(run)
    for notice in () if as_json else report.notices:
        click.echo(f"Note: {notice}.", err=True)
    if as_json:
        click.echo(orjson.dumps(report.summary(), option=orjson.OPT_INDENT_2))
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


@contextmanager
def _steps(*, hidden: bool) -> Iterator[Callable[[str], None] | None]:
    """Yield what to call with each step: a status line, or plain lines where no terminal is."""
    console = Console(stderr=True, highlight=False)
    if hidden:
        yield None
    elif console.is_terminal:
        with console.status(Text("Starting ...")) as status:
            yield lambda step: status.update(Text(f"{step} ..."))
    else:
        yield lambda step: console.print(Text(step), soft_wrap=True)
