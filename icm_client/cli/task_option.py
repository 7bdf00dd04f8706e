"""The option that says what is asked about the rows of DATA."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])


def task_option(command: _Command) -> _Command:
    """Add `--task`, as `task_name`."""
    return click.option(
        "-t",
        "--task",
        "task_name",
        help="A task file, or a built-in task (icm-client tasks lists them). "
        "Default: NAME.task.toml or task.toml beside DATA.",
    )(command)
