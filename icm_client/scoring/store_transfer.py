"""A score store as JSON Lines, and the way back; or from one store's file into another.

The first line names the format; the others are rows:

    {"icm_client_store": 2}
    {"score": "KEY", "log_probs": [-0.1, -2.4], "exactness": "exact", "checksum": 123,
     "server": "FINGERPRINT", "kind": "vllm", "model": "NAME", "stored_at": 1700000000}
    {"text": "KEY", "ids": [2, 17], "checksum": 123, "server": "FINGERPRINT", ...}

Numbers come back bit for bit: JSON holds the shortest decimal that reads as the same float64, and
the checksum is over the bits.
"""

import math
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from icm_client.errors import InputError
from icm_client.scoring.prompts import DIGEST_BYTES, pack_ids, unpack_ids
from icm_client.scoring.store import ScoreStore
from icm_client.scoring.store_file import (
    SCHEMA_VERSION,
    SCORES,
    TOKENS,
    Table,
    connect_to_read,
    explained,
    is_whole,
)
from icm_client.scoring.store_rows import Merged, Server, StoredRow, merge, stored_rows
from icm_client.scoring.store_upkeep import opened

_FORMAT = "icm_client_store"
_SQLITE = b"SQLite format 3\0"
_NAMES = {SCORES.name: "score", TOKENS.name: "text"}


@dataclass(frozen=True, slots=True)
class Transfer:
    """What was copied.

    Attributes:
        path: of the store.
        scores: answers that were written, or were new.
        texts: texts that were written, or were new.
        there: rows that the store had already; the first answer stands.
        damaged: rows that do not match their checksum, or hold what is no log-prob; left out.
    """

    path: str
    scores: int
    texts: int
    there: int
    damaged: int


def export_store(path: Path, to: Path) -> Transfer:
    """Write every whole row of the store at `path` as JSON Lines; `to` must not be there.

    The file can be read by its owner only, as the store.

    Raises:
        InputError: there is no store at `path`, or `to` is there or cannot be written.
        StoreError: the store cannot be read.
    """
    counts, damaged = {SCORES.name: 0, TOKENS.name: 0}, 0
    with opened(path) as connection:
        try:
            descriptor = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise InputError(f"{to}: cannot be written: {error.strerror}") from None
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(orjson.dumps({_FORMAT: SCHEMA_VERSION}) + b"\n")
                for table in (SCORES, TOKENS):
                    for stored in stored_rows(connection, table):
                        if not _is_sound(table, stored.row):
                            damaged += 1
                            continue
                        counts[table.name] += 1
                        file.write(orjson.dumps(_record(table, stored)) + b"\n")
        except BaseException as error:
            to.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise InputError(f"{to}: cannot be written: {error.strerror}") from None
            raise
    return Transfer(str(path), counts[SCORES.name], counts[TOKENS.name], 0, damaged)


def import_store(path: Path, source: Path) -> Transfer:
    """Add the rows of `source`, JSON Lines or another store's file, to the store at `path`.

    An answer that is there stands. The store is made where there is none.

    Raises:
        InputError: `source` cannot be read, or is neither.
        StoreError: one of the stores cannot be read or written.
    """
    if source.exists() and path.exists() and source.samefile(path):
        raise InputError(f"{source}: this is the store itself; name another file")
    try:
        with source.open("rb") as file:
            is_store = file.read(len(_SQLITE)) == _SQLITE
    except OSError as error:
        raise InputError(f"{source}: cannot be read: {error.strerror}") from None
    if not is_store:
        _check_format(source)
    ScoreStore.open(path).close()
    with opened(path) as connection:
        found = {}
        unsound = [0]
        for table in (SCORES, TOKENS):
            rows = _from_store(source, table) if is_store else _from_lines(source, table)
            found[table.name] = merge(connection, table, _sound(table, rows, unsound))
    total = Merged(*map(sum, zip(*found.values(), strict=True)))
    return Transfer(
        path=str(path),
        scores=found[SCORES.name].added,
        texts=found[TOKENS.name].added,
        there=total.there,
        damaged=total.damaged + unsound[0],
    )


def _sound(table: Table, rows: Iterator[StoredRow], unsound: list[int]) -> Iterator[StoredRow]:
    """Yield the rows that may be stored, and count the others."""
    for stored in rows:
        if _is_sound(table, stored.row):
            yield stored
        else:
            unsound[0] += 1


def _is_sound(table: Table, row: tuple[Any, ...]) -> bool:
    """Whether the row is whole, and a score is one: a file from elsewhere can hold anything."""
    if not is_whole(row) or len(row[0]) != DIGEST_BYTES:
        return False
    if table is not SCORES:
        return len(row[1]) % 4 == 0
    packed = row[1]
    if not packed or len(packed) % 8:
        return False
    return all(-math.inf < p <= 0 for (p,) in struct.iter_unpack("<d", packed))


def _record(table: Table, stored: StoredRow) -> dict[str, object]:
    key, *parts, total = stored.row
    record: dict[str, object] = {_NAMES[table.name]: key.hex()}
    if table is SCORES:
        packed, exactness = parts
        record["log_probs"] = struct.unpack(f"<{len(packed) // 8}d", packed)
        record["exactness"] = exactness.decode("utf-8", "replace")
    else:
        record["ids"] = unpack_ids(parts[0])
    return {
        **record,
        "checksum": total,
        "server": stored.server.fingerprint,
        "kind": stored.server.kind,
        "model": stored.server.model,
        "stored_at": stored.stored_at,
    }


def _check_format(source: Path) -> None:
    with source.open("rb") as file:
        first = file.readline(200)
    try:
        version = orjson.loads(first)[_FORMAT]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise InputError(
            f"{source}: neither a score store nor what icm-client store export writes"
        ) from None
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise InputError(f"{source}: written by a newer icm-client (schema {version}): upgrade")


def _from_store(source: Path, table: Table) -> Iterator[StoredRow]:
    with explained(source), closing(connect_to_read(source)) as connection:
        yield from stored_rows(connection, table)


def _from_lines(source: Path, table: Table) -> Iterator[StoredRow]:
    name = _NAMES[table.name]
    read: Callable[[dict[str, Any]], tuple[Any, ...]] = _score_of if table is SCORES else _text_of
    with source.open("rb") as file:
        next(file)
        for number, line in enumerate(file, start=2):
            try:
                record = orjson.loads(line)
                if name not in record:
                    continue
                row = (bytes.fromhex(record[name]), *read(record), record["checksum"])
                whose = map(_text_or_none, map(record.get, ("server", "kind", "model")))
                stored = StoredRow(row, Server(*whose), record.get("stored_at"))
            except (ValueError, KeyError, TypeError, AttributeError, struct.error):
                raise InputError(
                    f"{source}:{number}: no row of a score store; the rows before it were added"
                ) from None
            yield stored


def _score_of(record: dict[str, Any]) -> tuple[Any, ...]:
    log_probs = [float(p) for p in record["log_probs"]]
    return struct.pack(f"<{len(log_probs)}d", *log_probs), record["exactness"].encode()


def _text_of(record: dict[str, Any]) -> tuple[Any, ...]:
    return (pack_ids(tuple(record["ids"])),)


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) else None
