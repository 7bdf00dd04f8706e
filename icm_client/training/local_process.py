"""The process that trains: started and listened to here, and its first lines (`main`).

A process of its own, because training sets torch's threads, seeds and warnings for the whole
process, and because its memory is freed when it ends. It reads one JSON line (`Orders`) from stdin,
writes one (`Report`) to stdout for each optimizer step, and logs to stderr. When its parent ends,
even by kill -9, its stdin closes and it ends too. The same orders then continue from the last
complete checkpoint.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from icm_client.child_process import begin_child, last_words, open_child, stop_child
from icm_client.cores import YIELDING
from icm_client.errors import TrainingError
from icm_client.runs.trainer import OnTraining, TrainingProgress
from icm_client.training.local_settings import Orders, Report

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
    """Train as ordered; return the last report. When cancelled, it ends the child first."""
    log = orders.work / "log.txt"
    try:
        file = log.open("ab")
    except OSError as error:
        raise TrainingError(f"{log} cannot be written ({error.strerror})") from error
    with file:
        process = await open_child("-m", __name__, log=file, env=_environment(gpu))
    try:
        last = await _last_report(process, orders, name, progress)
        if not last.done:
            raise TrainingError(_why_it_ended(name, await process.wait(), log))
        return last
    finally:
        with anyio.CancelScope(shield=True):
            await stop_child(process)


async def _last_report(
    process: Process, orders: Orders, name: str, progress: OnTraining | None
) -> Report:
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
        "HF_HUB_OFFLINE": "1",  # the model is on the disk already
        **YIELDING,
    }
    return {**settings, **os.environ, "CUDA_VISIBLE_DEVICES": "" if gpu is None else gpu}


def _why_it_ended(name: str, status: int, log: Path) -> str:
    if status == _KILLED:
        return (
            f"{name}: the training's process was killed, most often because memory ran out: take a "
            "smaller batch and accumulate as many more, or LoRA. The same command continues from "
            "the last checkpoint."
        )
    words = last_words(log)
    return f"{name}: the training ended with status {status}; its log, {log}, ends with:\n{words}"


def main() -> None:
    """In the child: train until done, or until stdin closes."""
    orders, reports = begin_child(Orders)

    def report(one: Report) -> None:
        os.write(reports, one.model_dump_json().encode() + b"\n")

    from icm_client.training.local_run import run  # noqa: PLC0415 - torch; the parent goes without

    report(run(orders, report))


if __name__ == "__main__":
    main()
