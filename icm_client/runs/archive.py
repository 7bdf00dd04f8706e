"""The runs in a base folder: which there are, how they ended, and how two of them differ."""

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from filelock import FileLock, Timeout

from icm_client.data.json_text import read_json
from icm_client.data.messages import did_you_mean, shown
from icm_client.errors import InputError, RunError
from icm_client.runs.folder import DEFAULT_BASE, FORMAT
from icm_client.runs.journal import read

_KEYS = ("name", "created", "data", "rows", "task", "settings", "seed", "server", "versions")
_LAST_WORDS = {"failed": "failed", "stopped": "stopped"}


@dataclass(frozen=True, slots=True)
class Run:
    """A run as its folder tells of it.

    Attributes:
        name: of the run.
        path: of its folder.
        state: "running" while a process works on it, "done" once it has labels, "failed", or
            "stopped": interrupted, out of budget, or killed.
        reason: why it failed or stopped; None where it did neither, or had no time to say.
        created: UTC, ISO 8601.
        updated: when the last event happened; None where there is none.
        record: run.json.
        result: the summary; None until the run is done.
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
        runs: the newest first.
        notes: a sentence for each folder that is no run, or cannot be read.
    """

    runs: tuple[Run, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RunDiff:
    """Where two runs differ.

    Attributes:
        settings: `part.name` -> what it is in the one and in the other; None where it is absent.
        labels: id, label in the one, label in the other, for rows labelled otherwise.
        compared: rows that both runs labelled.
        only_in_first: ids of rows that the other run did not label.
        only_in_second: as `only_in_first`.
    """

    settings: Mapping[str, tuple[Any, Any]]
    labels: tuple[tuple[str | int, str, str], ...]
    compared: int
    only_in_first: tuple[str | int, ...]
    only_in_second: tuple[str | int, ...]


def list_runs(base: Path = DEFAULT_BASE) -> RunList:
    """Return the runs in `base`; none where there is no such folder.

    Raises:
        RunError: `base` cannot be read.
    """
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
            runs.append(_read(folder))
        except RunError as error:
            notes.append(f"left out: {error}")
    return RunList(tuple(sorted(runs, key=lambda run: (run.created, run.name))[::-1]), tuple(notes))


def read_run(name: str, base: Path = DEFAULT_BASE) -> Run:
    """Return the run of this name, or the only one whose name begins so.

    Raises:
        InputError: there is none, or more than one.
        RunError: its folder cannot be read, or is no run's.
    """
    names = _names(base)
    matching = [name] if name in names else [each for each in names if each.startswith(name)]
    if len(matching) != 1 or not name:
        what = "no run" if not matching or not name else "more than one run"
        raise InputError(
            f"{what} in {base} is called {shown(name)}: icm-client runs list shows them."
            f"{did_you_mean(name, names)}"
        )
    return _read(base / matching[0])


def find_run(name: str, base: Path = DEFAULT_BASE) -> Run:
    """Return the run whose folder `name` is, or that is called so: `read_run`.

    Raises:
        InputError: there is none, or more than one.
        RunError: its folder cannot be read, or is no run's.
    """
    folder = Path(name)
    if (folder / "run.json").is_file():
        return _read(folder.resolve())
    return read_run(name, base)


def _names(base: Path) -> list[str]:
    try:
        return sorted(path.name for path in base.iterdir() if (path / "run.json").is_file())
    except OSError:
        return []


def _read(folder: Path) -> Run:
    record = _document(folder / "run.json")
    if record is None:
        raise RunError(f"{folder} is no run's folder: it has no run.json")
    missing = [key for key in _KEYS if key not in record]
    if missing or record.get("icm_client_run") != FORMAT or record["name"] != folder.name:
        raise RunError(f"{folder}: run.json describes no run of this name, or a newer version's")
    result = _document(folder / "result.json")
    events = read(folder / "journal.jsonl")
    last = events[-1] if events else {}
    if is_running(folder):
        state, reason = "running", None
    elif result is not None:
        state, reason = "done", None
    else:
        state = _LAST_WORDS.get(str(last.get("event")), "stopped")
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
        events=len(events),
    )


def _document(path: Path) -> dict[str, Any] | None:
    try:
        content = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}") from error
    except orjson.JSONDecodeError:
        raise RunError(f"{path}: not JSON; the file was damaged") from None
    if not isinstance(content, dict):
        raise RunError(f"{path}: not a JSON object")
    return content


def is_running(folder: Path) -> bool:
    """Whether a living process works on the run in `folder`."""
    lock_path = folder / "lock"
    if not lock_path.exists() or not os.access(lock_path, os.W_OK):
        return False  # of a run in a folder that is not ours to write, nothing can be told
    try:
        with FileLock(lock_path, timeout=0, thread_local=False):
            return False
    except Timeout:
        return True
    except OSError:
        return False


def diff_runs(first: Run, second: Run) -> RunDiff:
    """Return where two runs differ in what they are and in the labels they found.

    Raises:
        RunError: a labels file cannot be read.
    """
    ours, theirs = (dict(_flat(_description(run))) for run in (first, second))
    settings = {
        key: (ours.get(key), theirs.get(key))
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key)
    }
    found, other = read_labels(first), read_labels(second)
    shared = [row for row in found if row in other]
    return RunDiff(
        settings=settings,
        labels=tuple((row, found[row], other[row]) for row in shared if found[row] != other[row]),
        compared=len(shared),
        only_in_first=tuple(row for row in found if row not in other),
        only_in_second=tuple(row for row in other if row not in found),
    )


def _description(run: Run) -> dict[str, Any]:
    left_out = {"name", "created", "command", "left_out", "folder", "icm_client_run"}
    return {key: value for key, value in run.record.items() if key not in left_out}


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from _flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


def read_labels(run: Run) -> dict[str | int, str]:
    """Return the run's labels by row id, in the order of the data; none while it has none.

    Raises:
        RunError: the labels file cannot be read.
    """
    path = run.path / "labels.jsonl"
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return {row["id"]: row["label"] for row in map(read_json, lines)}
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise RunError(f"{path}: holds lines that are no labels; the file was damaged") from None


def remove_run(run: Run) -> None:
    """Delete the run's folder; the score store keeps what was answered.

    Raises:
        RunError: a process works on the run, or the folder cannot be deleted.
    """
    lock = FileLock(run.path / "lock", timeout=0, thread_local=False)
    try:
        # Under another name first: what is half deleted must not look like a run.
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
