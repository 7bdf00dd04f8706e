"""What people say about labels: nothing of it is lost, the last answer counts, and pins read it."""

import multiprocessing
from datetime import datetime
from pathlib import Path

import pytest
from planted_reviews import TASK, data, reviews

from icm_client.data.job import Job
from icm_client.errors import InputError, RunError
from icm_client.record.checks import Checks
from icm_client.runs.labels_file import read_pins


def test_the_last_answer_of_a_row_counts_and_one_can_be_taken_back(tmp_path: Path) -> None:
    checks = Checks(tmp_path)
    assert checks.read() == ()
    checks.add("a", "positive", by="Ada")
    checks.add(7, "negative")
    checks.add("b", "positive")
    checks.add("7", "positive", by="Ben")
    last = checks.add("b", None)
    assert last.label is None
    assert datetime.fromisoformat(last.at).tzname() == "UTC"
    assert [(one.id, one.label, one.by) for one in checks.read()] == [
        ("a", "positive", "Ada"),
        ("7", "positive", "Ben"),
    ]
    assert checks.path.read_bytes().count(b"\n") == 5, "who said what before is still known"


def _add_many(folder: Path, name: str) -> None:
    for number in range(25):
        Checks(folder).add(f"{name}{number}", "positive", by=name)


def test_several_processes_lose_no_answer(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    people = [spawn.Process(target=_add_many, args=(tmp_path, name)) for name in "abc"]
    for one in people:
        one.start()
    for one in people:
        one.join()
        assert one.exitcode == 0
    assert len(Checks(tmp_path).read()) == 75


def test_a_torn_line_is_cut_off_and_a_damaged_file_refused(tmp_path: Path) -> None:
    checks = Checks(tmp_path)
    checks.add("a", "positive")
    with checks.path.open("ab") as file:
        file.write(b'{"at":"2026')  # as a power cut leaves it
    assert len(checks.read()) == 1
    checks.add("b", "positive")
    assert [one.id for one in checks.read()] == ["a", "b"]
    checks.path.write_text('{"at":"2026-01-01","event":"check"}\n')
    with pytest.raises(RunError, match="has no 'id'"):
        checks.read()


def test_checks_are_pins(tmp_path: Path) -> None:
    job = Job.prepare(data(reviews(8)), TASK)
    checks = Checks(tmp_path)
    first, second = (job.dataset.rows[n].id for n in (0, 1))
    checks.add(first, "positive")
    checks.add(second, "positive")
    checks.add(first, "negative")
    checks.add(second, None)
    pinned = read_pins(checks.path, job)
    assert pinned is not None
    assert pinned.tolist() == [job.labels.index("negative")] + [-1] * 7
    checks.add(first, None)
    with pytest.raises(InputError, match="every answer in it was taken back"):
        read_pins(checks.path, job)
