"""Labels that a person or a run has written down, rows of `id` and `label`, as a search's input.

`read_start` reads first labels (`--init`, the paper's Figure 9), `read_pins` labels that a person
has checked (`--pin`): the search keeps and uses these. Both read what annotation tools export, too.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np

from icm_client.coherence.assignment import JointAssignment
from icm_client.coherence.batches import Within
from icm_client.coherence.constraints import inconsistent_pairs
from icm_client.coherence.initial_labels import Start
from icm_client.coherence.problem import UNLABELLED, IntArray
from icm_client.data.job import Job
from icm_client.data.messages import did_you_mean, listed, shown
from icm_client.data.outputs import column_of
from icm_client.data.readers import opened_rows
from icm_client.data.rows import collect
from icm_client.errors import InputError, RowError
from icm_client.record.layout import LABELS
from icm_client.runs.annotations import labels_of

_Source = Mapping[str, str] | Mapping[int, str] | str | os.PathLike[str]
"""Row id -> label, or a file of rows with `id` and `label`, or of a tool's annotations."""

Pins = _Source | Sequence[_Source]
"""The same, or several of these: what a later one says of a row counts."""

KINDS = get_args(Start)


def read_start(start: str | os.PathLike[str], job: Job) -> Start | IntArray:
    """Return the kind of start, or the first labels that a file holds.

    Args:
        start: one of `KINDS`, or a file of rows with `id` and `label` such as a run writes; rows
            that it leaves out start without a label.
        job: whose rows and labels they are.

    Raises:
        InputError: neither; or the file's labels are not the task's, or its rows not the job's.
    """
    kinds: dict[str, Start] = {kind: kind for kind in KINDS}
    if start in kinds:
        return kinds[str(start)]
    name = os.fspath(start)
    if not Path(name).exists():
        raise InputError(
            f"there are no first labels {shown(name)}: there are {listed(KINDS)}, or name a file "
            f"of labels.{did_you_mean(name, KINDS)}"
        )
    labels = np.full(len(job.prompts), UNLABELLED)
    for given in _labels_in(name, job, numbered=True):
        put(given.item, job.labels.index(given.label), labels, job)
    return labels


def read_pins(pins: Pins, job: Job) -> IntArray | None:
    """Return the pinned labels, shape `[N]`, `UNLABELLED` where an item is free.

    Of a pair that is shown in both orders, the other order is pinned to the label that agrees.

    Args:
        pins: id -> label, of which nothing may be pinned; a file of rows with `id` and `label`, at
            least one; or several of these, of which the last that names a row counts.
        job: whose rows and labels they are.

    Returns:
        None where nothing is pinned.

    Raises:
        InputError: the file cannot be read, its labels are not the task's or its rows not the
            job's, or the rule forbids them; with file and line.
    """
    counting: dict[int, _Given] = {}
    for source in [pins] if isinstance(pins, Mapping | str | os.PathLike) else pins:
        own: dict[int, _Given] = {}
        for given in _labels_in(source, job):
            if given.item in own:  # 7 and "7" are one id
                raise InputError(
                    f"{given.where}: the row is pinned twice, first by {own[given.item].where}"
                )
            own[given.item] = given
        counting |= own
    pinned = np.full(len(job.items), UNLABELLED)
    where_of: dict[int, str] = {}
    for given in counting.values():
        put(given.item, job.labels.index(given.label), pinned, job)
        where_of[given.item] = given.where
        if (other := _other_order(given.item, job)) is not None:
            where_of[other] = given.where
    _refuse_contradictions(pinned, where_of, job)
    return pinned if where_of else None


