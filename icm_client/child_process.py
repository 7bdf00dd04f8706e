"""A child process that reads its orders from stdin, and ends when that closes: with its parent.

The parent uses `open_child`, `stop_child` and `last_words`, the child `begin_child`.
"""

import os
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE
from typing import IO, Final, TypeVar

import anyio
from anyio.abc import Process
from pydantic import BaseModel

_LAST_WORDS: Final = 2000
"""An error message ends with so many bytes of the log."""

Orders = TypeVar("Orders", bound=BaseModel)


async def open_child(*arguments: str, log: IO[bytes], env: Mapping[str, str]) -> Process:
    """Start Python in a session of its own: Ctrl-C in the terminal reaches only the parent."""
    return await anyio.open_process(
        [sys.executable, "-P", *arguments],  # -P: the user's working folder may hold a json.py
        stdin=PIPE,
        stdout=PIPE,
        stderr=log,
        env=env,
        start_new_session=True,
    )


async def stop_child(process: Process) -> None:
    """Close the child's stdin, which ends it, and wait 5 seconds; then kill it."""
    if process.stdin is not None:
        with suppress(OSError, anyio.BrokenResourceError):
            await process.stdin.aclose()
    with anyio.move_on_after(5.0):
        await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()
    await process.aclose()


def last_words(log: Path) -> str:
    """Return how a log ends; nothing where it cannot be read."""
    try:
        return log.read_bytes()[-_LAST_WORDS:].decode("utf-8", "replace").strip()
    except OSError:
        return ""


def begin_child(kind: type[Orders]) -> tuple[Orders, int]:
    """In the child: read the orders, a line of JSON; return the descriptor for reports, too."""
    with open(0, "rb", buffering=0, closefd=False) as pipe:
        orders = kind.model_validate_json(pipe.readline())
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    reports = os.dup(1)
    os.dup2(2, 1)  # a library that prints must not write between our lines
    return orders, reports


def _exit_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)  # no destructors: what is being computed is of no use any more
