"""Read the rows of a large file in batches, so that memory does not grow with the rows.

Rows that a rule of the task relates come in one batch. So they must stand next to each other in the
file: those of a group may be anywhere in a file that is read as a whole, but not in one of which
only a batch is known at a time.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from heapq import merge
from operator import attrgetter

from icm_client.data.answer_text import exact
from icm_client.data.formats import NO_OPTIONS, FileOptions
from icm_client.data.frames import Frame
from icm_client.data.job import Rows
from icm_client.data.loaders import loaded, made_rows
from icm_client.data.messages import listed
from icm_client.data.readers import opened_rows
from icm_client.data.rows import (
    Dataset,
    FailedRow,
    Place,
    Row,
    collect,
    named_places,
    numbered_rows,
    path_of,
    take_own_gold,
)
from icm_client.data.sources import Files, Named, named
from icm_client.data.task import Task
from icm_client.data.values import BLANK, Unusable, json_value
from icm_client.errors import InputError, RowError

MOST_GROUPS = 1_000_000
"""Groups that are remembered, to see whether one comes back; about 130 bytes each."""

_Line = tuple[Place, object]


def row_batches(
    rows: Rows,
    *,
    size: int,
    task: Task,
    gold: str | None = None,
    file: FileOptions = NO_OPTIONS,
    skip_bad_rows: bool = False,
    after: int = 0,
) -> Iterator[Dataset]:
    """Yield the rows in order, `size` at a time or a few more; `Job.prepare` takes each batch.

    A batch has `len(batch.rows) + len(batch.skipped)` rows, and that sum stays the same when
    `Job.prepare` skips more of them. Where the rows have no ids, they are numbered through the
    whole file. Whether ids are unique is checked within a batch only, and so is whether all rows
    have gold where the task names its field: what was read before is not kept.

    Rows that share a value in the `group` fields of a rule are in one batch, which grows until
    their group ends. They must stand next to each other in the file. That a group comes back in a
    later batch is noticed for the first `MOST_GROUPS` groups. With the rule `implication` all rows
    are one batch, since a row may name any other.

    Args:
        rows: a file or several, read row by row; or an iterable, a generator too, from which one
            row is taken in advance. Tables and datasets are in memory already, and are cut into
            batches.
        size: rows of a batch, counted with those that are skipped; at least 1.
        task: its loader is applied, and its rules say which rows are related.
        gold: the field with the known labels; None takes the task's own in each batch whose rows
            have it.
        file: how a file is read where neither its name nor its content shows it.
        skip_bad_rows: leave rows that cannot be used aside, in `Dataset.skipped`. A batch may then
            have none that can be used.
        after: rows to pass over, usable and skipped alike. After the end of a batch, the batches
            that follow are those of an undisturbed run.

    Raises:
        RowError: there are no rows; some of a batch cannot be used; or a group comes back. The rows
            of earlier batches have been yielded by then.
        InputError: as `read_rows`.
        ValueError: a size below 1, or a negative `after`.
    """
    if size < 1 or after < 0:
        raise ValueError(f"a size of at least 1 and rows to pass over, not {size} and {after}")
    if isinstance(rows, Dataset):
        yield from _parts(rows, size, task, gold, skip_bad_rows=skip_bad_rows, after=after)
        return
    path = named(rows) if isinstance(rows, str | os.PathLike | Files) else None
    warnings: list[str] = []
    number = 1
    with _opened(rows, task, file, warnings) as numbered:
        for lines in _cut(numbered, size, task, path):
            passed = _place_after(lines, after)
            after -= _count(lines[:passed])
            part_from = number + passed
            number += len(lines)
            if passed == len(lines):
                continue
            batch = collect(
                lines[passed:],
                path=path,
                gold=gold,
                skip_bad_rows=skip_bad_rows,
                part_from=part_from,
            )
            if gold is None and task.gold is not None:
                batch = take_own_gold(batch, task.gold, skip_bad_rows=skip_bad_rows)
            yield replace(batch, warnings=(*warnings, *batch.warnings))
            warnings.clear()
    if number == 1:
        raise RowError("no rows; at least one is needed", path=path)


@contextmanager
def _opened(
    rows: Named | Iterable[Mapping[str, object] | str] | Frame,
    task: Task,
    file: FileOptions,
    warnings: list[str],
) -> Iterator[Iterator[_Line]]:
    """Give the rows as the task's loader makes them, each with its line or number."""
    if isinstance(rows, str | os.PathLike | Files):
        with opened_rows(
            rows,
            warnings,
            file=file,
            loader=task.loader,
            template_fields=task.template_fields,
            fewest=1,
        ) as numbered:
            yield numbered
        return
    numbered, said = numbered_rows(rows)
    warnings += said
    if task.loader is not None:
        numbered = made_rows(task.loader, numbered, task.template_fields)
    yield numbered


