"""Model files on this machine: the digest of their bytes, and what a GGUF header says."""

import contextlib
import hashlib
import os
import re
import struct
from pathlib import Path
from typing import Any, BinaryIO, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from icm_client.cache import cache_folder
from icm_client.errors import SetupError

# The type of a value (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md) -> its `struct`
# format. 8 is a string, 9 an array.
_FORMATS: Final = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
_STRING: Final = 8
_ARRAY: Final = 9
_LONGEST_KEY: Final = 65_535
_MAGIC: Final = b"GGUF"


class _Known(BaseModel):
    """A digest, and the state that the file had then."""

    model_config = ConfigDict(frozen=True)

    sha256: str
    size: int
    modified_ns: int
    changed_ns: int = 0  # unlike the modification time, it cannot be set back


def state_of(path: Path) -> tuple[int, int, int]:
    """What changes when the file is written or replaced: size and times."""
    state = path.stat()
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns


def sha256_of(path: Path) -> str:
    """SHA-256 of the file, in hex; about a second per GB, and remembered while it is unchanged.

    Raises:
        SetupError: the file cannot be read.
    """
    try:
        state = state_of(path)
        note = _note_of(path)
        with contextlib.suppress(OSError, ValidationError):
            known = _Known.model_validate_json(note.read_bytes())
            if (known.size, known.modified_ns, known.changed_ns) == state:
                return known.sha256
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if state_of(path) == state:  # otherwise it was written meanwhile
            remember_sha256(path, digest)
    except OSError as error:
        raise SetupError(f"cannot read the model file {path}: {error.strerror}") from error
    return digest


def remember_sha256(path: Path, digest: str) -> None:
    """Keep `digest` for `path` as it is now, if it can be written."""
    with contextlib.suppress(OSError):
        size, modified_ns, changed_ns = state_of(path)
        known = _Known(sha256=digest, size=size, modified_ns=modified_ns, changed_ns=changed_ns)
        note = _note_of(path)
        note.parent.mkdir(parents=True, exist_ok=True)
        written = note.with_suffix(f".{os.getpid()}.tmp")
        written.write_text(known.model_dump_json(), encoding="utf-8")
        written.replace(note)


def check_gguf(path: Path) -> None:
    """Raise `SetupError` if this is no GGUF file, or cannot be read."""
    try:
        with path.open("rb") as file:
            begins = file.read(len(_MAGIC))
    except OSError as error:
        raise SetupError(f"cannot read the model file {path}: {error.strerror}") from error
    if begins != _MAGIC:
        raise SetupError(f"{path} is no GGUF file: it does not begin with the letters GGUF")


def trained_context_of(path: Path) -> int | None:
    """Tokens of context that the file's model was trained on; None if it does not say."""
    with (
        contextlib.suppress(OSError, ValueError, OverflowError, struct.error),
        path.open("rb") as file,
    ):
        magic, version, _, entries = _unpacked("4sIQQ", file)
        if magic != _MAGIC or version == 1:  # version 1 counts in 32 bits
            return None
        for _ in range(entries):
            (key_length,) = _unpacked("Q", file)
            if key_length > _LONGEST_KEY:
                return None
            key = file.read(key_length)
            value = _value(_unpacked("I", file)[0], file)
            if re.fullmatch(rb"[^.]+\.context_length", key):
                return value or None
    return None


def _value(kind: int, file: BinaryIO) -> int | None:
    """Step over a value; return it where it is an integer."""
    if kind == _STRING:
        file.seek(_unpacked("Q", file)[0], os.SEEK_CUR)
        return None
    if kind == _ARRAY:
        element, length = _unpacked("IQ", file)
        if element in _FORMATS:
            file.seek(length * struct.calcsize(_FORMATS[element]), os.SEEK_CUR)
            return None
        if element != _STRING:
            raise ValueError
        for _ in range(length):
            _value(element, file)
        return None
    if kind not in _FORMATS:
        raise ValueError
    (value,) = _unpacked(_FORMATS[kind], file)
    return value if isinstance(value, int) else None


def _unpacked(layout: str, file: BinaryIO) -> tuple[Any, ...]:
    layout = f"<{layout}"
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def _note_of(path: Path) -> Path:
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]
    return cache_folder() / "digests" / f"{name}.json"
