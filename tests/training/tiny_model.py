"""A model of two layers and a few words, on which a training takes a second: real, but tiny."""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from icm_client.runs.trainer import Example
from icm_client.training.examples import Pair

GOOD, BAD = ("good", "fine", "great"), ("bad", "poor", "awful")
THINGS = ("film", "book", "meal", "trip")
OTHERS = ("the", "was", "Review", "Sentiment", ":", "positive", "negative", "very", "quite")
SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")

# transformers gives this class no types.
_tokenizer_class: Any = transformers.PreTrainedTokenizerFast


def make_tiny_model(folder: Path, *, seed: int = 0) -> Path:
    """Write config, random weights and a tokenizer that begins with BOS, as Gemma's does."""
    words = (*SPECIAL, *GOOD, *BAD, *THINGS, *OTHERS)
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 1)]
    )
    _tokenizer_class(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
    ).save_pretrained(folder)
    torch.manual_seed(seed)
    config = transformers.Gemma3TextConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        layer_types=["sliding_attention", "full_attention"],
        sliding_window=8,  # shorter than the prompts: padding in the wrong place would show
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=256,
        query_pre_attn_scalar=16,
        initializer_range=0.2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    transformers.Gemma3ForCausalLM(config).save_pretrained(folder)
    return folder


def tiny_examples() -> list[Example]:
    """Return 48 reviews with their labels; lengths differ by a word."""
    return [
        Example(f"Review: the {thing} was {degree}{word}\nSentiment:", f" {label}")
        for thing in THINGS
        for degree in ("", "very ")
        for label, words in (("positive", GOOD), ("negative", BAD))
        for word in words
    ]


def tiny_pairs() -> list[Pair]:
    """Return 36 pairs of reviews of which the favourable one is preferred."""
    return [
        Pair(f"the {thing} was", f" {good}", f" very {bad}" if thing == "meal" else f" {bad}")
        for thing in THINGS
        for good in GOOD
        for bad in BAD
    ]