def _parts(
    dataset: Dataset,
    size: int,
    task: Task,
    gold: str | None,
    *,
    skip_bad_rows: bool,
    after: int,
) -> Iterator[Dataset]:
    """Yield parts of rows that have been read, each with those skipped that lie in it."""
    if gold not in (None, dataset.gold_field):
        raise InputError(
            f"the rows were read without the gold field {gold!r}; name it when they are read"
        )
    if task.loader is not None:
        dataset = loaded(dataset, task.loader, task.template_fields, skip_bad_rows=skip_bad_rows)
    every: list[Sequence[Row | FailedRow]] = [dataset.rows, dataset.skipped]
    numbered = ((row.place, row) for row in merge(*every, key=attrgetter("number")))
    warnings = dataset.warnings
    end = 0
    for lines in _cut(numbered, size, task, path_of(dataset)):
        passed = _place_after(lines, after)
        after -= passed
        part = [row for _, row in lines[passed:]]
        rows = tuple(row for row in part if isinstance(row, Row))
        end += sum(isinstance(row, Row) for _, row in lines)
        if not part:
            continue
        batch = replace(
            dataset,
            rows=rows,
            gold=None if dataset.gold is None else dataset.gold[end - len(rows) : end],
            warnings=warnings,
            skipped=tuple(row for row in part if isinstance(row, FailedRow)),
            is_part=True,
        )
        warnings = ()
        if batch.gold is None and task.gold is not None:
            batch = take_own_gold(batch, task.gold, skip_bad_rows=skip_bad_rows)
        yield batch


def _cut(
    numbered: Iterable[_Line], size: int, task: Task, path: str | None
) -> Iterator[list[_Line]]:
    """Yield the rows `size` at a time, or more where a group goes on.

    A row is looked at before the batch in front of it is yielded, so that sentences on the whole
    file are there with its last batch.
    """
    if any(rule.implies is not None for rule in task.rules):
        if every := list(numbered):
            yield every
        return
    groups = _Groups(tuple({rule.group: None for rule in task.rules if rule.group}), path)
    batch: list[_Line] = []
    n_rows = 0
    for place, value in numbered:
        own = groups.of(value)
        if n_rows >= size and value is not BLANK and not groups.goes_on(own):
            yield batch
            batch, n_rows = [], 0
            groups.close()
        groups.enter(own, place, value)
        batch.append((place, value))
        n_rows += value is not BLANK
    if batch:
        yield batch


class _Groups:
    """The groups of the rows read so far, each known by a hash of 64 bits."""

    def __init__(self, fields: Sequence[tuple[str, ...]], path: str | None) -> None:
        self._fields = fields
        self._path = path
        self._last: tuple[int | None, ...] = (None,) * len(fields)
        self._open: dict[int, Place] = {}  # of the batch that is read: group -> its first row
        self._closed: dict[int, Place] = {}

    def of(self, value: object) -> tuple[int | None, ...]:
        """Return a row's group by each rule, or None where it is in none.

        A row that cannot be used does not end the group around it.
        """
        if not self._fields:
            return ()
        fields = _fields(value)
        if fields is None:
            return self._last
        keys = [(names, _key(fields, names)) for names in self._fields]
        return tuple(None if None in key else hash((names, key)) for names, key in keys)

    def goes_on(self, own: tuple[int | None, ...]) -> bool:
        """Return whether a row of these groups shares one with the row before."""
        return any(
            one is not None and one == last for one, last in zip(own, self._last, strict=True)
        )

    def enter(self, own: tuple[int | None, ...], place: Place, value: object) -> None:
        """Note a row's groups.

        Raises:
            RowError: one of them was in an earlier batch.
        """
        self._last = own
        for names, group in zip(self._fields, own, strict=True):
            if group in self._closed:
                values = _key(_fields(value) or {}, names)
                began = named_places([(self._closed[group], "")])
                raise RowError(
                    f"{listed(map(str, values))} in {listed(names)} comes back after other rows: "
                    f"its group began in {began}. Rows are read in batches, so "
                    "those of a group must stand next to each other: sort the file by "
                    f"{listed(names)}",
                    path=place.file or self._path,
                    line=place.line,
                )
            if group is not None:
                self._open.setdefault(group, place)

    def close(self) -> None:
        """End the batch."""
        if len(self._closed) < MOST_GROUPS:
            self._closed |= self._open
        self._open = {}


def _fields(value: object) -> Mapping[str, object] | None:
    if isinstance(value, Row):
        return value.fields
    return value if isinstance(value, Mapping) else None


def _key(fields: Mapping[str, object], names: Sequence[str]) -> tuple[str | None, ...]:
    """Return what a rule compares of these fields; None for what it has nothing of."""
    try:
        return tuple(exact(json_value(fields.get(name))) for name in names)
    except Unusable:  # the row is refused where it is collected, or where the rule is built
        return (None,)


def _place_after(lines: Sequence[_Line], rows: int) -> int:
    """Return the place behind the first `rows` rows, blank ones not counted, or behind them all."""
    if not rows:
        return 0
    left = rows
    for place, (_, value) in enumerate(lines):
        if value is BLANK:
            continue
        if not left:
            return place
        left -= 1
    return len(lines)


def _count(lines: Sequence[_Line]) -> int:
    return sum(value is not BLANK for _, value in lines)
