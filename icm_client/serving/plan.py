"""Check the operator's options against this machine, and make the command that is started."""

import ipaddress
import os
import shlex
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import orjson

from icm_client.cores import threads_beside
from icm_client.errors import InputError, SetupError
from icm_client.serving.dequantize import dequantized, folder_for
from icm_client.serving.engine import Device, Engine, choose
from icm_client.serving.flags import (
    KEY_VARIABLE,
    REASONS,
    VARIABLE_REASONS,
    Flag,
    ServeOptions,
    flags_for,
    is_set_by,
    variables_for,
)
from icm_client.serving.hardware import Hardware, Parallel, parallel_over
from icm_client.serving.model import Model, find

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
