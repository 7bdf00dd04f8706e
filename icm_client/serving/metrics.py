"""vLLM's `/metrics`: how full the server is, and how much its prefix cache saves.

Source: https://docs.vllm.ai/en/latest/usage/metrics.html; the text format is Prometheus'
(https://prometheus.io/docs/instrumenting/exposition_formats).
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from icm_client.errors import MalformedAnswer

# name, labels, value; a label's value may hold escaped quotes and braces.
_SAMPLE: Final = re.compile(
    r'^(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?:[^"}]|"(?:[^"\\]|\\.)*")*\})?\s+(?P<value>\S+)'
)

RUNNING: Final = "vllm:num_requests_running"
WAITING: Final = "vllm:num_requests_waiting"
KV_USE: Final = "vllm:kv_cache_usage_perc"
QUERIED: Final = "vllm:prefix_cache_queries_total"
HIT: Final = "vllm:prefix_cache_hits_total"
PROMPT: Final = "vllm:prompt_tokens_total"
GENERATED: Final = "vllm:generation_tokens_total"
FINISHED: Final = "vllm:request_success_total"
REJECTED: Final = "vllm:admission_rejections_total"
PREEMPTED: Final = "vllm:num_preemptions_total"


def samples_in(text: str) -> dict[str, list[float]]:
    """Every sample's values under its name, one for each set of labels (replicas, reasons)."""
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
    """What the server said at one moment; over all its replicas.

    Attributes:
        running: prompts being computed.
        waiting: prompts in the queue.
        kv_use: share of the KV cache that prompts under way hold, 0 to 1, of the fullest replica.
            What is kept for later prompts does not count: it is given up when room is needed.
        queried: prompt tokens looked up in the prefix cache, ever.
        hit: of them found there.
        prompt: prompt tokens of all prompts, ever; cached ones among them.
        generated: tokens generated, ever.
        finished: prompts answered, ever.
        rejected: prompts answered 503 because the queue was full, ever.
        preempted: prompts thrown out of a full KV cache and begun again, ever.
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
        if RUNNING not in samples:
            raise MalformedAnswer(f"no {RUNNING} among the metrics: not vLLM's")
        return cls(
            running=_total(samples, RUNNING),
            waiting=_total(samples, WAITING),
            kv_use=max(samples.get(KV_USE, [math.nan])),
            queried=_total(samples, QUERIED),
            hit=_total(samples, HIT),
            prompt=_total(samples, PROMPT),
            generated=_total(samples, GENERATED),
            finished=_total(samples, FINISHED),
            rejected=_total(samples, REJECTED),
            preempted=_total(samples, PREEMPTED),
        )


@dataclass(frozen=True, slots=True)
class Rates:
    """Between two snapshots.

    Attributes:
        hit_rate: share of looked-up prompt tokens found in the prefix cache; None where none was
            looked up.
        prompt_tokens: a second, cached ones among them.
        computed_tokens: prompt tokens a second that were not cached.
        prompts: answered a second.
        rejected: prompts answered 503 in between.
        preempted: prompts begun again in between.
    """

    hit_rate: float | None
    prompt_tokens: float
    computed_tokens: float
    prompts: float
    rejected: float
    preempted: float


def rates_between(before: Snapshot, now: Snapshot, seconds: float) -> Rates:
    """What happened in `seconds`; since the start where the server was started anew in between."""
    anew = now.queried < before.queried or now.finished < before.finished

    def grown(name: str) -> float:
        value: float = getattr(now, name)
        return value if anew else value - float(getattr(before, name))

    queried, hit, prompt = grown("queried"), grown("hit"), grown("prompt")
    return Rates(
        hit_rate=hit / queried if queried > 0 else None,
        prompt_tokens=prompt / seconds,
        computed_tokens=max(0.0, prompt - hit) / seconds,
        prompts=grown("finished") / seconds,
        rejected=grown("rejected"),
        preempted=grown("preempted"),
    )


def _total(samples: Mapping[str, list[float]], name: str) -> float:
    return sum(samples.get(name, []))
