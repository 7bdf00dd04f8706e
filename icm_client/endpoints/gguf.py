"""Model files on this machine: the cache folder, and which bytes a GGUF file holds."""

import contextlib
import hashlib
import os
from pathlib import Path

import platformdirs
from pydantic import BaseModel, ConfigDict, ValidationError

from icm_client.errors import SetupError


class _Known(BaseModel):
    """A digest, and the state of the file it was taken from."""

    model_config = ConfigDict(frozen=True)

    sha256: str
    size: int
    modified_ns: int


def cache_folder() -> Path:
    """Where models and logs are kept: ICM_CACHE_DIR, or the user's cache folder."""
    chosen = os.environ.get("ICM_CACHE_DIR")
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("icm-client")


def sha256_of(path: Path) -> str:
    """SHA-256 of the file, in hex; about a second per GB, and remembered while it is unchanged.

    Raises:
        SetupError: the file cannot be read.
    """
    try:
        state = path.stat()
        note = _note_of(path)
        with contextlib.suppress(OSError, ValidationError):
            known = _Known.model_validate_json(note.read_bytes())
            if (known.size, known.modified_ns) == (state.st_size, state.st_mtime_ns):
                return known.sha256
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SetupError(f"cannot read the model file {path}: {error.strerror}") from error
    remember_sha256(path, digest)
    return digest


def remember_sha256(path: Path, digest: str) -> None:
    """Keep `digest` for `path` as it is now; not being able to is no error."""
    with contextlib.suppress(OSError):
        state = path.stat()
        known = _Known(sha256=digest, size=state.st_size, modified_ns=state.st_mtime_ns)
        note = _note_of(path)
        note.parent.mkdir(parents=True, exist_ok=True)
        written = note.with_suffix(f".{os.getpid()}.tmp")
        written.write_text(known.model_dump_json(), encoding="utf-8")
        written.replace(note)


def _note_of(path: Path) -> Path:
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]
    return cache_folder() / "digests" / f"{name}.json"
