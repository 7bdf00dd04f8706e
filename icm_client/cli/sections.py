"""Help in sections: a command whose options stand under headings, each with what belongs together.

A command has `cls=SectionedCommand`, and its options are added by `section`:

    @click.command("check", cls=SectionedCommand)
    @section("Server", server_options())
    @section("Data", click.option("--data"), file_options)

Options that stand in no section, such as --json and --help, come last, as "Options".
"""

from collections.abc import Callable
from typing import Any, Final
from weakref import WeakKeyDictionary

import click

Decorator = Callable[[Callable[..., None]], Callable[..., None]]

_SECTIONS: Final[WeakKeyDictionary[click.Parameter, str]] = WeakKeyDictionary()
_PARAMETERS: Final = "__click_params__"
"""Where click keeps a function's parameters until `click.command` takes them."""


def section(name: str, *options: Decorator) -> Decorator:
    """Return a decorator that adds the options, in this order, under a heading of the help."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        before = set(_parameters(command))
        for option in reversed(options):
            command = option(command)
        for parameter in _parameters(command):
            if parameter not in before:
                _SECTIONS.setdefault(parameter, name)
        return command

    return decorate


def _parameters(command: Callable[..., Any]) -> list[click.Parameter]:
    found: list[click.Parameter] = getattr(command, _PARAMETERS, [])
    return found


_WHOLE: Final = 200
"""Letters; no command's first sentence has more."""


class SectionedCommand(click.Command):
    """A command whose help shows its options by section."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections in the order of their first options, and the other options last."""
        by_section: dict[str, list[tuple[str, str]]] = {}
        others: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None or isinstance(parameter, click.Argument):
                continue
            name = _SECTIONS.get(parameter)
            (others if name is None else by_section.setdefault(name, [])).append(record)
        for name, records in [*by_section.items(), ("Options", others)]:
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)


class ListingGroup(click.Group):
    """A group whose list of commands has their first sentences whole, on a narrow terminal too."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a line or more for each command."""
        lines = [
            (name, command.get_short_help_str(limit=_WHOLE))
            for name in self.list_commands(ctx)
            if (command := self.get_command(ctx, name)) is not None
        ]
        with formatter.section("Commands"):
            formatter.write_dl(lines)
