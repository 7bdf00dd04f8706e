"""Look after a score store: what is in it, whether it is whole, and drop what is bad or old."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from icm_client.data.messages import did_you_mean, listed, shown
from icm_client.errors import InputError, StoreError
from icm_client.scoring.store_file import (
    SCHEMA_VERSION,
    SCORES,
    TABLES,
    TOKENS,
    Table,
    connect,
    explained,
    is_damage,
    is_whole,
    transaction,
)
from icm_client.scoring.store_rows import UNKNOWN, as_text, known_servers, set_aside

_PROBLEMS_AT_MOST = 20


@dataclass(frozen=True, slots=True)
class ServerShare:
    """What one server has in a store.

    Attributes:
        fingerprint: of the server; None for rows from before servers were recorded.
        kind: "vllm" and the like; None where no run has recorded it.
        model: its model; None where no run has recorded it.
        scores: answers to reads.
        texts: texts with their token ids.
        oldest: UTC, ISO 8601; of scores and texts.
        newest: as `oldest`.
    """

    fingerprint: str | None
    kind: str | None
    model: str | None
    scores: int
    texts: int
    oldest: str | None
    newest: str | None


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """What is in a store.

    Attributes:
        path: of the file.
        bytes: of the file and of its write-ahead log.
        schema: its version.
        scores: answers to reads.
        texts: texts with their token ids.
        servers: most scores first.
    """

    path: str
    bytes: int
    schema: int
    scores: int
    texts: int
    servers: tuple[ServerShare, ...]


@dataclass(frozen=True, slots=True)
class StoreCheck:
    """What a check of every row found.

    Attributes:
        path: of the file.
        scores: answers that were checked.
        texts: texts that were checked.
        bad_scores: answers that do not match their checksum; no run uses them.
        bad_texts: texts whose token ids do not match theirs; no run uses them.
        problems: what SQLite says of the file's structure; empty where it is whole.
        repaired: whether the bad rows have been dropped.
        notice: which file was set aside, where one was.
    """

    path: str
    scores: int
    texts: int
    bad_scores: int
    bad_texts: int
    problems: tuple[str, ...]
    repaired: bool
    notice: str | None

    @property
    def whole(self) -> bool:
        """Whether nothing is bad."""
        return not (self.bad_scores or self.bad_texts or self.problems)


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a store that is there; SQLite's errors become `StoreError`.

    Raises:
        InputError: there is no store at `path`.
        StoreError: it cannot be used.
    """
    if not path.is_file():
        raise InputError(
            f"there is no score store at {path}: name it with --store, or set ICM_CACHE_DIR"
        )
    with explained(path), closing(connect(path)) as connection:
        yield connection


_SHARES = """
    SELECT server, sum(scores), sum(texts),
        strftime('%Y-%m-%dT%H:%M:%S+00:00', min(moment), 'unixepoch'),
        strftime('%Y-%m-%dT%H:%M:%S+00:00', max(moment), 'unixepoch')
    FROM (
        SELECT server, 1 AS scores, 0 AS texts,
            CASE typeof(stored_at) WHEN 'integer' THEN stored_at END AS moment FROM scores
        UNION ALL
        SELECT server, 0, 1, CASE typeof(stored_at) WHEN 'integer' THEN stored_at END FROM tokens
    )
    GROUP BY server
"""


def describe(path: Path) -> StoreInfo:
    """Return what is in the store at `path`."""
    with opened(path) as connection:
        known = known_servers(connection)
        servers = [
            ServerShare(*known.get(server, UNKNOWN), scores, texts, as_text(first), as_text(last))
            for server, scores, texts, first, last in connection.execute(_SHARES)
        ]
    log = path.with_name(f"{path.name}-wal")
    return StoreInfo(
        path=str(path),
        bytes=path.stat().st_size + (log.stat().st_size if log.exists() else 0),
        schema=SCHEMA_VERSION,
        scores=sum(share.scores for share in servers),
        texts=sum(share.texts for share in servers),
        servers=tuple(sorted(servers, key=lambda s: (-s.scores, s.fingerprint or ""))),
    )


def check(path: Path, *, repair: bool = False) -> StoreCheck:
    """Compare every row with its checksum, and check the file's structure.

    Args:
        path: of the store.
        repair: drop the bad rows; where the structure is damaged, set the file aside and keep
            what can be read in a new one.
    """
    found = path.stat().st_ino if path.is_file() else 0
    rows, bad = {}, {}
    problems, notices = [], []
    try:
        with opened(path) as connection:
            for table in TABLES:
                rows[table], bad[table] = _bad_keys(connection, table)
            problems = [
                line.decode("utf-8", "replace")
                for (line,) in connection.execute(f"PRAGMA quick_check({_PROBLEMS_AT_MOST})")
                if line != b"ok"
            ]
            for table in TABLES if repair and not problems else ():
                with transaction(connection):
                    connection.executemany(
                        f"DELETE FROM {table.name} WHERE key = ?",  # noqa: S608 - our own names
                        [(key,) for key in bad[table]],
                    )
                if _bad_keys(connection, table)[1]:
                    problems.append(f"{table.name}: rows that their own key does not find")
    except StoreError as error:
        cause = error.__cause__
        if not isinstance(cause, Exception) or not is_damage(cause):
            raise
        problems = [str(cause)]
    if repair and problems:
        with explained(path):
            notices = set_aside(path, found)
    return StoreCheck(
        path=str(path),
        scores=rows.get(SCORES, 0),
        texts=rows.get(TOKENS, 0),
        bad_scores=len(bad.get(SCORES, ())),
        bad_texts=len(bad.get(TOKENS, ())),
        problems=tuple(problems),
        repaired=repair and bool(problems or any(bad.values())),
        notice=notices[0] if notices else None,
    )


def _bad_keys(connection: sqlite3.Connection, table: Table) -> tuple[int, list[bytes]]:
    """Return how many rows there are, and the keys of those that are not whole."""
    count, bad = 0, []
    for row in connection.execute(f"SELECT {table.columns} FROM {table.name}"):  # noqa: S608 - our own names
        count += 1
        if not is_whole(row):
            bad.append(row[0])
    return count, bad


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was dropped, or would be dropped.

    Attributes:
        path: of the file.
        scores: answers to reads.
        texts: texts with their token ids.
        scores_left: answers that stay.
        done: False for a dry run.
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

    Rows from before their time was recorded count from the day the file was brought up to date.

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
            raise ValueError("say what to drop: an age, a model, or both")
        old = [f"FROM {table.name} WHERE {' AND '.join(where)}" for table in TABLES]
        if dry_run:
            counts = [
                connection.execute(f"SELECT count(*) {rows}", values).fetchone()[0] for rows in old
            ]
        else:
            with transaction(connection):
                counts = [connection.execute(f"DELETE {rows}", values).rowcount for rows in old]
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        (left,) = connection.execute("SELECT count(*) FROM scores").fetchone()
    scores, texts = counts
    return Pruned(
        path=str(path),
        scores=scores,
        texts=texts,
        scores_left=left - scores if dry_run else left,
        done=not dry_run,
    )


def _servers_of(connection: sqlite3.Connection, model: str) -> list[object]:
    """Return the numbers of the servers with this model."""
    servers = known_servers(connection)
    models = sorted({server.model for server in servers.values() if server.model is not None})
    numbers = [number for number, server in servers.items() if server.model == model]
    if not numbers:
        raise InputError(
            f"the store has no answers of a model {shown(model)}; there are "
            f"{listed(models)}.{did_you_mean(model, models)}"
        )
    return numbers
