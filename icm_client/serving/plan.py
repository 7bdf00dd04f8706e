"""Check the operator's options against this machine, and make the command that is started.

Every flag has its reason, which `--print` and the docs use. Source:
https://docs.vllm.ai/en/latest/cli/serve.html and vLLM 0.32's own `--help=all`.
"""

import ipaddress
import os
import shlex
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple

import orjson

from icm_client.cores import YIELDING, threads_beside
from icm_client.errors import InputError, SetupError
from icm_client.serving.hardware import Device, Engine, Hardware, Parallel, choose, parallel_over
from icm_client.serving.model import Model, dequantized, find, folder_for

REASONS: Final = {
    "--served-model-name": "The name that clients use, wherever the model's files are.",
    "--host": "Only this machine, unless you open the server to others; a key is then required.",
    "--port": "The port it listens on.",
    "--enable-prefix-caching": "A context is computed once for all the rows that follow it. "
    "Without it every read computes the context again.",
    "--block-size": "The prefix cache keeps whole blocks. The CPU's default of 128 tokens throws "
    "away up to 127 at every fork: 60% more prefill here. On a GPU the attention kernels choose "
    "the smallest size that they run well with (16 for most).",
    "--max-logprobs": "vLLM returns at most 20 label tokens a read by default, and 128 if asked. "
    "The limit holds for `prompt_logprobs` as well.",
    "--logprobs-mode": "Log-probs are the model's own, before temperature and penalties.",
    "--generation-config": "A model's generation_config.json may set a temperature, a top-k or a "
    "length; none of it may change a read.",
    "--enable-prompt-tokens-details": "Answers report how many prompt tokens came from the cache; "
    "without it a run cannot report its cost.",
    "--enable-server-load-tracking": "`GET /load` reports how many requests the server holds.",
    "--enable-scale-out": "Texts are tokenized by the dozen (`/v1/completions/render`); else a "
    "prediction of many rows takes a request to tokenize each.",
    "--max-num-queued-reqs": "The queue is unlimited by default. Above this many prompts in the "
    "server, new ones are answered 503, and clients slow down.",
    "--scheduling-policy": "A client that wants to spare others sends a lower priority, and the "
    "server honours it; requests of one priority are served in order of arrival.",
    "--disable-uvicorn-access-log": "A run is thousands of short requests; a line for each costs "
    "time and disk.",
    "--max-model-len": "A prompt holds demos and a row. A limit below the model's own length "
    "leaves more of the KV cache for prefixes.",
    "--dtype": "float32 is five times faster than bfloat16 on a CPU without AMX. A GPU uses the "
    "model's own.",
    "--enforce-eager": "On a CPU compiling takes longer than it saves here.",
    "--kv-cache-memory-bytes": "On a CPU vLLM would take most of the memory; the prefixes of a run "
    "fit in far less.",
    "--tensor-parallel-size": "GPUs that share one replica: as few as its weights fit on.",
    "--data-parallel-size": "Replicas that share the requests. Each has a prefix cache of its own.",
    "--enable-lora": "Clients load adapters of the same base while the server runs.",
    "--max-loras": "Adapters in one batch.",
    "--max-lora-rank": "The largest rank of an adapter; memory is reserved for it.",
}
"""flag -> why it is set, in the order of the command."""

VARIABLE_REASONS: Final = {
    "VLLM_NO_USAGE_STATS": "No usage statistics are sent to anyone.",
    "VLLM_CPU_OMP_THREADS_BIND": "Threads pinned to cores stall where a container has only a "
    "share of those cores.",
    "OMP_NUM_THREADS": "As many as this process has cores, less those that other programs use as "
    "it starts: all threads wait for one that has no core.",
    "GOMP_SPINCOUNT": "Waiting threads yield their core after a short spin. Without it a program "
    "that starts later makes the server nearly stop.",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "Allows POST /v1/load_lora_adapter, for fold adapters.",
}
"""environment variable -> why it is set."""

