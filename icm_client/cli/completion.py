"""What the shell offers where a task's or a run's name belongs.

A shell waits for this at each press of Tab, and a command takes half a second to import. So names
are looked up without what reads tasks and runs, and where a name is typed, its command is stood in
for by one that has nothing else.
"""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Final

import click
from click.shell_completion import CompletionItem

from icm_client.record.layout import DEFAULT_BASE, RECORD

_TASK: Final = ("-t", "--task")
_TAKE_A_RUN: Final = ("ask", "export", "figures", "finetune", "predict", "report", "why")
_TAKE_A_TASK: Final = (("show",), ("convert",))


def complete_tasks(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The built-in tasks; or files, where none begins so: bash takes either names or files."""
    folder = resources.files("icm_client").joinpath("data", "tasks")
    names = sorted(
        file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml")
    )
    found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="file")]


def complete_runs(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The runs in the folder that --runs names, the newest first, and `latest`."""
    base = context.params.get("base") or DEFAULT_BASE
    try:
        found = [path for path in Path(base).iterdir() if (path / RECORD).is_file()]
        found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    except OSError:
        found = []
    names = [path.name for path in found]
    if names:
        names.append("latest")
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def quick_command(name: str, words: Sequence[str]) -> click.Command | None:
    """Return what stands in for a command of which a task's or a run's name is being typed."""
    if words and words[-1] in _TASK:
        return _Quick(name, click.Option([*_TASK, "typed"], shell_complete=complete_tasks))
    if not words and name in _TAKE_A_RUN:
        return _Quick(name, click.Argument(["run"], shell_complete=complete_runs))
    if name == "tasks" and tuple(words) in _TAKE_A_TASK:
        task = click.Argument(["task"], shell_complete=complete_tasks)
        return _Quick(name, click.Argument(["command"]), task)
    return None


class _Quick(click.Command):
    """A command that completes a name; for its options the command itself is imported."""

    def __init__(self, name: str, *parameters: click.Parameter) -> None:
        super().__init__(
            name,
            params=list(parameters),
            context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
        )

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The options of the command that this one stands for."""
        group = ctx.find_root().command
        if self.name is None or not isinstance(group, click.Group):
            return []
        command = group.get_command(click.Context(group), self.name)
        if command is None:
            return []
        return command.shell_complete(click.Context(command, parent=ctx.parent), incomplete)
