import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from table_endpoint import table_answer

from icm_client.endpoints.protocol import Answer, Exactness, Read
from icm_client.errors import StoreError
from icm_client.scoring.prompts import score_keys, token_keys
from icm_client.scoring.store import SCHEMA_VERSION, ScoreStore, default_path

READS = [Read((1, 2, number), (5, 7)) for number in range(1200)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "scores.sqlite3"


def test_returns_what_was_stored_bit_for_bit_after_reopening(path: Path) -> None:
    answers = [table_answer(read) for read in READS]
    with ScoreStore.open(path) as store:
        store.put_many("f", READS[::2], answers[::2])
    with ScoreStore.open(path) as store:
        found = store.get_many("f", READS)
    assert found[::2] == answers[::2]
    assert found[1::2] == [None] * 600


def test_a_file_for_its_owner_only(path: Path) -> None:
    with ScoreStore.open(path) as store:
        store.put_many("f", READS[:1], [table_answer(READS[0])])
        modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert modes == dict.fromkeys(
        ["scores.sqlite3", "scores.sqlite3-wal", "scores.sqlite3-shm"], 0o600
    )


def test_every_part_of_a_question_is_in_its_key() -> None:
    keys = [
        *score_keys("f", [Read((1, 2, 3), (4,)), Read((1, 2), (3, 4)), Read((2, 3), (1, 4))]),
        *score_keys("g", [Read((1, 2, 3), (4,))]),
        *score_keys("", [Read((), ())]),
        *token_keys("f", ["a", ""], add_special=True),
        *token_keys("f", ["a", ""], add_special=False),
    ]
    assert len(set(keys)) == len(keys)


def test_another_fingerprint_is_another_server(path: Path) -> None:
    with ScoreStore.open(path) as store:
        store.put_many("f", READS[:1], [table_answer(READS[0])])
        store.put_tokens("f", ["a"], [(3,)], add_special=False)
        assert store.get_many("g", READS[:1]) == [None]
        assert store.get_tokens("g", ["a"], add_special=False) == [None]


def test_the_first_answer_stands(path: Path) -> None:
    first, second = (Answer((p, p), Exactness.EXACT) for p in (-1.0, -1.05))
    with ScoreStore.open(path) as mine, ScoreStore.open(path) as other:
        other.put_many("f", READS[:1], [first])
        assert mine.put_many("f", READS[:2], [second, second]) == [first, second]
        assert mine.get_many("f", READS[:2]) == [first, second]


def test_what_is_no_log_prob_never_enters(path: Path) -> None:
    with ScoreStore.open(path) as store:
        for bad in [(-1.0,), (-1.0, float("nan")), (-1.0, 0.1), (-1.0, float("-inf"))]:
            with pytest.raises(ValueError, match="no log-probs"):
                store.put_many("f", READS[:1], [Answer(bad, Exactness.EXACT)])


@pytest.mark.parametrize("column", ["log_probs", "exactness", "checksum"])
def test_a_damaged_row_is_missing_and_can_be_replaced(path: Path, column: str) -> None:
    answer = table_answer(READS[0])
    with ScoreStore.open(path) as store:
        store.put_many("f", READS[:2], [answer, table_answer(READS[1])])
        flipped = {
            "log_probs": "zeroblob(16)",
            "exactness": "CAST(x'ff' AS TEXT)",
            "checksum": "checksum + 1",
        }[column]
        (key,) = score_keys("f", READS[:1])
        store._db.execute(f"UPDATE scores SET {column} = {flipped} WHERE key = ?", [key])  # noqa: S608
        assert store.get_many("f", READS[:2]) == [None, table_answer(READS[1])]
        assert store.put_many("f", READS[:1], [answer]) == [answer]
        assert store.get_many("f", READS[:1]) == [answer]


def test_damaged_token_ids_are_missing(path: Path) -> None:
    with ScoreStore.open(path) as store:
        store.put_tokens("f", ["a", "b\ud800"], [(3, 4), ()], add_special=False)
        assert store.get_tokens("f", ["b\ud800", "a"], add_special=False) == [(), (3, 4)]
        assert store.get_tokens("f", ["a"], add_special=True) == [None]
        store._db.execute("UPDATE tokens SET ids = zeroblob(8) WHERE length(ids) = 8")
        assert store.get_tokens("f", ["a", "b\ud800"], add_special=False) == [None, ()]


def test_threads_that_make_and_fill_one_file(path: Path) -> None:
    failures: list[Exception] = []
    barrier = threading.Barrier(4)

    def fill(start: int) -> None:
        try:
            barrier.wait()
            with ScoreStore.open(path) as store:
                for read in READS[start::2][:200]:
                    store.put_many("f", [read], [table_answer(read)])
        except Exception as error:  # noqa: BLE001 - told to the main thread
            failures.append(error)

    threads = [threading.Thread(target=fill, args=(number % 2,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with ScoreStore.open(path) as store:
        assert store.get_many("f", READS[:400]) == [table_answer(read) for read in READS[:400]]


@pytest.mark.slow
def test_processes_that_make_and_fill_one_file(path: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from icm_client.scoring.store import ScoreStore\n"
        "from icm_client.endpoints.protocol import Answer, Exactness, Read\n"
        "with ScoreStore.open(Path(sys.argv[1])) as store:\n"
        "    for n in range(100):\n"
        "        read = Read((int(sys.argv[2]), n), (5,))\n"
        "        store.put_many('f', [read], [Answer((-1.0 - n,), Exactness.EXACT)])\n"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", program, str(path), str(number)])
        for number in range(3)
    ]
    assert [child.wait(60) for child in children] == [0, 0, 0]
    with ScoreStore.open(path) as store:
        found = store.get_many("f", [Read((p, n), (5,)) for p in range(3) for n in range(100)])
    assert [answer and answer.log_probs for answer in found] == [
        (-1.0 - n,) for _ in range(3) for n in range(100)
    ]


def test_a_file_that_never_was_a_database_stays_where_it_is(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b'{"text": "my rows"}' * 100)
    with pytest.raises(StoreError, match=r"scores\.sqlite3 failed: .*not a score store"):
        ScoreStore.open(path)
    assert path.read_bytes() == b'{"text": "my rows"}' * 100


def test_a_newer_schema_is_left_alone(path: Path) -> None:
    with ScoreStore.open(path) as store:
        store._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(StoreError, match="newer icm-client"):
        ScoreStore.open(path)


@pytest.mark.parametrize("version", [0, 1, SCHEMA_VERSION, SCHEMA_VERSION + 1])
def test_another_programs_database_is_left_alone(path: Path, version: int) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (a)")
        connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="another program"):
        ScoreStore.open(path)
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="ICM_CACHE_DIR"):
        ScoreStore.open(tmp_path / "file" / "scores.sqlite3")


def test_a_full_disk_keeps_what_was_stored(path: Path) -> None:
    answers = [table_answer(read) for read in READS]
    with ScoreStore.open(path) as store:
        store.put_many("f", READS[:10], answers[:10])
        store._db.execute("PRAGMA max_page_count = 5")
        with pytest.raises(StoreError, match="Make room on the disk"):
            store.put_many("f", READS, answers)
        assert store.get_many("f", READS[:11]) == [*answers[:10], None]


def test_a_read_only_file_says_so(path: Path) -> None:
    with ScoreStore.open(path) as store:
        store._db.execute("PRAGMA query_only = 1")
        with pytest.raises(StoreError, match="writable"):
            store.put_tokens("f", ["a"], [(1,)], add_special=False)


def test_a_closed_store_is_a_typed_error(path: Path) -> None:
    store = ScoreStore.open(path)
    store.close()
    with pytest.raises(StoreError):
        store.get_many("f", READS[:1])


def test_the_environment_chooses_the_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ICM_CACHE_DIR", str(tmp_path))
    assert default_path() == tmp_path / "scores.sqlite3"
    monkeypatch.delenv("ICM_CACHE_DIR")
    assert default_path().parts[-2:] == ("icm-client", "scores.sqlite3")