KEY_VARIABLE: Final = "VLLM_API_KEY"
"""vLLM reads its key here, so that it never appears in a command that `ps` shows."""

LORA_RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM 0.32 accepts for `--max-lora-rank`."""

_CPU_BLOCK: Final = 16
_MOST_LOGPROBS: Final = 128
_MOST_LORAS: Final = 8


class Flag(NamedTuple):
    """A flag with its value, or "" for one that takes none."""

    name: str
    value: str = ""

    @property
    def words(self) -> list[str]:
        """The flag as it appears in a command."""
        return [self.name, self.value] if self.value else [self.name]


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What the operator sets; None chooses what suits the machine and the model.

    Attributes:
        host: the address to listen at.
        port: the port to listen at.
        name: what clients call the model.
        context: tokens of the longest prompt; None takes the model's own.
        dtype: of weights and activations.
        block: tokens of a block of the prefix cache.
        queue: prompts in the server, waiting and running, above which it answers 503.
        kv_cache_gib: size of the KV cache on a CPU, in GiB.
        lora_rank: the largest rank of adapters that may be loaded, of `LORA_RANKS`; None serves
            none.
        extra: vLLM's own flags; they override those chosen here.
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

    def cpu_dtype(self, hardware: Hardware) -> str:
        """Of weights and activations on a CPU."""
        return self.dtype or ("bfloat16" if hardware.amx else "float32")

    @property
    def kv_cache_bytes(self) -> int:
        """Size of the KV cache on a CPU."""
        return int(self.kv_cache_gib * 1024**3)


def flags_for(
    options: ServeOptions, name: str, engine: Engine, hardware: Hardware, parallel: Parallel | None
) -> list[Flag]:
    """The flags in the order of `REASONS`, without those that `options.extra` sets itself.

    Raises:
        InputError: `options.extra` holds a key.
    """
    if any(_is_flag(word, "--api-key") for word in options.extra):
        raise InputError(
            f"set {KEY_VARIABLE} instead of --api-key: everybody who can list processes would see "
            "the key"
        )
    on_cpu, lora = engine.device == "cpu", options.lora_rank is not None
    tensor, data = (parallel.tensor, parallel.data) if parallel is not None else (1, 1)
    # True is a flag without a value; None and False leave it out.
    values: dict[str, str | int | bool | None] = {
        "--served-model-name": options.name or name,
        "--host": options.host,
        "--port": options.port,
        "--enable-prefix-caching": True,
        "--block-size": options.block or (_CPU_BLOCK if on_cpu else None),
        "--max-logprobs": _MOST_LOGPROBS,
        "--logprobs-mode": "raw_logprobs",
        "--generation-config": "vllm",
        "--enable-prompt-tokens-details": True,
        "--enable-server-load-tracking": True,
        "--enable-scale-out": True,
        "--max-num-queued-reqs": options.queue,
        "--scheduling-policy": "priority",
        "--disable-uvicorn-access-log": True,
        "--max-model-len": options.context,
        "--dtype": options.cpu_dtype(hardware) if on_cpu else options.dtype or "auto",
        "--enforce-eager": on_cpu,
        "--kv-cache-memory-bytes": options.kv_cache_bytes if on_cpu else None,
        "--tensor-parallel-size": tensor if tensor > 1 else None,
        "--data-parallel-size": data if data > 1 else None,
        "--enable-lora": lora,
        "--max-loras": _MOST_LORAS if lora else None,
        "--max-lora-rank": options.lora_rank,
    }
    return [
        Flag(flag, "" if value is True else str(value))
        for flag, value in values.items()
        if value is not None and value is not False and not is_set_by(options.extra, flag)
    ]


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


def is_set_by(extra: Sequence[str], name: str) -> bool:
    """Whether the flag, or its opposite, is among flags of vLLM's own."""
    opposite = f"--no-{name.removeprefix('--')}"
    return any(_is_flag(word, name) or _is_flag(word, opposite) for word in extra)


