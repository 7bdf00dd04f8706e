"""Processes that die (SIGKILL) before or after any step of a training by a service."""

import signal
import sys
from pathlib import Path

import anyio
import pytest
from tuned_reviews import EXAMPLES, service, trainer

pytestmark = pytest.mark.slow

KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import anyio
from icm_client.endpoints.transport import Transport
from icm_client.training.served_job import StateFile
from tuned_reviews import EXAMPLES, trainer

passed = 0

def reach(moment):
    global passed
    if passed == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
    print(moment, flush=True)
    passed += 1

def around(owner, name, kind):
    work = getattr(owner, name)
    def noted(self, stage, **facts):
        reach(f"before {stage}")
        work(self, stage, **facts)
        reach(f"after {stage}")
    async def asked(self, path, *arguments, **options):
        reach(f"before {name} {path.partition('?')[0]}")
        found = await work(self, path, *arguments, **options)
        reach(f"after {name} {path.partition('?')[0]}")
        return found
    setattr(owner, name, noted if kind == "state" else asked)

around(StateFile, "note", "state")
around(Transport, "get", "request")
around(Transport, "post", "request")

async def run():
    await trainer(sys.argv[2], Path(sys.argv[3])).train(EXAMPLES, name="reviews", seed=0)

anyio.run(run)
"""


async def killed_at(url: str, folder: Path, moment: int) -> tuple[int, list[str]]:
    """The exit status of a process that dies at this moment, and the moments before it."""
    arguments = [str(Path(__file__).parent), url, str(folder), str(moment)]
    done = await anyio.run_process([sys.executable, "-c", KILLED, *arguments], check=False)
    return done.returncode, done.stdout.decode().splitlines()


STEPS = [
    "uploading",
    "post /v1/files",
    "uploaded",
    "submitting",
    "post /v1/fine_tuning/jobs",
    "submitted",
    "get /v1/fine_tuning/jobs/ftjob-1",
    "succeeded",
]


async def test_a_process_killed_between_any_two_steps_is_followed_by_one_that_ends_the_one_job(
    tmp_path: Path,
) -> None:
    moments: list[str] = []
    for moment in range(100):
        async with service() as server:
            folder = tmp_path / str(moment)
            code, moments = await killed_at(server.url, folder, moment)
            if code == 0:
                break
            assert code == -signal.SIGKILL, moments
            assert len(moments) == moment
            trained = await trainer(server.url, folder).train(EXAMPLES, name="reviews", seed=0)
            assert trained.model == server.jobs[0]["fine_tuned_model"], moments[-3:]
            assert (len(server.jobs), len(server.files)) == (1, 1), moments[-3:]
    for step in STEPS:
        assert {f"before {step}", f"after {step}"} <= set(moments), step


async def test_a_process_killed_while_its_job_runs_is_followed_by_one_that_only_looks(
    tmp_path: Path,
) -> None:
    async with service() as server:
        code, moments = await killed_at(server.url, tmp_path, 21)
        assert code == -signal.SIGKILL
        assert "after submitted" in moments
        before = len(server.received)
        await trainer(server.url, tmp_path).train(EXAMPLES, name="reviews", seed=0)
        assert {one.path for one in server.received[before:]} == {
            "/v1/fine_tuning/jobs/ftjob-1",
            "/v1/fine_tuning/jobs/ftjob-1/events",
        }
