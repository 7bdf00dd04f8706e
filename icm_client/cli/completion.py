"""What the shell offers where a task's or a run's name belongs.

A shell waits for this at each press of Tab, so names are looked up without importing what reads
tasks and runs.
"""

from importlib import resources
from pathlib import Path

import click
from click.shell_completion import CompletionItem

RECORD = "run.json"
"""What makes a folder a run's; `icm_client.record.folder` has the same."""


def complete_tasks(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The built-in tasks, and task files below the folder that is being typed."""
    folder = resources.files("icm_client").joinpath("data", "tasks")
    names = sorted(
        file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml")
    )
    found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return [*found, CompletionItem(incomplete, type="file")]


def complete_runs(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The runs in the folder that --runs names, the newest first, and `latest`."""
    base = context.params.get("base") or context.params.get("runs") or "runs"
    try:
        found = [path for path in Path(base).iterdir() if (path / RECORD).is_file()]
        found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    except OSError:
        found = []
    names = [path.name for path in found]
    if names:
        names.append("latest")
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]
