"""What this machine has to serve with: GPUs, memory, cores. Asked without importing torch."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from icm_client.endpoints.cores import busy_cores, physical_cores

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
