"""The scripts of this repository, where the package is not installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("server", "scripts", "examples", "examples/replication")
    for path in (ROOT / folder).glob("*.py")
    if "__main__" in path.read_text("utf-8") and "icm_client" in path.read_text("utf-8")
)


def test_there_are_some() -> None:
    assert {"server/serve_vllm.py", "scripts/bench.py", "examples/async_jobs.py"} <= set(SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_python_without_the_package_is_told_what_to_run(script: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-S", script],  # without what is installed
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    begin, _, run = done.stderr.partition("Run: ")
    assert (
        begin == f"Error: icm-client is not installed for {sys.executable} (no module icm_client). "
    )
    assert run in (
        "server/install-vllm, then use .venv-vllm/bin/python\n",
        "pip install -e '.[local]'\n",
        "pip install -e '.[dev]'\n",
    )
