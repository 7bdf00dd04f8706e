"""Write a score store as JSON Lines; add such a file, or another store, to a store.

The first line names the format; the others are rows:

    {"icm_client_store": 2}
    {"score": "KEY", "log_probs": [-0.1, -2.4], "exactness": "exact", "checksum": 123,
     "server": "FINGERPRINT", "kind": "vllm", "model": "NAME", "stored_at": 1700000000}
    {"text": "KEY", "ids": [2, 17], "checksum": 123, "server": "FINGERPRINT", ...}

Numbers come back bit for bit: JSON holds the shortest decimal that reads as the same float64, and
the checksum is over the bits.
"""

import os
import struct
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from icm_client.errors import InputError
from icm_client.scoring.prompts import pack_ids, unpack_ids
from icm_client.scoring.store import ScoreStore
from icm_client.scoring.store_file import (
    SCHEMA_VERSION,
    SCORES,
    TABLES,
    TOKENS,
    Table,
    connect_to_read,
    explained,
)
from icm_client.scoring.store_rows import Server, StoredRow, is_sound, merge, stored_rows
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
    """Write every whole row of the store at `path` as JSON Lines; `to` must not exist.

    Only the owner can read the file, as with the store.

    Raises:
        InputError: there is no store at `path`, or `to` exists or cannot be written.
        StoreError: the store cannot be read.
    """
    counts, damaged = {table.name: 0 for table in TABLES}, 0
    with opened(path) as connection:
        try:
            descriptor = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise InputError(f"{to}: cannot be written: {error.strerror}") from None
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(orjson.dumps({_FORMAT: SCHEMA_VERSION}) + b"\n")
                for table in TABLES:
                    for row in stored_rows(connection, table):
                        if is_sound(table, row.cells):
                            counts[table.name] += 1
                            file.write(orjson.dumps(_record(table, row)) + b"\n")
                        else:
                            damaged += 1
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
            first = file.readline(200)
    except OSError as error:
        raise InputError(f"{source}: cannot be read: {error.strerror}") from None
    is_store = first.startswith(_SQLITE)
    if not is_store:
        _check_format(source, first)
    ScoreStore.open(path).close()
    with opened(path) as connection:
        scores, texts = (
            merge(connection, table, (_from_store if is_store else _from_lines)(source, table))
            for table in TABLES
        )
    return Transfer(
        path=str(path),
        scores=scores.added,
        texts=texts.added,
        there=scores.there + texts.there,
        damaged=scores.damaged + texts.damaged,
    )


def _record(table: Table, row: StoredRow) -> dict[str, object]:
    key, packed, *_ = row.cells
    if table is SCORES:
        parts: dict[str, object] = {
            "log_probs": struct.unpack(f"<{len(packed) // 8}d", packed),
            "exactness": row.cells[2].decode("utf-8", "replace"),
        }
    else:
        parts = {"ids": unpack_ids(packed)}
    fingerprint, kind, model = row.server
    return {
        _NAMES[table.name]: key.hex(),
        **parts,
        "checksum": row.cells[-1],
        "server": fingerprint,
        "kind": kind,
        "model": model,
        "stored_at": row.stored_at,
    }


def _check_format(source: Path, first: bytes) -> None:
    try:
        version = orjson.loads(first)[_FORMAT]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise InputError(
            f"{source}: this is neither a score store nor a file that icm-client store export "
            "wrote; name one of these"
        ) from None
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise InputError(
            f"{source}: this was written by a newer icm-client; upgrade yours (schema {version}, "
            f"this one knows {SCHEMA_VERSION})"
        )


def _from_store(source: Path, table: Table) -> Iterator[StoredRow]:
    with explained(source), closing(connect_to_read(source)) as connection:
        yield from stored_rows(connection, table)


def _from_lines(source: Path, table: Table) -> Iterator[StoredRow]:
    name = _NAMES[table.name]
    with source.open("rb") as file:
        next(file)
        for number, line in enumerate(file, start=2):
            try:
                record = orjson.loads(line)
                if name not in record:
                    continue
                cells = (bytes.fromhex(record[name]), *_parts(table, record), record["checksum"])
                origin = map(record.get, ("server", "kind", "model"))
                server = Server(*(text if isinstance(text, str) else None for text in origin))
                row = StoredRow(cells, server, record.get("stored_at"))
            except (ValueError, KeyError, TypeError, AttributeError, struct.error):
                raise InputError(
                    f"{source}:{number}: this line is not a row of a score store; the rows before "
                    "it have been added"
                ) from None
            yield row


def _parts(table: Table, record: dict[str, Any]) -> tuple[bytes, ...]:
    if table is TOKENS:
        return (pack_ids(tuple(record["ids"])),)
    log_probs = [float(p) for p in record["log_probs"]]
    return struct.pack(f"<{len(log_probs)}d", *log_probs), record["exactness"].encode()
