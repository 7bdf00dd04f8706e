"""`icm-client check`."""

from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import click
import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from icm_client.cli.options import server_options
from icm_client.cli.signals import Drain, draining
from icm_client.data import find_beside, read_rows
from icm_client.endpoints.parsing import clipped
from icm_client.endpoints.probe import Verdict
from icm_client.errors import TaskError
from icm_client.runs.check import CheckReport, OnStep, check
from icm_client.runs.server import Server

PLANNED = (
    "About 250 short requests and a dozen long ones: about a minute, on a slow server a few. "
    "Ctrl-C prints what was seen until then."
)

_STYLES = {Verdict.GOOD: "green", Verdict.NOTE: "yellow", Verdict.BAD: "bold red"}


@click.command("check", short_help="Find out whether a server can label, and what it costs.")
@server_options()
@click.option(
    "-t",
    "--task",
    "task_name",
    help="A task file, or a built-in task (icm-client tasks lists them). "
    "Default: NAME.task.toml or task.toml beside the data.",
)
@click.option("-d", "--data", type=click.Path(), help="Rows like the run's. [default: made up]")
@click.option(
    "--rows",
    "run_rows",
    type=click.IntRange(2),
    help="Rows of the run whose cost is told. [default: the data's, or 64]",
)
@click.option("--store", type=click.Path(), help="The score store. [default: in the user's cache]")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def check_command(
    *,
    server: Server,
    task_name: str | None,
    data: str | None,
    run_rows: int | None,
    store: str | None,
    as_json: bool,
) -> None:
    """Ask a server what it does, and say whether a labelling run would work.

    Exit status: 0 ready, 1 not ready. After Ctrl-C what was seen is printed.
    """
    task = _task(task_name, data)
    rows = None if data is None else read_rows(data)

    async def run() -> tuple[CheckReport, Drain]:
        with _steps(hidden=as_json) as step:
            async with draining("Stopping.") as drain:
                report = await check(
                    task=task,
                    rows=rows,
                    run_rows=run_rows,
                    endpoint=server,
                    store=store,
                    step=step,
                    stopping=drain.stopping,
                )
            return report, drain

    report, drain = anyio.run(run)
    if as_json:
        click.echo(orjson.dumps(report.summary(), option=orjson.OPT_INDENT_2))
    else:
        print_report(report)
    if drain.signals:
        raise click.exceptions.Exit(128 + drain.signals[0])
    if not report.ready:
        raise click.exceptions.Exit(1)


def print_report(report: CheckReport, console: Console | None = None) -> None:
    """Print what was found and the verdict, on standard output or a console of yours."""
    console = console or Console(highlight=False)
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    table.add_column()
    for one in report.observations:
        # What a server said may stand in a sentence: one line, nothing that moves the cursor.
        table.add_row(
            one.name, Text(one.verdict.value, style=_STYLES[one.verdict]), Text(clipped(one.says))
        )
    console.print(table)
    if report.cost is not None:
        console.print(Text(report.cost.sentence()), soft_wrap=True)
    console.print(
        Text(f"This check: {report.requests:,} requests, {report.tokens:,} tokens computed.")
    )
    if report.ready:
        console.print(Text("Ready.", style="bold green"))
    else:
        console.print(Text("Not ready:", style="bold red"))
        for reason in report.reasons:
            console.print(Text(f"  {clipped(reason)}"), soft_wrap=True)


def _task(name: str | None, data: str | None) -> str:
    """The task that was named, or the one beside the data."""
    if name is not None:
        return name
    beside = None if data is None else find_beside(data)
    if beside is None:
        raise TaskError(
            "no task: name one with --task FILE or NAME, or put a task.toml beside the data"
        )
    return str(beside)


@contextmanager
def _steps(*, hidden: bool) -> Iterator[OnStep | None]:
    """Yield what to call with each step: a status line, or plain lines where no terminal is."""
    console = Console(stderr=True, highlight=False)
    if hidden:
        yield None
        return
    console.print(PLANNED)
    if console.is_terminal:
        with console.status(Text("Starting ...")) as status:
            yield lambda step: status.update(Text(f"Checking: {step} ..."))
    else:
        yield lambda step: console.print(Text(f"Checking: {step}"))
