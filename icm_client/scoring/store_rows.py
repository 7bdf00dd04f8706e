"""Rows of a score store as they are copied from one file to another, with whose they are."""

import sqlite3
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from icm_client.scoring.store_file import (
    BROKEN,
    Table,
    is_damage,
    is_whole,
    rows_of,
    server_number,
    transaction,
)

_ROWS_A_TRANSACTION = 5000


class Server(NamedTuple):
    """Whose a row is; None stands for what nobody has noted.

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
    """A row, and whose it is.

    Attributes:
        row: key, parts and checksum, in the table's order.
        server: whose; unknown in a file of version 1.
        stored_at: seconds since 1970; None in a file of version 1.
    """

    row: tuple[Any, ...]
    server: Server
    stored_at: int | None


def stored_rows(
    source: sqlite3.Connection, table: Table, order: str = "ASC"
) -> Iterator[StoredRow]:
    """Yield every row of a file of any version, damaged ones included, by ascending key.

    Raises:
        sqlite3.Error: the file cannot be read any further.
    """
    by_key = f"ORDER BY key {order}"
    (version,) = source.execute("PRAGMA user_version").fetchone()
    if version == 1:
        for row in source.execute(f"SELECT {table.columns} FROM {table.name} {by_key}"):  # noqa: S608 - our own names
            yield StoredRow(row, UNKNOWN, None)
        return
    servers = known_servers(source)
    columns = f"{table.columns}, server, stored_at"
    for *row, server, stored_at in source.execute(f"SELECT {columns} FROM {table.name} {by_key}"):  # noqa: S608 - our own names
        yield StoredRow(tuple(row), servers.get(server, UNKNOWN), stored_at)


def known_servers(source: sqlite3.Connection) -> dict[object, Server]:
    """Return the servers by the number that rows have; none where their table is damaged."""
    try:
        return {
            number: Server(*map(_text, texts))
            for number, *texts in source.execute("SELECT id, fingerprint, kind, model FROM servers")
        }
    except BROKEN as error:
        if not is_damage(error):
            raise
        return {}


def _text(value: object) -> str | None:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else None


class Merged(NamedTuple):
    """What became of rows that were copied.

    Attributes:
        added: rows that were not there.
        there: rows that had an answer already, which stands.
        damaged: rows that do not match their checksum; left out.
    """

    added: int
    there: int
    damaged: int


def merge(connection: sqlite3.Connection, table: Table, rows: Iterable[StoredRow]) -> Merged:
    """Add the whole ones of `rows`; a row that is there, and whole, stands.

    Raises:
        sqlite3.Error: the file cannot be written.
    """
    added = there = damaged = 0
    source = iter(rows)
    while some := list(islice(source, _ROWS_A_TRANSACTION)):
        whole = {stored.row[0]: stored for stored in some if is_whole(stored.row)}
        damaged += sum(not is_whole(stored.row) for stored in some)
        with transaction(connection):
            known = {row[0] for row in rows_of(connection, table, list(whole)) if is_whole(row)}
            new = [stored for key, stored in whole.items() if key not in known]
            _insert(connection, table, new)
        added += len(new)
        there += len(known)
    return Merged(added, there, damaged)


def _insert(connection: sqlite3.Connection, table: Table, rows: list[StoredRow]) -> None:
    now = int(time.time())
    numbers: dict[Server, int | None] = {UNKNOWN: None}
    for server in {stored.server for stored in rows} - numbers.keys():
        if server.fingerprint is None:
            numbers[server] = None
            continue
        numbers[server] = server_number(connection, server.fingerprint)
        connection.execute(
            "UPDATE servers SET kind = coalesce(kind, ?), model = coalesce(model, ?) WHERE id = ?",
            [server.kind, server.model, numbers[server]],
        )
    marks = ", ".join("?" * (len(table.parts) + 4))
    connection.executemany(
        f"INSERT OR REPLACE INTO {table.name} ({table.columns}, server, stored_at) "  # noqa: S608 - our own names
        f"VALUES ({marks})",
        [
            (
                *_as_text(table, stored.row),
                numbers[stored.server],
                _moment(stored.stored_at, now),
            )
            for stored in rows
        ],
    )


def _moment(stored_at: object, now: int) -> int:
    return stored_at if isinstance(stored_at, int) else now


def _as_text(table: Table, row: tuple[Any, ...]) -> tuple[Any, ...]:
    """The row with `exactness` as the text that it is; connections read text as bytes."""
    if "exactness" not in table.parts:
        return row
    key, log_probs, exactness, total = row
    return key, log_probs, bytes(exactness).decode(), total
