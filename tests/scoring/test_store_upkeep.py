"""What is in a store, what goes from it, and how it travels."""

import sqlite3
import struct
import time
from datetime import timedelta
from pathlib import Path

import orjson
import pytest
from table_endpoint import table_answer
from test_store_versions import write_version_1

from icm_client.endpoints.protocol import Answer, Exactness, Read, ServerIdentity
from icm_client.errors import InputError, StoreError
from icm_client.scoring.store import ScoreStore
from icm_client.scoring.store_file import checksum
from icm_client.scoring.store_transfer import export_store, import_store
from icm_client.scoring.store_upkeep import check, describe, prune

READS = [Read((1, 2, number), (5, 7)) for number in range(1300)]
ANSWERS = [table_answer(read) for read in READS]
YEAR_S = 365 * 86_400


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "scores.sqlite3"


@pytest.fixture
def full(path: Path) -> Path:
    """1,000 answers of a model `old`, a year of age; 300 of `new`, and 100 of a nameless server."""
    with ScoreStore.open(path) as store:
        store.record_server(ServerIdentity("vllm", "old", 100, "f"))
        store.put_many("f", READS[:1000], ANSWERS[:1000])
        store.put_tokens("f", ["a", "b"], [(3, 4), ()], add_special=True)
        for table in ("scores", "tokens"):
            store._db.execute(f"UPDATE {table} SET stored_at = stored_at - {YEAR_S}")  # noqa: S608
        store.record_server(ServerIdentity("llama.cpp", "new", 100, "g"))
        store.put_many("g", READS[1000:], ANSWERS[1000:])
        store.put_many("h", READS[:100], ANSWERS[:100])
    return path


def rows(path: Path) -> list[list[tuple[object, ...]]]:
    connection = sqlite3.connect(path)
    try:
        return [
            connection.execute(
                f"SELECT key, {parts}, checksum, fingerprint, model, stored_at FROM {table} "  # noqa: S608
                "LEFT JOIN servers ON server = id ORDER BY key"
            ).fetchall()
            for table, parts in (("scores", "log_probs, exactness"), ("tokens", "ids"))
        ]
    finally:
        connection.close()


def test_info_has_the_server_and_the_age_of_the_answers(full: Path) -> None:
    found = describe(full)
    assert (found.scores, found.texts) == (1400, 2)
    assert found.bytes >= full.stat().st_size
    assert [(s.fingerprint, s.kind, s.model, s.scores, s.texts) for s in found.servers] == [
        ("f", "vllm", "old", 1000, 2),
        ("g", "llama.cpp", "new", 300, 0),
        ("h", None, None, 100, 0),
    ]
    year = time.strftime("%Y-%m", time.gmtime(time.time() - YEAR_S))
    assert (found.servers[0].newest or "").startswith(year)
    assert (found.servers[1].oldest or "") > (found.servers[0].newest or "")


@pytest.mark.parametrize(
    ("older_than", "model", "gone"),
    [
        (timedelta(days=30), None, (1000, 2)),
        (timedelta(days=800), None, (0, 0)),
        (None, "new", (300, 0)),
        (timedelta(days=30), "new", (0, 0)),
        (timedelta(days=30), "old", (1000, 2)),
    ],
)
def test_pruning_says_what_it_will_drop_and_drops_that(
    full: Path, older_than: timedelta | None, model: str | None, gone: tuple[int, int]
) -> None:
    before = rows(full)
    said = prune(full, older_than=older_than, model=model)
    assert (said.scores, said.texts) == gone
    assert said.scores_left == 1400 - gone[0]
    assert not said.done
    assert rows(full) == before
    size = full.stat().st_size
    done = prune(full, older_than=older_than, model=model, dry_run=False)
    assert (done.scores, done.texts, done.scores_left) == (*gone, 1400 - gone[0])
    assert done.done
    left = describe(full)
    assert (left.scores, left.texts) == (1400 - gone[0], 2 - gone[1])
    if gone[0] == 1000:
        assert full.stat().st_size < size / 2, "the file gets smaller"
    with ScoreStore.open(full) as store:
        kept = store.get_many("h", READS[:100])
    assert kept == ANSWERS[:100]
    assert check(full).whole


def test_a_model_that_is_not_there_is_refused(full: Path) -> None:
    with pytest.raises(InputError, match=r"there are 'new', 'old'. Did you mean 'new'"):
        prune(full, model="nww")
    with pytest.raises(ValueError, match="say what to drop"):
        prune(full)


def test_no_store_is_made_by_looking_at_it(path: Path) -> None:
    for look in (describe, check, lambda store: export_store(store, path.with_name("out"))):
        with pytest.raises(InputError, match="no score store at"):
            look(path)
    assert not path.exists()


