"""`server/serve_vllm.py` as a process, as an operator starts it."""

import os
import secrets
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from icm_client.serving.processes import descendants

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
    """`server/serve_vllm.py`, with a key, on one port for all of its lives."""

    port: int = field(default_factory=free_port)
    key: str = field(default_factory=lambda: secrets.token_urlsafe(32))
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
        begun = time.monotonic()
        assert PYTHON is not None
        self.close()
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
                "8",
                "--start-timeout",
                str(START_S),
            ],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.said = [self.process.stdout.readline().rstrip() for _ in range(3)]
        if self.process.poll() is not None:
            pytest.fail("the server did not start; its launcher says why above")
        self.started_in_s = time.monotonic() - begun

    def close(self) -> None:
        """Close the pipe from an earlier life."""
        if self.process is not None and self.process.stdout is not None:
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
