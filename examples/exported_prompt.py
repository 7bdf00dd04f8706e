"""Label rows with an exported prompt and the openai SDK; icm-client itself is not needed.

    icm-client export RUN --to prompt -o prompt.json
    python examples/exported_prompt.py prompt.json http://localhost:8000/v1 < rows.jsonl

Each label must be one token, and among the tokens that the server reports as the likeliest.
"""

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import openai


def label(row: dict[str, str], prompt: dict[str, Any], client: openai.OpenAI) -> tuple[str, float]:
    """Return the row's label, and how probable it is."""
    scores = [0.0] * len(prompt["labels"])
    for context in prompt["contexts"]:
        text = context["text"] + prompt["template"].format(**row)
        found = client.completions.create(
            model=prompt["model"], prompt=text, max_tokens=1, logprobs=20, temperature=0
        )
        said = found.model_dump()["choices"][0]["logprobs"]
        if said.get("content"):  # llama.cpp's shape; vLLM and others have a dictionary
            top = {one["token"]: one["logprob"] for one in said["content"][0]["top_logprobs"]}
        else:
            (top,) = said["top_logprobs"]
        for k, token in enumerate(prompt["label_texts"]):
            scores[k] += (top[token] - context["bias"][k]) / len(prompt["contexts"])
    odds = [
        math.exp(prompt["slope"] * s + b) for s, b in zip(scores, prompt["offsets"], strict=True)
    ]
    best = odds.index(max(odds))
    return prompt["labels"][best], odds[best] / sum(odds)


def main(path: str, url: str) -> None:
    """Label the rows of the standard input, one JSON object a line."""
    prompt = json.loads(Path(path).read_bytes())
    client = openai.OpenAI(base_url=url, api_key=os.environ.get("OPENAI_API_KEY", "none"))
    for line in sys.stdin:
        row = json.loads(line)
        word, probability = label(row, prompt, client)
        sys.stdout.write(json.dumps({**row, "label": word, "confidence": probability}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
