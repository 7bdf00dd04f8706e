"""Read rows from JSON, CSV or Parquet, one at a time, and say where one is wrong."""

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from io import BufferedReader
from pathlib import Path

from icm_client.data.csv_rows import csv_rows, repeated_names
from icm_client.data.formats import (
    NO_OPTIONS,
    FileFormat,
    FileOptions,
    Quote,
    format_of,
    require_pyarrow,
)
from icm_client.data.frames import features_of, read_by
from icm_client.data.json_rows import json_rows
from icm_client.data.loaders import made_rows
from icm_client.data.messages import listed, shown
from icm_client.data.rows import FEWEST_ROWS, Dataset, collect
from icm_client.data.values import Unusable
from icm_client.errors import InputError, RowError

_NOT_OPENED: Mapping[type[OSError], str] = {
    FileNotFoundError: "no such file: check the path",
    IsADirectoryError: "this is a folder: name one file in it",
    PermissionError: "the file may not be read: check its permissions",
}
_BOM = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
# How files of a kind that is not read begin, and what to do with them.
_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "compressed with gzip: unpack it first, gunzip {path}"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd: unpack it first, unzstd {path}"),
    (
        b"PK\x03\x04",
        "a zip archive, as workbooks are too: unpack it, or save the sheet as CSV (UTF-8)",
    ),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook: save the sheet as CSV (UTF-8)"),
    (b"SQLite format 3\0", "an SQLite database: export the table as CSV or JSON Lines"),
    (b"%PDF-", "a PDF: text must be taken out of it first"),
    (
        b"version https://git-lfs.github.com/spec/",
        "a pointer of Git LFS in the place of the data: git lfs pull gets it",
    ),
    (b"PAR1", "a Parquet file: end its name in .parquet, or name the format"),
)
_LONGEST_BEGINNING = 64
_WEB_PAGE = (b"<!doctype html", b"<html")


def read_rows(
    path: str | os.PathLike[str],
    *,
    format: FileFormat | None = None,  # noqa: A002 - the word that users look for
    gold: str | None = None,
    loader: str | None = None,
    template_fields: Sequence[str] = (),
    fewest: int = FEWEST_ROWS,
    quote: Quote = "auto",
    encoding: str | None = None,
    delimiter: str | None = None,
    skip_bad_rows: bool = False,
) -> Dataset:
    """Return the rows of a file.

    A file is read row by row. So is a JSON array, unless it is on a single line.

    Args:
        path: a .jsonl, .ndjson, .json, .csv, .tsv or .parquet file, UTF-8 where it is text. What
            begins with `[` is read as one JSON array, whatever it is called.
        format: the file's format where its name does not show it.
        gold: the field with the known labels, if any: it is taken out of the rows.
        loader: the task's loader, for a public file in its own format (`icm_client.data.loaders`).
        template_fields: the fields of the task's template; a row that has them needs no loader.
        fewest: rows that the file must hold; 1 is enough for labels that a person has checked.
        quote: what a double quote means in CSV and TSV (`icm_client.data.csv_rows.csv_rows`).
        encoding: of the text, by a name that Python knows; None is UTF-8.
        delimiter: the character between the columns of CSV; None goes by the file.
        skip_bad_rows: leave rows that cannot be used aside, in `Dataset.skipped`.

    Raises:
        RowError: the file or some of its rows cannot be used; the message has file and line of
            each row, or for a JSON array the element's number.
        InputError: neither the name nor `format` shows which format it is.
        TaskError: no loader has that name.
        SetupError: a Parquet file, but pyarrow is not installed.
    """
    warnings: list[str] = []
    with opened_rows(
        path,
        warnings,
        file=FileOptions(format=format, encoding=encoding, delimiter=delimiter, quote=quote),
        loader=loader,
        template_fields=template_fields,
        fewest=fewest,
    ) as numbered:
        dataset = collect(
            numbered, path=os.fspath(path), gold=gold, fewest=fewest, skip_bad_rows=skip_bad_rows
        )
    return replace(dataset, warnings=(*warnings, *dataset.warnings))


