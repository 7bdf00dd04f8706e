"""What a server tells of its prefix cache: how much it holds, and in pieces of what size."""

import re
from typing import Final, NamedTuple, Protocol, runtime_checkable

_INFO: Final = re.compile(rb"^vllm:cache_config_info\{(.*)\}", re.MULTILINE)
_LABEL: Final = re.compile(rb'(\w+)="(\d+)"')


class PrefixCache(NamedTuple):
    """A server's prefix cache, as far as it is known.

    Attributes:
        block: tokens; a prefix is found again up to a multiple of them. 1 where unknown.
        tokens: how many it holds, over all replicas that the server tells of; None where unknown.
    """

    block: int = 1
    tokens: int | None = None


@runtime_checkable
class CachingEndpoint(Protocol):
    """What an `Endpoint` without lanes has besides, whose server tells of its prefix cache."""

    async def prefix_cache(self) -> PrefixCache:
        """What the server tells; asked once. Never raises for a server that tells nothing."""
        ...


def vllm_prefix_cache(metrics: bytes) -> PrefixCache:
    """What vLLM's `/metrics` says in `vllm:cache_config_info`, one line an engine.

    Models with several kinds of attention find prefixes again in coarser steps than `block_size`
    (`cache_hit_alignment_tokens`), and hold fewer tokens than blocks times their size
    (`kv_cache_size_tokens`); both are told by vLLM 0.32, not by older versions.
    """
    engines = [
        {name.decode(): int(value) for name, value in _LABEL.findall(labels)}
        for labels in _INFO.findall(metrics)
    ]
    if not engines:
        return PrefixCache()
    block = max(
        engine.get("cache_hit_alignment_tokens") or engine.get("block_size") or 1
        for engine in engines
    )
    sizes = [
        engine.get("kv_cache_size_tokens")
        or engine.get("num_gpu_blocks", 0) * engine.get("block_size", 0)
        for engine in engines
    ]
    return PrefixCache(block, sum(sizes) if all(sizes) else None)