def _is_flag(word: str, name: str) -> bool:
    """Whether `word` is this flag, in any spelling that vLLM accepts."""
    return word.partition("=")[0].replace("_", "-") == name


OVERHEAD: Final = 1_500_000_000
"""Bytes that vLLM on a CPU takes besides weights and KV cache, measured on gemma-3-270m."""

_LAYOUT: Final = ("--tensor-parallel-size", "--pipeline-parallel-size", "--data-parallel-size")


@dataclass(frozen=True, slots=True)
class Plan:
    """A server that can be started.

    Attributes:
        engine: the vLLM that serves.
        command: the command with every flag and without a key.
        flags: the flags in it that were chosen here, for `explained`.
        variables: set in its environment unless the operator has set them; no key among them.
        key: whether the environment holds a key.
        name: what clients call the model.
        url: the server's address on this machine.
        open_at: its address for other machines, or None where it listens on loopback.
        parallel: its layout over the GPUs, or None on a CPU.
        hardware: of this machine, when this was planned.
    """

    engine: Engine
    command: tuple[str, ...]
    flags: tuple[Flag, ...]
    variables: Mapping[str, str]
    key: bool
    name: str
    url: str
    open_at: str | None
    parallel: Parallel | None
    hardware: Hardware

    @property
    def threads(self) -> str:
        """How many threads compute, and why no more, in words."""
        cores, busy = self.hardware.cores, self.hardware.busy
        words = f"threads: {self._set()['OMP_NUM_THREADS']}, cores: {cores}"
        if "OMP_NUM_THREADS" in os.environ:
            return f"{words}; set by OMP_NUM_THREADS"
        if threads_beside(cores, busy) == cores:
            return words
        return f"{words}, of which others use {busy:.1f} now; OMP_NUM_THREADS sets another number"

    def environment(self) -> dict[str, str]:
        """The environment of the server's process; the operator's own settings come first."""
        environment = {**self.variables, **os.environ}
        if key := key_from(os.environ):
            environment[KEY_VARIABLE] = key
        return environment

    def explained(self) -> list[tuple[str, str]]:
        """Every flag and variable as it is set, with its reason."""
        rows = [(f"{name}={value}", VARIABLE_REASONS[name]) for name, value in self._set().items()]
        return rows + [(" ".join(flag.words), REASONS[flag.name]) for flag in self.flags]

    def shown(self) -> str:
        """The command as it could be typed, with its variables."""
        words = [f"{name}={value}" for name, value in self._set().items()]
        return " ".join([*words, shlex.join(self.command)])

    def _set(self) -> dict[str, str]:
        return {name: os.environ.get(name, value) for name, value in self.variables.items()}


def key_from(environment: Mapping[str, str]) -> str | None:
    """The key that the server is started with: VLLM_API_KEY, else ICM_API_KEY."""
    return environment.get(KEY_VARIABLE) or environment.get("ICM_API_KEY") or None


