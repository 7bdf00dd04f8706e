"""Print docs/cli.md: every command's help."""

from collections.abc import Iterator

import click
from click.testing import CliRunner

from icm_client.cli.main import cli

PROGRAM = "icm-client"


def commands(group: click.Group, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Return the words of every command, a group before its own."""
    yield before
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*before, name))
        else:
            yield (*before, name)


def page() -> str:
    """Return the page as it should be."""
    parts = ["# The command line\n\nWritten by `scripts/docs`.\n"]
    for words in commands(cli):
        command = " ".join((PROGRAM, *words))
        shown = CliRunner().invoke(cli, [*words, "--help"], prog_name=PROGRAM).output
        parts.append(f"\n## {command}\n\n```\n{shown}```\n")
    return "".join(parts)


if __name__ == "__main__":
    print(page(), end="")
