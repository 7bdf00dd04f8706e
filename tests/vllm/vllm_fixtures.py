"""One server for all test modules here, and the rows that they label.

A plugin of theirs: a fixture that two modules import is made twice, and so would be the server.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from vllm_questions import SAMPLE, SAMPLE_ROWS
from vllm_server import VllmServer


@pytest.fixture(scope="session")
def vllm() -> Iterator[VllmServer]:
    server = VllmServer()
    try:
        server.start()
        yield server
    finally:
        server.end()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 reviews beside their task, and what the tests leave for each other."""
    folder = tmp_path_factory.mktemp("vllm")
    lines = SAMPLE_ROWS.read_text("utf-8").splitlines(keepends=True)
    (folder / "64.jsonl").write_text("".join(lines[:64]), "utf-8")
    (folder / "task.toml").write_bytes((SAMPLE / "task.toml").read_bytes())
    return folder
