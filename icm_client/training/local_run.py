"""One training in the process that trains: resume from a checkpoint, train, report, save.

Its two objectives are labels after prompts, and pairs of responses, by trainers of transformers.

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
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
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
from icm_client.training.label_loss import LabelTrainer, collate, encode, reward_ids
from icm_client.training.local_settings import (
    ALPHA_OF_RANK,
    CLIPPED_NORM,
    WARMUP,
    Orders,
    Report,
    rate_for,
)


def label_trainer(orders: Orders, tokenizer: PreTrainedTokenizerBase) -> Trainer:
    """Return what trains on `orders.examples`, the loss on the labels' tokens alone."""
    examples = [Example(*row) for row in json.loads(orders.examples.read_bytes())]
    encoded = encode(examples, tokenizer)
    model = AutoModelForCausalLM.from_pretrained(orders.base, dtype=_dtype(orders))
    arguments = TrainingArguments(**_arguments(orders, model.num_parameters()))
    if (adapter := _adapter(orders, "CAUSAL_LM")) is not None:
        from peft import get_peft_model  # noqa: PLC0415 - slow to load

        model = get_peft_model(model, adapter)
    return LabelTrainer(model=model, args=arguments, train_dataset=encoded, data_collator=collate)


def reward_trainer(orders: Orders, tokenizer: PreTrainedTokenizerBase) -> Trainer:
    """Return what trains on the pairs in `orders.examples`: trl's RewardTrainer.

    The loss is `-log sigmoid(r_chosen - r_rejected)`, Bradley and Terry's model of comparisons:
    the difference of two scores is the log-odds that the first response is preferred.

    Raises:
        TrainingError: the tokenizer has neither a padding token nor an end-of-text token.
    """
    from datasets import Dataset  # noqa: PLC0415 - slow to load, as trl is
    from trl.trainer.reward_config import RewardConfig  # noqa: PLC0415
    from trl.trainer.reward_trainer import RewardTrainer  # noqa: PLC0415

    if tokenizer.pad_token is None and tokenizer.eos_token is None:
        raise TrainingError("this model's tokenizer has no token to pad with")
    # In ids: given texts, trl would silently leave out those of more than 1,024 tokens.
    rows = [
        {
            "chosen_ids": reward_ids(prompt, chosen, tokenizer),
            "rejected_ids": reward_ids(prompt, rejected, tokenizer),
        }
        for prompt, chosen, rejected in json.loads(orders.examples.read_bytes())
    ]
    model: Any = AutoModelForSequenceClassification.from_pretrained(
        orders.base, num_labels=1, dtype=_dtype(orders)
    )
    return RewardTrainer(
        model=model,
        args=RewardConfig(**_arguments(orders, model.num_parameters())),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=_adapter(orders, "SEQ_CLS"),
    )


def _arguments(orders: Orders, parameters: int) -> dict[str, Any]:
    """What both trainers are given, for a base model of this many parameters."""
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
        "save_strategy": "no",  # `local_run` decides when to save
        "save_total_limit": 2,  # the one before stays until the new one is marked as complete
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # a training that diverges must be noticed
        "disable_tqdm": True,
        "report_to": "none",
        "remove_unused_columns": False,
        "dataloader_pin_memory": orders.device == "cuda",
    }


def _dtype(orders: Orders) -> torch.dtype:
    """Frozen weights are kept in bfloat16 on a GPU; weights that are trained in float32."""
    frozen_on_gpu = orders.device == "cuda" and orders.settings.method == "lora"
    return torch.bfloat16 if frozen_on_gpu else torch.float32


def _adapter(orders: Orders, task: str) -> Any:
    """LoRA on every linear layer but the head; None where all weights are trained."""
    if orders.settings.method == "full":
        return None
    from peft import LoraConfig  # noqa: PLC0415 - not needed to train all weights

    return LoraConfig(
        task_type=task,
        r=orders.settings.rank,
        lora_alpha=ALPHA_OF_RANK * orders.settings.rank,
        lora_dropout=0.0,
        target_modules="all-linear",
    )


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
