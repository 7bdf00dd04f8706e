"""A prediction is killed (SIGKILL) before and after each of its writes, every one in turn."""

import sqlite3
from contextlib import closing
from pathlib import Path

import anyio
import pytest
from predict_commits import search
from test_commit_points import LIVES, Forks, _different, answers

from icm_client.scoring.store_upkeep import check

pytestmark = pytest.mark.slow

CHILD = Path(__file__).with_name("predict_commits.py")

NAMED = (
    "after COMMIT",
    "before os.fsync",
    "after os.fsync",
    "before Path.replace",
    "after Path.replace",
)


def predictors(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.glob("runs/*/predictor.json")]


def left_over(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"labels.csv", "runs", "cache", "answers"}


def check_killed(folder: Path, alone: Path) -> None:
    """No output is half of one, and no answer is another than it was."""
    if (folder / "labels.csv").exists():
        assert (folder / "labels.csv").read_bytes() == (alone / "labels.csv").read_bytes()
    assert predictors(folder) in ([], predictors(alone))
    if (folder / "cache" / "store").exists():
        assert check(folder / "cache" / "store").whole
        assert set(answers(folder)) <= set(answers(alone))


def check_resumed(folder: Path, alone: Path) -> None:
    """The output is that of the one left alone, byte for byte, and one batch was asked again."""
    assert (folder / "labels.csv").read_bytes() == (alone / "labels.csv").read_bytes()
    assert predictors(folder) == predictors(alone)
    assert answers(folder) == answers(alone)
    assert left_over(folder) == left_over(alone) == set()
    asked, needed = ((one / "answers").stat().st_size for one in (folder, alone))
    assert needed <= asked <= needed + 1


def test_a_prediction_killed_at_any_commit_point_ends_with_the_same_bytes(tmp_path: Path) -> None:
    anyio.run(search, tmp_path)
    with closing(Forks(tmp_path, CHILD)) as forks:
        passed = forks.run("alone", LIVES)
        assert passed is not None
        assert set(NAMED) <= set(passed), "a kind of write is no longer watched"
        alone = tmp_path / "alone"
        assert len((alone / "labels.csv").read_text("utf-8").splitlines()) == 4
        for last in _different(passed):
            folder = tmp_path / f"killed-{last}"
            try:
                forks.run(folder.name, last)
                check_killed(folder, alone)
                forks.run(folder.name, LIVES)
                check_resumed(folder, alone)
            except (AssertionError, sqlite3.Error, OSError) as error:
                raise AssertionError(f"killed at commit {last}, {passed[last]}") from error
