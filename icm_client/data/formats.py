"""The three kinds of file that rows are read from and labels written to."""

import shlex
from pathlib import PurePath
from typing import Literal, get_args

from icm_client.data.messages import listed, shown
from icm_client.errors import InputError, SetupError

FileFormat = Literal["jsonl", "csv", "parquet"]

_BY_SUFFIX: dict[str, FileFormat] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json-lines": "jsonl",
    ".json": "jsonl",  # read: lines or one array, the reader sees which; written: one array
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
}


def format_of(path: str, asked: FileFormat | None) -> FileFormat:
    """Return the format that was asked for, or else the one that the file's name says.

    Raises:
        InputError: neither says one of jsonl, csv, parquet.
    """
    if asked is not None:
        if asked not in get_args(FileFormat):
            raise InputError(f"{path}: no format is called {shown(asked)}; there are {_formats()}")
        return asked
    suffix = PurePath(path).suffix.lower()
    if suffix not in _BY_SUFFIX:
        raise InputError(
            f"{path}: the name does not tell the format. End it in .jsonl, .csv, .tsv or "
            f".parquet, or name the format: {_formats()}"
        )
    return _BY_SUFFIX[suffix]


def delimiter_of(path: str) -> str:
    """Return what separates the columns of a CSV file of this name."""
    return "\t" if PurePath(path).suffix.lower() == ".tsv" else ","


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
_WEB_PAGE = (b"<!doctype html", b"<html")
LONGEST_BEGINNING = 64
"""Bytes of a file that `what_it_is` looks at."""


def what_it_is(beginning: bytes, path: str, format: FileFormat | None) -> str | None:  # noqa: A002
    """Return what a file is that holds no rows in `format`, and what to do; None if not known.

    Args:
        beginning: its first bytes.
        path: as the user named it.
        format: what it is to be read as.
    """
    if beginning.lstrip().lower().startswith(_WEB_PAGE):
        return (
            "a web page, perhaps of a login or of the file's description: download the file itself"
        )
    for sign, what in _BEGINNINGS:
        if beginning.startswith(sign) and not (sign == b"PAR1" and format == "parquet"):
            return what.format(path=shlex.quote(path))
    return None


def require_pyarrow(path: str) -> None:
    """Do nothing if Parquet files can be handled.

    Raises:
        SetupError: pyarrow is not installed.
    """
    try:
        import pyarrow.parquet  # noqa: F401, PLC0415 - an optional extra, and slow to load
    except ImportError:
        raise SetupError(
            f"{path}: Parquet files need pyarrow: pip install 'icm-client[parquet]'"
        ) from None


def _formats() -> str:
    return listed(get_args(FileFormat))
