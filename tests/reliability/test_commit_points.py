"""A run is killed (SIGKILL) before and after each of its writes, every one of them in turn."""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from icm_client.record.archive import Run, list_runs
from icm_client.record.journal import read
from icm_client.scoring.store_upkeep import check

pytestmark = pytest.mark.slow

CHILD = Path(__file__).with_name("commit_points.py")
LIVES = -1


class Forks:
    """Runs in processes of their own; each dies at a commit, or lives."""

    def __init__(self, base: Path, child: Path = CHILD) -> None:
        self.base = base
        self._process = subprocess.Popen(
            [sys.executable, str(child), str(base)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, name: str, last: int) -> list[str] | None:
        """The commits that the run passed; None where it died."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(name, last, file=self._process.stdin, flush=True)
        code, passed = json.loads(self._process.stdout.readline())
        assert code == (0 if last == LIVES else -9), (name, last)
        return passed if last == LIVES else None

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture
def forks(tmp_path: Path) -> Iterator[Forks]:
    with closing(Forks(tmp_path)) as started:
        yield started


def one_run(folder: Path) -> Run:
    (run,) = list_runs(folder / "runs").runs
    return run


def sweeps(run: Run) -> list[dict[str, Any]]:
    events = [event for event in read(run.path / "journal.jsonl") if event["event"] == "sweep"]
    # When it was, and what the process had asked by then, is each process's own.
    own = ("at", "cost")
    return [{name: event[name] for name in event if name not in own} for event in events]


def summary(run: Run) -> dict[str, Any]:
    assert run.result is not None
    return {name: run.result[name] for name in run.result if name not in ("cost", "run")}


def answers(folder: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(folder / "cache" / "store")) as connection:
        return connection.execute("SELECT key, log_probs FROM scores ORDER BY key").fetchall()


def check_killed(folder: Path, alone: Path) -> None:
    """Nothing that a killed run leaves is half a file, or says more than is there."""
    listed = list_runs(folder / "runs")
    whole = (alone / "labels.jsonl").read_bytes()
    for file in folder.rglob("labels.jsonl"):
        assert file.read_bytes() == whole
    for run in listed.runs:
        assert run.state == ("done" if run.result is not None else "stopped")
        if run.state == "done":
            assert (run.path / "labels.jsonl").exists()
    if (folder / "cache" / "store").exists():
        assert check(folder / "cache" / "store").whole
        assert set(answers(folder)) <= set(answers(alone))


def check_resumed(folder: Path, alone: Path) -> None:
    """The run is the one that was left alone, byte for byte, and asked one read more at most."""
    run, undisturbed = one_run(folder), one_run(alone)
    assert run.state == "done"
    assert run.name == undisturbed.name
    for file in ("labels.jsonl", f"runs/{run.name}/labels.jsonl"):
        assert (folder / file).read_bytes() == (alone / file).read_bytes()
    assert summary(run) == summary(undisturbed)
    assert sweeps(run) == sweeps(undisturbed)
    assert answers(folder) == answers(alone)
    asked, needed = ((one / "answers").stat().st_size for one in (folder, alone))
    assert needed <= asked <= needed + 1


NAMED = (
    "before PRAGMA user_version =",
    "after PRAGMA user_version =",
    "before BEGIN IMMEDIATE",
    "before INSERT",
    "before COMMIT",
    "after COMMIT",
    "before Journal.append",
    "after Journal.append",
    "after Path.open",
    "after os.open",
    "before os.fsync",
    "before Path.replace",
    "after Path.replace",
    "before Journal.sync",
    "after Journal.sync",
)


def test_a_run_killed_at_any_commit_point_goes_on_to_the_same_labels(forks: Forks) -> None:
    passed = forks.run("alone", LIVES)
    assert passed is not None
    assert set(NAMED) <= set(passed), "a kind of write is no longer watched"
    alone = forks.base / "alone"
    for last in _different(passed):
        folder = forks.base / f"killed-{last}"
        moment = f"commit {last}, {passed[last]}"
        try:
            forks.run(folder.name, last)
            check_killed(folder, alone)
            forks.run(folder.name, LIVES)
            check_resumed(folder, alone)
        except Exception as error:
            raise AssertionError(f"a run killed at {moment}") from error


def test_a_run_killed_over_and_over_comes_to_its_end(forks: Forks) -> None:
    """Each process dies 40 commits after the one before it would have begun anew."""
    forks.run("alone", LIVES)
    folder = forks.base / "killed"
    for last in (3, 20, 40, 45, 50, 55, 60):
        forks.run(folder.name, last)
        check_killed(folder, forks.base / "alone")
    forks.run(folder.name, LIVES)
    run = one_run(folder)
    assert run.state == "done"
    assert sweeps(run) == sweeps(one_run(forks.base / "alone"))
    assert answers(folder) == answers(forks.base / "alone")
    assert (folder / "labels.jsonl").read_bytes() == (
        forks.base / "alone" / "labels.jsonl"
    ).read_bytes()


def _different(passed: list[str]) -> list[int]:
    """Between the end of a write and the beginning of the next one, one moment is enough."""
    return [
        number
        for number, moment in enumerate(passed)
        if not (moment.startswith("before") and number and passed[number - 1].startswith("after"))
    ]
