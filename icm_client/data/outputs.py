"""Write the labels with the rows that they belong to: JSON Lines, CSV or Parquet.

All three hold the same columns: `id`, `label`, `confidence`, one `log_prob_<label>` a label,
`exactness`, `pinned` where some rows are, then the row's own fields.
"""

import csv
import io
import math
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import orjson

from icm_client.data.formats import FileFormat, delimiter_of, format_of, require_pyarrow
from icm_client.data.rows import Row
from icm_client.data.values import JsonValue, write_json
from icm_client.errors import InputError

_NEEDS_QUOTES = re.compile(r'["\t\r\n]')

_Record = dict[str, JsonValue]


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """A row with the label that was found for it.

    Attributes:
        row: the user's row.
        label: the label's word.
        confidence: how likely the label is right, 0 to 1, as the search estimates it without gold;
            None in all rows where the verdict is "do not trust".
        log_probs: label word -> log-prob in nats, the same labels in the same order in every row.
        exactness: the least reliable kind of log-prob that they come from: exact, top-k or floor.
        pinned: whether a person gave the label; confidence and log-probs are the model's.
    """

    row: Row
    label: str
    confidence: float | None
    log_probs: Mapping[str, float]
    exactness: str
    pinned: bool = False


def check_output(path: str | os.PathLike[str], format: FileFormat | None = None) -> None:  # noqa: A002
    """Return if labels can be written there; a file is created and removed to find out.

    Raises:
        InputError: no such folder, not a file, write-protected, or a format that is not known.
        SetupError: a Parquet file, but pyarrow is not installed.
    """
    name = os.fspath(path)
    if format_of(name, format) == "parquet":
        require_pyarrow(name)
    target = _target(name)
    with _input_errors(name):
        temporary, file = _create_beside(target)
        file.close()
        temporary.unlink()


def write_labels(
    path: str | os.PathLike[str],
    labelled: Sequence[LabelledRow],
    *,
    format: FileFormat | None = None,  # noqa: A002 - the word that users look for
    gold: Sequence[str | None] | None = None,
    gold_field: str | None = None,
) -> None:
    """Write one record a row, in order; a file that is there is replaced in one step.

    The same rows give the same bytes. A field of the row that has one of our columns' names is
    written as `row_<name>`. Where a format cannot hold a list or object (CSV; Parquet columns of
    mixed kinds), it is written as JSON text.

    Args:
        path: the file; its name shows the format, and a `.json` file holds one array.
        labelled: the rows with their labels; at least one.
        format: the format where the file's name does not show it.
        gold: the rows' gold labels, written back under `gold_field` as the last column.
        gold_field: the name of that column.

    Raises:
        InputError: the file cannot be written; what was there before is still there.
        SetupError: a Parquet file, but pyarrow is not installed.
        ValueError: no rows, rows with different labels, or a number that is not finite.
    """
    name = os.fspath(path)
    kind = format_of(name, format)
    if kind == "parquet":
        require_pyarrow(name)
    columns, records = _records(labelled, gold, gold_field)
    with _replaced(name) as file:
        match kind:
            case "jsonl" if format is None and name.lower().endswith(".json"):
                file.write(b"[\n" + b",\n".join(map(write_json, records)) + b"\n]\n")
            case "jsonl":
                file.writelines(write_json(record, orjson.OPT_APPEND_NEWLINE) for record in records)
            case "csv":
                _write_csv(file, columns, records, delimiter_of(name))
            case "parquet":
                _write_parquet(file, columns, records)


def columns_before_fields(labels: Iterable[str]) -> tuple[str, ...]:
    """Return the columns before the rows' own fields; `pinned` may stand between the two."""
    return ("id", "label", "confidence", *(f"log_prob_{label}" for label in labels), "exactness")


def column_of(field: str, record: Mapping[str, object], labels: Iterable[str]) -> str:
    """Return the column of a row's own field in a record that was written by `write_labels`."""
    if field == "id" or field not in columns_before_fields(labels):
        return field
    column = f"row_{field}"
    while f"row_{column}" in record:
        column = f"row_{column}"
    return column


def _records(
    labelled: Sequence[LabelledRow], gold: Sequence[str | None] | None, gold_field: str | None
) -> tuple[list[str], list[_Record]]:
    """Return the columns' names and the records; a record has no key for a field it lacks."""
    if not labelled:
        raise ValueError("no rows to write")
    golds = None if gold is None else len(gold)
    if golds != (None if gold_field is None else len(labelled)):
        raise ValueError("gold needs a gold_field, and a label or None for every row")
    labels = tuple(labelled[0].log_probs)
    ours = [*columns_before_fields(labels)]
    ours += ["pinned"] if any(item.pinned for item in labelled) else []
    own = dict.fromkeys(name for item in labelled for name in item.row.fields if name != "id")
    if gold_field is not None:
        own[gold_field] = None
    names = _own_names(own, ours)
    records = []
    for index, item in enumerate(labelled):
        record = dict(zip(ours, (*_found(item, labels), item.pinned), strict=False))
        for field, value in item.row.fields.items():
            if field != "id":
                record[names[field]] = value
        if gold is not None and gold_field is not None:
            record[names[gold_field]] = gold[index]
        records.append(record)
    return [*ours, *names.values()], records