def plan_server(
    model: str,
    options: ServeOptions,
    hardware: Hardware,
    say: Callable[[str], None],
    *,
    device: Device | None = None,
    tensor: int | None = None,
    data: int | None = None,
    dry: bool = False,
) -> Plan:
    """Check everything that can be checked before a server is started, and make its command.

    Args:
        model: a folder, a GGUF file, "gemma-3-270m", or a hub's OWNER/NAME.
        options: what the operator sets.
        hardware: of this machine.
        say: called with a line before a step that takes long.
        device: None takes a GPU where there is one.
        tensor: GPUs a replica; None takes the fewest that the weights fit on.
        data: replicas; None takes as many as fit.
        dry: for `--print`: dequantize nothing, and accept a port that is in use.

    Raises:
        InputError: the model, a flag, the port or the address cannot be used, or there is too
            little memory.
        SetupError: no vLLM for this device, or no room for the dequantized weights.
    """
    if not is_loopback(options.host) and key_from(os.environ) is None:
        raise InputError(
            f"--host {options.host} opens the server to others: set {KEY_VARIABLE} (or "
            "ICM_API_KEY) to a key that clients must send"
        )
    found = find(model)
    try:
        engine = choose(device, hardware)
    except SetupError:
        if not dry:
            raise
        engine = Engine(device or ("cuda" if hardware.gpus else "cpu"), "not installed")
    if found.gguf is not None:
        folder = folder_for(found.gguf) if dry else dequantized(found.gguf, say)
        weights = find(str(folder)).weights if folder.exists() else None
        found = replace(found, source=str(folder), weights=weights)
    parallel = None
    if any(is_set_by(options.extra, flag) for flag in _LAYOUT):
        pass  # the operator lays the model over the GPUs, perhaps those of several machines
    elif engine.device == "cuda" and hardware.gpus:
        parallel = parallel_over(hardware.gpus, found.weights, tensor=tensor, data=data)
    elif tensor is not None or data is not None:
        raise InputError(
            "--tensor-parallel and --data-parallel are for GPUs: leave them out on a CPU"
        )
    if not dry:
        check_port(options.host, options.port)
        if engine.device == "cpu":
            check_memory(found, options, hardware)
    flags = flags_for(options, found.name, engine, hardware, parallel)
    return Plan(
        engine=engine,
        command=(
            *engine.command(found.source),
            *(word for flag in flags for word in flag.words),
            *options.extra,
        ),
        flags=tuple(flags),
        variables=variables_for(options, engine, hardware),
        key=key_from(os.environ) is not None,
        name=options.name or found.name,
        url=url_of(options.host, options.port),
        open_at=None
        if is_loopback(options.host)
        else f"http://{socket.gethostname()}:{options.port}",
        parallel=parallel,
        hardware=hardware,
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    if host == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def url_of(host: str, port: int) -> str:
    """The URL that a client on this machine uses for a server that listens at `host`."""
    with suppress(ValueError):
        address = ipaddress.ip_address(host)
        if address.is_unspecified:
            host = "127.0.0.1" if address.version == 4 else "::1"  # noqa: PLR2004
        if address.version == 6:  # noqa: PLR2004
            host = f"[{host}]"
    return f"http://{host}:{port}"


def check_port(host: str, port: int) -> None:
    """Raise `InputError` where no server can listen at this address."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as tried:
            # The server sets it too: a port in TIME_WAIT is free.
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
    except OSError as error:
        raise InputError(
            f"cannot listen at {host}:{port}: {error.strerror or error}; choose another --port, or "
            "end the program that uses it"
        ) from None


def check_memory(model: Model, options: ServeOptions, hardware: Hardware) -> None:
    """Raise `InputError` where a server on the CPU would not fit into the free memory.

    Otherwise the kernel kills it after a minute of loading, without a message.
    """
    if hardware.memory is None or model.weights is None:
        return
    doubles = options.cpu_dtype(hardware) == "float32" and _stored_dtype(Path(model.source)) in (
        "float16",
        "bfloat16",
    )
    weights, cache = model.weights * (2 if doubles else 1), options.kv_cache_bytes
    if weights + cache + OVERHEAD > hardware.memory:
        raise InputError(
            "too little memory: lower --kv-cache-gib, or choose a smaller model. ("
            f"{weights / 1e9:.1f} GB of weights, {cache / 1e9:.1f} GB of KV cache and about "
            f"{OVERHEAD / 1e9:.1f} GB besides; {hardware.memory / 1e9:.1f} GB are free.)"
        )


def _stored_dtype(folder: Path) -> str | None:
    try:
        config = orjson.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return None
    stored = config.get("dtype") or config.get("torch_dtype") if isinstance(config, dict) else None
    return stored if isinstance(stored, str) else None
