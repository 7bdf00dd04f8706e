"""Dropping what is old, or another model's, from a score store."""

import os
import sqlite3
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from icm_client.data.messages import did_you_mean, listed, shown
from icm_client.errors import InputError
from icm_client.scoring.store_file import TABLES, transaction
from icm_client.scoring.store_rows import known_servers
from icm_client.scoring.store_upkeep import opened


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was dropped, or would be.

    Attributes:
        path: of the file.
        scores: answers to reads.
        texts: texts with their token ids.
        scores_left: answers that stay.
        done: False where this only says what would be.
    """

    path: str
    scores: int
    texts: int
    scores_left: int
    done: bool


def prune(
    path: Path,
    *,
    older_than: timedelta | None = None,
    model: str | None = None,
    dry_run: bool = True,
) -> Pruned:
    """Drop what is older than `older_than`, and of `model`; where both are given, both must hold.

    Rows from before their time was noted count from the day the file was brought up to date.

    Args:
        path: of the store.
        older_than: age of what goes.
        model: whose answers go.
        dry_run: change nothing; say what would go.

    Raises:
        ValueError: neither age nor model is given.
        InputError: there is no store at `path`, or nothing of that model in it.
        StoreError: it cannot be read or written.
    """
    where: list[str] = []
    values: list[object] = []
    if older_than is not None:
        where.append("stored_at < ?")
        values.append(int(time.time() - older_than.total_seconds()))
    with opened(path) as connection:
        if model is not None:
            numbers = _servers_of(connection, model)
            where.append(f"server IN ({','.join('?' * len(numbers))})")
            values += numbers
        if not where:
            raise ValueError("say what goes: an age, a model, or both")
        condition = " AND ".join(where)
        counts = {}
        for table in TABLES:
            (counts[table.name],) = connection.execute(
                f"SELECT count(*) FROM {table.name} WHERE {condition}",  # noqa: S608 - our own names
                values,
            ).fetchone()
        if not dry_run:
            with transaction(connection):
                for table in TABLES:
                    connection.execute(f"DELETE FROM {table.name} WHERE {condition}", values)  # noqa: S608 - our own names
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        (left,) = connection.execute("SELECT count(*) FROM scores").fetchone()
    gone = 0 if not dry_run else counts["scores"]
    return Pruned(
        path=os.fspath(path),
        scores=counts["scores"],
        texts=counts["tokens"],
        scores_left=left - gone,
        done=not dry_run,
    )


def _servers_of(connection: sqlite3.Connection, model: str) -> list[object]:
    """Return the numbers of the servers with this model."""
    servers = known_servers(connection)
    models = sorted({server.model for server in servers.values() if server.model is not None})
    numbers = [number for number, server in servers.items() if server.model == model]
    if not numbers:
        raise InputError(
            f"nothing of a model {shown(model)} is in the store; there are "
            f"{listed(models)}.{did_you_mean(model, models)}"
        )
    return numbers
