"""Every flag that the server is started with, each with its reason. `--print` and the docs use it.

Source: https://docs.vllm.ai/en/latest/cli/serve.html and vLLM 0.32's own `--help=all`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from icm_client.cores import YIELDING, threads_beside
from icm_client.errors import InputError
from icm_client.serving.engine import Engine
from icm_client.serving.hardware import Hardware, Parallel

REASONS: Final = {
    "--served-model-name": "What clients call the model, whatever folder it lies in.",
    "--host": "Loopback, unless you open the server to others; then a key is required.",
    "--port": "Where it listens.",
    "--enable-prefix-caching": "A context is computed once for all the rows behind it. Without "
    "it every read computes the context again.",
    "--block-size": "The prefix cache keeps whole blocks. The CPU's default of 128 tokens throws "
    "away up to 127 at every fork: 60% more prefill here. On a GPU the attention kernels choose, "
    "and choose the smallest they run well with (16 for most).",
    "--max-logprobs": "At most 20 label tokens a read by default; 128 is the most that vLLM takes. "
    "It bounds `prompt_logprobs` as well.",
    "--logprobs-mode": "Of the model itself, before temperature and penalties.",
    "--generation-config": "A model's own generation_config.json may set a temperature, a top-k or "
    "a length; none of it may touch a read.",
    "--enable-prompt-tokens-details": "Answers say how many prompt tokens came from the cache; "
    "without it a run cannot tell what it cost.",
    "--enable-server-load-tracking": "`GET /load` tells how many requests are inside.",
    "--max-num-queued-reqs": "The queue is endless by default. Above this many prompts inside, "
    "new ones are answered 503, and clients slow down.",
    "--scheduling-policy": "A client that wants to spare others sends a lower priority, and the "
    "server heeds it; among equals it is first come, first served.",
    "--disable-uvicorn-access-log": "A run is thousands of short requests; a line for each costs "
    "time and disk.",
    "--max-model-len": "A prompt holds demos and a row. Less than the model's own length leaves "
    "more of the KV cache for prefixes.",
    "--dtype": "float32 is five times faster than bfloat16 on a CPU without AMX. On a "
    "GPU the model's own.",
    "--enforce-eager": "On a CPU compiling takes longer than it saves here.",
    "--kv-cache-memory-bytes": "On a CPU vLLM would take most of the memory; prefixes of a run fit "
    "in far less.",
    "--tensor-parallel-size": "GPUs that hold one replica together: as few as the weights fit in.",
    "--data-parallel-size": "Replicas that share the requests. Each has a prefix cache of its own.",
    "--enable-lora": "Adapters on the same base, loaded while the server runs.",
    "--max-loras": "Adapters in one batch.",
    "--max-lora-rank": "The largest rank of an adapter; memory is kept free for it.",
}
"""flag -> why it is there."""

VARIABLE_REASONS: Final = {
    "VLLM_NO_USAGE_STATS": "Nothing is reported to anybody.",
    "VLLM_CPU_OMP_THREADS_BIND": "Threads pinned to cores stand still where a container has only a "
    "share of them.",
    "OMP_NUM_THREADS": "As many as there are cores for this process, less those that other "
    "programs use as it starts: all threads wait for one that has no core.",
    "GOMP_SPINCOUNT": "Waiting threads leave their core to others after a short spin. Without it a "
    "program that comes later makes the server nearly stand still.",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "POST /v1/load_lora_adapter, for fold adapters.",
}
"""environment variable -> why it is set."""

KEY_VARIABLE: Final = "VLLM_API_KEY"
"""vLLM reads its key here; it never stands in a command that `ps` shows."""

_CPU_BLOCK: Final = 16
_MOST_LOGPROBS: Final = 128
_MOST_LORAS: Final = 8


class Flag(NamedTuple):
    """A flag with its value, or "" for one that takes none."""

    name: str
    value: str = ""

    @property
    def words(self) -> list[str]:
        """As they stand in a command."""
        return [self.name, self.value] if self.value else [self.name]


LORA_RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM 0.32 takes for `--max-lora-rank`."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What the operator says; None takes what fits.

    Attributes:
        host: the address to listen at.
        port: the port to listen at.
        name: what clients call the model.
        context: tokens of the longest prompt; None takes the model's own.
        dtype: of weights and activations.
        block: tokens of a block of the prefix cache.
        queue: prompts inside the server, waiting and running, above which it answers 503.
        kv_cache_gib: size of the KV cache on a CPU, in GiB.
        lora_rank: the largest rank of adapters that may be loaded, of `LORA_RANKS`; None serves
            none.
        extra: flags of vLLM's own; they win over those here.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    name: str | None = None
    context: int | None = None
    dtype: str | None = None
    block: int | None = None
    queue: int = 4096
    kv_cache_gib: float = 2.0
    lora_rank: int | None = None
    extra: tuple[str, ...] = ()


def flags_for(
    options: ServeOptions, name: str, engine: Engine, hardware: Hardware, parallel: Parallel | None
) -> list[Flag]:
    """The flags in the order of `REASONS`, without those that `options.extra` sets itself.

    Raises:
        InputError: `options.extra` holds a key.
    """
    if any(_is_flag(word, "--api-key") for word in options.extra):
        raise InputError(
            f"--api-key would be seen by everybody who can list processes: set {KEY_VARIABLE}"
        )
    flags = [
        Flag("--served-model-name", options.name or name),
        Flag("--host", options.host),
        Flag("--port", str(options.port)),
        Flag("--enable-prefix-caching"),
        Flag("--max-logprobs", str(_MOST_LOGPROBS)),
        Flag("--logprobs-mode", "raw_logprobs"),
        Flag("--generation-config", "vllm"),
        Flag("--enable-prompt-tokens-details"),
        Flag("--enable-server-load-tracking"),
        Flag("--max-num-queued-reqs", str(options.queue)),
        Flag("--scheduling-policy", "priority"),
        Flag("--disable-uvicorn-access-log"),
    ]
    if options.context is not None:
        flags.append(Flag("--max-model-len", str(options.context)))
    flags += _cpu_flags(options, hardware) if engine.device == "cpu" else _gpu_flags(options)
    if parallel is not None and parallel.tensor > 1:
        flags.append(Flag("--tensor-parallel-size", str(parallel.tensor)))
    if parallel is not None and parallel.data > 1:
        flags.append(Flag("--data-parallel-size", str(parallel.data)))
    if options.lora_rank is not None:
        flags += [
            Flag("--enable-lora"),
            Flag("--max-loras", str(_MOST_LORAS)),
            Flag("--max-lora-rank", str(options.lora_rank)),
        ]
    order = list(REASONS)
    kept = [flag for flag in flags if not is_set_by(options.extra, flag.name)]
    return sorted(kept, key=lambda flag: order.index(flag.name))


def variables_for(options: ServeOptions, engine: Engine, hardware: Hardware) -> dict[str, str]:
    """Environment variables to set where the operator has not; the key is not among them."""
    variables = {"VLLM_NO_USAGE_STATS": "1"}
    if engine.device == "cpu":
        variables["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        variables["OMP_NUM_THREADS"] = str(threads_beside(hardware.cores, hardware.busy))
        variables |= YIELDING
    if options.lora_rank is not None:
        variables["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
    return variables


def _cpu_flags(options: ServeOptions, hardware: Hardware) -> list[Flag]:
    return [
        Flag("--block-size", str(options.block or _CPU_BLOCK)),
        Flag("--dtype", options.dtype or ("bfloat16" if hardware.amx else "float32")),
        Flag("--enforce-eager"),
        Flag("--kv-cache-memory-bytes", str(int(options.kv_cache_gib * 1024**3))),
    ]


def _gpu_flags(options: ServeOptions) -> list[Flag]:
    flags = [Flag("--dtype", options.dtype or "auto")]
    if options.block is not None:
        flags.append(Flag("--block-size", str(options.block)))
    return flags


def is_set_by(extra: Sequence[str], name: str) -> bool:
    """Whether the flag, or its opposite, is among flags of vLLM's own."""
    opposite = f"--no-{name.removeprefix('--')}"
    return any(_is_flag(word, name) or _is_flag(word, opposite) for word in extra)


def _is_flag(word: str, name: str) -> bool:
    """Whether `word` is this flag, in any spelling that vLLM takes."""
    return word.partition("=")[0].replace("_", "-") == name
