"""A view that is served by a process of its own, as a user starts it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx2


class Served(NamedTuple):
    """A server: its origin, the token, its process, and a client that has been let in."""

    origin: str
    token: str
    process: "subprocess.Popen[str]"
    client: httpx2.Client

    def post(self, path: str, said: object) -> httpx2.Response:
        """Post JSON as the page does."""
        return self.client.post(path, json=said, headers={"origin": self.origin})


@contextmanager
def served(base: Path, *options: str, folder: Path | None = None) -> Iterator[Served]:
    """Serve the runs in `base`, started in `folder`."""
    command = [sys.executable, "-m", "icm_client", "view", str(base), "--no-open", *options]
    with subprocess.Popen(
        command,
        cwd=folder or base.parent,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1"},
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            url = urlsplit(line.rpartition(" ")[2].strip())
            origin = f"{url.scheme}://{url.netloc}"
            with httpx2.Client(base_url=origin, follow_redirects=True, timeout=30) as client:
                assert client.get(f"/?{url.query}").status_code == 200
                yield Served(origin, url.query.removeprefix("token="), process, client)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
