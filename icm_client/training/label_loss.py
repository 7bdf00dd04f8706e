"""What is trained on, in tokens, and the loss: that of the label's tokens alone.

transformers' Trainer with a loss of our own, not trl's SFTTrainer: without Triton, that one
computes logits at every position, over Gemma's vocabulary of 262,144, and uses one. Here batches
are padded on the left, so that all labels end at the last position, and the model computes the
logits of those few positions only (`logits_to_keep`).

Imported where torch is loaded already: torch and transformers take seconds to load.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase, Trainer

from icm_client.errors import TrainingError
from icm_client.runs.trainer import Example

IGNORED = -100
"""Marks the positions in `labels` that have no loss."""


class EncodedExample(NamedTuple):
    """An example in tokens.

    Attributes:
        prompt: BOS, if the model has one, and the prompt's ids.
        label: the label's ids.
    """

    prompt: tuple[int, ...]
    label: tuple[int, ...]


def beginning(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return what every prompt of the model begins with: its BOS, or nothing."""
    ids = tokenizer("").input_ids
    return (tokenizer.bos_token_id,) if tokenizer.bos_token_id in ids else ()


def encode(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> list[EncodedExample]:
    """Tokenize as the scorer does: a label's ids are what its text adds to its prompt's ids.

    Raises:
        TrainingError: a prompt or label is empty, or the two merge into one token.
    """
    begins = beginning(tokenizer)
    prompts = [example.prompt for example in examples]
    wholes = [example.prompt + example.label for example in examples]
    encoded = []
    for number, (prompt, whole) in enumerate(
        zip(_ids(prompts, tokenizer), _ids(wholes, tokenizer), strict=True)
    ):
        label = whole[len(prompt) :]
        if not prompt or not label or whole[: len(prompt)] != prompt:
            raise TrainingError(
                f"example {number} (counting from 0): the label {examples[number].label!r} has no "
                f"tokens of its own after the prompt's end {prompts[number][-20:]!r}. Let the "
                "template end with a mark such as ':', and the label begin with the space."
            )
        encoded.append(EncodedExample((*begins, *prompt), label))
    return encoded


def _ids(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[int, ...]]:
    return map(tuple, tokenizer(texts, add_special_tokens=False).input_ids)


def collate(batch: Sequence[EncodedExample]) -> dict[str, torch.Tensor]:
    """Return tensors of shape `[B, T]`, padded on the left; `labels` is `IGNORED` but at labels.

    The padding is masked, and positions are counted without it.
    """
    longest = max(len(one.prompt) + len(one.label) for one in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, IGNORED)
    for row, one in enumerate(batch):
        whole = torch.tensor(one.prompt + one.label)
        ids[row, longest - len(whole) :] = whole
        mask[row, longest - len(whole) :] = 1
        labels[row, longest - len(one.label) :] = torch.tensor(one.label)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": (mask.cumsum(dim=1) - 1).clamp(min=0),
        "labels": labels,
    }


def summed_loss(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the negative log-probs of the batch's labels, summed, in nats."""
    labels = inputs["labels"]  # [B, T]
    read = {key: value for key, value in inputs.items() if key != "labels"}
    kept = int((labels != IGNORED).sum(dim=1).max()) + 1  # one before each label token predicts it
    logits = model(**read, logits_to_keep=kept, use_cache=False).logits[:, -kept:-1]  # [B, L, V]
    wanted = labels[:, 1 - kept :]  # [B, L]
    return cross_entropy(
        logits.flatten(0, 1).float(), wanted.flatten(), ignore_index=IGNORED, reduction="sum"
    )


class LabelTrainer(Trainer):
    """Trains on `summed_loss` over the examples of an optimizer step, in nats a label."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        # So the loss is given `num_items_in_batch`, here the number of examples over all forward
        # passes of a step: accumulation changes nothing, even if the last pass is smaller.
        self.model_accepts_loss_kwargs = True

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor | int | None]:
        """Return the forward passes of the next step, and their number of examples."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        return batches, torch.tensor(sum(len(batch["labels"]) for batch in batches), device=device)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return this forward pass's part of the step's loss."""
        if return_outputs:
            raise NotImplementedError
        of = len(inputs["labels"]) if num_items_in_batch is None else num_items_in_batch
        return summed_loss(model, inputs) / of


def reward_ids(prompt: str, response: str, tokenizer: Any) -> list[int]:
    """Return BOS, prompt, response and the end-of-text token, at which a reward model scores."""
    ids = tokenizer(prompt + response, add_special_tokens=False).input_ids
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return [*beginning(tokenizer), *ids, *end]
