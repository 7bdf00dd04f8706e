"""`icm-client figures`."""

from pathlib import Path

import click

from icm_client.cli.terminal import base_option
from icm_client.record.archive import find_run
from icm_client.report.report_data import read_report
from icm_client.report.run_figures import draw_run


@click.command("figures", short_help="Draw a run's figures as PNG and SVG.")
@click.argument("run_name", metavar="RUN")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="The folder."
)
@click.option(
    "--gold", metavar="FIELD", help="Field with known labels. [default: what the run was told]"
)
@base_option
def figures_command(*, run_name: str, out: Path, gold: str | None, base: Path) -> None:
    """Draw the figures of RUN (a run's name, its beginning, or its folder) for a paper.

    Each is a PNG and an SVG one column wide: U, balance and flips by sweep or step, the log-odds
    with their threshold, and where there is gold the reliability curve.
    """
    for path in draw_run(read_report(find_run(run_name, base), gold=gold), out):
        click.echo(path)
