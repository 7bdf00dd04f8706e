"""The option that says what a double quote means in DATA."""

from collections.abc import Callable
from typing import Any, TypeVar, get_args

import click

from icm_client.data.csv_rows import Quote

_Command = TypeVar("_Command", bound=Callable[..., Any])


def quote_option(command: _Command) -> _Command:
    """Add `--quote`."""
    return click.option(
        "--quote",
        type=click.Choice(get_args(Quote)),
        default="auto",
        show_default=True,
        help="Double quotes in CSV and TSV: text (none), around fields (standard), or whichever "
        "the file's separator and lines suggest.",
    )(command)
