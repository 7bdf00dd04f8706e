"""One training, in a process that does nothing else: load, go on from a checkpoint, train, keep.

Imported by `local_child` only: torch, transformers, peft and trl take seconds to load.
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
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from icm_client.errors import IcmError, TrainingError
from icm_client.runs.trainer import Example
from icm_client.training.label_loss import LabelTrainer, collate, encode
from icm_client.training.local_child import Orders, Report
from icm_client.training.local_settings import (
    ALPHA_OF_RANK,
    CLIPPED_NORM,
    WARMUP,
    rate_for,
)

WHOLE = "icm-client.json"
"""The last file of a checkpoint: without it, the process was killed while writing."""

OnReport = Callable[[Report], None]


def run(orders: Orders, report: OnReport) -> Report:
    """Train as ordered; the model lies in `orders.work / "model"` once the report says done."""
    torch.set_num_threads(orders.threads)
    set_seed(orders.seed)  # new weights are drawn before the Trainer sets its own
    try:
        tokenizer = AutoTokenizer.from_pretrained(orders.base)
        made = _sft if orders.objective == "sft" else _reward
        trainer = made(orders, tokenizer)
        newest, before_s = _newest(orders.work)
        pace = _Pace(orders, report, trainer.args.learning_rate, before_s)
        trainer.add_callback(pace)
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
    return pace.last.model_copy(update={"done": True, "seconds": pace.seconds})


def arguments(orders: Orders, parameters: int) -> dict[str, Any]:
    """Return what every kind of trainer here is told, for a base of this many parameters."""
    settings = orders.settings
    rate = rate_for(parameters, settings.method) if settings.rate is None else settings.rate
    return {
        "output_dir": str(orders.work),
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": settings.batch,
        "gradient_accumulation_steps": settings.accumulate,
        "learning_rate": rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": WARMUP,
        "weight_decay": 0.0,
        "max_grad_norm": CLIPPED_NORM,
        "seed": orders.seed,
        "use_cpu": orders.device == "cpu",
        "bf16": orders.device == "cuda",
        "save_strategy": "no",  # `_Pace` says when
        "save_total_limit": 2,  # the one before stays until the new one is marked whole
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # a training that diverged must say so
        "disable_tqdm": True,
        "report_to": "none",
        "remove_unused_columns": False,
        "dataloader_pin_memory": orders.device == "cuda",
    }


def dtype_for(orders: Orders) -> torch.dtype:
    """Frozen weights of a GPU are kept in bfloat16; weights that are trained in float32."""
    frozen_on_gpu = orders.device == "cuda" and orders.settings.method == "lora"
    return torch.bfloat16 if frozen_on_gpu else torch.float32


def adapter(orders: Orders, task: str) -> Any:
    """Return peft's configuration: a pair of matrices beside every linear layer but the head."""
    from peft import LoraConfig  # noqa: PLC0415 - not needed to train all weights

    return LoraConfig(
        task_type=task,
        r=orders.settings.rank,
        lora_alpha=ALPHA_OF_RANK * orders.settings.rank,
        lora_dropout=0.0,
        target_modules="all-linear",
    )


def _sft(orders: Orders, tokenizer: PreTrainedTokenizerBase) -> Trainer:
    examples = [Example(*row) for row in json.loads(orders.examples.read_bytes())]
    encoded = encode(examples, tokenizer)
    model = AutoModelForCausalLM.from_pretrained(orders.base, dtype=dtype_for(orders))
    told = TrainingArguments(**arguments(orders, model.num_parameters()))
    if orders.settings.method == "lora":
        from peft import get_peft_model  # noqa: PLC0415

        model = get_peft_model(model, adapter(orders, "CAUSAL_LM"))
    return LabelTrainer(model=model, args=told, train_dataset=encoded, data_collator=collate)


def _reward(orders: Orders, tokenizer: PreTrainedTokenizerBase) -> Trainer:
    from icm_client.training.reward_trainer import reward_trainer  # noqa: PLC0415 - trl and datasets

    return reward_trainer(orders, tokenizer)


def _newest(work: Path) -> tuple[Path | None, float]:
    """Return the newest checkpoint that is whole, and the seconds behind it; drop broken ones."""
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


class _Pace(TrainerCallback):
    """Reports each step, says when to keep a checkpoint, and marks it once it is whole."""

    def __init__(self, orders: Orders, report: OnReport, rate: float, before_s: float) -> None:
        self._every_s = orders.checkpoint_s
        self._report = report
        self._rate = rate
        self._begun = time.monotonic() - before_s
        self._kept = time.monotonic()
        self.last = Report(rate=rate)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._begun

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        del args, control
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        self._tell(state, losses[-1] if losses else None)

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
                    f"the loss is no number any more after step {state.global_step}: take a lower "
                    "learning rate"
                )
            self._tell(state, logs["loss"])

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        del args
        last = state.global_step >= state.max_steps
        control.should_save = not last and time.monotonic() - self._kept >= self._every_s

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        del control
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        (folder / WHOLE).write_text(json.dumps({"seconds": self.seconds}), encoding="utf-8")
        self._kept = time.monotonic()

    def _tell(self, state: TrainerState, loss: float | None) -> None:
        self.last = Report(
            step=state.global_step,
            steps=state.max_steps,
            loss=loss,
            seconds=self.seconds,
            rate=self._rate,
        )
        self._report(self.last)
