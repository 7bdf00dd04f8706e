"""The commit points of a run, and processes that kill themselves (SIGKILL) at one of them.

`python commit_points.py FOLDER` reads a line for each process from its input: the name of its
folder within FOLDER and the number of the commit at which it dies, or -1 to let it live. It forks,
and answers with a line of JSON: the exit status and the commits passed. Everything is imported
before it forks, so that a process takes no longer than its run.
"""

import json
import math
import os
import signal
import sqlite3
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import anyio

from icm_client import Labels, SweepSettings, Task, label, rows_from
from icm_client.endpoints import Answer, Read
from icm_client.record.journal import Journal
from icm_client.runs import progress
from icm_client.testing import PlantedConcept

TASK = Task(template="Review: {text}\nSentiment:", labels=("positive", "negative"))
SETTINGS = SweepSettings(initial=4, demos=4, second_demos=4, min_sweeps=2, max_sweeps=2, restarts=1)
ROWS = 6

STATEMENTS = ("PRAGMA user_version =", "BEGIN IMMEDIATE", "INSERT", "UPDATE", "COMMIT")
"""What a store's connection writes with; each is a commit point before and after it."""


class Commits:
    """Counts the moments around every write, and kills this process at number `last`."""

    def __init__(self, last: int) -> None:
        self.passed: list[str] = []
        self._last = last

    def reach(self, moment: str) -> None:
        if len(self.passed) == self._last:
            os.kill(os.getpid(), signal.SIGKILL)
        self.passed.append(moment)

    def around(self, owner: Any, name: str) -> None:
        """Make `owner.name` a commit point, before and after every call."""
        work: Callable[..., Any] = getattr(owner, name)
        label = f"{getattr(owner, '__name__', owner)}.{name}"

        def told(*arguments: Any, **options: Any) -> Any:
            self.reach(f"before {label}")
            found = work(*arguments, **options)
            self.reach(f"after {label}")
            return found

        setattr(owner, name, told)

    def connection(self) -> type[sqlite3.Connection]:
        """SQLite's connection with commit points around what it writes."""
        commits = self

        class Connection(sqlite3.Connection):
            def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
                return commits.statement(sql, super().execute, arguments)

            def executemany(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
                return commits.statement(sql, super().executemany, arguments)

        return Connection

    def statement(
        self, sql: str, work: Callable[..., sqlite3.Cursor], arguments: Sequence[Any]
    ) -> sqlite3.Cursor:
        """Run a statement; where it writes, with a commit point on either side of it."""
        kind = next((kind for kind in STATEMENTS if sql.startswith(kind)), None)
        if kind is None:
            return work(sql, *arguments)
        self.reach(f"before {kind}")
        found = work(sql, *arguments)
        self.reach(f"after {kind}")
        return found


# On a busy machine a run would write more: how far it is, every two seconds.
progress._PROGRESS_INTERVAL_S = math.inf  # type: ignore[misc]


def patch(commits: Commits) -> None:
    """Put commit points around everything that a run writes."""
    connect = sqlite3.connect

    def connected(*arguments: Any, **options: Any) -> sqlite3.Connection:
        return connect(*arguments, factory=commits.connection(), **options)

    sqlite3.connect = connected  # type: ignore[assignment]
    commits.around(Journal, "append")
    commits.around(Journal, "sync")
    commits.around(Path, "open")
    commits.around(Path, "replace")
    commits.around(os, "open")
    commits.around(os, "fsync")
    commits.around(os, "ftruncate")
    commits.around(os, "write")


class Counted(PlantedConcept):
    """Writes a byte into a file for each answer it gives, whatever becomes of the process."""

    def __init__(self, folder: Path) -> None:
        rows = rows_from(texts())
        classes = {prompt: i * 7 % 5 % 2 for i, prompt in enumerate(TASK.render_all(rows))}
        super().__init__(classes, TASK.label_texts, lanes=1)
        folder.mkdir(parents=True, exist_ok=True)
        self._answers_file = os.open(folder / "answers", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
        answers = await super().read(reads, lane=lane)
        os.writev(self._answers_file, [b"." * len(reads)])  # `os.write` is a commit point
        return answers


def texts() -> list[str]:
    return [f"words of row {i}" for i in range(ROWS)]


async def run(folder: Path) -> Labels:
    """What the command line does: find labels, with a record and a store, and write them."""
    found = await label(
        texts(),
        task=TASK,
        endpoint=Counted(folder),
        settings=SETTINGS,
        store=folder / "cache" / "store",
        runs=folder / "runs",
    )
    found.write(folder / "labels.jsonl")
    return found


def serve(
    run: Callable[[Path], Awaitable[object]],
    base: Path,
    begin: Callable[[Path], None] = lambda _: None,
) -> None:
    """Fork a run for each line of the input, one at a time; `begin` is not watched."""
    for line in sys.stdin:
        name, last = line.split()
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            begin(base / name)
            commits = Commits(int(last))
            patch(commits)
            anyio.run(run, base / name)
            os.writev(writer, [json.dumps(commits.passed).encode()])
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as told:
            passed = told.read()
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        sys.stdout.write(json.dumps([code, json.loads(passed or b"[]")]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve(run, Path(sys.argv[1]))
