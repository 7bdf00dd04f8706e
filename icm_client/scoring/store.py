"""The score store: every answer of every server, in one SQLite file.

It is the checkpoint of every search (a search repeated against a full store asks the server
nothing), so three rules hold:

* A key covers everything that can change the answer: the server's fingerprint, the wanted ids and
  the prompt's ids.
* The first answer stands. A server's answers to one question differ by up to about 0.06 nat, so
  where another process stored one meanwhile, that one is used: a replay reads what a run used.
* A damaged row is a missing row. Each carries a checksum; a row that does not match it is asked
  again and replaced. A damaged file is set aside, and what can be read of it is kept.

Calls block; they take microseconds a row, no longer than it takes to send the question.
"""

import math
import os
import sqlite3
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Self, TypeVar

from icm_client.cache import cache_folder
from icm_client.endpoints.protocol import Answer, Exactness, ServerIdentity, TokenIds
from icm_client.errors import StoreError
from icm_client.scoring.prompts import Asked, pack_ids, score_keys, token_keys, unpack_ids
from icm_client.scoring.store_file import (
    BROKEN,
    SCHEMA_VERSION,
    SCORES,
    TABLES,
    TOKENS,
    checksum,
    connect,
    explained,
    is_damage,
    is_whole,
    network_warning,
    rows_of,
    server_number,
    transaction,
)
from icm_client.scoring.store_rows import may_be_set_aside, set_aside

__all__ = ["SCHEMA_VERSION", "ScoreStore", "default_path", "open_store"]

_Found = TypeVar("_Found")


def default_path() -> Path:
    """Return where scores are kept: `scores.sqlite3` in `ICM_CACHE_DIR` or the user's cache."""
    return cache_folder() / "scores.sqlite3"


