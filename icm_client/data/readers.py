"""Reads rows from JSON, CSV or Parquet, one at a time, and says where one is wrong."""

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from io import BufferedReader
from itertools import chain
from pathlib import Path

from icm_client.data.formats import FileFormat, delimiter_of, format_of, require_pyarrow
from icm_client.data.json_rows import json_rows
from icm_client.data.loaders import load
from icm_client.data.messages import listed, shown
from icm_client.data.rows import FEWEST_ROWS, Dataset, collect
from icm_client.errors import RowError

_BOM = b"\xef\xbb\xbf"


def read_rows(
    path: str | os.PathLike[str],
    *,
    format: FileFormat | None = None,  # noqa: A002 - the word that users look for
    gold: str | None = None,
    loader: str | None = None,
    template_fields: Sequence[str] = (),
    fewest: int = FEWEST_ROWS,
) -> Dataset:
    """Return the rows of a file.

    A file is read row by row. So is a JSON array; one that stands on a single line is held as text.

    Args:
        path: a .jsonl, .ndjson, .json, .csv, .tsv or .parquet file, UTF-8 where it is text. What
            begins with `[` is read as one JSON array, whatever it is called.
        format: the file's format where its name does not say it.
        gold: the field with the known labels, if any: it is taken out of the rows.
        loader: the task's loader, for a public file in its own format (`icm_client.data.loaders`).
        template_fields: the fields of the task's template; a row that has them needs no loader.
        fewest: rows that the file must hold; 1 is enough for labels that a person has checked.

    Raises:
        RowError: the file or one of its rows cannot be used; the message has file and line,
            or for a JSON array the element's number.
        InputError: neither the name nor `format` says which format it is.
        TaskError: no loader has that name.
        SetupError: a Parquet file, but pyarrow is not installed.
    """
    name = os.fspath(path)
    try:
        with Path(name).open("rb") as file:
            match format_of(name, format):
                case "jsonl":
                    numbered = json_rows(_text_lines(file, name), name)
                case "csv":
                    numbered = _csv_rows(file, name)
                case "parquet":
                    require_pyarrow(name)
                    numbered = _parquet_rows(file, name)
            if not file.peek(1):
                raise RowError(f"the file is empty; at least {fewest} rows are needed", path=name)
            if loader is not None:
                numbered = load(loader, numbered, template_fields, path=name)
            return collect(numbered, path=name, gold=gold, fewest=fewest)
    except FileNotFoundError:
        raise RowError("no such file: check the path", path=name) from None
    except IsADirectoryError:
        raise RowError("this is a folder: name one file in it", path=name) from None
    except PermissionError:
        raise RowError("the file may not be read: check its permissions", path=name) from None
    except OSError as problem:
        raise RowError(f"the file cannot be read: {problem.strerror}", path=name) from None


def _text_lines(file: BufferedReader, path: str) -> Iterator[str]:
    """Yield the file's lines with their ends, decoded one by one so that an error has a line."""
    for line, raw in enumerate(file, start=1):
        content = raw.removeprefix(_BOM) if line == 1 else raw
        if (nul := content.find(0)) >= 0:
            raise RowError(
                f"a NUL byte at byte {nul + 1} of the line: the file is damaged, or UTF-16 "
                "(save it as UTF-8)",
                path=path,
                line=line,
            )
        try:
            yield content.decode()
        except UnicodeDecodeError as problem:
            raise RowError(
                f"not UTF-8: byte 0x{content[problem.start]:02x} at byte {problem.start + 1} of "
                "the line. Save the file as UTF-8, for example: iconv -f latin1 -t utf-8",
                path=path,
                line=line,
            ) from None


def _csv_rows(file: BufferedReader, path: str) -> Iterator[tuple[int, object]]:
    header: list[str] | None = None
    for line, cells in _csv_records(_text_lines(file, path), path):
        if header is None:
            header = _header(cells, path, line)
        elif not any(cells) and len(cells) > 1:  # a spreadsheet's empty row
            continue
        elif len(cells) != len(header):
            raise RowError(
                f"columns: {len(cells)} here, {len(header)} in the header; text with a separator "
                "or line break in it must be in double quotes. "
                f"The row begins {shown(cells[0])}",
                path=path,
                line=line,
            )
        else:
            yield line, dict(zip(header, cells, strict=True))


def _csv_records(lines: Iterable[str], path: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each record that is not blank with the line it starts on."""
    lines = iter(lines)
    first = next(lines, "")
    reader = csv.reader(chain([first], lines), delimiter=_delimiter(first, path), strict=True)
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as problem:
            reason = str(problem)
            if "end of data" in reason:
                reason = "a double quote is opened here and never closed"
            elif "new-line" in reason:
                reason = "a carriage return outside double quotes: end lines in \\n or \\r\\n"
            elif "field limit" in reason:
                reason = f"{reason}; keep texts this long in JSON Lines"
            raise RowError(f"broken CSV: {reason}", path=path, line=start) from None
        if cells:
            yield start, cells


def _delimiter(header: str, path: str) -> str:
    """The name's own, or what a spreadsheet of another language writes in its place."""
    usual = delimiter_of(path)
    others = [other for other in (";", "\t") if other in header]
    return others[0] if usual not in header and len(others) == 1 else usual


def _header(cells: list[str], path: str, line: int) -> list[str]:
    if not any(cell.strip() for cell in cells):
        reason = "the header is empty: the first line must name the columns"
    elif "" in (names := [cell.strip() for cell in cells]):
        reason = (
            f"column {names.index('') + 1} has no name in the header (pandas writes one for its "
            "index: use to_csv(..., index=False))"
        )
    elif repeated := _repeated(cells):
        reason = f"the header names {listed(repeated)} more than once: rename one"
    else:
        return cells
    raise RowError(reason, path=path, line=line)


def _repeated(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def _parquet_rows(file: BufferedReader, path: str) -> Iterator[tuple[int, object]]:
    import pyarrow as pa  # noqa: PLC0415 - an optional extra, and slow to load
    import pyarrow.parquet as pq  # noqa: PLC0415

    number = 0
    try:
        with pq.ParquetFile(file) as parquet:
            if repeated := _repeated(parquet.schema_arrow.names):
                raise RowError(f"more than one column is called {listed(repeated)}", path=path)
            for batch in parquet.iter_batches():
                for record in batch.to_pylist():
                    number += 1
                    yield number, record
    except (pa.ArrowException, OSError, ValueError) as problem:
        raise RowError(
            f"not a Parquet file that can be read: {shown(str(problem))}", path=path
        ) from None
