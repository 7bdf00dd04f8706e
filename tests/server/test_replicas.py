"""server/recipes/replicas.sh with stand-ins for the server and the router: who is started, and
who is left."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

STAND_IN = """#!/usr/bin/env bash
echo "$CUDA_VISIBLE_DEVICES|$*" >"$FOLDER/$(basename "$0")-$$"
trap 'exit 0' TERM
while :; do sleep 0.1; done
"""


@pytest.fixture
def running(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    recipes = tmp_path / "server" / "recipes"
    recipes.mkdir(parents=True)
    shutil.copy(ROOT / "server" / "recipes" / "replicas.sh", recipes)
    bin_folder = tmp_path / ".venv-vllm" / "bin"
    bin_folder.mkdir(parents=True)
    for name in ("python", "vllm-router"):
        (bin_folder / name).write_text(STAND_IN, "utf-8")
        (bin_folder / name).chmod(0o755)
    (tmp_path / "started").mkdir()
    script = subprocess.Popen(
        [recipes / "replicas.sh", "OWNER/MODEL"],
        env={
            **os.environ,
            "GPUS": "2",
            "CUDA_VISIBLE_DEVICES": "",
            "FOLDER": str(tmp_path / "started"),
        },
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    yield script
    if script.poll() is None:
        os.killpg(script.pid, signal.SIGKILL)
    script.communicate()


def started(tmp_path: Path) -> dict[int, str]:
    """Process -> its GPU and its arguments, once all three have written them."""
    folder = tmp_path / "started"
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        lines = {int(file.name.rpartition("-")[2]): file.read_text() for file in folder.iterdir()}
        if len(lines) == 3 and all(lines.values()):
            return lines
        time.sleep(0.05)
    pytest.fail(f"not all were started: {lines}")


def test_a_server_a_gpu_and_a_router_that_keeps_sessions(
    running: subprocess.Popen[str], tmp_path: Path
) -> None:
    lines = dict(line.split("|", 1) for line in started(tmp_path).values())
    assert sorted(lines) == ["", "0", "1"]
    router, first, second = lines[""], lines["0"], lines["1"]
    assert "server/serve_vllm.py OWNER/MODEL --device cuda --port 8001" in first
    assert "--port 8002" in second
    assert "--policy consistent_hash" in router
    assert "--worker-urls http://127.0.0.1:8001 http://127.0.0.1:8002" in router
    assert running.poll() is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_them_all(
    number: signal.Signals, running: subprocess.Popen[str], tmp_path: Path
) -> None:
    pids = started(tmp_path)
    running.send_signal(number)
    assert running.wait(20) == 128 + number
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_one_that_dies_takes_the_others_with_it(
    running: subprocess.Popen[str], tmp_path: Path
) -> None:
    pids = started(tmp_path)
    os.kill(min(pids), signal.SIGKILL)
    running.wait(20)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
