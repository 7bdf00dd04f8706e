"""The tokens of a response as a reward model reads them, in training and after."""

from typing import Any

from icm_client.training.label_loss import beginning


def reward_ids(prompt: str, response: str, tokenizer: Any) -> list[int]:
    """Return BOS, prompt and response, and the end-of-text token whose state is scored."""
    ids = tokenizer(prompt + response, add_special_tokens=False).input_ids
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return [*beginning(tokenizer), *ids, *end]
