"""`server/serve_local.py` with the real model: several clients, a key, Ctrl-C, a taken port."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from icm_client.endpoints import Answer, Read, connect
from icm_client.errors import AuthenticationRefused

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "server" / "serve_local.py"


async def ask(url: str, key: str, answers: list[Answer]) -> None:
    endpoint = await connect(url, api_key=key)
    try:
        prompt = await endpoint.tokenize("Review: a great movie\nSentiment:", add_special=True)
        wanted = await endpoint.tokenize(" positive", add_special=False)
        answers += await endpoint.read([Read(prompt, wanted)], lane=0)
    finally:
        await endpoint.aclose()


@pytest.mark.usefixtures("embedded_model")
def test_two_clients_get_the_same_answer_and_ctrl_c_ends_it(free_tcp_port: int) -> None:
    with subprocess.Popen(
        [sys.executable, SCRIPT, "--port", str(free_tcp_port), "--context", "1024"],
        env={**os.environ, "ICM_API_KEY": "s3cret"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().rpartition("--endpoint ")[2].strip()
            assert url == f"http://127.0.0.1:{free_tcp_port}"

            async def both() -> list[Answer]:
                answers: list[Answer] = []
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(ask, url, "s3cret", answers)
                    tasks.start_soon(ask, url, "s3cret", answers)
                with pytest.raises(AuthenticationRefused):
                    await ask(url, "another", [])
                return answers

            first, second = anyio.run(both)
            assert first.log_probs == pytest.approx(second.log_probs, abs=0.1)
            server.send_signal(signal.SIGINT)
            assert server.wait(20) == 0
        finally:
            server.kill()


def test_a_taken_port_is_one_clear_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, SCRIPT, "--port", str(port)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 2
    assert done.stderr.startswith(f"Error: cannot listen at 127.0.0.1:{port}: Address already")
