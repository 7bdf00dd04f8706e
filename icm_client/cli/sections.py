"""Help in sections: a command whose options stand under headings, each with what belongs together.

A command has `cls=SectionedCommand`, and its options are added by `section`:

    @click.command("check", cls=SectionedCommand)
    @section("Server", server_options())
    @section("Data", click.option("--data"), file_options)

Options that belong together reach it as one argument: `made_of` says what is made of which.

Options that stand in no section, such as --json and --help, come last, as "Options".
"""

import inspect
from collections.abc import Callable, Sequence
from functools import wraps
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


_Makers = dict[str, tuple[Callable[..., Any], frozenset[str]]]

_MAKERS: Final[WeakKeyDictionary[Callable[..., None], _Makers]] = WeakKeyDictionary()
"""A command -> its arguments that are made of options: what makes each, and of which."""


def made_of(name: str, make: Callable[..., Any], options: Sequence[str] | None = None) -> Decorator:
    """Have a command receive one argument in the place of several options.

    Args:
        name: of the argument.
        make: is called with the options, and returns the argument.
        options: their names; None takes those of the parameters of `make`.
    """
    every = frozenset(options or inspect.signature(make).parameters)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        if (makers := _MAKERS.get(command)) is not None:
            makers[name] = (make, every)
            return command
        makers = {name: (make, every)}

        @wraps(command)
        def with_made(*args: Any, **given: Any) -> None:
            for made, (one, taken) in makers.items():
                given[made] = one(**{option: given.pop(option) for option in taken & given.keys()})
            command(*args, **given)

        _MAKERS[with_made] = makers
        return with_made

    return decorate


_WHOLE: Final = 200
"""Letters; no command's first sentence has more."""


class SectionedCommand(click.Command):
    """A command whose help shows its options by section.

    A number is shown as N: click's own "INTEGER RANGE" says no more than the range behind it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for parameter in self.params:
            if isinstance(parameter.type, click.IntRange | click.FloatRange):
                parameter.metavar = parameter.metavar or "N"

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
