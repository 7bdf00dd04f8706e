"""The score store: every answer of every server, in one SQLite file.

It is the checkpoint of every search (a search repeated against a full store asks the server
nothing), so three laws hold:

* A key covers everything that can change the answer: the server's fingerprint, the wanted ids and
  the prompt's ids.
* The first answer stands. A server repeats itself only to about 0.06 nat, so where another process
  stored an answer meanwhile, that one is used: what a run used is what a replay reads.
* A damaged row is a missing row. Each carries a checksum; a row that does not match it is asked
  again and replaced.

Calls block; they take microseconds a row, no longer than it takes to send the question.
"""

import math
import os
import sqlite3
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from zlib import crc32

from icm_client.endpoints.cache import cache_folder
from icm_client.endpoints.protocol import Answer, Exactness, Read, TokenIds
from icm_client.errors import StoreError
from icm_client.scoring.keys import pack_ids, score_keys, token_keys, unpack_ids

SCHEMA_VERSION = 1
"""`PRAGMA user_version` of the file."""

_BUSY_TIMEOUT_S = 10.0
_KEYS_A_SELECT = 500  # below the 999 variables that older SQLite builds allow

_SCHEMA = (
    """CREATE TABLE scores (
        key BLOB PRIMARY KEY,
        log_probs BLOB NOT NULL,  -- float64, little endian, nats, in the order of the wanted ids
        exactness TEXT NOT NULL,
        checksum INTEGER NOT NULL -- CRC-32 over key, log_probs, exactness
    ) WITHOUT ROWID""",
    """CREATE TABLE tokens (
        key BLOB PRIMARY KEY,
        ids BLOB NOT NULL,        -- int32, little endian
        checksum INTEGER NOT NULL -- CRC-32 over key, ids
    ) WITHOUT ROWID""",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)


def default_path() -> Path:
    """Return where scores are kept: `scores.sqlite3` in `ICM_CACHE_DIR` or the user's cache."""
    return cache_folder() / "scores.sqlite3"


class ScoreStore:
    """Scores and token ids in one SQLite file, shared safely by several processes.

    Made with `ScoreStore.open`; one object belongs to the thread that opened it. Every method
    raises `StoreError` if SQLite cannot read or write (disk full, permissions, damage, or another
    process that held the file for more than 10 seconds).
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._db = connection
        self.path = path

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the store at `path`; make it, and its folder, if they are not there.

        A new file can be read and written by its owner only: token ids of private rows are in it.

        Raises:
            StoreError: the file cannot be made or opened, is damaged, was written by a newer
                version, or is another program's.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise StoreError(
                f"cannot open the score store {path}: {error.strerror}. "
                "Set ICM_CACHE_DIR to a folder that can be written."
            ) from error
        with _explained(path):
            connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
            try:
                _prepare(connection, path)
            except BaseException:
                connection.close()
                raise
        return cls(connection, path)

    def close(self) -> None:
        """Close the file. A closed store raises `StoreError` when used."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def get_many(self, fingerprint: str, reads: Sequence[Read]) -> list[Answer | None]:
        """Return the stored answers of the server `fingerprint`, aligned with `reads`.

        None stands for a read without an answer, or with a damaged one.
        """
        keys = score_keys(fingerprint, reads)
        with _explained(self.path):
            return self._stored_answers(keys, reads)

    def put_many(
        self, fingerprint: str, reads: Sequence[Read], answers: Sequence[Answer]
    ) -> list[Answer]:
        """Store `answers` in one transaction; return those that stand, aligned with `reads`.

        A read that has an answer already keeps it, and that one is returned.

        Raises:
            ValueError: an answer that does not fit its read, or is no log-probability.
        """
        for read, answer in zip(reads, answers, strict=True):
            if not _fits(answer.log_probs, read):
                raise ValueError(f"{answer.log_probs} are no log-probs of tokens {read.wanted}")
        keys = score_keys(fingerprint, reads)
        standing = []
        rows = []
        with _explained(self.path), self._transaction():
            stored = self._stored_answers(keys, reads)
            for key, earlier, answer in zip(keys, stored, answers, strict=True):
                standing.append(answer if earlier is None else earlier)
                if earlier is None:
                    blob = struct.pack(f"<{len(answer.log_probs)}d", *answer.log_probs)
                    text = answer.exactness.value
                    rows.append((key, blob, text, _checksum(key, blob, text.encode())))
            self._db.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?)", rows)
        return standing

    def get_tokens(
        self, fingerprint: str, texts: Sequence[str], *, add_special: bool
    ) -> list[TokenIds | None]:
        """Return the stored token ids, aligned with `texts`; None where they are not stored."""
        keys = token_keys(fingerprint, texts, add_special=add_special)
        with _explained(self.path):
            rows = self._rows("SELECT key, ids, checksum FROM tokens WHERE key IN", keys)
        found = {key: unpack_ids(ids) for key, ids, sum_ in rows if sum_ == _checksum(key, ids)}
        return [found.get(key) for key in keys]

    def put_tokens(
        self, fingerprint: str, texts: Sequence[str], ids: Sequence[TokenIds], *, add_special: bool
    ) -> None:
        """Store the token ids of `texts`, aligned with them, in one transaction."""
        keys = token_keys(fingerprint, texts, add_special=add_special)
        blobs = [pack_ids(one) for one in ids]
        rows = [(key, blob, _checksum(key, blob)) for key, blob in zip(keys, blobs, strict=True)]
        with _explained(self.path), self._transaction():
            self._db.executemany("INSERT OR REPLACE INTO tokens VALUES (?, ?, ?)", rows)

    def _stored_answers(self, keys: Sequence[bytes], reads: Sequence[Read]) -> list[Answer | None]:
        rows = self._rows(
            "SELECT key, log_probs, exactness, checksum FROM scores WHERE key IN", keys
        )
        found = {
            key: (log_probs, exactness)
            for key, log_probs, exactness, checksum in rows
            if checksum == _checksum(key, log_probs, exactness)
        }
        return [
            _unpack(*found.get(key, _MISSING), read) for key, read in zip(keys, reads, strict=True)
        ]

    def _rows(self, select: str, keys: Sequence[bytes]) -> Iterator[tuple[Any, ...]]:
        for start in range(0, len(keys), _KEYS_A_SELECT):
            some = keys[start : start + _KEYS_A_SELECT]
            yield from self._db.execute(f"{select} ({','.join('?' * len(some))})", some)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        # IMMEDIATE: a read lock that must become a write lock fails at once, without waiting,
        # when another process writes (https://sqlite.org/lang_transaction.html).
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # a full disk has rolled back already
                self._db.execute("ROLLBACK")
            raise


