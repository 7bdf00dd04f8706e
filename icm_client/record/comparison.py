"""How two runs differ, and which of their rows are the same: rows are matched by their content."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import combinations
from typing import Any, NamedTuple

import orjson

from icm_client.data import Task
from icm_client.data.outputs import column_of
from icm_client.data.values import read_json, write_json
from icm_client.errors import InputError, RunError, TaskError
from icm_client.record.archive import Run
from icm_client.record.layout import LABELS, RECORD


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
    """Return where two runs differ, in their descriptions and in the labels they found."""
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
                f"the runs {runs[one].name} and {runs[other].name} are over different data: none "
                f"of the {len(tables[one]):,} rows of {runs[one].record['data']} is one of the "
                f"{len(tables[other]):,} rows of {runs[other].record['data']}. Compare runs over "
                "the same rows"
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
