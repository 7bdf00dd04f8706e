"""The two objectives as trainers of transformers: labels after prompts, and pairs of responses.

Imported only in the process that trains.
"""

import json
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)

from icm_client.errors import TrainingError
from icm_client.runs.trainer import Example
from icm_client.training.label_loss import LabelTrainer, collate, encode, reward_ids
from icm_client.training.local_settings import (
    ALPHA_OF_RANK,
    CLIPPED_NORM,
    WARMUP,
    Orders,
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
