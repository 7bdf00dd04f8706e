"""`icm-client report`."""

import webbrowser
from pathlib import Path

import click

from icm_client.cli.terminal import base_option
from icm_client.data.messages import shown
from icm_client.errors import InputError
from icm_client.record.archive import find_run
from icm_client.report.report import write_report


@click.command("report", short_help="Write a run's report, an HTML page.")
@click.argument("run_name", metavar="RUN")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to. [default: report.html in the run's folder]",
)
@click.option(
    "--gold", metavar="FIELD", help="Field with known labels. [default: what the run was told]"
)
@click.option("--open", "opens", is_flag=True, help="Open it in the browser.")
@base_option
def report_command(
    *, run_name: str, output: Path | None, gold: str | None, opens: bool, base: Path
) -> None:
    """Write the report of RUN: a run's name, its beginning, or its folder.

    One HTML file that needs no network: the verdict, how the search went, every label in a table,
    and the rows to check first, with a way to correct them and to download what you corrected as a
    file that --init and --pin read.
    """
    run = find_run(run_name, base)
    path = output or run.path / "report.html"
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {shown(path.parent)}: create it first")
    write_report(run, path, gold=gold)
    click.echo(f"Report in {path}")
    if opens and not webbrowser.open(path.resolve().as_uri()):
        click.echo("No browser could be opened: open the file by hand.", err=True)
