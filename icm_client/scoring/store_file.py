"""The score store's file: its tables, how it is opened, and what its errors mean.

A file of an older version is brought up to date when it is opened, one version after the other;
no step changes a key, an answer or a checksum.
"""

import re
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

from icm_client.errors import StoreError

BUSY_TIMEOUT_S = 10.0
KEYS_A_SELECT = 500  # below the 999 variables that older SQLite builds allow

_VERSIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE scores (
            key BLOB PRIMARY KEY,
            log_probs BLOB NOT NULL,  -- float64, little endian, nats, in the wanted ids' order
            exactness TEXT NOT NULL,
            checksum INTEGER NOT NULL -- CRC-32 over key, log_probs, exactness
        ) WITHOUT ROWID""",
        """CREATE TABLE tokens (
            key BLOB PRIMARY KEY,
            ids BLOB NOT NULL,        -- int32, little endian
            checksum INTEGER NOT NULL -- CRC-32 over key, ids
        ) WITHOUT ROWID""",
    ),
    (
        # The server and the time of a row serve upkeep alone, so no checksum covers them. A row
        # from before has no server, and counts as stored when the file was upgraded ({now}).
        """CREATE TABLE servers (
            id INTEGER PRIMARY KEY,
            fingerprint TEXT NOT NULL UNIQUE,
            kind TEXT,
            model TEXT
        )""",
        "ALTER TABLE scores ADD COLUMN server INTEGER",
        "ALTER TABLE scores ADD COLUMN stored_at INTEGER NOT NULL DEFAULT {now}",
        "ALTER TABLE tokens ADD COLUMN server INTEGER",
        "ALTER TABLE tokens ADD COLUMN stored_at INTEGER NOT NULL DEFAULT {now}",
    ),
)

SCHEMA_VERSION = len(_VERSIONS)
"""`PRAGMA user_version` of the file."""


class Table(NamedTuple):
    """A table of keyed rows.

    Attributes:
        name: of the table.
        columns: key, parts and checksum, as they stand in a SELECT.
        insert: the statement that stores a row of `columns`, server and time; texts as bytes.
    """

    name: str
    columns: str
    insert: str


SCORES = Table(
    "scores",
    "key, log_probs, exactness, checksum",
    "INSERT OR REPLACE INTO scores (key, log_probs, exactness, checksum, server, stored_at) "
    "VALUES (?, ?, CAST(? AS TEXT), ?, ?, ?)",
)
TOKENS = Table(
    "tokens",
    "key, ids, checksum",
    "INSERT OR REPLACE INTO tokens (key, ids, checksum, server, stored_at) VALUES (?, ?, ?, ?, ?)",
)
TABLES = (SCORES, TOKENS)

BROKEN = (sqlite3.Error, UnicodeDecodeError)
"""What SQLite's module raises; `is_damage` tells which of them mean a broken file."""


def connect(path: Path) -> sqlite3.Connection:
    """Open the file at `path`, which is there (empty, if need be), and bring it up to date.

    Raises:
        StoreError: it was written by a newer version, or is another program's.
        sqlite3.Error: it cannot be used.
    """
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    try:
        _prepare(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def connect_to_read(path: Path) -> sqlite3.Connection:
    """Open the file at `path` as it is, of whichever version."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_S
    )
    connection.text_factory = bytes
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Set up the connection and create the schema, unless another process is just doing so."""
    connection.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}")
    connection.text_factory = bytes  # a flipped byte in a TEXT must not raise a decoding error
    # This comes before any change: another program's database keeps its journal mode too. It is
    # one transaction, or tables that another process is just creating look like a foreign file's.
    connection.execute("BEGIN")
    _version(connection, path)
    connection.execute("COMMIT")
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            # Where two processes change a new file's journal at once, SQLite does not wait for
            # the busy timeout (https://sqlite.org/c3ref/busy_handler.html).
            connection.execute("PRAGMA journal_mode = WAL").fetchall()
            break
        except sqlite3.OperationalError as error:
            if result_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
    # A power cut may lose the last answers and never the file: https://sqlite.org/pragma.html
    connection.execute("PRAGMA synchronous = NORMAL")
    with transaction(connection):
        version = _version(connection, path)
        for statements in _VERSIONS[version:]:
            for statement in statements:
                connection.execute(statement.format(now=int(time.time())))
        if version < SCHEMA_VERSION:
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """Return the schema's version; 0 for an empty file."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    ours = {table.name.encode() for table in TABLES} <= names
    if version > SCHEMA_VERSION and ours:
        raise StoreError(
            f"the score store {path} was written by a newer icm-client (schema {version}, this "
            f"one knows {SCHEMA_VERSION}): upgrade, or set ICM_CACHE_DIR to another folder."
        )
    if not (ours and version > 0) and not (version == 0 and not names):
        raise StoreError(
            f"{path} is another program's database, not a score store: "
            "move it away, or set ICM_CACHE_DIR to another folder."
        )
    return int(version)


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit what is written inside, or nothing of it."""
    # IMMEDIATE: a read lock that must become a write lock fails at once, without waiting,
    # when another process writes (https://sqlite.org/lang_transaction.html).
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk has rolled back already
            connection.execute("ROLLBACK")
        raise


