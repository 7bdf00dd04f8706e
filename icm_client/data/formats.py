"""The file formats that rows are read from, and labels written to: all of them but workbooks.

Compressed files, too: gzip, Zstandard, bzip2 and xz, read by how they begin and written by name.
"""

import bz2
import gzip
import io
import lzma
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, RawIOBase
from pathlib import PurePath
from typing import BinaryIO, Final, Literal, NamedTuple, cast, get_args

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


if sys.version_info >= (3, 14):
    from compression import zstd as zstd  # noqa: PLC0414 - one place knows where it comes from
else:
    from backports import zstd as zstd  # noqa: PLC0414


class _Compression(NamedTuple):
    """One way to compress: how such a file begins, what unpacks it, what writes it."""

    sign: re.Pattern[bytes]
    unpack: Callable[[BinaryIO], object]
    pack: Callable[[BinaryIO], object]


_LONGEST_SIGN: Final = 16
_AT_ONCE: Final = 2**16

COMPRESSIONS: Final[Mapping[str, _Compression]] = {
    ".gz": _Compression(
        re.compile(rb"\x1f\x8b"),
        lambda file: gzip.GzipFile(mode="rb", fileobj=file),
        # Neither time nor name, so that the same labels give the same bytes.
        lambda file: gzip.GzipFile("", "wb", fileobj=file, mtime=0),
    ),
    ".zst": _Compression(
        re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),  # data, or a frame to skip
        zstd.ZstdFile,
        lambda file: zstd.ZstdFile(file, "w"),
    ),
    ".bz2": _Compression(
        re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"),  # a block, or the end of an empty file
        bz2.BZ2File,
        lambda file: bz2.BZ2File(file, "wb"),
    ),
    ".xz": _Compression(
        re.compile(rb"\xfd7zXZ\x00"),
        lzma.LZMAFile,
        lambda file: lzma.LZMAFile(file, "wb"),  # noqa: SIM115 - closed by `packed`
    ),
}
"""The ending of a file's name, after that of its format -> how it is compressed."""

DAMAGED: Final = (gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError, zstd.ZstdError)
"""What is raised where compressed data is damaged or cut off; bzip2 raises an `OSError`."""


def is_compressed(name: str) -> bool:
    """Return whether a file of this name is compressed, or is to be."""
    return PurePath(name).suffix.lower() in COMPRESSIONS


def unpacked_name(name: str) -> str:
    """Return a file's name without the ending of its compression."""
    return str(PurePath(name).with_suffix("")) if is_compressed(name) else name


def unpacked(stream: BufferedReader) -> BufferedReader | None:
    """Return what the stream holds, unpacked as it is read; None where it is not compressed."""
    beginning = stream.peek(_LONGEST_SIGN)[:_LONGEST_SIGN]
    for compression in COMPRESSIONS.values():
        if compression.sign.match(beginning):
            return BufferedReader(cast("RawIOBase", compression.unpack(stream)), _AT_ONCE)
    return None


@contextmanager
def packed(file: BinaryIO, name: str) -> Iterator[BinaryIO]:
    """Give a file to write to, whose content goes to `file` as its name says: compressed or not."""
    if not is_compressed(name):
        yield file
        return
    packer = COMPRESSIONS[PurePath(name).suffix.lower()].pack(file)
    with io.BufferedWriter(cast("RawIOBase", packer), _AT_ONCE) as writer:
        yield cast("BinaryIO", writer)
