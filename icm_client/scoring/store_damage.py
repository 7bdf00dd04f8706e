"""Set a damaged score store aside under another name, and keep what can be read of it.

Each row carries its own checksum, so a row from a damaged file is as good as any other.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path

from filelock import FileLock

from icm_client.errors import StoreError
from icm_client.scoring.store_file import BROKEN, TABLES, Table, connect, connect_to_read, is_damage
from icm_client.scoring.store_rows import StoredRow, merge, stored_rows

_HEADER = b"SQLite format 3\0"
_FLIPPED_AT_MOST = 4
_LOCK_TIMEOUT_S = 600.0  # as long as it takes to save a store of many millions


def may_be_set_aside(path: Path) -> bool:
    """Whether the file was a database once: a data file named by mistake is left where it is."""
    with path.open("rb") as file:
        start = file.read(len(_HEADER))
    differing = sum(a != b for a, b in zip(start, _HEADER, strict=False))
    return len(start) == len(_HEADER) and (differing <= _FLIPPED_AT_MOST or not any(start))


def set_aside(path: Path, inode: int) -> list[str]:
    """Rename the damaged file at `path`, make a new one, and copy into it what can be read.

    Args:
        path: of the store.
        inode: of the file that was found damaged; where another is at `path` by now, another
            process has done all this already.

    Returns:
        A sentence for the user, where something was done.

    Raises:
        StoreError: the file cannot be renamed.
        sqlite3.Error: the new file cannot be made or written.
    """
    try:
        with FileLock(f"{path}.lock", timeout=_LOCK_TIMEOUT_S, mode=0o600):
            if path.exists() and path.stat().st_ino != inode:
                return []
            aside = _free_name(path)
            path.rename(aside)
            # After the file: SQLite drops the log of an empty database, if this is cut off here.
            for end in ("-wal", "-shm"):
                log = path.with_name(path.name + end)
                if log.exists():
                    log.rename(aside.with_name(aside.name + end))
            path.touch(0o600)
            with closing(connect(path)) as fresh, closing(connect_to_read(aside)) as source:
                saved = sum(merge(fresh, table, _readable(source, table)).added for table in TABLES)
    except OSError as error:
        raise StoreError(
            f"the score store {path} is damaged and cannot be set aside: {error}. Move it away, "
            "with the files beside it that end in -wal and -shm, and run again."
        ) from error
    notice = (
        f"the score store {path} was damaged. It was set aside as {aside.name}; {saved:,} of its "
        "entries could be read and are kept, and the others are asked again."
    )
    return [notice]


def _free_name(path: Path) -> Path:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    ends = chain([""], (f"-{number}" for number in count(2)))
    names = (path.with_name(f"{path.name}.damaged-{stamp}{end}") for end in ends)
    return next(name for name in names if not name.exists())


def _readable(source: sqlite3.Connection, table: Table) -> Iterator[StoredRow]:
    """Yield what stands before the first damaged page, then what stands after the last one."""
    for order in ("ASC", "DESC"):
        try:
            yield from stored_rows(source, table, order)
        except BROKEN as error:
            if not is_damage(error):
                raise
        else:
            return
