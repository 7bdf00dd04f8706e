"""A small random LoRA adapter in PEFT's layout, written without PEFT.

Source: https://huggingface.co/docs/peft/developer_guides/checkpoint and
https://huggingface.co/docs/safetensors (8 bytes of header length, a JSON header, the tensors).
"""

import json
import struct
from pathlib import Path

import numpy as np

RANK = 8


def write_adapter(
    folder: Path, config: dict[str, int], *, seed: int, rank: int = RANK, module: str = "v_proj"
) -> None:
    """Write weights for the query projection and for `module` of every layer of `config`."""
    rng = np.random.default_rng(seed)
    hidden, head = config["hidden_size"], config["head_dim"]
    widths = {
        "q_proj": config["num_attention_heads"] * head,
        module: config["num_key_value_heads"] * head,
    }
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for name, width in widths.items():
            place = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors[f"{place}.lora_A.weight"] = rng.normal(0, 0.05, (rank, hidden))
            tensors[f"{place}.lora_B.weight"] = rng.normal(0, 0.05, (width, rank))
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(_safetensors(tensors))
    described = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(widths),
        "base_model_name_or_path": "gemma-3-270m",
    }
    (folder / "adapter_config.json").write_text(json.dumps(described), "utf-8")


def _safetensors(tensors: dict[str, np.ndarray]) -> bytes:
    header, body = {}, b""
    for name, tensor in tensors.items():
        raw = tensor.astype("<f4").tobytes()
        header[name] = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [len(body), len(body) + len(raw)],
        }
        body += raw
    words = json.dumps(header).encode()
    return struct.pack("<Q", len(words)) + words + body
