"""Options of the commands about runs. Light, so that `icm-client runs list` is there at once."""

from pathlib import Path

import click

from icm_client.record.layout import DEFAULT_BASE

runs_option = click.option(
    "--runs",
    "base",
    type=click.Path(path_type=Path),
    default=DEFAULT_BASE,
    show_default=True,
    help="The folder of all runs.",
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
