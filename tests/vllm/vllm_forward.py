"""transformers' own forward pass: forward.py MODEL < questions > answers, on vLLM's Python.

A question is `[prompt ids, token ids]`; its answer the log-probs of those tokens after the prompt.
"""

import json
import sys
from importlib import import_module

torch = import_module("torch")  # of another environment than the one that checks these types
model = import_module("transformers").AutoModelForCausalLM.from_pretrained(
    sys.argv[1], dtype=torch.float32
)
answers = []
with torch.no_grad():
    for prompt, tokens in json.load(sys.stdin):
        logits = model(torch.tensor([prompt])).logits[0, -1].double()
        answers.append(torch.log_softmax(logits, -1)[tokens].tolist())
json.dump(answers, sys.stdout)