class ScoreStore:
    """Scores and token ids in one SQLite file, shared safely by several processes.

    Made with `ScoreStore.open`; one object belongs to the thread that opened it. Every method
    raises `StoreError` if SQLite cannot read or write (disk full, permissions, or another process
    that held the file for more than 10 seconds). A file that turns out to be damaged is set aside
    and the call answered from a new one.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path, notices: list[str]) -> None:
        self._db = connection
        self._file = _inode(path)
        self._notices = notices
        self._monotonic_to_epoch_s = time.time() - time.monotonic()
        self.path = path
        self.answers = 0
        """How many answers it has returned or stored since it was opened."""

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the store at `path`; make it, and its folder, if they are not there.

        A new file can be read and written by its owner only: token ids of private rows are in it.

        Raises:
            StoreError: the file cannot be made or opened, was written by a newer version, or is
                another program's.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise StoreError(
                f"cannot open the score store {path}: {error.strerror}. "
                "Set ICM_CACHE_DIR to a folder that can be written."
            ) from error
        notices = list(filter(None, [network_warning(path)]))
        with explained(path):
            found = _inode(path)
            try:
                connection = connect(path)
            except BROKEN as error:
                if not is_damage(error) or not may_be_set_aside(path):
                    raise
                notices += set_aside(path, found)
                connection = connect(path)
        return cls(connection, path, notices)

    @property
    def notices(self) -> tuple[str, ...]:
        """Sentences that the user should see: a file set aside, a network file system."""
        return tuple(self._notices)

    def close(self) -> None:
        """Close the file. A closed store raises `StoreError` when used."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def now(self) -> float:
        """Return the moment that answers are dated with, in seconds since the epoch.

        The wall clock's when the store was opened, and from then on it goes on evenly: that clock
        may be set in mid-run, and `withdraw` must still find what was stored since some moment.
        """
        return self._monotonic_to_epoch_s + time.monotonic()

    def record_server(self, identity: ServerIdentity) -> None:
        """Record the kind and the model of the server, for upkeep of the store."""

        def record() -> None:
            number = server_number(self._db, identity.fingerprint)
            self._db.execute(
                "UPDATE servers SET kind = ?, model = ? WHERE id = ?",
                [identity.kind, identity.model, number],
            )

        self._done(record, writing=True)

    def get_many(self, fingerprint: str, reads: Sequence[Asked]) -> list[Answer | None]:
        """Return the stored answers of the server `fingerprint`, aligned with `reads`.

        None stands for a read without an answer, or with a damaged one.
        """
        keys = score_keys(fingerprint, reads)
        found = self._done(lambda: self._stored_answers(keys, reads))
        self.answers += sum(answer is not None for answer in found)
        return found

    def put_many(
        self, fingerprint: str, reads: Sequence[Asked], answers: Sequence[Answer]
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

        def put() -> list[Answer]:
            standing, rows = [], []
            server, now = server_number(self._db, fingerprint), int(self.now())
            stored = self._stored_answers(keys, reads)
            for key, earlier, answer in zip(keys, stored, answers, strict=True):
                standing.append(answer if earlier is None else earlier)
                if earlier is None:
                    blob = struct.pack(f"<{len(answer.log_probs)}d", *answer.log_probs)
                    cells = (key, blob, answer.exactness.value.encode())
                    rows.append((*cells, checksum(cells), server, now))
            self._db.executemany(SCORES.insert, rows)
            return standing

        standing = self._done(put, writing=True)
        self.answers += len(standing)
        return standing

    def withdraw(self, fingerprint: str, since: float) -> int:
        """Drop the answers of the server `fingerprint` that were stored at `since` or later.

        Those of other processes too: they asked the same server.

        Args:
            fingerprint: of the server that the answers are stored under.
            since: seconds since the epoch, by this store's `now`; answers are dated to the
                second, so those of the second in which it lies go too.

        Returns:
            How many answers.
        """

        def drop() -> int:
            return self._db.execute(
                "DELETE FROM scores WHERE server = ? AND stored_at >= ?",
                [server_number(self._db, fingerprint), math.floor(since)],
            ).rowcount

        return self._done(drop, writing=True)

    def forget(self, fingerprints: Sequence[str]) -> int:
        """Drop the answers and token ids of the servers with these fingerprints.

        Those whose server is not known (from a file of version 1) go too.

        Returns:
            How many rows.
        """

        def drop() -> int:
            numbers = [server_number(self._db, name) for name in fingerprints]
            return sum(
                self._db.execute(
                    f"DELETE FROM {table.name} WHERE server = ? OR server IS NULL",  # noqa: S608 - our own names
                    [number],
                ).rowcount
                for number in numbers
                for table in TABLES
            )

        return self._done(drop, writing=True)

    def get_tokens(
        self, fingerprint: str, texts: Sequence[str], *, add_special: bool
    ) -> list[TokenIds | None]:
        """Return the stored token ids, aligned with `texts`; None where they are not stored."""
        keys = token_keys(fingerprint, texts, add_special=add_special)
        rows = self._done(lambda: list(rows_of(self._db, TOKENS, keys)))
        found = {key: unpack_ids(ids) for key, ids, sum_ in rows if is_whole((key, ids, sum_))}
        return [found.get(key) for key in keys]

    def put_tokens(
        self, fingerprint: str, texts: Sequence[str], ids: Sequence[TokenIds], *, add_special: bool
    ) -> None:
        """Store the token ids of `texts`, aligned with them, in one transaction."""
        keys = token_keys(fingerprint, texts, add_special=add_special)

        def put() -> None:
            server, now = server_number(self._db, fingerprint), int(self.now())
            rows = zip(keys, map(pack_ids, ids), strict=True)
            self._db.executemany(
                TOKENS.insert, [(*row, checksum(row), server, now) for row in rows]
            )

        self._done(put, writing=True)

    def _stored_answers(self, keys: Sequence[bytes], reads: Sequence[Asked]) -> list[Answer | None]:
        found = {row[0]: row for row in rows_of(self._db, SCORES, keys) if is_whole(row)}
        return [
            None if (row := found.get(key)) is None else _unpack(row[1], row[2], read)
            for key, read in zip(keys, reads, strict=True)
        ]

    def _done(self, work: Callable[[], _Found], *, writing: bool = False) -> _Found:
        """Return what `work` returns, all of it in one transaction where it writes.

        If the file is damaged, it works on a new one.
        """
        renewed = False
        with explained(self.path):
            while True:
                try:
                    with transaction(self._db) if writing else nullcontext():
                        return work()
                except BROKEN as error:
                    if renewed or not is_damage(error):
                        raise
                self._db.close()
                self._notices += set_aside(self.path, self._file)
                self._db = connect(self.path)
                self._file = _inode(self.path)
                renewed = True


def _inode(path: Path) -> int:
    return path.stat().st_ino


def _unpack(log_probs: bytes, exactness: bytes, read: Asked) -> Answer | None:
    if len(log_probs) != 8 * len(read.wanted):
        return None
    try:
        kind = Exactness(exactness.decode())
    except ValueError:  # a kind that only a later version knows
        return None
    return Answer(struct.unpack(f"<{len(read.wanted)}d", log_probs), kind)


def _fits(log_probs: Sequence[float], read: Asked) -> bool:
    return len(log_probs) == len(read.wanted) and all(-math.inf < p <= 0 for p in log_probs)


@contextmanager
def open_store(store: ScoreStore | str | os.PathLike[str] | None) -> Iterator[ScoreStore]:
    """Open the store that a user named, or the user's own; close what was opened here."""
    if isinstance(store, ScoreStore):
        yield store
        return
    with ScoreStore.open(Path(store) if store is not None else default_path()) as opened:
        yield opened
