"""vLLM's `/metrics`: how busy the server is, and how much its prefix cache saves.

Source: https://docs.vllm.ai/en/latest/usage/metrics.html; the text format is Prometheus'
(https://prometheus.io/docs/instrumenting/exposition_formats).
"""

import math
import re
from dataclasses import dataclass
from typing import Final

from icm_client.errors import MalformedAnswer

# name, labels, value; a label's value may hold escaped quotes and braces.
_SAMPLE: Final = re.compile(
    r'^(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?:[^"}]|"(?:[^"\\]|\\.)*")*\})?\s+(?P<value>\S+)'
)

_METRICS: Final = {
    "running": "vllm:num_requests_running",
    "waiting": "vllm:num_requests_waiting",
    "queried": "vllm:prefix_cache_queries_total",
    "hit": "vllm:prefix_cache_hits_total",
    "prompt": "vllm:prompt_tokens_total",
    "generated": "vllm:generation_tokens_total",
    "finished": "vllm:request_success_total",
    "rejected": "vllm:admission_rejections_total",
    "preempted": "vllm:num_preemptions_total",
}
"""Field of a snapshot -> the metric whose samples it adds up, over replicas and reasons."""
_KV_USE: Final = "vllm:kv_cache_usage_perc"


def samples_in(text: str) -> dict[str, list[float]]:
    """Name -> the values of its samples, one for each set of labels (replicas, reasons)."""
    samples: dict[str, list[float]] = {}
    for line in text.splitlines():
        match = _SAMPLE.match(line)
        if match is None:
            continue
        try:
            value = float(match["value"])
        except ValueError:
            continue
        samples.setdefault(match["name"], []).append(value)
    return samples


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the server reports at one moment, over all its replicas; counts are since its start.

    Attributes:
        running: prompts being computed.
        waiting: prompts in the queue.
        kv_use: share of the KV cache that prompts under way use, 0 to 1, on the fullest replica.
            Prefixes kept for later prompts do not count: they are evicted when room is needed.
        queried: prompt tokens looked up in the prefix cache.
        hit: those of them found there.
        prompt: prompt tokens of all prompts, cached ones included.
        generated: tokens generated.
        finished: prompts answered.
        rejected: prompts answered 503 because the queue was full.
        preempted: prompts evicted from a full KV cache and begun again.
    """

    running: float
    waiting: float
    kv_use: float
    queried: float
    hit: float
    prompt: float
    generated: float
    finished: float
    rejected: float
    preempted: float

    @classmethod
    def parse(cls, body: bytes) -> "Snapshot":
        """Read a body of `/metrics`.

        Raises:
            MalformedAnswer: it has none of vLLM's samples.
        """
        samples = samples_in(body.decode("utf-8", "replace"))
        if _METRICS["running"] not in samples:
            raise MalformedAnswer(
                f"these are not vLLM's metrics: {_METRICS['running']} is not among them"
            )
        totals = {field: sum(samples.get(name, [])) for field, name in _METRICS.items()}
        return cls(kv_use=max(samples.get(_KV_USE, [math.nan])), **totals)


@dataclass(frozen=True, slots=True)
class Rates:
    """What happened between two snapshots.

    Attributes:
        hit_rate: share of looked-up prompt tokens found in the prefix cache; None where none was
            looked up.
        prompt_tokens: prompt tokens a second, cached ones included.
        computed_tokens: prompt tokens a second that were not cached.
        prompts: prompts answered a second.
        rejected: prompts answered 503.
        preempted: prompts begun again.
    """

    hit_rate: float | None
    prompt_tokens: float
    computed_tokens: float
    prompts: float
    rejected: float
    preempted: float


def rates_between(before: Snapshot, now: Snapshot, seconds: float) -> Rates:
    """What happened in `seconds`; since its start where the server was restarted in between."""
    restarted = now.queried < before.queried or now.finished < before.finished

    def grown(name: str) -> float:
        value: float = getattr(now, name)
        return value if restarted else value - float(getattr(before, name))

    queried, hit, prompt = grown("queried"), grown("hit"), grown("prompt")
    return Rates(
        hit_rate=hit / queried if queried > 0 else None,
        prompt_tokens=prompt / seconds,
        computed_tokens=max(0.0, prompt - hit) / seconds,
        prompts=grown("finished") / seconds,
        rejected=grown("rejected"),
        preempted=grown("preempted"),
    )
