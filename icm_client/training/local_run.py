"""One training in the process that trains: resume from a checkpoint, train, report, save.

Imported only there: torch, transformers, peft and trl take seconds to load.
"""

import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from icm_client.errors import IcmError, TrainingError
from icm_client.training.local_settings import Orders, Report
from icm_client.training.objectives import label_trainer, reward_trainer

WHOLE = "icm-client.json"
"""Written last into a checkpoint: one without it was interrupted while it was saved."""

OnReport = Callable[[Report], None]


def run(orders: Orders, report: OnReport) -> Report:
    """Train as ordered; the model lies in `orders.work / "model"` once the report says done."""
    torch.set_num_threads(orders.threads)
    set_seed(orders.seed)  # new weights are drawn before the Trainer sets its own seed
    try:
        tokenizer = AutoTokenizer.from_pretrained(orders.base)
        make = label_trainer if orders.objective == "sft" else reward_trainer
        trainer = make(orders, tokenizer)
        newest, before_s = _newest_checkpoint(orders.work)
        steps = _Steps(orders, report, trainer.args.learning_rate, before_s)
        trainer.add_callback(steps)
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=None if newest is None else str(newest))
        model = orders.work / "model"
        shutil.rmtree(model, ignore_errors=True)
        trainer.save_model(str(model))
        tokenizer.save_pretrained(model)
    except IcmError as error:
        return Report(error=str(error))
    except torch.OutOfMemoryError as error:
        return Report(
            error=f"the GPU's memory is too small ({str(error)[:120]}): take a smaller batch and "
            "accumulate as many more, or LoRA"
        )
    return steps.last.model_copy(update={"done": True, "seconds": steps.seconds})


def _newest_checkpoint(work: Path) -> tuple[Path | None, float]:
    """The newest complete checkpoint, and the seconds of training in it; delete incomplete ones."""
    whole: list[tuple[int, Path, float]] = []
    for path in work.glob("checkpoint-*"):
        try:
            seconds = json.loads((path / WHOLE).read_bytes())["seconds"]
        except (OSError, ValueError):
            shutil.rmtree(path, ignore_errors=True)
            continue
        whole.append((int(path.name.rpartition("-")[2]), path, float(seconds)))
    if not whole:
        return None, 0.0
    _, newest, seconds = max(whole)
    return newest, seconds


class _Steps(TrainerCallback):
    """Reports each step, decides when to save a checkpoint, and marks it as complete."""

    def __init__(self, orders: Orders, report: OnReport, rate: float, before_s: float) -> None:
        self._every_s = orders.checkpoint_s
        self._report = report
        self._rate = rate
        self._began = time.monotonic() - before_s
        self._saved = time.monotonic()
        self.last = Report(rate=rate)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        del args, control
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        self._report_step(state, losses[-1] if losses else None)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        del args, control
        if logs and "loss" in logs:
            if not math.isfinite(logs["loss"]):
                raise TrainingError(
                    f"the loss became NaN or infinite after step {state.global_step}: take a lower "
                    "learning rate"
                )
            self._report_step(state, logs["loss"])

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        del args
        last = state.global_step >= state.max_steps
        control.should_save = not last and time.monotonic() - self._saved >= self._every_s

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        del control
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        (folder / WHOLE).write_text(json.dumps({"seconds": self.seconds}), encoding="utf-8")
        self._saved = time.monotonic()

    def _report_step(self, state: TrainerState, loss: float | None) -> None:
        self.last = Report(
            step=state.global_step,
            steps=state.max_steps,
            loss=loss,
            seconds=self.seconds,
            rate=self._rate,
        )
        self._report(self.last)