def test_a_store_travels_as_lines_bit_for_bit(full: Path, tmp_path: Path) -> None:
    lines, copy = tmp_path / "lines.jsonl", tmp_path / "copy.sqlite3"
    out = export_store(full, lines)
    assert (out.scores, out.texts, out.damaged) == (1400, 2, 0)
    assert lines.stat().st_mode & 0o777 == 0o600
    back = import_store(copy, lines)
    assert (back.scores, back.texts, back.there, back.damaged) == (1400, 2, 0, 0)
    assert rows(copy) == rows(full)
    again = import_store(copy, lines)
    assert (again.scores, again.texts, again.there) == (0, 0, 1402)
    with pytest.raises(InputError, match="File exists"):
        export_store(full, lines)


def test_a_store_travels_as_a_file(full: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.sqlite3"
    assert import_store(copy, full).scores == 1400
    assert rows(copy) == rows(full)
    with pytest.raises(InputError, match="the store itself"):
        import_store(full, full)


def test_a_store_of_version_1_travels_and_stays_what_it_is(path: Path, tmp_path: Path) -> None:
    old = tmp_path / "old.sqlite3"
    write_version_1(old)
    before = old.read_bytes()
    assert import_store(path, old).scores == 50
    assert old.read_bytes() == before
    with ScoreStore.open(path) as store:
        assert store.get_many("f", READS[:50]) == ANSWERS[:50]


def test_the_first_answer_stands_and_a_damaged_one_does_not(full: Path, path: Path) -> None:
    other = path.with_name("other.sqlite3")
    mine = Answer((-1.0, -2.0), Exactness.EXACT)
    with ScoreStore.open(other) as store:
        store.put_many("f", READS[:2], [mine, mine])
        store._db.execute(
            "UPDATE scores SET log_probs = zeroblob(16) WHERE key = (SELECT max(key) FROM scores)"
        )
        standing = [answer == mine for answer in store.get_many("f", READS[:2])]
    assert import_store(other, full).there == 1
    with ScoreStore.open(other) as store:
        found = store.get_many("f", READS[:2])
    assert found == [
        mine if mine_stands else table_answer(read)
        for mine_stands, read in zip(standing, READS, strict=False)
    ]


def changed(lines: list[dict[str, object]], kind: str) -> list[dict[str, object]]:
    score = next(line for line in lines if "score" in line)
    match kind:
        case "another number":
            score["log_probs"] = [-1.0, -1.0]
        case "positive":
            score["log_probs"] = [0.5, -1.0]
        case "another key":
            score["score"] = "00" * 16
        case "no number":
            score["log_probs"] = [None]
        case "no lines":
            return lines[1:]
        case "newer":
            lines[0]["icm_client_store"] = 99
    return lines


@pytest.mark.parametrize("kind", ["another number", "positive", "another key"])
def test_a_row_that_was_changed_on_the_way_is_left_out(
    full: Path, tmp_path: Path, kind: str
) -> None:
    lines, copy = tmp_path / "lines.jsonl", tmp_path / "copy.sqlite3"
    export_store(full, lines)
    records = changed([orjson.loads(line) for line in lines.read_bytes().splitlines()], kind)
    lines.write_bytes(b"\n".join(map(orjson.dumps, records)))
    back = import_store(copy, lines)
    assert (back.scores, back.damaged) == (1399, 1)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("no number", "lines.jsonl:2: this line is not a row of a score store"),
        ("no lines", "neither a score store nor"),
        ("newer", "written by a newer icm-client"),
    ],
)
def test_a_file_that_is_no_store_is_refused(
    full: Path, tmp_path: Path, kind: str, said: str
) -> None:
    lines, copy = tmp_path / "lines.jsonl", tmp_path / "copy.sqlite3"
    export_store(full, lines)
    records = changed([orjson.loads(line) for line in lines.read_bytes().splitlines()], kind)
    lines.write_bytes(b"\n".join(map(orjson.dumps, records)))
    with pytest.raises(InputError, match=said):
        import_store(copy, lines)


def test_a_checksum_that_was_made_to_fit_does_not_make_a_score(path: Path, tmp_path: Path) -> None:
    """A hand-made line may carry the right checksum over what is no log-prob."""
    key, blob = bytes(16), struct.pack("<d", 0.5)
    line = {
        "score": key.hex(),
        "log_probs": [0.5],
        "exactness": "exact",
        "checksum": checksum((key, blob, b"exact")),
    }
    lines = tmp_path / "lines.jsonl"
    lines.write_bytes(orjson.dumps({"icm_client_store": 2}) + b"\n" + orjson.dumps(line) + b"\n")
    assert import_store(path, lines).damaged == 1


def test_files_that_cannot_be_read_or_written(full: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        import_store(full, tmp_path / "nothing")
    with pytest.raises(InputError, match="cannot be written"):
        export_store(full, tmp_path / "no" / "folder")
    foreign = tmp_path / "foreign.sqlite3"
    connection = sqlite3.connect(foreign)
    connection.execute("CREATE TABLE theirs (a)")
    connection.close()
    with pytest.raises(StoreError, match="another program"):
        describe(foreign)
    with pytest.raises((StoreError, InputError)):
        import_store(full, foreign)
