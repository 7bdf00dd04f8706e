"""What --json prints: one object a command, whose first keys are the same (docs/commands.md).

    {"command": "runs list", "version": "0.1.0", ...}

A command that fails before it has printed one prints its error in this shape, as well as the words
on standard error.
"""

from collections.abc import Mapping

import click
import orjson

import icm_client

_printed = 0


def print_json(document: Mapping[str, object]) -> None:
    """Print the result of the command that is running, after the command's name and version."""
    # Imported here: NumPy and pydantic come with it, and an error needs neither.
    from icm_client.data.values import write_json  # noqa: PLC0415

    _print(write_json({**heading(), **document}, orjson.OPT_INDENT_2))


def print_json_line(document: Mapping[str, object]) -> None:
    """Print one of many objects, each on a line of its own."""
    _print(orjson.dumps({**heading(), **document}))


def print_error(command: str, words: str, *, kind: str, status: int, goes_on: bool) -> None:
    """Print the error that a command has ended with."""
    document = {
        "command": command,
        "version": icm_client.__version__,
        "error": words,
        "type": kind,
        "status": status,
        "goes_on": goes_on,
    }
    _print(orjson.dumps(document, option=orjson.OPT_INDENT_2))


def printed() -> int:
    """How many documents this process has printed so far."""
    return _printed


def heading() -> dict[str, object]:
    """The first keys of a document: the command, without `icm-client`, and the version."""
    names: list[str] = []
    context = click.get_current_context()
    while context.parent is not None:
        names.insert(0, context.info_name or "")
        context = context.parent
    return {
        "command": " ".join(names) or context.command.name,
        "version": icm_client.__version__,
    }


def _print(document: bytes) -> None:
    global _printed  # noqa: PLW0603 - standard output is this process's own, too
    _printed += 1
    click.echo(document)
