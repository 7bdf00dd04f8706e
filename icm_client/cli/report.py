"""`icm-client report` and `icm-client figures`: how a run went, as a page and as pictures."""

import webbrowser
from pathlib import Path

import click

from icm_client.cli.completion import complete_runs
from icm_client.cli.documents import print_json
from icm_client.cli.run_options import json_option, runs_option
from icm_client.data.messages import shown
from icm_client.errors import InputError
from icm_client.record.archive import find_run
from icm_client.report.report import write_report
from icm_client.report.report_data import read_report
from icm_client.report.run_figures import draw_run


@click.command("report", short_help="Write a run's report, an HTML page.")
@click.argument("run_name", metavar="RUN", shell_complete=complete_runs)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to write it. [default: report.html in the run's folder]",
)
@click.option("--gold", metavar="FIELD", help="Field with known labels. [default: the run's]")
@click.option("--open", "opens", is_flag=True, help="Open the page in the browser.")
@runs_option
@json_option
def report_command(
    *,
    run_name: str,
    output: Path | None,
    gold: str | None,
    opens: bool,
    base: Path,
    as_json: bool,
) -> None:
    """Write the report of RUN: a run's name, its beginning, `latest`, or its folder.

    One HTML file that needs no network: the verdict, how the search went, every label in a table,
    and the rows to check first, with a way to correct them and to download what you corrected as a
    file that --init and --pin read.
    """
    run = find_run(run_name, base)
    path = output or run.path / "report.html"
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {shown(path.parent)}: create it first")
    write_report(run, path, gold=gold)
    if as_json:
        print_json({"run": run.name, "report": str(path)})
    else:
        click.echo(f"Report in {path}")
    if opens and not webbrowser.open(path.resolve().as_uri()):
        click.echo("No browser could be opened: open the file by hand.", err=True)


@click.command("figures", short_help="Draw a run's figures as PNG and SVG.")
@click.argument("run_name", metavar="RUN", shell_complete=complete_runs)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="The folder to write to.",
)
@click.option("--gold", metavar="FIELD", help="Field with known labels. [default: the run's]")
@runs_option
@json_option
def figures_command(
    *, run_name: str, out: Path, gold: str | None, base: Path, as_json: bool
) -> None:
    """Draw the figures of RUN for a paper: a run's name, its beginning, `latest`, or its folder.

    Each is a PNG and an SVG one column wide: U, balance and flips by sweep or step, the log-odds
    with their threshold, and where there is gold the reliability curve.
    """
    run = find_run(run_name, base)
    drawn = [str(path) for path in draw_run(read_report(run, gold=gold), out)]
    if as_json:
        print_json({"run": run.name, "files": drawn})
        return
    for path in drawn:
        click.echo(path)