def rows_of(
    connection: sqlite3.Connection, table: Table, keys: Sequence[bytes]
) -> Iterator[tuple[Any, ...]]:
    """Yield key, parts and checksum of the rows that are there, damaged ones included."""
    for start in range(0, len(keys), KEYS_A_SELECT):
        some = keys[start : start + KEYS_A_SELECT]
        yield from connection.execute(
            f"SELECT {table.columns} FROM {table.name} WHERE key IN "  # noqa: S608 - our own names
            f"({','.join('?' * len(some))})",
            some,
        )


def is_whole(row: Sequence[Any]) -> bool:
    """Whether key, parts and checksum belong together."""
    *parts, stored = row
    try:
        return bool(stored == checksum(parts))
    except TypeError:  # a flipped bit can make a number of a BLOB
        return False


def checksum(parts: Iterable[bytes]) -> int:
    """Return the CRC-32 over `parts`, one after the other."""
    total = 0
    for part in parts:
        total = crc32(part, total)
    return total


def server_number(connection: sqlite3.Connection, fingerprint: str) -> int | None:
    """Return the number that stands for a server in a row; a new server gets a new one.

    None where the table is damaged: only upkeep needs to know a row's server.
    """
    connection.execute(
        "INSERT INTO servers (fingerprint) VALUES (?) ON CONFLICT DO NOTHING", [fingerprint]
    )
    found = connection.execute(
        "SELECT id FROM servers WHERE fingerprint = ?", [fingerprint]
    ).fetchone()
    return found[0] if found is not None and isinstance(found[0], int) else None


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Raise SQLite's errors as `StoreError`, with the place and what to do about it."""
    try:
        yield
    except BROKEN as error:
        if isinstance(error, sqlite3.Error):
            other = "Set ICM_CACHE_DIR to another folder, and run again."
            advice = _ADVICE.get(result_code(error), other)
        else:
            advice = _ADVICE[sqlite3.SQLITE_CORRUPT]
        raise StoreError(f"the score store {path} failed: {error}. {advice}") from error


def is_damage(error: Exception) -> bool:
    """Whether the error says that the file itself is broken."""
    # If the schema's text is damaged, not even the error message can be decoded.
    if isinstance(error, UnicodeDecodeError):
        return True
    return isinstance(error, sqlite3.Error) and result_code(error) in (
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
    )


def result_code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code, or -1 where the error is Python's own."""
    code = getattr(error, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else -1


_ROOM = "Make room on the disk, then run again: what was stored is kept."
_ADVICE = {
    sqlite3.SQLITE_NOTADB: (
        "It is not a score store, or its first bytes are damaged: name another file, or move it "
        "away and run again (its answers are asked again). The files beside it that end in -wal "
        "and -shm belong to it."
    ),
    sqlite3.SQLITE_CORRUPT: (
        "The file is damaged: move it away and run again (its answers are asked again). The files "
        "beside it that end in -wal and -shm belong to it."
    ),
    sqlite3.SQLITE_FULL: _ROOM,
    # A quota that is used up, a limit on a file's size and a disk that is gone look alike here.
    sqlite3.SQLITE_IOERR: f"The disk may be full, over its quota, or gone. {_ROOM}",
    sqlite3.SQLITE_READONLY: "Make the file and its folder writable, or set ICM_CACHE_DIR.",
    sqlite3.SQLITE_BUSY: "Another process has locked it for too long: end that one, and run again.",
}


_MOUNTS = Path("/proc/mounts")
_NETWORK = frozenset(
    (
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "9p"),
        *("lustre", "ceph", "beegfs", "gpfs", "glusterfs", "davfs", "pvfs2", "orangefs"),
        *("fuse.sshfs", "fuse.ceph", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse"),
    )
)


def network_warning(path: Path, mounts: Path = _MOUNTS) -> str | None:
    """Return a sentence for the user where `path` lies on a network file system, else None.

    Two computers that write there at once can lose answers or damage the file: SQLite's
    write-ahead log needs shared memory (https://sqlite.org/wal.html). Only Linux has `mounts`.
    """
    try:
        lines = mounts.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return None
    place, deepest, kind = path.resolve(), -1, ""
    for line in lines:
        _, point, found, *_ = [*line.split(" "), "", "", ""]
        # White space and the like are written as octal escapes (man 3 getmntent).
        folder = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), point))
        # Of two mounts on one folder, the later one hides the earlier.
        if place.is_relative_to(folder) and len(folder.parts) >= deepest:
            deepest, kind = len(folder.parts), found
    if kind not in _NETWORK:
        return None
    return (
        f"the score store {path} lies on a network file system ({kind}): if two computers write "
        "to it at once, answers can be lost. Set ICM_CACHE_DIR to a folder on a local disk."
    )
