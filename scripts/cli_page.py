"""Print docs/cli.md: every command's help."""

import sys
from collections.abc import Iterator

try:
    import icm_client.cli.main  # noqa: F401 - nothing works without the package
except ModuleNotFoundError as missing:
    sys.stderr.write(
        f"Error: icm-client is not installed for {sys.executable} (no module {missing.name}). Run: "
        "pip install -e '.[dev]'\n"
    )
    sys.exit(2)

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
