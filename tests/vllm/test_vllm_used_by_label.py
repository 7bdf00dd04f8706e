"""`icm-client label --serve` with the real vLLM: it labels, and leaves nothing behind."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from vllm_questions import SAMPLE, SAMPLE_ROWS, labelled
from vllm_server import MODEL, PYTHON, ROOT, START_S

from icm_client.cache import cache_folder
from icm_client.serving.processes import descendants, dying_with_parent

pytestmark = pytest.mark.skipif(PYTHON is None, reason="no vLLM given: scripts/test-vllm")


class Command:
    """`icm-client label --serve` as a process, whose words on standard error can be awaited."""

    def __init__(self, folder: Path, *more: str) -> None:
        assert PYTHON is not None
        rows = SAMPLE_ROWS.read_text("utf-8").splitlines(keepends=True)[:64]
        (folder / "rows.jsonl").write_text("".join(rows), "utf-8")
        (folder / "task.toml").write_bytes((SAMPLE / "task.toml").read_bytes())
        self.said = folder / "said"
        self.logs = set(cache_folder().joinpath("logs").glob("vllm-*.log"))
        with self.said.open("wb") as file:
            self.process = subprocess.Popen(
                [
                    *(PYTHON, "-m", "icm_client", "label", "rows.jsonl", "-o", "labels.jsonl"),
                    *("--store", "s.sqlite3", "--serve", MODEL, "--json", *more),
                ],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                preexec_fn=dying_with_parent,  # noqa: PLW1509
            )

    def wait_until(self, words: str) -> set[int]:
        """Wait until it has said this; return all its processes."""
        deadline = time.monotonic() + START_S
        while words not in self.said.read_text("utf-8"):
            assert self.process.poll() is None, self.said.read_text("utf-8")
            assert time.monotonic() < deadline
            time.sleep(0.2)
        return descendants(self.process.pid)

    def end(self) -> tuple[int, str, str]:
        """Its exit status, and what it has printed on standard output and error."""
        output, _ = self.process.communicate(timeout=300)
        return self.process.returncode, output, self.said.read_text("utf-8")

    def new_logs(self) -> set[Path]:
        return set(cache_folder().joinpath("logs").glob("vllm-*.log")) - self.logs


@pytest.fixture
def commands() -> Iterator[list[Command]]:
    """Whatever a test fails over, none of its processes stays."""
    started: list[Command] = []
    yield started
    for command in started:
        if command.process.poll() is None:
            family = descendants(command.process.pid)
            command.process.kill()
            command.process.communicate()
            for pid in family:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def test_it_labels_and_leaves_nothing_behind(commands: list[Command], tmp_path: Path) -> None:
    commands.append(command := Command(tmp_path, "--max-row-tokens", "24", "--truncate"))
    family = command.wait_until("Ready after")
    assert len(family) > 1
    status, output, said = command.end()
    assert status == 0, said
    found = json.loads(output)
    assert found["server"]["kind"] == "vllm"
    assert found["accuracy"] > 0.75
    written = labelled(tmp_path / "labels.jsonl")
    assert len(written) == 64
    assert found["cut"] == sum(row["cut_tokens"] > 0 for row in written) > 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in family)
    assert command.new_logs() == set(), "a log is kept only where something failed"


def test_a_server_that_dies_in_mid_run_is_told_with_its_log(
    commands: list[Command], tmp_path: Path
) -> None:
    commands.append(command := Command(tmp_path, "--max-in-flight", "1"))
    family = command.wait_until("Ready after")
    time.sleep(2)
    for pid in family:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    status, _, said = command.end()
    (log,) = command.new_logs()
    assert status == 1, said
    assert "Error: the server ended: it was killed by SIGKILL" in said
    assert f"its log: {log}" in said
    log.unlink()