@contextmanager
def opened_rows(
    path: str | os.PathLike[str],
    warnings: list[str],
    *,
    file: FileOptions = NO_OPTIONS,
    loader: str | None = None,
    template_fields: Sequence[str] = (),
    fewest: int = FEWEST_ROWS,
) -> Iterator[Iterator[tuple[int, object]]]:
    """Open a file and give its rows, each with its line, as `collect` takes them.

    Within the block they are read one by one. Sentences that the user should see have been added
    to `warnings` when the last of them is read.

    Raises:
        RowError: the file cannot be used, when it is opened or at a row.
        InputError, TaskError, SetupError: as `read_rows`.
    """
    name = os.fspath(path)
    broken: dict[int, str] = {}
    try:
        with Path(name).open("rb") as opened:
            _refuse_other_kinds(opened, name, file.format)
            match format_of(name, file.format):
                case "jsonl":
                    lines = _text_lines(opened, name, broken)
                    rows = json_rows(lines, name, template_fields, fewest=fewest)
                    numbered = _with_broken(rows, broken)
                case "csv":
                    lines = _text_lines(opened, name, broken)
                    numbered = csv_rows(lines, name, warnings, broken, file)
                case "parquet":
                    require_pyarrow(name)
                    numbered = _parquet_rows(opened, name)
            if not opened.peek(1):
                needed = "one row is" if fewest == 1 else f"{fewest} rows are"
                raise RowError(f"the file is empty; at least {needed} needed", path=name)
            if loader is not None:
                numbered = made_rows(loader, numbered, template_fields)
            yield numbered
    except OSError as problem:
        reason = _NOT_OPENED.get(type(problem), f"the file cannot be read: {problem.strerror}")
        raise RowError(reason, path=name) from None


def _refuse_other_kinds(file: BufferedReader, path: str, asked: FileFormat | None) -> None:
    """Raise `RowError` where the file begins like one of a kind that is not read."""
    try:
        kind = format_of(path, asked)
    except InputError:  # .jsonl.gz, perhaps
        kind = None
    beginning = file.peek(1)[:_LONGEST_BEGINNING]
    if beginning.lstrip().lower().startswith(_WEB_PAGE):
        raise RowError(
            "the file is a web page, perhaps of a login or of the file's description: download "
            "the file itself",
            path=path,
        )
    for sign, what in _BEGINNINGS:
        if beginning.startswith(sign) and not (sign == b"PAR1" and kind == "parquet"):
            raise RowError(f"the file is {what.format(path=shlex.quote(path))}", path=path)


def _text_lines(file: BufferedReader, path: str, broken: dict[int, str]) -> Iterator[str]:
    """Yield the file's lines with their ends, decoded one by one.

    A line that is not UTF-8 is added to `broken`, with the reason, and then yielded with U+FFFD in
    the place of what is not: the row that it is part of cannot be used. In a JSON array, and where
    the file is UTF-16, it is a `RowError`.
    """
    is_array: bool | None = None
    for line, raw in enumerate(file, start=1):
        content = raw.removeprefix(_BOM) if line == 1 else raw
        if is_array is None and content.strip():
            is_array = content.lstrip().startswith(b"[")
        reason = None
        if (nul := content.find(0)) >= 0:
            reason = (
                f"a NUL byte at byte {nul + 1} of the line: the file is damaged, or UTF-16 "
                "(save it as UTF-8)"
            )
            content = content.replace(b"\0", b"\xff")
        try:
            yield content.decode()
        except UnicodeDecodeError as problem:
            reason = reason or (
                f"not UTF-8: byte 0x{content[problem.start]:02x} at byte {problem.start + 1} of "
                "the line. Save the file as UTF-8, for example: iconv -f latin1 -t utf-8"
            )
            if is_array or (line == 1 and (nul >= 0 or content.startswith(_UTF_16))):
                raise RowError(reason, path=path, line=line) from None
            broken[line] = reason
            yield content.decode(errors="replace")


def _with_broken(
    numbered: Iterator[tuple[int, object]], broken: dict[int, str]
) -> Iterator[tuple[int, object]]:
    for line, value in numbered:
        yield line, Unusable(broken.pop(line)) if line in broken else value


def _parquet_rows(file: BufferedReader, path: str) -> Iterator[tuple[int, object]]:
    import pyarrow as pa  # noqa: PLC0415 - an optional extra, and slow to load
    import pyarrow.parquet as pq  # noqa: PLC0415

    number = 0
    try:
        with pq.ParquetFile(file) as parquet:
            if repeated := repeated_names(parquet.schema_arrow.names):
                raise RowError(f"more than one column is called {listed(repeated)}", path=path)
            features = features_of(parquet.schema_arrow)
            for batch in parquet.iter_batches():
                for record in read_by(features, batch.to_pylist()):
                    number += 1
                    yield number, record
    except (pa.ArrowException, OSError, ValueError) as problem:
        raise RowError(
            f"not a Parquet file that can be read: {shown(str(problem))}", path=path
        ) from None