_MISSING = (b"", b"")


def _unpack(log_probs: bytes, exactness: bytes, read: Read) -> Answer | None:
    if not log_probs or len(log_probs) != 8 * len(read.wanted):
        return None
    try:
        kind = Exactness(exactness.decode())
    except ValueError:  # a kind that only a later version knows
        return None
    return Answer(struct.unpack(f"<{len(read.wanted)}d", log_probs), kind)


def _fits(log_probs: Sequence[float], read: Read) -> bool:
    return len(log_probs) == len(read.wanted) and all(-math.inf < p <= 0 for p in log_probs)


def _checksum(*parts: bytes) -> int:
    checksum = 0
    for part in parts:
        checksum = crc32(part, checksum)
    return checksum


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Set the connection up and lay the schema, where another process is not just doing so."""
    connection.execute(f"PRAGMA busy_timeout = {int(_BUSY_TIMEOUT_S * 1000)}")
    connection.text_factory = bytes  # a flipped byte in a TEXT must not raise a decoding error
    deadline = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            # Without an answer from the busy handler where two processes change a new file's
            # journal at once, whatever the timeout (https://sqlite.org/c3ref/busy_handler.html).
            connection.execute("PRAGMA journal_mode = WAL").fetchall()
            break
        except sqlite3.OperationalError as error:
            if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
    # A power cut may lose the last answers and never the file: https://sqlite.org/pragma.html
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("BEGIN IMMEDIATE")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if version == 0 and tables == 0:
        for statement in _SCHEMA:
            connection.execute(statement)
    elif version > SCHEMA_VERSION:
        raise StoreError(
            f"the score store {path} was written by a newer icm-client (schema {version}, this "
            f"one knows {SCHEMA_VERSION}): upgrade, or set ICM_CACHE_DIR to another folder."
        )
    elif version != SCHEMA_VERSION:
        raise StoreError(
            f"{path} is another program's database, not a score store: "
            "move it away, or set ICM_CACHE_DIR to another folder."
        )
    connection.execute("COMMIT")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Raise SQLite's errors as `StoreError`, with the place and what to do about it."""
    try:
        yield
    except sqlite3.Error as error:
        advice = _ADVICE.get(_code(error), "Set ICM_CACHE_DIR to another folder, and run again.")
        raise StoreError(f"the score store {path} failed: {error}. {advice}") from error


def _code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code, or -1 where the error is Python's own."""
    code = getattr(error, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else -1


_DAMAGED = (
    "The file is damaged: move it away and run again (its answers are asked again). The files "
    "beside it that end in -wal and -shm belong to it."
)
_ADVICE = {
    sqlite3.SQLITE_NOTADB: _DAMAGED,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_FULL: "Make room on the disk, then run again: what was stored is kept.",
    sqlite3.SQLITE_READONLY: "Make the file and its folder writable, or set ICM_CACHE_DIR.",
    sqlite3.SQLITE_BUSY: "Another process has held it for too long: end that one, and run again.",
}
