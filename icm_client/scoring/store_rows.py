"""Copy rows into a score store: from a damaged file, from another store, from JSON Lines.

Rows are read one by one in Python, though SQLite could `ATTACH` a file and `INSERT ... SELECT`:
such a statement takes back all of its rows at the first damaged page, and it holds the write lock
until its end, which a run beside it waits for no longer than `BUSY_TIMEOUT_S`. Each row has its own
checksum, so what can be read of a damaged file, which `set_aside` renames, is as good as any other.
"""

import math
import sqlite3
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from icm_client.errors import StoreError
from icm_client.scoring.prompts import DIGEST_BYTES
from icm_client.scoring.store_file import (
    BROKEN,
    SCORES,
    TABLES,
    Table,
    connect,
    connect_to_read,
    is_damage,
    is_whole,
    rows_of,
    server_number,
    transaction,
)

_ROWS_A_TRANSACTION = 5000


class Server(NamedTuple):
    """The server that a row came from; None stands for what was not recorded.

    Attributes:
        fingerprint: the server's.
        kind: "vllm" and the like.
        model: its model.
    """

    fingerprint: str | None
    kind: str | None
    model: str | None


UNKNOWN = Server(None, None, None)


class StoredRow(NamedTuple):
    """A row with its origin.

    Attributes:
        cells: key, parts and checksum, in the table's order.
        server: unknown in a file of version 1.
        stored_at: seconds since 1970; None in a file of version 1.
    """

    cells: tuple[Any, ...]
    server: Server
    stored_at: int | None


class Merged(NamedTuple):
    """How many of the copied rows were new, were there already, or are damaged and left out."""

    added: int
    there: int
    damaged: int


def merge(connection: sqlite3.Connection, table: Table, rows: Iterable[StoredRow]) -> Merged:
    """Add the sound ones of `rows`; a whole row that is there already stands."""
    added = there = damaged = 0
    source = iter(rows)
    while some := list(islice(source, _ROWS_A_TRANSACTION)):
        sound = [row for row in some if is_sound(table, row.cells)]
        by_key = {row.cells[0]: row for row in sound}
        damaged += len(some) - len(sound)
        with transaction(connection):
            known = {row[0] for row in rows_of(connection, table, list(by_key)) if is_whole(row)}
            new = [row for key, row in by_key.items() if key not in known]
            numbers = {server: _number(connection, server) for server in {r.server for r in new}}
            now = int(time.time())
            connection.executemany(
                table.insert,
                [
                    (
                        *row.cells,
                        numbers[row.server],
                        row.stored_at if isinstance(row.stored_at, int) else now,
                    )
                    for row in new
                ],
            )
        added += len(new)
        there += len(known)
    return Merged(added, there, damaged)


def is_sound(table: Table, cells: tuple[Any, ...]) -> bool:
    """Whether the row is whole and its numbers are possible: a file from elsewhere may lie."""
    if not is_whole(cells) or len(cells[0]) != DIGEST_BYTES:
        return False
    packed = cells[1]
    if table is not SCORES:
        return len(packed) % 4 == 0
    if not packed or len(packed) % 8:
        return False
    return all(-math.inf < p <= 0 for (p,) in struct.iter_unpack("<d", packed))


def stored_rows(
    source: sqlite3.Connection, table: Table, order: str = "ASC"
) -> Iterator[StoredRow]:
    """Yield every row of a file of any version, damaged ones included, by ascending key."""
    (version,) = source.execute("PRAGMA user_version").fetchone()
    origin = "NULL, NULL" if version == 1 else "server, stored_at"
    servers = {} if version == 1 else known_servers(source)
    for *cells, server, stored_at in source.execute(
        f"SELECT {table.columns}, {origin} FROM {table.name} ORDER BY key {order}"  # noqa: S608 - our own names
    ):
        yield StoredRow(tuple(cells), servers.get(server, UNKNOWN), stored_at)


def known_servers(source: sqlite3.Connection) -> dict[object, Server]:
    """Return the servers by the number that rows have; none where their table is damaged."""
    try:
        return {
            number: Server(*map(as_text, texts))
            for number, *texts in source.execute("SELECT id, fingerprint, kind, model FROM servers")
        }
    except BROKEN as error:
        if not is_damage(error):
            raise
        return {}


def as_text(value: object) -> str | None:
    """Return the text that SQLite gave as bytes; None for anything else."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else None


def _number(connection: sqlite3.Connection, server: Server) -> int | None:
    if server.fingerprint is None:
        return None
    number = server_number(connection, server.fingerprint)
    connection.execute(
        "UPDATE servers SET kind = coalesce(kind, ?), model = coalesce(model, ?) WHERE id = ?",
        [server.kind, server.model, number],
    )
    return number


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
