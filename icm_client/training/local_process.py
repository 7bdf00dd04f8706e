"""Starts the process that trains, listens to it, and says why it ended."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE
from typing import Final

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from icm_client.child_process import stop_child
from icm_client.cores import YIELDING
from icm_client.errors import TrainingError
from icm_client.runs.trainer import OnTraining, TrainingProgress
from icm_client.training.local_child import Orders, Report

_LAST_WORDS: Final = 2000
"""Bytes of the log that an error message ends with."""

_LONGEST_LINE: Final = 65_536
_KILLED: Final = -9
_CLOSED: Final = (
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    anyio.EndOfStream,
    anyio.IncompleteRead,
)


async def train_in_child(
    orders: Orders, *, name: str, gpu: str | None, progress: OnTraining | None
) -> Report:
    """Train as ordered; return the last report. Cancelled, it ends the child first.

    Args:
        orders: what to train.
        name: of the training, for progress.
        gpu: the one that the child sees; None where there is none.
        progress: told of every step.

    Raises:
        TrainingError: it cannot be done, or the child died; its log stays beside the checkpoints.
    """
    log = orders.work / "log.txt"
    try:
        file = log.open("ab")
    except OSError as error:
        raise TrainingError(f"{log} cannot be written ({error.strerror})") from error
    with file:
        # A session of its own: Ctrl-C in the terminal goes to the parent only, which ends it.
        process = await anyio.open_process(
            [sys.executable, "-P", "-m", "icm_client.training.local_child"],
            stdin=PIPE,
            stdout=PIPE,
            stderr=file,
            env=_environment(gpu),
            start_new_session=True,
        )
    try:
        last = await _listened(process, orders, name, progress)
        if not last.done:
            raise TrainingError(_ended(name, await process.wait(), log))
        return last
    finally:
        with anyio.CancelScope(shield=True):
            await stop_child(process)


async def _listened(
    process: Process, orders: Orders, name: str, progress: OnTraining | None
) -> Report:
    """Hand the orders over, pass on every step, and return the last report."""
    if process.stdin is None or process.stdout is None:
        raise AssertionError
    last = Report()
    lines = BufferedByteReceiveStream(process.stdout)
    with suppress(*_CLOSED):
        await process.stdin.send(orders.model_dump_json().encode() + b"\n")
        while not last.done:
            last = Report.model_validate_json(await lines.receive_until(b"\n", _LONGEST_LINE))
            if last.error is not None:
                raise TrainingError(f"{name}: {last.error}")
            if progress is not None:
                progress(
                    TrainingProgress(name, last.step, last.steps or None, last.loss, last.seconds)
                )
    return last


def _environment(gpu: str | None) -> dict[str, str]:
    settings = {
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",  # the model is on the disk; nothing else is wanted of a hub
        **YIELDING,
    }
    return {**settings, **os.environ, "CUDA_VISIBLE_DEVICES": "" if gpu is None else gpu}


def _ended(name: str, status: int, log: Path) -> str:
    if status == _KILLED:
        return (
            f"{name}: the training's process was killed, most often because memory ran out: take a "
            "smaller batch and accumulate as many more, or LoRA. The same command goes on from "
            "the last checkpoint."
        )
    try:
        words = log.read_bytes()[-_LAST_WORDS:].decode("utf-8", "replace").strip()
    except OSError:
        words = ""
    return f"{name}: the training ended with status {status}; its log, {log}, ends with:\n{words}"
