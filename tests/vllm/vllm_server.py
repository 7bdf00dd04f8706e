"""`server/serve_vllm.py` as a process, as an operator starts it."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from icm_client.serving.processes import descendants, dying_with_parent

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("ICM_TEST_VLLM_PYTHON")
START_S = 600.0
MODEL = "gemma-3-270m"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@dataclass(slots=True)
class VllmServer:
    """`server/serve_vllm.py`, with a key, on one port for all of its lives.

    `plugins` is a folder of distributions that it finds beside those of its own environment.
    """

    plugins: Path | None = None
    port: int = field(default_factory=free_port)
    key: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    process: subprocess.Popen[str] | None = None
    said: list[str] = field(default_factory=list)
    started_in_s: float = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "ICM_API_KEY": self.key,
            "ICM_ENDPOINT": self.url,
            "ICM_MODEL": MODEL,
        }

    def start(self) -> None:
        """Start it and wait until it is ready, `START_S` at most; `end` must follow."""
        begun = time.monotonic()
        assert PYTHON is not None
        self.end()
        self.process = subprocess.Popen(
            [
                PYTHON,
                "server/serve_vllm.py",
                MODEL,
                "--port",
                str(self.port),
                "--context",
                "8192",
                "--lora",
                "--lora-rank",
                "16",
                "--start-timeout",
                str(START_S),
            ],
            cwd=ROOT,
            env=self.environment | self._with_plugins(),
            stdout=subprocess.PIPE,
            text=True,
            # Without it a server outlives tests that are killed, with all that they held open.
            preexec_fn=dying_with_parent,  # noqa: PLW1509
        )
        assert self.process.stdout is not None
        self.said = [self.process.stdout.readline().rstrip() for _ in range(3)]
        if self.process.poll() is not None:
            pytest.fail("the server did not start; its launcher says why above")
        self.started_in_s = time.monotonic() - begun

    def _with_plugins(self) -> dict[str, str]:
        if self.plugins is None:
            return {}
        found = (str(self.plugins), os.environ.get("PYTHONPATH"))
        return {"PYTHONPATH": os.pathsep.join(filter(None, found))}

    def end(self) -> None:
        """End the launcher and all that it started; one that has ended is only put away."""
        if self.process is None:
            return
        if self.process.poll() is None:
            family = self.family()
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(60)
            for pid in family:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait(10)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def family(self) -> set[int]:
        """The launcher, the server and all that they started."""
        assert self.process is not None
        return {self.process.pid, *descendants(self.process.pid)}

    def stop(self, number: int) -> int:
        """Send a signal to the launcher; return its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(60)
