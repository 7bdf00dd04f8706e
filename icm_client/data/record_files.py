"""Write records as JSON Lines, one JSON array, CSV, Parquet or Arrow, a few in memory at a time.

The same records give the same bytes, however many there are and wherever they come from.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice, repeat
from operator import add
from typing import TYPE_CHECKING, BinaryIO

import orjson

from icm_client.data.formats import (
    FileFormat,
    delimiter_of,
    output_format_of,
    packed,
    unpacked_name,
)
from icm_client.data.values import JsonValue, write_json

if TYPE_CHECKING:
    import pyarrow as pa

Record = Mapping[str, JsonValue]

_NEEDS_QUOTES = re.compile(r'["\t\r\n]')
# Arrow's columns are built of so many records, and Parquet's row groups of so many.
_RECORDS_AT_ONCE = 2**12
_ROW_GROUP = 2**16
_EXACT_AS_FLOAT = 2**53


def is_array(name: str, asked: FileFormat | None) -> bool:
    """Return whether a file of this name holds one JSON array, as `.json` does."""
    return asked is None and unpacked_name(name).lower().endswith(".json")


def write_records(
    file: BinaryIO,
    name: str,
    asked: FileFormat | None,
    columns: Sequence[str],
    records: Iterable[Record],
) -> None:
    """Write the records to an open file in the format that its name shows, or that was asked for.

    It is compressed where the name ends in .gz, .zst, .bz2 or .xz.

    Where a format cannot hold a list or object (CSV; Parquet and Arrow columns of mixed kinds), it
    is written as JSON text.

    Args:
        file: to write to, from its beginning.
        name: the file's name as the user gave it.
        asked: the format where the name does not show it.
        columns: every key of the records, in the order of a table's columns.
        records: iterated more than once; a record may lack keys.
    """
    kind = output_format_of(name, asked)
    with packed(file, name) as out:
        if kind == "csv":
            _write_csv(out, columns, records, delimiter_of(name))
        elif kind in ("parquet", "arrow"):
            _write_columns(out, columns, records, kind)
        elif is_array(name, asked):
            before = chain([b"[\n"], repeat(b",\n"))
            out.writelines(map(add, before, map(write_json, records)))
            out.write(b"\n]\n")
        else:
            out.writelines(write_json(record, orjson.OPT_APPEND_NEWLINE) for record in records)


def _write_csv(
    file: BinaryIO, columns: Sequence[str], records: Iterable[Record], delimiter: str
) -> None:
    def lines() -> Iterator[list[str]]:
        return ([_cell(record.get(column)) for column in columns] for record in records)

    # In TSV a quote is most often text: where one field needs quotes around it, all get them.
    everywhere = delimiter == "\t" and any(
        map(_NEEDS_QUOTES.search, chain(columns, chain.from_iterable(lines())))
    )
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
    writer.writerows(lines())
    text.flush()
    text.detach()


def _cell(value: JsonValue) -> str:
    if value is None:
        return ""
    return write_json(value).decode() if isinstance(value, list | dict) else str(value)


def _write_columns(
    file: BinaryIO, columns: Sequence[str], records: Iterable[Record], kind: FileFormat
) -> None:
    import pyarrow as pa  # noqa: PLC0415 - an optional extra, and slow to load
    import pyarrow.parquet as pq  # noqa: PLC0415

    kinds: dict[str, dict[object, JsonValue]] = {column: {} for column in columns}
    for record in records:
        for column, value in record.items():
            if value is not None:
                kinds[column].setdefault(_kind(value), value)
    types = {column: _type_of(column, found) for column, found in kinds.items()}
    schema = pa.schema([(column, found or pa.string()) for column, found in types.items()])

    def array(column: str, values: list[JsonValue]) -> "pa.Array":
        if (found := types[column]) is not None:
            return pa.array(values, found)
        return pa.array([None if value is None else _cell(value) for value in values], pa.string())

    rows = iter(records)
    a_group = _ROW_GROUP if kind == "parquet" else _RECORDS_AT_ONCE
    batches: list[pa.RecordBatch] = []
    open_writer = pq.ParquetWriter if kind == "parquet" else pa.ipc.new_file
    with open_writer(file, schema) as writer:
        while some := list(islice(rows, _RECORDS_AT_ONCE)):
            arrays = [array(column, [record.get(column) for record in some]) for column in columns]
            batches.append(pa.record_batch(arrays, schema=schema))
            if len(batches) * _RECORDS_AT_ONCE >= a_group:
                writer.write_table(pa.Table.from_batches(batches))
                batches.clear()
        if batches:
            writer.write_table(pa.Table.from_batches(batches))


def _kind(value: JsonValue) -> object:
    """Return what decides with which other values Arrow can keep a value in one column."""
    if isinstance(value, bool) or not isinstance(value, int | list):
        return type(value)
    if isinstance(value, int):
        return (int, abs(value) > _EXACT_AS_FLOAT, not -(2**63) <= value < 2**63, value >= 2**64)
    if any(isinstance(item, list | dict) for item in value):
        return dict  # in an object Arrow would add the keys of others
    return (list, frozenset(map(_kind, value)))


def _type_of(column: str, kinds: Mapping[object, JsonValue]) -> "pa.DataType | None":
    """Return Arrow's type of a column that has one value of each of its kinds, or None for text."""
    import pyarrow as pa  # noqa: PLC0415

    if column == "confidence":  # a column of numbers also where a run gives none
        return pa.float64()
    if dict in kinds or (bool in kinds and len(kinds) > 1):
        return None
    values = list(kinds.values())
    try:
        typed = pa.array(values)
    except (pa.ArrowException, OverflowError):
        return None  # kinds that no one column type holds
    return typed.type if typed.to_pylist() == values else None
