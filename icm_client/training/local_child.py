"""The process that trains: `python -m icm_client.training.local_child`.

It reads one JSON line (`Orders`) from stdin, writes one (`Report`) to stdout for each optimizer
step, and logs to stderr. Its stdin is a pipe from the parent, so that it ends with the parent
however that one ends, kill -9 included. What it has computed by then lies in a checkpoint; the
same orders go on from the newest one that is whole.

A process of its own, because training sets torch's threads, seeds and warnings for the whole
process, and because its memory is given back when it ends.
"""

import os
import threading
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from icm_client.training.local_settings import LocalSettings, Objective


class Orders(BaseModel):
    """What is to be trained.

    Attributes:
        base: the model's folder.
        examples: a JSON file: `[[prompt, label], ...]`, or for `reward` `[[prompt, chosen,
            rejected], ...]`.
        objective: what the examples are.
        settings: of the training.
        seed: of the examples' order and of new weights.
        work: the folder for checkpoints, and for the model until it is whole.
        threads: of the CPU.
        device: "cuda" or "cpu".
        checkpoint_s: seconds between checkpoints.
    """

    model_config = ConfigDict(frozen=True)

    base: Path
    examples: Path
    objective: Objective
    settings: LocalSettings
    seed: int
    work: Path
    threads: int
    device: Literal["cpu", "cuda"]
    checkpoint_s: float


class Report(BaseModel):
    """A line of the child's: a step that is done, the end, or what went wrong.

    Attributes:
        step: optimizer steps done.
        steps: that there will be.
        loss: of the latest step; None before the first.
        seconds: of training, those of earlier processes included.
        rate: the highest learning rate.
        done: whether the model lies in `work/model`.
        error: why there will be none.
    """

    model_config = ConfigDict(frozen=True)

    step: int = 0
    steps: int = 0
    loss: float | None = None
    seconds: float = 0.0
    rate: float = 0.0
    done: bool = False
    error: str | None = None


def tell(pipe: int, report: Report) -> None:
    """Write one line."""
    os.write(pipe, report.model_dump_json().encode() + b"\n")


def _exit_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)  # whatever torch is doing: the checkpoint is whole, or it is not used


def main() -> None:
    """Train until done, or until stdin closes."""
    with open(0, "rb", buffering=0, closefd=False) as pipe:
        orders = Orders.model_validate_json(pipe.readline())
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    reports = os.dup(1)
    os.dup2(2, 1)  # a library that prints must not write between our lines
    from icm_client.training.local_run import run  # noqa: PLC0415 - torch; the parent imports this

    tell(reports, run(orders, lambda report: tell(reports, report)))


if __name__ == "__main__":
    main()
