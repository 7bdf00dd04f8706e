"""The runs in a base folder: which ones exist, how they ended, and how two of them differ."""

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from filelock import FileLock, Timeout

from icm_client.data import Task
from icm_client.data.messages import did_you_mean, shown
from icm_client.data.outputs import column_of
from icm_client.data.values import read_json, write_json
from icm_client.errors import InputError, RunError, TaskError
from icm_client.record.folder import (
    DEFAULT_BASE,
    FORMAT,
    JOURNAL,
    LABELS,
    LOCK,
    RECORD,
    RESULT,
)
from icm_client.record.journal import read

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
        runs: the newest first.
        notes: a sentence for each folder that is no run, or cannot be read.
    """

    runs: tuple[Run, ...]
    notes: tuple[str, ...]


def list_runs(base: Path = DEFAULT_BASE) -> RunList:
    """Return the runs in `base`; none if there is no such folder.

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
            runs.append(read_folder(folder))
        except RunError as error:
            notes.append(f"not listed: {error}")
    return RunList(tuple(sorted(runs, key=lambda run: (run.created, run.name))[::-1]), tuple(notes))


def read_run(name: str, base: Path = DEFAULT_BASE) -> Run:
    """Return the run of this name, or the only one whose name begins with it.

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
    return read_folder(base / matching[0])


def find_run(name: str, base: Path = DEFAULT_BASE) -> Run:
    """Return the run in the folder `name`, or else the one of this name: `read_run`.

    Raises:
        InputError: there is none, or more than one.
        RunError: its folder cannot be read, or is no run's.
    """
    folder = Path(name)
    if (folder / RECORD).is_file():
        return read_folder(folder.resolve())
    return read_run(name, base)


def _names(base: Path) -> list[str]:
    try:
        return sorted(path.name for path in base.iterdir() if (path / RECORD).is_file())
    except OSError:
        return []


def read_folder(folder: Path) -> Run:
    """Return the run in this folder.

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
    events = read(folder / JOURNAL)
    last = events[-1] if events else {}
    if is_running(folder):
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
        raise RunError(f"{path}: not JSON: the file was damaged") from None
    if not isinstance(content, dict):
        raise RunError(f"{path}: not a JSON object")
    return content


def is_running(folder: Path) -> bool:
    """Whether a living process works on the run in `folder`."""
    lock_path = folder / LOCK
    if not lock_path.exists() or not os.access(lock_path, os.W_OK):
        return False  # in a folder that we cannot write, nobody can know
    try:
        with FileLock(lock_path, timeout=0, thread_local=False):
            return False
    except Timeout:
        return True
    except OSError:
        return False


def remove_run(run: Run) -> None:
    """Delete the run's folder; the score store keeps the answers.

    Raises:
        RunError: a process works on the run, or the folder cannot be deleted.
    """
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


class LabelledId(NamedTuple):
    """A row's id in a run, and the label that the run gave it."""

    id: str | int
    label: str


class RowDiff(NamedTuple):
    """A row that two runs label differently.

    Attributes:
        id: in the first run.
        first: its label there.
        second: its label in the second run.
        id_in_second: its id there.
    """

    id: str | int
    first: str
    second: str
    id_in_second: str | int


@dataclass(frozen=True, slots=True)
class RunDiff:
    """Where two runs differ.

    Attributes:
        settings: `part.name` -> its value in the first and in the second run, None if absent.
        labels: the rows labelled differently.
        compared: how many rows both runs labelled.
        only_in_first: ids of rows that the second run did not label.
        only_in_second: ids of rows that the first run did not label.
    """

    settings: Mapping[str, tuple[Any, Any]]
    labels: tuple[RowDiff, ...]
    compared: int
    only_in_first: tuple[str | int, ...]
    only_in_second: tuple[str | int, ...]


