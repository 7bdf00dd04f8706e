"""What this machine has to serve with: GPUs, memory, cores. Asked without importing torch.

How a model is laid over the GPUs of one machine.
"""

import math
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from icm_client.cores import busy_cores, physical_cores
from icm_client.errors import InputError

_QUERY_TIMEOUT_S: Final = 30.0
_MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Gpu:
    """One CUDA device that this process may use; `memory` in bytes, None for a MIG slice."""

    name: str
    memory: int | None


@dataclass(frozen=True, slots=True)
class Hardware:
    """What is there.

    Attributes:
        gpus: CUDA devices, without those that CUDA_VISIBLE_DEVICES hides.
        memory: bytes of main memory that can still be taken; None where unknown.
        cores: physical ones that this process may use.
        amx: the CPU multiplies bfloat16 in hardware; without, float32 is faster.
        busy: cores' worth of time that other programs use now.
    """

    gpus: tuple[Gpu, ...]
    memory: int | None
    cores: int
    amx: bool
    busy: float = 0.0


def detect() -> Hardware:
    """Look at this machine; takes the second that `nvidia-smi` takes, and a look at the CPU."""
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
        listed: index or UUID -> GPU; both names of a device may be there.
        chosen: CUDA_VISIBLE_DEVICES: indices or beginnings of UUIDs; None shows all. As in CUDA,
            the first entry that names nothing ends the list.
    """
    if chosen is None:
        return tuple(gpu for name, gpu in listed.items() if name.isdigit())
    return tuple(_chosen(listed, chosen.split(",")))


def _chosen(listed: Mapping[str, Gpu], entries: Sequence[str]) -> Iterator[Gpu]:
    for entry in (entry.strip() for entry in entries):
        if entry.startswith("MIG-"):
            yield Gpu(entry, None)
            continue
        found = listed.get(entry) or next(
            (gpu for name, gpu in listed.items() if entry and not entry.isdigit()
             and name.startswith(entry)),
            None,
        )  # fmt: skip
        if found is None:
            return
        yield found


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
        return {}  # a driver that does not answer serves nothing either
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
    """Bytes that a new process can take: what is free here, and no more than a container's limit.

    Args:
        meminfo: https://docs.kernel.org/filesystems/proc.html, in kB.
        cgroup: the control group's folder (https://docs.kernel.org/admin-guide/cgroup-v2.html).
    """
    limits = []
    with suppress(OSError, ValueError, StopIteration):
        lines = meminfo.read_text("ascii").splitlines()
        words = next(line.split() for line in lines if line.startswith("MemAvailable:"))
        limits.append(int(words[1]) * 1024)
    with suppress(OSError, ValueError):  # "max" is no number: no limit
        limit = int((cgroup / "memory.max").read_text("ascii"))
        limits.append(limit - int((cgroup / "memory.current").read_text("ascii")))
    return max(0, min(limits)) if limits else None


def _has_amx(cpuinfo: Path) -> bool:
    try:
        flags = next(
            line for line in cpuinfo.read_text("ascii").splitlines() if line.startswith("flags")
        )
    except (OSError, StopIteration, ValueError):
        return False
    return "amx_bf16" in flags.split()


ROOM: Final = 0.6
"""The share of a GPU's memory that weights may take; the KV cache and the activations need the
rest. vLLM itself takes 0.9 of it in all."""


@dataclass(frozen=True, slots=True)
class Parallel:
    """`tensor` GPUs hold one replica, `data` replicas share the requests; and why so."""

    tensor: int
    data: int
    reason: str


def parallel_over(
    gpus: Sequence[Gpu], weights: int | None, *, tensor: int | None = None, data: int | None = None
) -> Parallel:
    """As many replicas as fit: each over the fewest GPUs (1, 2, 4, ...) that hold the weights.

    Args:
        gpus: at least one.
        weights: bytes, as they are served; None where the model is not on this machine yet: one
            replica over all GPUs is then the layout that fits most.
        tensor: GPUs a replica, where the operator says so.
        data: replicas, where the operator says so.

    Raises:
        InputError: more GPUs are asked for than are there, or the weights fit in no layout.
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
            f"{max(tensor, 1)} GPUs for each of {data} replicas are asked for, and {len(gpus)} "
            "are there: lower --tensor-parallel or --data-parallel"
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
            f"too little GPU memory: {weights / 1e9:.1f} GB of weights on {len(gpus)} GPU(s) of "
            f"{min(sizes) / 1e9:.0f} GB, {ROOM:.0%} of which may hold weights; take a smaller or "
            "quantized model, or say --tensor-parallel to try nevertheless"
        )
    return fewest


def _power_of_two(most: int) -> int:
    return 1 << (most.bit_length() - 1) if most > 0 else 0
