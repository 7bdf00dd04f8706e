"""The commands by name; each is imported when it is called: help and completion are quick."""

from importlib import import_module
from typing import NamedTuple

import click


class _Home(NamedTuple):
    """Where a command stands, and what the list of commands says of it."""

    module: str
    attribute: str
    short_help: str


COMMANDS = {
    name: _Home(f"icm_client.cli.{name}", f"{name}_{kind}", short_help)
    for name, kind, short_help in (
        ("ablate", "command", "Change one thing at a time, and compare."),
        ("check", "command", "Find out whether a server can label, and what it costs."),
        ("eval", "command", "Hold ICM's labels against gold, people's and random ones."),
        ("export", "command", "Write a run's labels for training."),
        ("figures", "command", "Draw a run's figures as PNG and SVG."),
        ("finetune", "command", "Train a model on a run's labels."),
        ("label", "command", "Label the rows of a file."),
        ("report", "command", "Write a run's report, an HTML page."),
        ("reward", "command", "Train a reward model on pairs, in three steps."),
        ("runs", "group", "List, resume, compare and remove runs."),
        ("salience", "command", "Find out, before a run, whether it would beat chance."),
        ("serve", "command", "Start a vLLM server that suits many short requests."),
        ("store", "group", "Look after the score store."),
        ("tasks", "command", "Show the built-in tasks."),
        ("watch", "command", "Show how busy a vLLM server is."),
    )
}


class Commands(click.Group):
    """A group of `COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Their names, in alphabetical order."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """Import one; None where there is none of that name."""
        home = COMMANDS.get(cmd_name)
        if home is None:
            return None
        command = getattr(import_module(home.module), home.attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{home.module}.{home.attribute} is no command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """List them without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, home.short_help) for name, home in sorted(COMMANDS.items())])