def diff_runs(first: Run, second: Run) -> RunDiff:
    """Return where two runs differ, in their descriptions and in the labels they found.

    Raises:
        InputError: both have labels, and no row in common.
        RunError: a labels file cannot be read.
    """
    ours, theirs = (dict(_flat(_description(run))) for run in (first, second))
    settings = {
        key: (ours.get(key), theirs.get(key))
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key)
    }
    found, other = labels_by_row([first, second])
    shared = [row for row in found if row in other]
    return RunDiff(
        settings=settings,
        labels=tuple(
            RowDiff(found[row].id, found[row].label, other[row].label, other[row].id)
            for row in shared
            if found[row].label != other[row].label
        ),
        compared=len(shared),
        only_in_first=tuple(found[row].id for row in found if row not in other),
        only_in_second=tuple(other[row].id for row in other if row not in found),
    )


def labels_by_row(runs: Sequence[Run]) -> list[dict[str, LabelledId]]:
    """Return each run's labels, with the same key where two runs' rows are the same.

    Rows are the same if the fields that the runs' tasks read hold the same. Ids do not say so, for
    the fourth row of another file has the id 4 too; they only tell rows of the same content apart.
    A run without labels has no rows.

    Raises:
        InputError: two runs that have labels have no row in common.
        RunError: a labels file or a task cannot be read.
    """
    tables = [label_records(run) for run in runs]
    there = [number for number, records in enumerate(tables) if records]
    tasks = {number: _task(runs[number]) for number in there}
    read = {field for task in tasks.values() for field in task.read_fields}
    columns = {
        number: {
            field: column
            for field in sorted(read)
            if any(
                (column := column_of(field, record, tasks[number].labels)) in record
                for record in tables[number]
            )
        }
        for number in there
    }
    shared = [field for field in sorted(read) if all(field in own for own in columns.values())]
    # A row is known by all that one of the models was shown, and not by a part of it.
    if not any(set(task.template_fields) <= set(shared) for task in tasks.values()):
        shared = []
    found: list[dict[str, LabelledId]] = [{} for _ in runs]
    for number, own in columns.items():
        found[number] = _keyed(tables[number], [own[field] for field in shared])
    for one, other in combinations(there, 2):
        if not shared or found[one].keys().isdisjoint(found[other]):
            raise InputError(
                f"the runs {runs[one].name} and {runs[other].name} are over different data: no row "
                f"of {runs[one].record['data']} is a row of {runs[other].record['data']}. Compare "
                "runs over the same rows"
            )
    return found


def _keyed(records: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> dict[str, LabelledId]:
    """A run's labels by a digest of the columns' content, in the order of the data.

    Rows of the same content are numbered in the order of their ids.
    """
    alike: dict[str, list[str]] = {}
    held = []
    for record in records:
        texts = [_as_text(record.get(column)) for column in columns]
        held.append(blake2b(orjson.dumps(texts), digest_size=16).hexdigest())
        alike.setdefault(held[-1], []).append(str(record["id"]))
    places = {
        (key, row): place for key, ids in alike.items() for place, row in enumerate(sorted(ids))
    }
    return {
        f"{key}.{places[key, str(record['id'])]}": LabelledId(record["id"], record["label"])
        for key, record in zip(held, records, strict=True)
    }


def _as_text(value: Any) -> str:
    """The value as in a prompt: 5 is the same in a CSV and in a JSON file."""
    return write_json(value).decode() if isinstance(value, list | dict) else str(value)


def label_records(run: Run) -> list[dict[str, Any]]:
    """Return the lines of a run's labels file, in the order of the data; none if there is none.

    Raises:
        RunError: the file cannot be read, or is damaged.
    """
    path = run.path / LABELS
    try:
        records = [read_json(line) for line in path.read_bytes().splitlines()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}") from error
    except orjson.JSONDecodeError:
        records = [None]
    if not all(isinstance(record, dict) and {"id", "label"} <= record.keys() for record in records):
        raise RunError(f"{path}: some lines hold no label: the file was damaged")
    return records


def _task(run: Run) -> Task:
    try:
        return Task.model_validate(run.record["task"])
    except TaskError as error:
        raise RunError(f"{run.path / RECORD}: describes no task: {error}") from None


def _description(run: Run) -> dict[str, Any]:
    left_out = {"name", "created", "command", "left_out", "folder", "icm_client_run"}
    return {key: value for key, value in run.record.items() if key not in left_out}


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from _flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item
