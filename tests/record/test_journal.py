"""The journal after kills, full disks and odd values."""

import os
import resource
import signal
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icm_client.errors import RunError
from icm_client.record.journal import Journal, Tail, read


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def names(path: Path) -> list[str]:
    return [event["event"] for event in read(path)]


def test_events_come_back_in_order_with_their_time_in_utc(path: Path) -> None:
    with Journal.open(path) as journal:
        journal.append("started", seed=3, text="\ud800 \n end")
        journal.append("step", n=1, U=-0.1 + 0.3, nothing=None, whole=[1, {"a": True}])
    first, second = read(path)
    assert list(first)[:2] == ["at", "event"]
    assert datetime.fromisoformat(first["at"]).utcoffset() == timedelta(0)
    assert (first["event"], first["seed"], first["text"]) == ("started", 3, "\ud800 \n end")
    assert second["U"] == -0.1 + 0.3
    assert second["whole"] == [1, {"a": True}]
    assert path.read_bytes().count(b"\n") == 2


def test_a_line_can_be_read_before_the_journal_is_closed(path: Path) -> None:
    journal = Journal.open(path)
    journal.append("started")
    assert names(path) == ["started"]
    journal.close()
    journal.close()
    with pytest.raises(ValueError, match="closed"):
        journal.append("late")


def test_who_follows_a_journal_knows_another_in_its_place(path: Path) -> None:
    tail = Tail(path)
    with Journal.open(path) as journal:
        journal.append("started")
        assert [event["event"] for event in tail.new()] == ["started"]
        journal.append("step")
        assert [event["event"] for event in tail.new()] == ["step"]
    first = path.read_bytes()
    # Longer than the one before, and ext4 may give it the same inode.
    path.write_bytes(first.replace(b'"at":"2', b'"at":"3').replace(b"step", b"finished") * 2)
    names = ["started", "finished"] * 2
    assert [event["event"] for event in tail.new()] == names
    assert tail.count == 4
    assert tail.new() == []


def test_numbers_of_numpy_are_pythons(path: Path) -> None:
    with Journal.open(path) as journal:
        journal.append(
            "step", a=np.float64(0.1), b=np.float32(0.5), c=np.int64(7), d=np.arange(2), e=np.True_
        )
    (event,) = read(path)
    assert [event[name] for name in "abcde"] == [0.1, 0.5, 7, [0, 1], True]


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), np.float32("nan"), {"a": [float("-inf")]}, np.array([np.nan])],
)
def test_nan_and_infinity_are_refused_and_leave_no_trace(path: Path, value: object) -> None:
    with Journal.open(path) as journal:
        journal.append("before")
        with pytest.raises(ValueError, match="not JSON compliant"):
            journal.append("step", U=value)
        journal.append("after")
    assert names(path) == ["before", "after"]


def test_fields_cannot_take_the_place_of_ours(path: Path) -> None:
    with Journal.open(path) as journal, pytest.raises(ValueError, match="'at' or 'event'"):
        journal.append("step", at="1970")
    with (
        Journal.open(path) as journal,
        pytest.raises(TypeError, match="cannot be written to a journal"),
    ):
        journal.append("step", what=object())
    assert read(path) == []


@given(cut=st.integers(0, 200))
def test_wherever_the_file_ends_whole_lines_stay_and_the_next_one_is_whole(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "journal.jsonl"
    with Journal.open(path) as journal:
        for n in range(3):
            journal.append("step", n=n)
    whole = path.read_bytes()[:cut]
    path.write_bytes(whole)
    kept = whole.count(b"\n")
    assert [event["n"] for event in read(path)] == list(range(kept))
    with Journal.open(path) as journal:
        journal.append("resumed")
    assert names(path) == ["step"] * kept + ["resumed"]


def test_zeros_that_a_power_cut_left_are_cut_off(path: Path) -> None:
    with Journal.open(path) as journal:
        journal.append("started")
    with path.open("ab") as file:
        file.write(bytes(4096))
    assert names(path) == ["started"]
    Journal.open(path).close()
    assert path.read_bytes().endswith(b"}\n")


@pytest.mark.parametrize("line", [b"{]", b"[1]", b'{"event": "step"}', b"\xff"])
def test_damage_before_the_end_is_reported_with_its_line(path: Path, line: bytes) -> None:
    with Journal.open(path) as journal:
        journal.append("started")
    path.write_bytes(path.read_bytes() + line + b"\n" + path.read_bytes())
    with pytest.raises(RunError, match=r"journal\.jsonl:2: not an event"):
        read(path)


def test_no_file_is_no_event_and_a_folder_is_an_error(path: Path) -> None:
    assert read(path) == []
    path.mkdir()
    with pytest.raises(RunError, match="cannot be read"):
        read(path)
    with pytest.raises(RunError, match="cannot be opened"):
        Journal.open(path)


KILLED = """
import os, sys
from pathlib import Path
from icm_client.record.journal import Journal
journal = Journal.open(Path(sys.argv[1]))
n = 0
while True:
    journal.append("step", n=n, filling="x" * 200)
    os.write(1, b"%d\\n" % n)
    n += 1
"""


def test_a_killed_process_loses_no_event_that_it_had_written(path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    said = [int(child.stdout.readline()) for _ in range(500)]
    os.kill(child.pid, signal.SIGKILL)
    said += map(int, child.stdout.read().split("\n")[:-1])
    assert child.wait(60) == -signal.SIGKILL
    child.stdout.close()
    found = [event["n"] for event in read(path)]
    assert found == list(range(len(found)))
    assert len(found) >= len(said)


FULL = """
import resource, sys
from pathlib import Path
from icm_client.errors import RunError
from icm_client.record.journal import Journal
journal = Journal.open(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    while True:
        journal.append("step", filling="x" * 300)
except RunError as error:
    print(error)
journal.close()
"""


def test_a_full_disk_leaves_whole_lines_and_says_what_to_do(path: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True
    )
    assert "Make room on the disk" in done.stdout
    assert path.read_bytes().endswith(b"}\n")
    assert len(read(path)) == 5
    with Journal.open(path) as journal:
        journal.append("resumed")
    assert len(read(path)) == 6
