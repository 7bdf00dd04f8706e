"""`icm-client check`: find out whether a server can label, and what a run would cost."""

from dataclasses import replace

import anyio
import click
from rich.console import Console
from rich.text import Text

from icm_client.cli.documents import print_json
from icm_client.cli.options import (
    file_options,
    limit_option,
    server_options,
    store_option,
    task_options,
)
from icm_client.cli.sections import SectionedCommand, section
from icm_client.cli.signals import Drain, draining
from icm_client.cli.terminal import facts_table, step_display
from icm_client.data import Dataset, FileOptions, Task
from icm_client.data.job import Job, task_for
from icm_client.endpoints.parsing import clipped
from icm_client.endpoints.probe import Grade
from icm_client.runs.check import CheckReport, check
from icm_client.runs.server import Server

BRIEF = "Without a task, ten requests show who serves, and whether log-probs come back."

PLANNED = (
    "The check sends about 250 short requests and a dozen long ones: it takes about a minute, or a "
    "few on a slow server. Ctrl-C ends it and prints what it has found."
)

_STYLES = {Grade.GOOD: "green", Grade.NOTE: "yellow", Grade.BAD: "bold red"}


@click.command(
    "check",
    cls=SectionedCommand,
    short_help="Find out whether a server can label, and what it costs.",
)
@click.argument("url", required=False)
@server_options()
@task_options
@section(
    "Data",
    click.option(
        "-d", "--data", type=click.Path(), help="Rows like the run's. [default: made-up ones]"
    ),
    click.option(
        "--rows",
        "run_rows",
        type=click.IntRange(2),
        help="How many rows the run would have, for its cost. [default: the data's, or 64]",
    ),
    file_options,
    limit_option,
)
@section("Record", store_option)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def check_command(
    *,
    url: str | None,
    server: Server,
    task: Task | str | None,
    data: str | None,
    run_rows: int | None,
    file: FileOptions,
    limit: int | None,
    store: str | None,
    as_json: bool,
) -> None:
    """Probe the server at URL (or --endpoint), and say whether a labelling run would work.

    Without a task: who serves which model, whether log-probs come back and of what kind, and what
    to do next. With a task or --data, prompts such as a run would send: what they need, and what
    the run would cost.

    Exit status: 0 ready, 1 not ready. After Ctrl-C what was found is printed.
    """
    rows: Dataset | None = None
    if data is not None:
        job = Job.prepare(data, task_for(data, task), file=file, limit=limit)
        rows, task = job.dataset, job.task
    if url is not None:
        if server.url is not None:
            raise click.UsageError("The server is named twice, as URL and with --endpoint.")
        server = replace(server, url=url)

    async def run() -> tuple[CheckReport, Drain]:
        if not as_json:
            click.echo(BRIEF if task is None else PLANNED, err=True)
        with step_display(hidden=as_json, prefix="Checking: ") as step:
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
        print_json(report.summary())
    else:
        print_report(report)
    if drain.signals:
        raise click.exceptions.Exit(128 + drain.signals[0])
    if not report.ready:
        raise click.exceptions.Exit(1)


def print_report(report: CheckReport, console: Console | None = None) -> None:
    """Print the observations and the verdict, on standard output or a console of yours."""
    console = console or Console(highlight=False)
    table = facts_table()
    table.add_column()
    for one in report.observations:
        # A sentence may quote the server: it stays on one line, and moves no cursor.
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
    for command, does in report.next:
        console.print(Text(f"  {command}", style="bold"), Text(does), sep="\n    ", soft_wrap=True)
