"""A reward model in training: trl's RewardTrainer, `-log sigmoid(r_chosen - r_rejected)`.

Bradley and Terry's model of comparisons: the score's difference is the log-odds that one response
is preferred. Imported in the process that trains.
"""

import json
from typing import Any

from datasets import Dataset
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import RewardTrainer

from icm_client.errors import TrainingError
from icm_client.training.label_loss import reward_ids
from icm_client.training.local_child import Orders
from icm_client.training.local_run import adapter, arguments, dtype_for


def reward_trainer(orders: Orders, tokenizer: PreTrainedTokenizerBase) -> RewardTrainer:
    """Return the trainer for the pairs in `orders.examples`.

    Raises:
        TrainingError: the tokenizer has neither a padding token nor one that ends a text.
    """
    if tokenizer.pad_token is None and tokenizer.eos_token is None:
        raise TrainingError("this model's tokenizer has no token to pad with")
    pairs = json.loads(orders.examples.read_bytes())
    # In ids: given texts, trl would leave out what is longer than 1,024 tokens without a word.
    rows = [
        {
            "chosen_ids": reward_ids(prompt, chosen, tokenizer),
            "rejected_ids": reward_ids(prompt, rejected, tokenizer),
        }
        for prompt, chosen, rejected in pairs
    ]
    model: Any = AutoModelForSequenceClassification.from_pretrained(
        orders.base, num_labels=1, dtype=dtype_for(orders)
    )
    lora = adapter(orders, "SEQ_CLS") if orders.settings.method == "lora" else None
    return RewardTrainer(
        model=model,
        args=RewardConfig(**arguments(orders, model.num_parameters())),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=lora,
    )
