"""The three file formats that rows are read from and labels written to."""

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
    """Return the format that was asked for, or else the one that the file's name shows.

    Raises:
        InputError: no format of this name, or a file's name that shows none.
    """
    if asked is not None:
        if asked not in get_args(FileFormat):
            raise InputError(
                f"{path}: no format is called {shown(asked)}; there are "
                f"{listed(get_args(FileFormat))}"
            )
        return asked
    suffix = PurePath(path).suffix.lower()
    if suffix not in _BY_SUFFIX:
        raise InputError(
            f"{path}: the file's name does not show its format. End it in .jsonl, .csv, .tsv or "
            f".parquet, or name the format: {listed(get_args(FileFormat))}"
        )
    return _BY_SUFFIX[suffix]


def delimiter_of(path: str) -> str:
    """Return what separates the columns of a CSV file of this name."""
    return "\t" if PurePath(path).suffix.lower() == ".tsv" else ","


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
