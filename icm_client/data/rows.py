"""Rows without labels, as the rest of the program sees them.

The gold field, if there is one, is taken out of every row before a `Row` exists. It lies beside
the rows, in `Dataset.gold`, where nothing that builds a prompt looks.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from icm_client.data.frames import Frame, rows_of
from icm_client.data.messages import did_you_mean, listed, shown
from icm_client.data.values import JsonValue, Unusable, json_value, kind_of
from icm_client.errors import RowError

_FROM_PYTHON = "rows"
FEWEST_ROWS = 2


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the user's data, without its gold label.

    Attributes:
        id: the row's own `id`, or its 1-based number among the rows.
        fields: everything the row holds but the gold field, in the row's order.
        line: 1-based line where the row starts; for Parquet and Python, the row's number.
    """

    id: str | int
    fields: Mapping[str, JsonValue]
    line: int


@dataclass(frozen=True, slots=True)
class Dataset:
    """The rows of one file or list; at least two.

    Attributes:
        name: the path as the user gave it, or `rows`.
        rows: in the file's order.
        gold: for every row its gold label as text, or None where the row has none; None as a
            whole where no gold field was named.
        gold_field: the field that held the gold labels.
        warnings: sentences that the user should see.
    """

    name: str
    rows: tuple[Row, ...]
    gold: tuple[str | None, ...] | None
    gold_field: str | None
    warnings: tuple[str, ...]


def rows_from(
    rows: Iterable[Mapping[str, object] | str] | Frame, *, gold: str | None = None
) -> Dataset:
    """Return the rows as a dataset; a plain string becomes `{"text": string}`.

    Args:
        rows: dictionaries of JSON values; dates, decimals and NumPy scalars are converted. Or a
            data frame of pandas, or a table of pyarrow; what is missing there is None.
        gold: the field with the known labels, if any: it is taken out of the rows.

    Raises:
        RowError: fewer than two rows, or a row that cannot be used; `line` is its 1-based number.
    """
    if isinstance(rows, str | Mapping):
        raise RowError(f"a list of rows is needed, not one alone ({kind_of(rows)})")
    if isinstance(rows, Frame):
        rows = rows_of(rows)
    as_fields = ({"text": row} if isinstance(row, str) else row for row in rows)
    return collect(enumerate(as_fields, start=1), path=None, gold=gold)


def collect(
    numbered: Iterable[tuple[int, object]],
    *,
    path: str | None,
    gold: str | None,
    fewest: int = FEWEST_ROWS,
) -> Dataset:
    """Return the dataset of `(line, fields)` pairs; `path` is for its name and for errors.

    Raises:
        RowError: a row is not an object, holds what JSON cannot, lacks the gold field, or has
            another row's id; or there are fewer than `fewest` rows.
    """
    if gold == "id":
        raise RowError("'id' names the rows and cannot be the gold field too", path=path)
    rows: list[Row] = []
    golds: list[str | None] = []
    first_lines: dict[str, int] = {}
    for number, (line, raw) in enumerate(numbered, start=1):
        try:
            fields = _fields(raw)
            row_id = _row_id(fields, default=number)
            if gold is not None:
                golds.append(_take_gold(fields, gold))
        except Unusable as problem:
            raise RowError(str(problem), path=path, line=line) from None
        # 7 and "7" are one id: a CSV file cannot tell them apart.
        first = first_lines.setdefault(str(row_id), line)
        if first != line:
            raise RowError(
                f"the id {shown(row_id)} is already that of {path or _FROM_PYTHON}:{first}; "
                "ids must be unique (rows without one are numbered 1, 2, 3, ...)",
                path=path,
                line=line,
            )
        rows.append(Row(id=row_id, fields=fields, line=line))
    if len(rows) < fewest:
        raise RowError(_too_few(len(rows), fewest), path=path)
    warnings = () if gold is None else _gold_gaps(golds, gold)
    return Dataset(
        name=_FROM_PYTHON if path is None else path,
        rows=tuple(rows),
        gold=None if gold is None else tuple(golds),
        gold_field=gold,
        warnings=(*warnings, *_other_ids(rows[0].fields)),
    )


def _other_ids(fields: Mapping[str, JsonValue]) -> tuple[str, ...]:
    """Tell of a field that is an id but for its case: ids are what pins and other runs go by."""
    if "id" in fields:
        return ()
    return tuple(
        f"The field {shown(name)} is not taken for the rows' ids, which are numbers then: call it "
        "'id' if it names them."
        for name in fields
        if name.strip().casefold() == "id"
    )


def take_own_gold(dataset: Dataset, field: str) -> Dataset:
    """Return the dataset with `field` taken out as its gold; as it is where no row has the field.

    Raises:
        RowError: some rows have the field and others do not, or it holds what is no label.
    """
    if not any(field in row.fields for row in dataset.rows):
        return dataset
    numbered = ((row.line, row.fields) for row in dataset.rows)
    return collect(numbered, path=path_of(dataset), gold=field)


def check_gold(dataset: Dataset, labels: Sequence[str]) -> Dataset:
    """Return the dataset with its gold labels spelled as in `labels`.

    Each is compared as it stands, then without regard to case and white space around it.

    Raises:
        RowError: a gold label is none of the labels, or could be more than one of them.
    """
    if dataset.gold is None:
        return dataset
    exact = frozenset(labels)
    by_case: dict[str, list[str]] = {}
    for label in labels:
        by_case.setdefault(label.casefold(), []).append(label)
    spelled: list[str | None] = []
    for row, text in zip(dataset.rows, dataset.gold, strict=True):
        if text is None or text in exact:
            spelled.append(text)
            continue
        matches = by_case.get(text.strip().casefold(), [])
        if len(matches) != 1:
            reason = "could be any of" if matches else "is none of the labels"
            hint = "" if matches else did_you_mean(text, labels)
            raise RowError(
                f"the gold field {shown(dataset.gold_field)} holds {shown(text)}, which {reason} "
                f"{listed(matches or labels)}.{hint}",
                path=path_of(dataset),
                line=row.line,
            )
        spelled.append(matches[0])
    return replace(dataset, gold=tuple(spelled))


def path_of(dataset: Dataset) -> str | None:
    """Return the dataset's file as the user named it, or None for rows given from Python."""
    return None if dataset.name == _FROM_PYTHON else dataset.name


def _fields(raw: object) -> dict[str, JsonValue]:
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


def _gold_gaps(golds: Sequence[str | None], gold: str) -> tuple[str, ...]:
    where = f"in the gold field {shown(gold)}"
    gaps = golds.count(None)
    if not gaps:
        return ()
    if gaps == len(golds):
        return (f"no row has a label {where}: there is nothing to compare with",)
    return (f"{gaps} of {len(golds)} rows have no label {where}: accuracy is without them",)


def _too_few(count: int, fewest: int) -> str:
    if fewest == 1:
        return "no rows; at least one is needed"
    found = "only one row" if count else "no rows"
    return f"{found}; at least 2 rows are needed: labels are found by comparing rows"
