"""The runs in a base folder: which ones exist, how they ended, and which one a name means.

Nothing that takes long is imported here: `icm-client runs list` is to be there at once.
"""

import difflib
import os
import secrets
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from icm_client.errors import InputError, RunError
from icm_client.record.journal import ENDS, count_events
from icm_client.record.layout import DEFAULT_BASE, FORMAT, JOURNAL, LOCK, RECORD, RESULT

LATEST = "latest"
"""Stands for the run that was worked on last, wherever a run is named."""

_ALIKE = 0.6  # as difflib, which is made for words

_KEYS = ("name", "created", "data", "rows", "task", "settings", "seed", "server", "versions")


@dataclass(frozen=True, slots=True)
class Run:
    """A run, as its folder describes it.

    Attributes:
        name: of the run.
        path: of its folder.
        state: "running" while a process works on it, "done" once it has labels, "failed", or
            "stopped": interrupted, out of budget, or killed.
        reason: why it failed or stopped; None where it did neither, or was killed.
        created: UTC, ISO 8601.
        updated: when the last event happened; None where there is none.
        record: run.json.
        result: the summary; None while there are no labels. It has `stopped` if the run was.
        events: how many the journal holds.
    """

    name: str
    path: Path
    state: str
    reason: str | None
    created: str
    updated: str | None
    record: Mapping[str, Any]
    result: Mapping[str, Any] | None
    events: int

    def document(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "name": self.name,
            "path": str(self.path),
            "state": self.state,
            "reason": self.reason,
            "created": self.created,
            "updated": self.updated,
            "events": self.events,
            "run": dict(self.record),
            "result": None if self.result is None else dict(self.result),
        }


@dataclass(frozen=True, slots=True)
class RunList:
    """The runs of a base folder.

    Attributes:
        runs: the one that was worked on last first.
        notes: a sentence for each folder that is no run, or cannot be read.
    """

    runs: tuple[Run, ...]
    notes: tuple[str, ...]


def list_runs(base: Path = DEFAULT_BASE) -> RunList:
    """Return the runs in `base`; none if there is no such folder."""
    try:
        folders = sorted(entry for entry in base.iterdir() if not entry.name.startswith("."))
    except FileNotFoundError:
        return RunList((), ())
    except OSError as error:
        raise RunError(f"{base}: the runs cannot be read: {error.strerror}") from error
    runs, notes = [], []
    for folder in folders:
        if not folder.is_dir():
            continue
        try:
            runs.append(read_folder(folder))
        except RunError as error:
            notes.append(f"not listed: {error}")
    return RunList(tuple(sorted(runs, key=_worked_on, reverse=True)), tuple(notes))


def _worked_on(run: Run) -> tuple[datetime, str]:
    """When the run was last worked on; of a journal that says nothing, when it was created."""
    return datetime.fromisoformat(run.updated or run.created), run.name


def find_run(name: str, base: Path = DEFAULT_BASE) -> Run:
    """Return the run in the folder `name`, or else `read_run(name, base)`."""
    folder = Path(name)
    if (folder / RECORD).is_file():
        return read_folder(folder.resolve())
    return read_run(name, base)


def read_run(name: str, base: Path = DEFAULT_BASE) -> Run:
    """Return the run of this name, or the only one whose name begins with it.

    `latest` is the run that was worked on last: whose journal has the latest event.

    Raises:
        InputError: there is none, or more than one.
        RunError: its folder cannot be read, or is no run's.
    """
    names = _names(base)
    if name in names:
        return read_folder(base / name)
    if name == LATEST and (runs := list_runs(base).runs):
        return runs[0]
    matching = [each for each in names if each.startswith(name)] if name else []
    if len(matching) == 1:
        return read_folder(base / matching[0])
    raise InputError(_no_single_run(name, base, names, matching))


def _no_single_run(name: str, base: Path, names: Sequence[str], matching: Sequence[str]) -> str:
    """Say that `name` means none of the runs, or which of them it may mean."""
    # Imported here: the list of runs needs none of it, and pydantic takes long.
    from icm_client.data.messages import listed, shown  # noqa: PLC0415

    if not names:
        return (
            f"no run in {base} is called {shown(name)}: there are no runs there. Name their folder "
            "with --runs"
        )
    if matching:
        return (
            f"{len(matching)} runs in {base} have a name that begins with {shown(name)}: "
            f"{listed(matching)}. Write enough of one to tell it from the others"
        )
    near = _nearest(name, names)
    meant = f" Did you mean {listed(near)}?" if near else ""
    return (
        f"no run in {base} is called {shown(name)}: {runs_command('list', base=base)} shows them."
        f"{meant}"
    )