def _found(item: LabelledRow, labels: tuple[str, ...]) -> tuple[JsonValue, ...]:
    if tuple(item.log_probs) != labels:
        raise ValueError(f"row {item.row.id!r} has log-probs of other labels than the first")
    confidence = None if item.confidence is None else float(item.confidence)
    log_probs = tuple(map(float, item.log_probs.values()))
    if not all(map(math.isfinite, (confidence or 0.0, *log_probs))):
        raise ValueError(f"row {item.row.id!r} has a log-prob or confidence that is not finite")
    return (item.row.id, item.label, confidence, *log_probs, item.exactness)


def _own_names(own: Iterable[str], ours: Sequence[str]) -> dict[str, str]:
    """Return the column of each of the row's fields: its name, after `row_` if that is ours."""
    fields = list(own)
    taken = {*ours, *fields}
    names = {}
    for field in fields:
        column = field
        if field in ours:
            while column in taken:
                column = f"row_{column}"
            taken.add(column)
        names[field] = column
    return names


def _write_csv(
    file: BinaryIO, columns: Sequence[str], records: Iterable[_Record], delimiter: str
) -> None:
    lines = [[_cell(record.get(column)) for column in columns] for record in records]
    # In TSV a quote is most often text: where one field needs quotes around it, all get them.
    everywhere = delimiter == "\t" and any(map(_NEEDS_QUOTES.search, chain(columns, *lines)))
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    # Lines end in \r\n (RFC 4180): with \n alone, Python before 3.13 leaves a \r in a text
    # without quotes, and the row falls apart when it is read.
    writer = csv.writer(
        text,
        delimiter=delimiter,
        lineterminator="\r\n",
        quoting=csv.QUOTE_ALL if everywhere else csv.QUOTE_MINIMAL,
    )
    writer.writerow(columns)
    writer.writerows(lines)
    text.flush()
    text.detach()


def _cell(value: JsonValue) -> str:
    if value is None:
        return ""
    return write_json(value).decode() if isinstance(value, list | dict) else str(value)


def _write_parquet(file: BinaryIO, columns: Sequence[str], records: Sequence[_Record]) -> None:
    import pyarrow as pa  # noqa: PLC0415 - an optional extra, and slow to load
    import pyarrow.parquet as pq  # noqa: PLC0415

    def array(column: str, values: list[JsonValue]) -> object:
        if all(map(_is_flat, values)):
            try:
                # The column is one of numbers also where a run gives no confidence.
                typed = pa.array(values, pa.float64() if column == "confidence" else None)
            except (pa.ArrowException, OverflowError):
                pass  # kinds that no one column type holds
            else:
                if typed.to_pylist() == values:
                    return typed
        return pa.array([None if value is None else _cell(value) for value in values], pa.string())

    arrays = [array(column, [record.get(column) for record in records]) for column in columns]
    pq.write_table(pa.table(arrays, names=list(columns)), file)


def _is_flat(value: JsonValue) -> bool:
    """Whether Arrow keeps the value as it is; to an object it would add the keys of others."""
    if isinstance(value, list):
        return not any(isinstance(item, list | dict) for item in value)
    return not isinstance(value, dict)


@contextmanager
def _replaced(name: str) -> Iterator[BinaryIO]:
    """Give a file to write to, which takes the place of the one named once it is on the disk."""
    target = _target(name)
    with _input_errors(name):
        temporary, file = _create_beside(target)
        try:
            with file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if target.exists():
                temporary.chmod(stat.S_IMODE(target.stat().st_mode))
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _target(name: str) -> Path:
    """Return the file that the name leads to, links followed; refuse what cannot be written."""
    target = Path(os.path.realpath(name))
    if target.is_dir():
        raise InputError(f"{name}: this is a folder: name a file in it")
    if not target.parent.is_dir():
        raise InputError(f"{name}: there is no folder {target.parent}: create it first (mkdir -p)")
    if target.exists():
        if not target.is_file():
            raise InputError(f"{name}: not an ordinary file: name another")
        if not os.access(target, os.W_OK):
            raise InputError(f"{name}: the file is write-protected: name another, or chmod u+w it")
    return target


def _create_beside(target: Path) -> tuple[Path, BinaryIO]:
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
    # tempfile would make it 0600; this way the umask decides, as for any new file.
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
    return temporary, os.fdopen(descriptor, "w+b")


@contextmanager
def _input_errors(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        raise InputError(
            f"{name}: cannot be written ({problem.strerror}): name a file in a folder where you "
            "may write and there is space"
        ) from None
