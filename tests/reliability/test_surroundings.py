"""Read-only folders, no home folder, and clocks that jump."""

import itertools
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from commit_points import SETTINGS, TASK, Counted, texts

from icm_client import Labels, label
from icm_client.cache import cache_folder
from icm_client.endpoints import Answer, Exactness, Read
from icm_client.errors import EndpointUnreachable, ModelChanged, SetupError
from icm_client.record import folder as folder_module
from icm_client.record import journal as journal_module
from icm_client.record.archive import list_runs
from icm_client.record.journal import read
from icm_client.scoring import ScoreStore
from icm_client.scoring import store as store_module
from icm_client.scoring.drift import withdraw_doubtful
from icm_client.scoring.store_upkeep import check

HERE = str(Path(__file__).parent)

# Everything is imported by a run of the first user before it becomes nobody: the interpreter's own
# folder may be closed to others.
AS_NOBODY = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import anyio
from commit_points import run, Counted, TASK, texts
from icm_client import label
from icm_client.errors import IcmError
mine, closed = Path(sys.argv[2]), Path(sys.argv[3])
anyio.run(run, mine / "warm")
mine.chmod(0o777)
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
for store, runs in ((closed / "store", mine / "runs"), (mine / "store", closed / "runs")):
    async def attempt():
        endpoint = Counted(mine / f"asked-{store.parent.name}")
        await label(texts(), task=TASK, endpoint=endpoint, store=store, runs=runs)
    try:
        anyio.run(attempt)
    except IcmError as error:
        print(f"{type(error).__name__}: {error}".replace(chr(10), " "))
"""


def test_a_read_only_folder_is_told_with_the_way_out_before_anything_is_asked(
    tmp_path: Path,
) -> None:
    above = 3 if "PYTEST_XDIST_WORKER" in os.environ else 2  # a worker has a folder of its own
    for folder in (tmp_path, *tmp_path.parents[:above]):
        folder.chmod(folder.stat().st_mode | 0o755)
    mine, closed = tmp_path / "mine", tmp_path / "closed"
    mine.mkdir()
    closed.mkdir(mode=0o555)
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, HERE, str(mine), str(closed)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    no_store, no_runs = done.stdout.splitlines()
    assert no_store.startswith(f"StoreError: cannot open the score store {closed / 'store'}")
    assert "Permission denied. Set ICM_CACHE_DIR to a folder that can be written" in no_store
    assert no_runs.startswith("RunError: the run's folder")
    assert "make it writable, or name another folder for runs with --runs" in no_runs
    for folder in mine.glob("asked-*"):
        assert (folder / "answers").stat().st_size == 0


def test_no_home_folder_is_told_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(path: str) -> str:
        return path  # as `os.path.expanduser` where neither HOME nor the user's entry says it

    monkeypatch.setattr(os.path, "expanduser", nowhere)
    for variable in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    for chosen in ("", "~/scores"):
        monkeypatch.setenv("ICM_CACHE_DIR", chosen)
        with pytest.raises(SetupError, match="set ICM_CACHE_DIR to the absolute path"):
            cache_folder()
    monkeypatch.setenv("ICM_CACHE_DIR", "/scores")
    assert cache_folder() == Path("/scores")


class Clock:
    """The wall clock as modules read it; each look is a day, an hour or a minute off the last."""

    def __init__(self) -> None:
        jumps = (timedelta(days=-1), timedelta(hours=1), timedelta(days=2), timedelta(minutes=-1))
        self._jumps = itertools.cycle(jumps)
        self._now = datetime(2030, 1, 1, tzinfo=UTC)

    def now(self, _zone: Any = None) -> datetime:
        self._now += next(self._jumps)
        return self._now

    def time(self) -> float:
        return self.now().timestamp()


async def found_in(folder: Path, endpoint: Counted) -> Labels:
    return await label(
        texts(),
        task=TASK,
        endpoint=endpoint,
        settings=SETTINGS,
        store=folder / "store",
        runs=folder / "runs",
    )


class Lost(Counted):
    async def read(self, reads: Any, *, lane: int | None = None) -> Any:
        if self.usage.requests >= 7:
            raise EndpointUnreachable("connection refused")
        return await super().read(reads, lane=lane)


async def test_a_clock_that_jumps_changes_no_label_and_loses_no_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = await found_in(tmp_path / "alone", Counted(tmp_path / "alone"))
    clock = Clock()
    monkeypatch.setattr(
        store_module, "time", SimpleNamespace(time=clock.time, monotonic=time.monotonic)
    )
    for module in (journal_module, folder_module):
        monkeypatch.setattr(module, "datetime", clock)
    folder = tmp_path / "jumping"
    with pytest.raises(EndpointUnreachable):
        await found_in(folder, Lost(folder))
    found = await found_in(folder, Counted(folder))
    assert found.rows == alone.rows
    asked, needed = ((at / "answers").stat().st_size for at in (folder, tmp_path / "alone"))
    assert asked == needed
    (run,) = list_runs(folder / "runs").runs
    assert run.state == "done"
    times = [event["at"] for event in read(run.path / "journal.jsonl")]
    assert times != sorted(times), "the clock did go back"
    assert check(folder / "store").whole
    again = await found_in(folder, Counted(folder))
    assert again.rows == alone.rows
    assert (folder / "answers").stat().st_size == needed


@pytest.mark.parametrize("jump_s", [-86_400, 86_400])
async def test_answers_of_another_model_are_withdrawn_though_the_clock_was_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump_s: int
) -> None:
    ahead_s = 0
    clocks = SimpleNamespace(time=lambda: time.time() + ahead_s, monotonic=time.monotonic)
    monkeypatch.setattr(store_module, "time", clocks)
    changed = ModelChanged("another model", last_confirmed_at=anyio.current_time())
    answer = Answer((-0.5, -1.5), Exactness.EXACT)
    with ScoreStore.open(tmp_path / "store") as store:
        store.put_many("f", [before := Read((1,), (5, 7))], [answer])
        ahead_s = jump_s
        store.put_many("f", [after := Read((2,), (5, 7))], [answer])
        assert withdraw_doubtful(changed, store, "f") == 2
        assert store.get_many("f", [before, after]) == [None, None]


def test_only_stamps_are_taken_from_the_wall_clock() -> None:
    """Deadlines and durations by a clock that jumps would end a request, or never end it."""
    stamped = {
        "cli/runs.py",  # how long ago a run was worked on
        "endpoints/http_errors.py",  # a date that a server names
        "record/folder.py",
        "record/journal.py",
        "scoring/store.py",
        "scoring/store_file.py",
        "scoring/store_upkeep.py",
        "scoring/store_rows.py",
        "training/served_job.py",  # when a job began: it outlives processes, and is only reported
    }
    package = Path(store_module.__file__).parents[1]
    reading = {
        file.relative_to(package).as_posix()
        for file in package.rglob("*.py")
        if any(word in file.read_text("utf-8") for word in ("time.time()", "datetime.now("))
    }
    assert reading == stamped