def _nearest(name: str, names: Sequence[str]) -> list[str]:
    """The names that are most like `name`: as a whole, in their beginning, or in their digest."""
    likeness = {
        each: max(
            difflib.SequenceMatcher(None, name.casefold(), part.casefold()).ratio()
            for part in (each, each[: len(name)], *each.rsplit("-", 1))
        )
        for each in names
    }
    best = max(likeness.values())
    return [each for each in names if likeness[each] == best >= _ALIKE]


def runs_command(name: str, *arguments: str, base: Path) -> str:
    """Return a command about runs as it can be pasted into a shell, from the same folder."""
    where = [] if base.resolve() == DEFAULT_BASE.resolve() else ["--runs", str(base)]
    return shlex.join(["icm-client", "runs", name, *arguments, *where])


def resume_command(run: Run) -> str:
    """Return the command that goes on with the run: its whole name, and where it lies."""
    return runs_command("resume", run.name, base=run.path.parent)


def _names(base: Path) -> list[str]:
    try:
        return sorted(path.name for path in base.iterdir() if (path / RECORD).is_file())
    except OSError:
        return []


def read_folder(folder: Path, journal: tuple[int, Mapping[str, Any]] | None = None) -> Run:
    """Return the run in this folder.

    Args:
        folder: of the run.
        journal: how many events its journal has and the last one, where they are known already.

    Raises:
        RunError: it cannot be read, or is no run's.
    """
    record = _document(folder / RECORD)
    if record is None:
        raise RunError(f"{folder} is no run's folder: it has no run.json")
    missing = [key for key in _KEYS if key not in record]
    if missing or record.get("icm_client_run") != FORMAT or record["name"] != folder.name:
        raise RunError(f"{folder}: run.json describes no run of this name, or a newer version's")
    result = _document(folder / RESULT)
    events, last = journal or count_events(folder / JOURNAL)
    # A process that goes on writes an event first; asking for the lock takes longer than all else.
    if last.get("event") not in ENDS and is_running(folder):
        state, reason = "running", None
    elif result is not None and result.get("stopped") is None:
        state, reason = "done", None
    else:
        state = "failed" if last.get("event") == "failed" else "stopped"
        reason = last.get("reason")
    return Run(
        name=folder.name,
        path=folder,
        state=state,
        reason=None if reason is None else str(reason),
        created=str(record["created"]),
        updated=last.get("at"),
        record=record,
        result=result,
        events=events,
    )


def _document(path: Path) -> dict[str, Any] | None:
    try:
        content = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}") from error
    except orjson.JSONDecodeError:
        raise RunError(f"{path}: not JSON: the file was damaged") from None
    if not isinstance(content, dict):
        raise RunError(f"{path}: not a JSON object")
    return content


def is_running(folder: Path) -> bool:
    """Whether a living process works on the run in `folder`."""
    lock_path = folder / LOCK
    if not lock_path.exists():
        return False
    if not os.access(lock_path, os.W_OK):
        return _is_locked(lock_path)
    from filelock import FileLock, Timeout  # noqa: PLC0415 - asyncio comes with it

    try:
        with FileLock(lock_path, timeout=0, thread_local=False):
            return False
    except Timeout:
        return True
    except OSError:
        return False


def _is_locked(lock_path: Path) -> bool:
    """Whether a lock file that we may only read is locked; on Windows nobody can know."""
    if sys.platform == "win32":
        return False
    import fcntl  # noqa: PLC0415 - there is none on Windows

    try:
        descriptor = os.open(lock_path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def remove_run(run: Run) -> None:
    """Delete the run's folder; the score store keeps the answers.

    Raises:
        RunError: a process works on the run, or the folder cannot be deleted.
    """
    from filelock import FileLock, Timeout  # noqa: PLC0415 - asyncio comes with it

    lock = FileLock(run.path / LOCK, timeout=0, thread_local=False)
    try:
        # It gets another name first: a folder that is half deleted must not look like a run.
        with lock:
            doomed = run.path.with_name(f".{run.name}.{secrets.token_hex(4)}.removed")
            run.path.rename(doomed)
        shutil.rmtree(doomed)
    except Timeout:
        raise RunError(
            f"a process works on the run {run.name}: end it first (Ctrl-C), then remove the run"
        ) from None
    except OSError as error:
        raise RunError(f"{run.path}: cannot be removed: {error.strerror}") from error
