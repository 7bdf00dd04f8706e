"""Labels that a person or a run has written down: rows of `id` and `label`."""

import os
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from icm_client.coherence.contexts import UNLABELLED
from icm_client.coherence.problem import IntArray
from icm_client.data.job import Job
from icm_client.data.messages import listed, shown
from icm_client.data.outputs import column_of
from icm_client.data.readers import read_rows
from icm_client.errors import InputError, RowError

Source = Mapping[str, str] | Mapping[int, str] | str | os.PathLike[str]
"""Row id -> label, or a file of rows with `id` and `label`."""


class Said(NamedTuple):
    """One row's label.

    Attributes:
        where: it is said, for messages.
        item: the row's, as it stands.
        label: its number.
    """

    where: str
    item: int
    label: int


def labels_said(source: Source, job: Job, *, numbered: bool = False) -> Iterator[Said]:
    """Yield what a labels file or a mapping says of a job's rows; not of rows that were skipped.

    Args:
        source: a file of rows with `id` and `label`, of which one is enough, in any format that
            rows are read from; or id -> label.
        job: whose rows and labels they are.
        numbered: a file's rows without an id are meant by their number.

    Raises:
        InputError: the file cannot be read; or its labels are not the task's, or its rows not the
            job's (no such id, or that row holds something else), with file and line.
    """
    places = {str(job.dataset.rows[job.items[item].row].id): int(item) for item in job.row_items}
    skipped = {str(row.id) for row in job.dataset.skipped}
    hint = ": labels are read from the field 'label'"
    if isinstance(source, Mapping):
        hint = ""
        lines: list[tuple[str, str | int, Mapping[str, object]]] = [
            (f"pins[{row_id!r}]", row_id, {"label": word}) for row_id, word in source.items()
        ]
    else:
        name = os.fspath(source)
        rows = read_rows(name, fewest=1).rows
        for row in rows:
            if "id" not in row.fields and not numbered:
                raise RowError("no 'id': which row is meant?", path=name, line=row.line)
        lines = [(f"{name}:{row.line}", row.id, row.fields) for row in rows]
    for where, row_id, fields in lines:
        word = fields.get("label")
        if word not in job.labels:
            raise InputError(
                f"{where}: {shown(word)} is none of the labels {listed(job.labels)}{hint}"
            )
        if str(row_id) in skipped:
            continue
        if str(row_id) not in places:
            raise InputError(f"{where}: no row of {job.dataset.name} has the id {shown(row_id)}")
        item = places[str(row_id)]
        own = job.dataset.rows[job.items[item].row].fields
        for field in job.task.template_fields:
            column = column_of(field, fields, job.labels)
            if column in fields and _text(fields[column]) != _text(own.get(field)):
                raise InputError(
                    f"{where}: the row {shown(row_id)} of {job.dataset.name} holds another "
                    f"{shown(field)}: the labels are of other data. If they are of these rows, "
                    "leave only the columns id and label in the file"
                )
        yield Said(where, item, job.labels.index(str(word)))


def _text(value: object) -> str:
    """A field's text without white space, of which a spreadsheet may have changed some."""
    return "" if value is None else "".join(str(value).split())


def other_order(item: int, job: Job) -> int | None:
    """The item that shows the same pair the other way round, where there is one."""
    other = item + 1
    return other if other < len(job.items) and job.items[other].exchanged else None


def put(item: int, label: int, labels: IntArray, job: Job) -> None:
    """Write a label into `labels`, shape `[N]`, and what follows from it for the other order.

    Where the rule leaves the other order more than one label, nothing follows.
    """
    labels[item] = label
    if (other := other_order(item, job)) is not None:
        agreeing = [
            agreed
            for agreed in range(len(job.labels))
            if job.constraint.consistent(item, label, other, agreed)
        ]
        labels[other] = agreeing[0] if len(agreeing) == 1 else UNLABELLED
