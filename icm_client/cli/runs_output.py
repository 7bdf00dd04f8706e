"""What the commands on runs share: options, tables, JSON."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import orjson
from rich.console import Console
from rich.table import Table

from icm_client.data.json_text import write_json
from icm_client.record.folder import DEFAULT_BASE

_WIDTH_OF_A_FILE = 1000
_Command = TypeVar("_Command", bound=Callable[..., Any])


def base_option(command: _Command) -> _Command:
    """Add `--runs`, as `base`."""
    return click.option(
        "--runs",
        "base",
        type=click.Path(path_type=Path),
        default=DEFAULT_BASE,
        show_default=True,
        help="The folder of all runs.",
    )(command)


def json_option(command: _Command) -> _Command:
    """Add `--json`, as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def share(value: object) -> str:
    """A share as a percentage; a dash where there is none."""
    return f"{value:.1%}" if isinstance(value, float) else "-"


def print_json(document: object) -> None:
    """Print the document."""
    click.echo(write_json(document, orjson.OPT_INDENT_2))


def print_table(table: Table) -> None:
    """Print the table; where it goes to a file, no line is cut."""
    wide = None if Console().is_terminal else _WIDTH_OF_A_FILE
    Console(highlight=False, markup=False, width=wide).print(table)
