"""Write a file in one step, so that it is always the old one or the new one; and lock a file."""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from icm_client.errors import IcmError


def replace_file(path: Path, content: bytes) -> None:
    """Write the file in one step."""
    with replaced(path) as file:
        file.write(content)


@contextmanager
def replaced(path: Path, temporary: Path | None = None) -> Iterator[BinaryIO]:
    """Give a file to write to, which takes the place of `path` once it is on the disk.

    Where the block raises, it is removed, and what was there before is still there.

    Args:
        path: the file; one that is there keeps its permissions.
        temporary: the name under which it is written, in the same folder. None takes a new one;
            whoever names it must be alone in writing it.
    """
    if temporary is None:
        temporary = temporary_beside(path)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        put_in_place(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def locked(path: Path, busy: IcmError, *, timeout_s: float = 0.0) -> FileLock:
    """Return the lock of this file, held; raise `busy` where another process holds it.

    Raises:
        OSError: it cannot be made.
    """
    lock = FileLock(path, timeout=timeout_s, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise busy from None
    return lock


def temporary_beside(path: Path) -> Path:
    """Return a name that no file in the folder has."""
    return path.with_name(f".{secrets.token_hex(8)}.tmp")


def put_in_place(written: Path, path: Path) -> None:
    """Move a file that is on the disk to where another may be, with that one's permissions."""
    if path.exists():
        written.chmod(stat.S_IMODE(path.stat().st_mode))
    written.replace(path)