def read_classes(labels: _Source, job: Job) -> IntArray:
    """Return a class for each other label that the rows have, shape `[N]`, `UNLABELLED` for none.

    Its words may be any; the same word is another class in a pair's other order.

    Args:
        labels: a run's folder, a file of rows with `id` and `label`, or id -> label.
        job: whose rows they are.

    Raises:
        InputError: the file cannot be read, its rows are not the job's, or all have one label.
    """
    source = labels
    if not isinstance(labels, Mapping) and Path(labels).is_dir():
        source = Path(labels) / LABELS
    given = list(_labels_in(source, job, numbered=True, any_word=True))
    words = sorted({one.label for one in given})
    if len(words) < 2:  # noqa: PLR2004
        raise InputError(
            f"{given[0].where}: all rows have the label {shown(words[0])}, and nothing is unlike it"
        )
    classes = np.full(len(job.prompts), UNLABELLED)
    for one in given:
        classes[one.item] = words.index(one.label)
        if (other := _other_order(one.item, job)) is not None:
            classes[other] = len(words) + words.index(one.label)
    return classes


def _refuse_contradictions(pinned: IntArray, where_of: Mapping[int, str], job: Job) -> None:
    """Raise `InputError` where the rule allows no labels that have all pins."""
    groups = tuple(
        tuple(group) for group in job.constraint.groups if (pinned[list(group)] != UNLABELLED).any()
    )
    if not groups:
        return
    rule = Within(job.constraint, groups)
    for i, j in inconsistent_pairs(pinned, rule):
        raise InputError(
            f"{where_of[j]}: the constraint of the task does not allow the label "
            f"{job.labels[pinned[j]]!r} together with {job.labels[pinned[i]]!r} of {where_of[i]}: "
            "correct one of them, or change the constraint"
        )
    free = np.zeros((len(pinned), len(job.labels)))
    found = JointAssignment(rule, len(job.labels))(
        job.problem(pinned=pinned).hold_pins(free)
    ).labels
    for group in groups:
        said = [item for item in group if pinned[item] != UNLABELLED]
        if any(found[item] != pinned[item] for item in said):
            where = ", ".join(dict.fromkeys(where_of[item] for item in said))
            raise InputError(
                f"{where}: the constraint of the task allows the related rows no labels that have "
                "these: correct one of them, or change the constraint"
            )


class _Given(NamedTuple):
    """One row's label: its place, for messages, the row's item as it stands, the label's word."""

    where: str
    item: int
    label: str


def _labels_in(
    source: _Source, job: Job, *, numbered: bool = False, any_word: bool = False
) -> Iterator[_Given]:
    """Yield the labels of a file or a mapping, without those of rows that were skipped.

    Args:
        source: a file of rows with `id` and `label`, at least one, in any format that rows are
            read from; what `icm_client.runs.annotations` reads; or id -> label.
        job: whose rows and labels they are.
        numbered: a file's rows without an id are identified by their number.
        any_word: the labels need not be the task's.

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
        with opened_rows(name, [], fewest=1) as lines_read:
            rows = collect(labels_of(lines_read, name), path=name, gold=None, fewest=1).rows
        for row in rows:
            if "id" not in row.fields and not numbered:
                raise RowError("no 'id': say which row the label is for", path=name, line=row.line)
        lines = [(f"{name}:{row.line}", row.id, row.fields) for row in rows]
    for where, row_id, fields in lines:
        word = fields.get("label")
        if word not in job.labels and not (any_word and isinstance(word, str)):
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
        yield _Given(where, item, str(word))


def _text(value: object) -> str:
    """A field's text without white space, of which a spreadsheet may have changed some."""
    return "" if value is None else "".join(str(value).split())


def _other_order(item: int, job: Job) -> int | None:
    """The item that shows the same pair the other way round, where there is one."""
    other = item + 1
    return other if other < len(job.items) and job.items[other].exchanged else None


def put(item: int, label: int, labels: IntArray, job: Job) -> None:
    """Write a label into `labels`, shape `[N]`, and the label of the pair's other order.

    The other order stays without one where the rule allows it several.
    """
    labels[item] = label
    if (other := _other_order(item, job)) is not None:
        agreeing = [
            agreed
            for agreed in range(len(job.labels))
            if job.constraint.consistent(item, label, other, agreed)
        ]
        labels[other] = agreeing[0] if len(agreeing) == 1 else UNLABELLED
