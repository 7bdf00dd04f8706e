"""Rows without labels, as the rest of the program sees them.

The gold field, if there is one, is taken out of every row before a `Row` exists. It lies beside
the rows, in `Dataset.gold`, where nothing that builds a prompt looks.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

from icm_client.data.frames import Frame, HubDataset, is_frame, rows_of
from icm_client.data.messages import (
    did_you_mean,
    listed,
    named_lines,
    one_after_another,
    shown,
)
from icm_client.data.values import BLANK, JsonValue, Unusable, json_value, kind_of
from icm_client.errors import InputError, RowError

FEWEST_ROWS = 2
"""A search compares rows."""

_FROM_PYTHON = "rows"
_MOST_REASONS = 10
_LENGTH = re.compile(r"^its prompt takes [\d,]+ tokens")
"""How reasons begin that differ in a row's length alone."""


class Place(NamedTuple):
    """Where a row stands.

    Attributes:
        line: 1-based line where it starts; for tables and Python, its number.
        file: the file's name where rows come from several; None where they have one source.
    """

    line: int
    file: str | None = None

    def named(self, path: str | None) -> str:
        """Return `file:line`, for messages; `path` is the source of rows that have only one."""
        return f"{self.file or path or _FROM_PYTHON}:{self.line}"


@dataclass(frozen=True, slots=True)
class FailedRow:
    """A row that has no label.

    Attributes:
        id: the row's, or its number where it has none.
        line: its line in the file, as `Row.line`.
        reason: what is wrong with it, or the server's message; fit to be shown.
        has_id: whether the id is the row's own.
        number: as `Row.number`, and `file` likewise.
    """

    id: str | int
    line: int
    reason: str
    has_id: bool = False
    number: int = 0
    file: str | None = None

    @property
    def place(self) -> Place:
        """Where the row stands."""
        return Place(self.line, self.file)

    def summary(self) -> dict[str, str | int]:
        """Return id, line and reason as JSON values, and the file where there are several."""
        where = {} if self.file is None else {"file": self.file}
        return {"id": self.id, **where, "line": self.line, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the user's data, without its gold label.

    Attributes:
        id: the row's own `id`, or its 1-based number among the rows.
        fields: all fields of the row but the gold field, in the row's order.
        line: 1-based line where the row starts; for Parquet and Python, the row's number.
        number: 1-based, of the row among all rows, those of earlier files too; it orders them.
        file: the file's name where rows come from several; else it is the data set's.
    """

    id: str | int
    fields: Mapping[str, JsonValue]
    line: int
    number: int = 0
    file: str | None = None

    @property
    def place(self) -> Place:
        """Where the row stands."""
        return Place(self.line, self.file)

    def failed(self, reason: str) -> FailedRow:
        """Return the row as one that has no label."""
        has_id = "id" in self.fields
        return FailedRow(self.id, self.line, reason, has_id, self.number, self.file)


@dataclass(frozen=True, slots=True)
class Dataset:
    """The rows of one file or list, at least two; or a part of them, and then perhaps none.

    Attributes:
        name: the path or URL as the user gave it, several separated by commas; or `rows`.
        rows: in the file's order.
        gold: for every row its gold label as text, or None where the row has none; None as a
            whole where no gold field was named.
        gold_field: the field that held the gold labels.
        warnings: sentences that the user should see.
        skipped: rows that could not be used and were to be skipped, by their lines.
        is_part: whether these are one batch of `icm_client.data.row_batches`: what holds for a
            file as a whole need not hold for them.
    """

    name: str
    rows: tuple[Row, ...]
    gold: tuple[str | None, ...] | None
    gold_field: str | None
    warnings: tuple[str, ...]
    skipped: tuple[FailedRow, ...] = ()
    is_part: bool = False

    @property
    def fewest(self) -> int:
        """How many rows must be left when those that cannot be used are skipped."""
        return 0 if self.is_part else FEWEST_ROWS


def rows_from(
    rows: Iterable[Mapping[str, object] | str] | Frame,
    *,
    gold: str | None = None,
    skip_bad_rows: bool = False,
) -> Dataset:
    """Return the rows as a dataset; a plain string becomes `{"text": string}`.

    Args:
        rows: dictionaries of JSON values; dates, decimals and NumPy scalars are converted. Or a
            table of pandas, whose index becomes the rows' ids, of polars, pyarrow or DuckDB; or a
            dataset of `datasets`, whose classes have their names. Missing values become None.
        gold: the field with the known labels, if any: it is taken out of the rows.
        skip_bad_rows: leave rows that cannot be used aside, in `Dataset.skipped`.

    Raises:
        RowError: fewer than two rows, or rows that cannot be used, each with its 1-based number.
    """
    numbered, warnings = numbered_rows(rows)
    dataset = collect(numbered, path=None, gold=gold, skip_bad_rows=skip_bad_rows)
    return replace(dataset, warnings=(*warnings, *dataset.warnings))


def numbered_rows(
    rows: Iterable[Mapping[str, object] | str] | Frame,
) -> tuple[Iterator[tuple[Place, object]], tuple[str, ...]]:
    """Return the rows, each with its 1-based number, and sentences that the user should see.

    They are taken from `rows` one by one.

    Raises:
        RowError: it is one row, or several tables; or the columns of a table cannot be used.
    """
    if isinstance(rows, Mapping) and any(is_frame(one) for one in rows.values()):
        split = isinstance(next(iter(rows.values())), HubDataset)
        raise RowError(
            f"these are {'splits' if split else 'tables'} by name, {listed(rows)}: pick one, such "
            f"as rows[{next(iter(rows))!r}]"
        )
    if isinstance(rows, str | Mapping):
        raise RowError(f"a list of rows is needed, not one alone ({kind_of(rows)})")
    warnings: tuple[str, ...] = ()
    plain: Iterable[object]
    if is_frame(rows):
        try:
            plain, warnings = rows_of(rows)
        except Unusable as problem:
            raise RowError(str(problem)) from None
    else:
        plain = cast("Iterable[object]", rows)
    as_fields = ({"text": row} if isinstance(row, str) else row for row in plain)
    return ((Place(number), row) for number, row in enumerate(as_fields, start=1)), warnings


def collect(
    numbered: Iterable[tuple[Place, object]],
    *,
    path: str | None,
    gold: str | None,
    fewest: int = FEWEST_ROWS,
    skip_bad_rows: bool = False,
    part_from: int | None = None,
) -> Dataset:
    """Return the dataset of `(place, fields)` pairs; `path` is for its name and for errors.

    In the fields' place there may be `BLANK`, or an `Unusable` with the reason why there are none.
    With `part_from` they are a part of a file's rows, perhaps none, and this is the number of the
    first of them.

    Raises:
        RowError: rows are no objects, hold what JSON cannot, lack the gold field, or have another
            row's id; or there are fewer than `fewest` rows.
    """
    if gold == "id":
        raise RowError("'id' names the rows and cannot be the gold field too", path=path)
    rows: list[Row] = []
    golds: list[str | None] = []
    bad: list[FailedRow] = []
    blank: list[Place] = []
    first_places: dict[str, Place] = {}
    is_part = part_from is not None
    fewest = 0 if is_part else fewest
    for number, (place, raw) in enumerate(numbered, start=part_from or 1):
        if raw is BLANK:
            blank.append(place)
            continue
        row_id: str | int = number
        has_id = False
        try:
            fields = _fields(raw)
            row_id = _row_id(fields, default=number)
            _refuse_second(row_id, first_places, place, path)
            has_id = "id" in fields
            label = None if gold is None else _take_gold(fields, gold)
        except Unusable as problem:
            bad.append(FailedRow(row_id, place.line, str(problem), has_id, number, place.file))
            continue
        rows.append(Row(row_id, fields, place.line, number, place.file))
        golds.append(label)
    if bad and not (skip_bad_rows and len(rows) >= fewest):
        raise refused_rows(bad, path=path, usable=len(rows), fewest=min(fewest, FEWEST_ROWS))
    if len(rows) < fewest:
        found = "only one row" if rows else "no rows"
        needed = "at least 2 rows are needed: labels are found by comparing rows"
        needed = "at least one is needed" if fewest == 1 else needed
        raise RowError(f"{found}; {needed}", path=path)
    return Dataset(
        name=_FROM_PYTHON if path is None else path,
        rows=tuple(rows),
        gold=None if gold is None else tuple(golds),
        gold_field=gold,
        warnings=(
            *_blank_rows(blank),
            *(() if gold is None else _gold_gaps(golds, gold)),
            *(_other_ids(rows[0].fields) if rows else ()),
        ),
        skipped=tuple(bad),
        is_part=is_part,
    )


def _fields(raw: object) -> dict[str, JsonValue]:
    if isinstance(raw, Unusable):
        raise raw
    if not isinstance(raw, Mapping):
        raise Unusable(
            f"a row must be an object with named fields, not {kind_of(raw)}: {shown(raw)}"
        )
    fields: dict[str, JsonValue] = {}
    for name, value in raw.items():
        if not isinstance(name, str):
            raise Unusable(f"field names must be text, not {shown(name)}")
        try:
            fields[str(json_value(name))] = json_value(value)
        except Unusable as problem:
            raise Unusable(f"field {shown(name)} holds {problem}") from None
    return fields


def _row_id(fields: Mapping[str, JsonValue], *, default: int) -> str | int:
    if "id" not in fields:
        return default
    row_id = fields["id"]
    if isinstance(row_id, bool) or not isinstance(row_id, str | int):
        raise Unusable(f"the id must be text or a whole number, not {shown(row_id)}")
    if isinstance(row_id, str) and not row_id.strip():
        raise Unusable("the id is empty: give the row one, or leave out the field in every row")
    return row_id


def _refuse_second(
    row_id: str | int, places: dict[str, Place], place: Place, path: str | None
) -> None:
    # 7 and "7" are one id: a CSV file cannot tell them apart.
    first = places.setdefault(str(row_id), place)
    if first != place:
        raise Unusable(
            f"the id {shown(row_id)} is already that of {first.named(path)}; "
            "ids must be unique (rows without one are numbered 1, 2, 3, ...)"
        )


def _take_gold(fields: dict[str, JsonValue], gold: str) -> str | None:
    if gold not in fields:
        raise Unusable(
            f"no gold field {shown(gold)}; the row has {listed(fields)}."
            f"{did_you_mean(gold, fields)}"
        )
    value = fields.pop(gold)
    if isinstance(value, list | dict):
        raise Unusable(
            f"the gold field {shown(gold)} holds {kind_of(value)}; it must hold one label"
        )
    text = "" if value is None else str(value)
    return text if text.strip() else None


def _blank_rows(places: Sequence[Place]) -> tuple[str, ...]:
    if not places:
        return ()
    rows = "1 row is" if len(places) == 1 else f"{len(places):,} rows are"
    where = named_places([(place, "") for place in places])
    return (f"{rows} blank and left out ({where}); the other rows keep their numbers",)


def _other_ids(fields: Mapping[str, JsonValue]) -> tuple[str, ...]:
    """Warn of a field that is `id` but for its case: pins and other runs find rows by their ids."""
    if "id" in fields:
        return ()
    return tuple(
        f"The rows are numbered, since no field is called 'id': if {shown(name)} names them, call "
        "it 'id'."
        for name in fields
        if name.strip().casefold() == "id"
    )


def _gold_gaps(golds: Sequence[str | None], gold: str) -> tuple[str, ...]:
    where = f"in the gold field {shown(gold)}"
    gaps = golds.count(None)
    if not gaps:
        return ()
    if gaps == len(golds):
        return (f"no row has a label {where}: there is nothing to compare with",)
    return (f"{gaps} of {len(golds)} rows have no label {where}: the accuracy leaves them out",)


def take_own_gold(dataset: Dataset, field: str, *, skip_bad_rows: bool = False) -> Dataset:
    """Return the dataset with `field` taken out as its gold; unchanged where no row has the field.

    Raises:
        RowError: some rows have the field and others do not, or it holds a list or an object.
    """
    if not any(field in row.fields for row in dataset.rows):
        return dataset
    taken: list[Row] = []
    golds: list[str | None] = []
    problems: dict[int, str] = {}
    for number, row in enumerate(dataset.rows):
        fields = dict(row.fields)
        try:
            golds.append(_take_gold(fields, field))
        except Unusable as problem:
            problems[number] = str(problem)
            golds.append(None)
        taken.append(replace(row, fields=fields))
    made = replace(dataset, rows=tuple(taken), gold=tuple(golds), gold_field=field)
    made = without_rows(made, problems, skip_bad_rows=skip_bad_rows)
    gaps = _gold_gaps(made.gold or (), field)
    return replace(made, warnings=(*gaps, *made.warnings))


def check_gold(
    dataset: Dataset,
    labels: Sequence[str],
    *,
    skip_bad_rows: bool = False,
    called: str = "gold field",
) -> Dataset:
    """Return the dataset with its gold labels spelled as in `labels`.

    Each is compared as it is, then without regard to case and white space around it.

    Args:
        dataset: rows and gold.
        labels: the task's.
        skip_bad_rows: skip rows of other labels.
        called: what the messages call the field.

    Raises:
        RowError: gold labels are none of the labels, or could be more than one of them.
    """
    if dataset.gold is None:
        return dataset
    exact = frozenset(labels)
    by_case: dict[str, list[str]] = {}
    for label in labels:
        by_case.setdefault(label.casefold(), []).append(label)
    spelled: list[str | None] = []
    problems: dict[int, str] = {}
    for number, text in enumerate(dataset.gold):
        if text is None or text in exact:
            spelled.append(text)
            continue
        matches = by_case.get(text.strip().casefold(), [])
        if len(matches) != 1:
            reason = "could be any of" if matches else "is none of the labels"
            hint = "" if matches else did_you_mean(text, labels)
            problems[number] = (
                f"the {called} {shown(dataset.gold_field)} holds {shown(text)}, which {reason} "
                f"{listed(matches or labels)}.{hint}"
            )
        spelled.append(matches[0] if matches else None)
    checked = replace(dataset, gold=tuple(spelled))
    return without_rows(checked, problems, skip_bad_rows=skip_bad_rows)


def without_rows(
    dataset: Dataset, problems: Mapping[int, str], *, skip_bad_rows: bool = True
) -> Dataset:
    """Return the dataset with the rows of `problems` skipped, by their numbers from 0.

    Raises:
        RowError: there are such rows and they are not to be skipped, or too few are left.
    """
    if not problems:
        return dataset
    found = [dataset.rows[number].failed(why) for number, why in problems.items()]
    bad = sorted((*dataset.skipped, *found), key=lambda row: row.number)
    kept = [number for number in range(len(dataset.rows)) if number not in problems]
    if not skip_bad_rows or len(kept) < dataset.fewest:
        raise refused_rows(bad, path=path_of(dataset), usable=len(kept), fewest=dataset.fewest)
    return replace(only(dataset, kept), skipped=tuple(bad))


def only(dataset: Dataset, rows: Collection[int]) -> Dataset:
    """Return the dataset with some of its rows, by their numbers from 0, in the order of `rows`."""
    if len(rows) == len(dataset.rows):
        return dataset
    gold = None if dataset.gold is None else tuple(dataset.gold[number] for number in rows)
    return replace(dataset, rows=tuple(dataset.rows[number] for number in rows), gold=gold)


def check_field(dataset: Dataset, field: str, said: str) -> None:
    """Refuse a field that no row has.

    Args:
        dataset: the rows.
        field: its name.
        said: goes on from its name to the fields that there are, such as "; there are".

    Raises:
        InputError: no row has it.
    """
    fields = dict.fromkeys(name for row in dataset.rows for name in row.fields)
    if field not in fields:
        raise InputError(
            f"no row has the field {shown(field)}{said} {listed(fields)}."
            f"{did_you_mean(field, fields)}"
        )


def refused_rows(
    bad: Sequence[FailedRow], *, path: str | None, usable: int, fewest: int = FEWEST_ROWS
) -> RowError:
    """Return the error that names all of these rows; rows with one reason are named together.

    Args:
        bad: at least one row.
        path: their file, or None for rows given from Python.
        usable: how many rows could be used without these.
        fewest: how many are needed.
    """
    alike: dict[str, list[FailedRow]] = {}
    for row in bad:
        alike.setdefault(_LENGTH.sub("", row.reason), []).append(row)
    lines = []
    for first, *others in list(alike.values())[:_MOST_REASONS]:
        name = f" (id {shown(first.id)})" if first.has_id else ""
        lines.append(f"{first.place.named(path)}: {first.reason}{name}")
        if others:
            lines.append(f"  the same in {_places(others, first)}")
    if unsaid := [row for rows in list(alike.values())[_MOST_REASONS:] for row in rows]:
        lines.append(f"  and, for other reasons, {_places(unsaid)}")
    if len(bad) > 1:
        lines.append(f"{len(bad):,} rows cannot be used")
    place = bad[0].place
    return RowError(
        "\n".join(lines).removeprefix(f"{place.named(path)}: "),
        path=place.file or path,
        line=place.line,
        skippable=usable >= fewest,
    )


def _places(rows: Sequence[FailedRow], like: FailedRow | None = None) -> str:
    """Their lines, each with id, and with length where that is not the one of `like`."""
    places = []
    for row in rows:
        length = _LENGTH.match(row.reason)
        said = [f"id {shown(row.id)}"] if row.has_id else []
        if length is not None and like is not None and row.reason != like.reason:
            said.append(length[0].removeprefix("its prompt takes "))
        places.append((row.place, f" ({', '.join(said)})" if said else ""))
    return named_places(places)


def named_places(places: Sequence[tuple[Place, str]]) -> str:
    """Return `line 5`, or `lines 5 (id 'x'), 7 and 12`; with their files where there are several.

    Args:
        places: each with what is said of it, or nothing.
    """
    if any(place.file is not None for place, _ in places):
        return one_after_another([f"{place.named(None)}{said}" for place, said in places])
    return named_lines([f"{place.line}{said}" for place, said in places])


def path_of(dataset: Dataset, row: Row | None = None) -> str | None:
    """Return the file of a row, or of all, as the user named it; None for rows from Python."""
    if row is not None and row.file is not None:
        return row.file
    return None if dataset.name == _FROM_PYTHON else dataset.name
