"""Runs that are killed (SIGKILL) at some answer, and what the same call then finds."""

import signal
import sys
from pathlib import Path

import anyio
import pytest
from planted_reviews import TASK, planted, reviews

from icm_client import Labels, label
from icm_client.record.archive import list_runs
from icm_client.record.journal import read

pytestmark = pytest.mark.slow

KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import anyio
from planted_reviews import TASK, _of, reviews
from icm_client import label
from icm_client.testing import PlantedConcept

class Killing(PlantedConcept):
    async def read(self, reads, *, lane=None):
        if self.usage.requests >= int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
        return await super().read(reads, lane=lane)

async def run():
    folder = Path(sys.argv[2])
    await label(
        reviews(32), task=TASK, endpoint=Killing(*_of(32, TASK)), store=folder / "store",
        runs=folder / "runs",
    )

anyio.run(run)
"""


async def found_in(folder: Path) -> tuple[Labels, int]:
    """The labels, and how many requests they took."""
    endpoint = planted()
    found = await label(
        reviews(32), task=TASK, endpoint=endpoint, store=folder / "store", runs=folder / "runs"
    )
    return found, endpoint.usage.requests


def labels_under(folder: Path) -> list[bytes]:
    files = [path.read_bytes() for path in folder.glob("*/runs/*/labels.jsonl")]
    assert len(files) == 2
    return files


@pytest.mark.parametrize("answers", [0, 1, 33, 100])
async def test_a_killed_run_goes_on_to_the_labels_of_one_that_was_left_alone(
    tmp_path: Path, answers: int
) -> None:
    alone, requests = await found_in(tmp_path / "alone")
    assert requests > 100
    folder = tmp_path / "killed"
    done = await anyio.run_process(
        [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(folder), str(answers)],
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    (run,) = list_runs(folder / "runs").runs
    assert (run.state, run.result) == ("stopped", None)
    found, asked = await found_in(folder)
    assert found.rows == alone.rows
    assert found.history == alone.history
    # Reads go out in groups: those of the group that was under way are asked again.
    assert requests - answers <= asked <= requests - answers + 16
    (run,) = list_runs(folder / "runs").runs
    assert run.state == "done"
    assert len(set(labels_under(tmp_path))) == 1
    events = [event["event"] for event in read(run.path / "journal.jsonl")]
    assert events[0] == "started"
    assert events.count("resumed") == 1
    assert events[-1] == "finished"
    assert events.count("sweep") == len(alone.history), "none is missing, none is told twice"
