"""Copy rows into a score store: from a damaged file, from another store, from JSON Lines.

Rows are read one by one in Python, though SQLite could `ATTACH` a file and `INSERT ... SELECT`:
such a statement takes back all of its rows at the first damaged page, and it holds the write lock
until its end, which a run beside it waits for no longer than `BUSY_TIMEOUT_S`.
"""

import math
import sqlite3
import struct
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from icm_client.scoring.prompts import DIGEST_BYTES
from icm_client.scoring.store_file import (
    BROKEN,
    SCORES,
    Table,
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
