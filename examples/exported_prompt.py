"""Label rows with an exported prompt and the openai SDK; icm-client itself is not needed.

    icm-client export RUN --to prompt -o prompt.json
    python examples/exported_prompt.py prompt.json http://localhost:8000/v1 < rows.jsonl

Each label must be one token, and among the tokens that the server reports as the likeliest.
"""

import json
import math
import sys

import openai


def label(row: dict[str, str], prompt: dict, client: openai.OpenAI) -> tuple[str, float]:
    """Return the row's label and how probable it is."""
    scores = [0.0] * len(prompt["labels"])
    for context in prompt["contexts"]:
        text = context["text"] + prompt["template"].format(**row)
        found = client.completions.create(
            model=prompt["model"], prompt=text, max_tokens=1, logprobs=20, temperature=0
        )
        top = found.choices[0].logprobs.top_logprobs[0]
        for k, (word, bias) in enumerate(zip(prompt["label_texts"], context["bias"], strict=True)):
            scores[k] += (top[word] - bias) / len(prompt["contexts"])
    odds = [
        math.exp(prompt["slope"] * s + b) for s, b in zip(scores, prompt["offsets"], strict=True)
    ]
    best = odds.index(max(odds))
    return prompt["labels"][best], odds[best] / sum(odds)


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        prompt = json.load(file)
    client = openai.OpenAI(base_url=sys.argv[2], api_key="none")
    for line in sys.stdin:
        row = json.loads(line)
        word, probability = label(row, prompt, client)
        print(json.dumps({**row, "label": word, "confidence": probability}))
