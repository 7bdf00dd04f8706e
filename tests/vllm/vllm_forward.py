"""transformers' own forward pass: MODEL [ADAPTER ...] < questions > answers, on vLLM's Python.

An adapter is added to the weights, as its paper has it: W + (alpha / r) B A.
Source: https://arxiv.org/abs/2106.09685, section 4.1.

A question is `[prompt ids, token ids]`; its answer the log-probs of those tokens after the prompt.
"""

import json
import sys
from importlib import import_module
from pathlib import Path

torch = import_module("torch")  # of another environment than the one that checks these types
model = import_module("transformers").AutoModelForCausalLM.from_pretrained(
    sys.argv[1], dtype=torch.float32
)
answers = []
with torch.no_grad():
    for adapter in map(Path, sys.argv[2:]):
        told = json.loads((adapter / "adapter_config.json").read_bytes())
        weights = import_module("safetensors.torch").load_file(
            adapter / "adapter_model.safetensors"
        )
        for name in weights:
            place, is_a, _ = name.partition(".lora_A.weight")
            if is_a:
                product = weights[f"{place}.lora_B.weight"] @ weights[name]
                module = model.get_submodule(place.removeprefix("base_model.model."))
                module.weight += told["lora_alpha"] / told["r"] * product
    for prompt, tokens in json.load(sys.stdin):
        logits = model(torch.tensor([prompt])).logits[0, -1].double()
        answers.append(torch.log_softmax(logits, -1)[tokens].tolist())
json.dump(answers, sys.stdout)
