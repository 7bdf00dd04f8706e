"""A store that was damaged, cut off in mid-transaction, or met a full disk."""

import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from table_endpoint import table_answer

from icm_client.endpoints.protocol import Answer, Read, ServerIdentity
from icm_client.errors import StoreError
from icm_client.scoring.store import ScoreStore
from icm_client.scoring.store_upkeep import check, describe

READS = [Read((1, 2, number), (5, 7)) for number in range(4000)]
ANSWERS = [table_answer(read) for read in READS]
PAGE = 4096


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "scores.sqlite3"


def fill(path: Path) -> None:
    with ScoreStore.open(path) as store:
        store.record_server(ServerIdentity("vllm", "m", 100, "f"))
        store.put_many("f", READS, ANSWERS)
        store.put_tokens("f", ["a"], [(3, 4)], add_special=True)


def overwrite(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def aside(path: Path) -> list[Path]:
    every = path.parent.glob("*.damaged-*")
    return [found for found in every if not found.name.endswith(("-wal", "-shm"))]


def test_a_page_damaged_in_mid_run_is_survived_and_the_other_pages_are_kept(path: Path) -> None:
    fill(path)
    pages = path.stat().st_size // PAGE
    with ScoreStore.open(path) as store:
        overwrite(path, PAGE * (pages // 2), b"\xff" * PAGE)
        found = store.get_many("f", READS)
        assert all(one in (None, right) for one, right in zip(found, ANSWERS, strict=True))
        assert 0 < sum(one is None for one in found) < 200
        (notice,) = store.notices
        assert "was damaged" in notice
        assert "are kept" in notice
        store.put_many("f", READS, ANSWERS)
        assert store.get_many("f", READS) == ANSWERS
    (damaged,) = aside(path)
    assert damaged.name in notice
    assert path.stat().st_mode & 0o777 == 0o600
    assert describe(path).servers[0].model == "m"
    assert check(path).whole


@pytest.mark.parametrize("start", [b"SQLite format 3\0", bytes(16), b"SQLite fOrmat 3\0"])
def test_a_store_whose_beginning_is_damaged_is_set_aside_when_opened(
    path: Path, start: bytes
) -> None:
    path.parent.mkdir()
    path.write_bytes(start + b"\1" * PAGE)
    with ScoreStore.open(path) as store:
        (notice,) = store.notices
        store.put_many("f", READS[:1], ANSWERS[:1])
    (damaged,) = aside(path)
    assert damaged.read_bytes() == start + b"\1" * PAGE
    assert "0 of its entries" in notice


def test_two_clients_meet_the_damage_and_one_sets_the_file_aside(path: Path) -> None:
    fill(path)
    pages = path.stat().st_size // PAGE
    with ScoreStore.open(path) as mine, ScoreStore.open(path) as other:
        overwrite(path, PAGE * (pages // 2), b"\xff" * PAGE)
        assert mine.get_many("f", READS) == other.get_many("f", READS)
        mine.put_many("f", READS, ANSWERS)
        assert other.get_many("f", READS) == ANSWERS
        assert (len(mine.notices), len(other.notices)) == (1, 0)
    assert len(aside(path)) == 1


def test_a_damaged_store_that_cannot_be_set_aside_says_so(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, _target: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    path.parent.mkdir()
    path.write_bytes(b"SQLite format 3\0" + b"\1" * PAGE)
    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(StoreError, match=r"cannot be set aside: .*Permission denied.*Move it away"):
        ScoreStore.open(path)
    assert path.exists()


def right_or_missing(found: list[Answer | None], answers: list[Answer]) -> bool:
    return all(one in (None, right) for one, right in zip(found, answers, strict=True))


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32), flips=st.integers(1, 20))
def test_whatever_bits_flip_an_answer_is_right_or_missing(
    tmp_path_factory: pytest.TempPathFactory, seed: int, flips: int
) -> None:
    path = tmp_path_factory.mktemp("flips") / "scores.sqlite3"
    reads, answers = READS[:300], ANSWERS[:300]
    with ScoreStore.open(path) as store:
        store.put_many("f", reads, answers)
    rng = random.Random(seed)
    content = bytearray(path.read_bytes())
    for _ in range(flips):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    try:
        with ScoreStore.open(path) as store:
            assert right_or_missing(store.get_many("f", reads), answers)
            assert store.put_many("f", reads, answers) == answers
            # A flipped key breaks the file's order: what is behind it may not be found again.
            assert right_or_missing(store.get_many("f", reads), answers)
        check(path, repair=True)
        assert check(path).whole
        with ScoreStore.open(path) as store:
            store.put_many("f", reads, answers)
            assert store.get_many("f", reads) == answers
    except StoreError as error:  # the header's version or a table's name was hit
        assert re.search("move it away|upgrade|run again|writable", str(error))  # noqa: PT017


def test_every_flipped_answer_is_found_by_the_check_and_dropped_by_the_repair(path: Path) -> None:
    fill(path)
    connection = sqlite3.connect(path)
    for (key,) in connection.execute("SELECT key FROM scores LIMIT 7").fetchall():
        (blob,) = connection.execute("SELECT log_probs FROM scores WHERE key = ?", [key]).fetchone()
        flipped = bytes([blob[0] ^ 1]) + blob[1:]
        connection.execute("UPDATE scores SET log_probs = ? WHERE key = ?", [flipped, key])
    connection.execute("UPDATE tokens SET ids = zeroblob(8)")
    connection.commit()
    connection.close()
    found = check(path)
    assert (found.scores, found.bad_scores) == (4000, 7)
    assert (found.texts, found.bad_texts) == (1, 1)
    assert not found.whole
    assert not found.repaired
    assert check(path).bad_scores == 7, "a check alone changes nothing"
    assert check(path, repair=True).repaired
    left = check(path)
    assert left.whole
    assert (left.scores, left.texts) == (3993, 0)


def test_a_damaged_structure_is_reported_and_repaired(path: Path) -> None:
    fill(path)
    overwrite(path, PAGE * (path.stat().st_size // PAGE // 2), b"\xff" * PAGE)
    assert check(path).problems
    assert aside(path) == []
    repaired = check(path, repair=True)
    assert repaired.repaired
    assert repaired.notice is not None
    left = check(path)
    assert left.whole
    assert 3800 < left.scores < 4000


IN_A_TRANSACTION = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_store_damage import ANSWERS, READS
from icm_client.scoring.store import ScoreStore
store = ScoreStore.open(Path(sys.argv[1]))
store.put_many("f", READS[:100], ANSWERS[:100])
store._db.execute("BEGIN IMMEDIATE")
store._db.execute("PRAGMA cache_size = 1")
store._db.execute("UPDATE scores SET log_probs = zeroblob(16)")
print("ready", flush=True)
time.sleep(60)
"""


def test_a_client_killed_in_a_transaction_leaves_the_other_ones_store_whole(path: Path) -> None:
    path.parent.mkdir()
    with ScoreStore.open(path) as mine:
        child = subprocess.Popen(
            [sys.executable, "-c", IN_A_TRANSACTION, str(path), str(Path(__file__).parent)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        assert mine.get_many("f", READS[:100]) == ANSWERS[:100], "readers do not wait"
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
        assert mine.put_many("f", READS, ANSWERS) == ANSWERS
        assert mine.get_many("f", READS) == ANSWERS
    assert check(path).whole


FULL = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_store_damage import ANSWERS, READS
from icm_client.errors import StoreError
from icm_client.scoring.store import ScoreStore
store = ScoreStore.open(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
stored = 0
try:
    for start in range(0, len(READS), 16):
        store.put_many("f", READS[start : start + 16], ANSWERS[start : start + 16])
        stored = start + 16
except StoreError as error:
    print(stored)
    print(error)
"""


def test_a_full_disk_stops_cleanly_and_every_answer_that_was_kept_is_there(path: Path) -> None:
    path.parent.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        check=True,
    )
    stored, message = done.stdout.split("\n", 1)
    assert 0 < int(stored) < len(READS)
    assert "Make room on the disk, then run again: what was stored is kept." in message
    with ScoreStore.open(path) as store:
        assert store.notices == ()
        assert store.get_many("f", READS[: int(stored)]) == ANSWERS[: int(stored)]
        assert store.put_many("f", READS, ANSWERS) == ANSWERS
    assert check(path).whole


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)],  # noqa: S607
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("no tmpfs can be mounted here")
    return folder


def test_a_small_disk_that_fills_up(small_disk: Path) -> None:
    stored: list[int] = []

    def fill_up(store: ScoreStore) -> None:
        for start in range(0, len(READS), 16):
            store.put_many("f", READS[start : start + 16], ANSWERS[start : start + 16])
            stored.append(start + 16)

    try:
        with ScoreStore.open(small_disk / "scores.sqlite3") as store:
            with pytest.raises(StoreError, match="Make room on the disk"):
                fill_up(store)
            assert stored
            assert store.get_many("f", READS[: stored[-1]]) == ANSWERS[: stored[-1]]
    finally:
        subprocess.run(["umount", "-l", str(small_disk)], check=True)  # noqa: S607
