"""Files of every older version: their answers come out bit for bit."""

import sqlite3
import struct
import subprocess
import sys
import time
from pathlib import Path
from zlib import crc32

import pytest
from table_endpoint import table_answer

from icm_client.endpoints.protocol import Read, ServerIdentity
from icm_client.scoring.prompts import pack_ids, score_keys, token_keys
from icm_client.scoring.store import SCHEMA_VERSION, ScoreStore
from icm_client.scoring.store_upkeep import describe, prune

READS = [Read((1, 2, number), (5, 7)) for number in range(50)]

VERSION_1 = """
CREATE TABLE scores (key BLOB PRIMARY KEY, log_probs BLOB NOT NULL, exactness TEXT NOT NULL,
    checksum INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE tokens (key BLOB PRIMARY KEY, ids BLOB NOT NULL, checksum INTEGER NOT NULL)
    WITHOUT ROWID;
PRAGMA user_version = 1;
"""


def write_version_1(path: Path) -> None:
    """As icm-client 0.1.0 wrote it."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript(VERSION_1)
    for key, read in zip(score_keys("f", READS), READS, strict=True):
        blob = struct.pack("<2d", *table_answer(read).log_probs)
        checksum = crc32(b"exact", crc32(blob, crc32(key)))
        connection.execute("INSERT INTO scores VALUES (?, ?, 'exact', ?)", [key, blob, checksum])
    (key,) = token_keys("f", ["a"], add_special=True)
    ids = pack_ids((2, 9))
    connection.execute("INSERT INTO tokens VALUES (?, ?, ?)", [key, ids, crc32(ids, crc32(key))])
    connection.commit()
    connection.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "scores.sqlite3"


def content(path: Path) -> list[list[tuple[object, ...]]]:
    connection = sqlite3.connect(path)
    try:
        return [
            connection.execute(f"SELECT {columns} ORDER BY key").fetchall()
            for columns in (
                "key, log_probs, exactness, checksum FROM scores",
                "key, ids, checksum FROM tokens",
            )
        ]
    finally:
        connection.close()


def test_a_file_of_version_1_keeps_every_answer(path: Path) -> None:
    write_version_1(path)
    before = content(path)
    with ScoreStore.open(path) as store:
        assert store.get_many("f", READS) == [table_answer(read) for read in READS]
        assert store.get_tokens("f", ["a"], add_special=True) == [(2, 9)]
        assert store._db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        assert store.notices == ()
    assert content(path) == before
    with ScoreStore.open(path) as store:  # a second time there is nothing to do
        new = Read((3,), (5,))
        store.put_many("f", [new, READS[0]], [table_answer(new), table_answer(READS[0])])
        assert store.get_many("f", [new]) == [table_answer(new)]


def test_what_version_1_did_not_record_is_unknown(path: Path) -> None:
    write_version_1(path)
    before = int(time.time())
    with ScoreStore.open(path) as store:
        store.record_server(ServerIdentity("vllm", "m", 100, "g"))
        store.put_many("g", READS[:3], [table_answer(read) for read in READS[:3]])
    old, new = describe(path).servers
    assert (old.fingerprint, old.model, old.scores, old.texts) == (None, None, 50, 1)
    assert (new.fingerprint, new.model, new.scores, new.texts) == ("g", "m", 3, 0)
    assert old.oldest is not None
    assert old.oldest >= time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(before))
    assert prune(path, model="m").scores == 3


def test_processes_that_bring_one_file_up_to_date_at_once(path: Path) -> None:
    write_version_1(path)
    program = (
        "import sys; from pathlib import Path\n"
        "from icm_client.scoring.store import ScoreStore\n"
        "ScoreStore.open(Path(sys.argv[1])).close()\n"
    )
    children = [subprocess.Popen([sys.executable, "-c", program, str(path)]) for _ in range(3)]
    assert [child.wait(60) for child in children] == [0, 0, 0]
    with ScoreStore.open(path) as store:
        assert store.get_many("f", READS) == [table_answer(read) for read in READS]
