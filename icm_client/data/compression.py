"""Compressed files: gzip, Zstandard, bzip2 and xz, read by how they begin and written by name."""

import bz2
import gzip
import io
import lzma
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader, RawIOBase
from pathlib import PurePath
from typing import BinaryIO, Final, NamedTuple, cast

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
