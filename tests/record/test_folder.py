"""Run folders: the same job finds its own, and what is in them after runs, kills and accidents."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import orjson
import pytest
from planted_reviews import TASK
from run_folders import SERVER, SETTINGS, described, finished

from icm_client.errors import EndpointFault, InputError, RunError, RunStopped
from icm_client.record.archive import read_run, remove_run
from icm_client.record.folder import RunFolder
from icm_client.record.journal import read


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def test_what_a_run_is_stands_in_its_folder(base: Path) -> None:
    with RunFolder.open(described(), base=base, command=["label", "rows.jsonl"]) as folder:
        assert not folder.resumed
        run = read_run(folder.name, base)
        assert run.state == "running"
        folder.journal.append("sweep", U=0.25)
    record = orjson.loads((folder.path / "run.json").read_bytes())
    assert record["name"] == folder.name == folder.path.name
    assert record["rows"] == 8
    assert record["settings"] == SETTINGS
    assert record["server"]["fingerprint"] == SERVER.fingerprint
    assert record["task"]["template"] == TASK.template
    assert record["versions"]["icm-client"]
    assert record["versions"]["python"] == sys.version.split()[0]
    assert record["command"] == ["label", "rows.jsonl"]
    assert record["folder"] == str(Path.cwd())
    assert [event["event"] for event in read(folder.path / "journal.jsonl")] == ["started", "sweep"]


def test_the_same_job_goes_on_in_its_folder_and_fresh_starts_over(base: Path) -> None:
    with RunFolder.open(described(), base=base) as first:
        first.stop("out of budget")
    with RunFolder.open(described(), base=base, command=["label"]) as second:
        assert second.resumed
        assert second.path == first.path
    journal = first.path / "journal.jsonl"
    events = [event["event"] for event in read(journal)]
    assert events == ["started", "stopped", "resumed"]
    with RunFolder.open(described(), base=base):
        pass
    assert read_run(first.name, base).record["command"] == ["label"], "Python's has no command"
    with RunFolder.open(described(), base=base, fresh=True) as third:
        assert not third.resumed
    assert [event["event"] for event in read(journal)] == ["started"]


def test_what_a_killed_process_left_half_written_is_gone(base: Path) -> None:
    name = finished(base, described())
    torn = base / name / ".result.json.0123abcd.tmp"
    torn.write_bytes(b'{"coher')
    with RunFolder.open(described(), base=base):
        assert not torn.exists()


def test_how_a_run_ended(base: Path) -> None:
    def state(seed: int) -> tuple[str, str | None]:
        run = read_run(described(seed=seed).name, base)
        return run.state, run.reason

    finished(base, described(seed=0))
    assert state(0) == ("done", None)
    with pytest.raises(EndpointFault), RunFolder.open(described(seed=1), base=base):
        raise EndpointFault("500 from the server")
    assert state(1) == ("failed", "500 from the server")
    with pytest.raises(KeyboardInterrupt), RunFolder.open(described(seed=2), base=base):
        raise KeyboardInterrupt
    assert state(2) == ("stopped", "interrupted")
    with RunFolder.open(described(seed=3), base=base) as folder:
        folder.stop("20 requests were allowed")
    assert state(3) == ("stopped", "20 requests were allowed")
    with pytest.raises(RunStopped), RunFolder.open(described(seed=4), base=base):
        raise RunStopped("stopped on request")
    assert state(4) == ("stopped", "interrupted")


async def test_a_cancelled_run_is_stopped(base: Path) -> None:
    with anyio.move_on_after(0.01), RunFolder.open(described(), base=base) as folder:
        await anyio.sleep(10)
    assert read_run(folder.name, base).state == "stopped"


def test_labels_are_there_before_the_run_is_done(base: Path) -> None:
    def unwritable(path: Path) -> None:
        raise InputError(str(path))

    with pytest.raises(InputError), RunFolder.open(described(), base=base) as folder:
        folder.finish({}, unwritable)
    assert read_run(folder.name, base).state == "failed"
    assert not (folder.path / "result.json").exists()


HOLDS = """
import sys, time
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from run_folders import described
from icm_client.record.folder import RunFolder
folder = RunFolder.open(described(), base=Path(sys.argv[1]))
folder.journal.append("sweep")
print("ready", flush=True)
time.sleep(60)
"""


def test_a_second_process_is_refused_and_a_killed_one_is_not_running(base: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(base), *sys.path],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        name = described().name
        assert read_run(name, base).state == "running"
        with pytest.raises(RunError, match="another process works on the run"):
            RunFolder.open(described(), base=base)
        with pytest.raises(RunError, match="end it first"):
            remove_run(read_run(name, base))
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
    run = read_run(name, base)
    assert (run.state, run.reason) == ("stopped", None)
    with RunFolder.open(described(), base=base) as folder:
        assert folder.resumed
    events = [event["event"] for event in read(folder.path / "journal.jsonl")]
    assert events == ["started", "sweep", "resumed"]


def test_a_base_folder_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"cannot be written: Not a directory.*--runs"):
        RunFolder.open(described(), base=tmp_path / "file" / "runs")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_base_folder_says_what_to_do(base: Path) -> None:
    base.mkdir(mode=0o500)
    with pytest.raises(RunError, match="Permission denied"):
        RunFolder.open(described(), base=base)


def test_a_foreign_folder_under_the_runs_name_is_left_alone(base: Path) -> None:
    path = base / described().name
    path.mkdir(parents=True)
    (path / "run.json").write_text('{"mine": 1}')
    with pytest.raises(RunError, match="describes no run"):
        RunFolder.open(described(), base=base)
    assert (path / "run.json").read_text() == '{"mine": 1}'
    with RunFolder.open(described(), base=base, fresh=True):  # the lock was let go
        pass
