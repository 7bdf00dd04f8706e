"""What vLLM, llama.cpp and OpenAI say of themselves."""

import json

from icm_client.endpoints import Read, RetryPolicy, TransportSettings

SETTINGS = TransportSettings(retry=RetryPolicy(attempts=2, initial_wait_s=0.0))
READS = [Read((1, 2), (7, 9)), Read((1, 3), (7, 9))]
VLLM_MODELS = json.dumps(
    {"data": [{"id": "base", "root": "org/base", "max_model_len": 64, "owned_by": "vllm"}]}
)
META = {"n_vocab": 5000, "n_params": 1, "size": 2, "ftype": "Q4"}
LLAMA_MODELS = json.dumps(
    {"data": [{"id": "g", "aliases": ["gem"], "owned_by": "llamacpp", "meta": META}]}
)
PROPS = json.dumps(
    {
        "default_generation_settings": {"n_ctx": 64},
        "total_slots": 2,
        "model_alias": "g",
        "build_info": "b1",
    }
)
OPENAI_MODELS = json.dumps({"object": "list", "data": [{"id": "davinci", "owned_by": "openai"}]})


def ids(text: str) -> tuple[int, ...]:
    return tuple(map(ord, text))
