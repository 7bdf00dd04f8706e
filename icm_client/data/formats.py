"""The file formats that rows are read from, and labels written to: all of them but workbooks."""

from dataclasses import dataclass
from pathlib import PurePath
from typing import Final, Literal, get_args

from icm_client.data.compression import is_compressed, unpacked_name
from icm_client.data.messages import listed, shown
from icm_client.errors import InputError, SetupError

FileFormat = Literal["jsonl", "csv", "parquet", "arrow", "xlsx"]

Quote = Literal["auto", "none", "standard"]
"""What a double quote in CSV means: by the file (`icm_client.data.csv_rows`), a character, or as
in RFC 4180."""

_BY_SUFFIX: dict[str, FileFormat] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json-lines": "jsonl",
    ".json": "jsonl",  # read: lines or one array, the reader sees which; written: one array
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".xlsx": "xlsx",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOptions:
    """How a file of rows is read where neither its name nor its content shows it.

    Attributes:
        format: the file's format; None goes by its name.
        encoding: of its text, by a name that Python knows, such as latin-1; None is UTF-8, or what
            a byte order mark says.
        delimiter: the character between the columns of a CSV file; None goes by its name and
            header.
        quote: what a double quote in a CSV file means.

    Raises:
        InputError: one of them cannot be.
    """

    format: FileFormat | None = None
    encoding: str | None = None
    delimiter: str | None = None
    quote: Quote = "auto"

    def __post_init__(self) -> None:
        if self.quote not in get_args(Quote):
            raise InputError(
                f"quote must be one of {listed(get_args(Quote))}, not {shown(self.quote)}"
            )
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n\0'):
            raise InputError(
                f"the delimiter must be one character, such as ; or |, not {shown(self.delimiter)}"
            )
        if self.encoding is not None:
            try:
                "\n".encode(self.encoding)
            except (LookupError, UnicodeError):
                raise InputError(
                    f"there is no encoding {shown(self.encoding)}; for example there are utf-8, "
                    "utf-16, latin-1, cp1252 and shift_jis"
                ) from None


NO_OPTIONS: Final = FileOptions()
"""All goes by the file's name and content."""


def _suffix(name: str) -> str:
    return PurePath(unpacked_name(name)).suffix.lower()


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
    suffix = _suffix(path)
    if suffix not in _BY_SUFFIX:
        raise InputError(
            f"{path}: the file's name does not show its format. End it in .jsonl, .csv, .tsv, "
            f".parquet or .arrow, or name the format: {listed(get_args(FileFormat))}"
        )
    return _BY_SUFFIX[suffix]


def output_format_of(path: str, asked: FileFormat | None) -> FileFormat:
    """Return the format in which labels are written; to standard output it is JSON Lines.

    Raises:
        InputError: as `format_of`; or a format that is not written, or not compressed.
    """
    kind = "jsonl" if asked is None and path == "-" else format_of(path, asked)
    if kind == "xlsx":
        raise InputError(
            f"{path}: labels are not written as an Excel workbook: name a .csv file, which Excel "
            "opens"
        )
    if kind in ("parquet", "arrow") and is_compressed(path):
        raise InputError(
            f"{path}: a file in the format {kind} is not compressed as a whole: leave out the "
            f"ending {PurePath(path).suffix}"
        )
    return kind


def delimiter_of(path: str) -> str:
    """Return what separates the columns of a CSV file of this name."""
    return "\t" if _suffix(path) == ".tsv" else ","


def require_pyarrow(path: str) -> None:
    """Do nothing if Parquet and Arrow files can be handled.

    Raises:
        SetupError: pyarrow is not installed.
    """
    try:
        import pyarrow.parquet  # noqa: F401, PLC0415 - an optional extra, and slow to load
    except ImportError:
        raise SetupError(
            f"{path}: Parquet and Arrow files need pyarrow: pip install 'icm-client[parquet]'"
        ) from None
