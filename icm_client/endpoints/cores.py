"""How many threads are worth starting here."""

import math
import os
from pathlib import Path
from typing import Final

_CPU_MAX: Final = Path("/sys/fs/cgroup/cpu.max")


def physical_cores(cpu_max: Path = _CPU_MAX) -> int:
    """Physical cores that this process may run on, at least 1; logical ones where unknown.

    Args:
        cpu_max: the control group's limit, as "QUOTA PERIOD" in microseconds or "max PERIOD"
            (https://docs.kernel.org/admin-guide/cgroup-v2.html). A container with the time of
            2 of 64 cores sees all 64 of them; more threads than 2 would only be throttled.
    """
    cores, quota = _cores_in_reach(), _quota_of(cpu_max)
    return max(1, cores if quota is None else min(cores, quota))


def _cores_in_reach() -> int:
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cpus = os.sched_getaffinity(0)
    topology = Path("/sys/devices/system/cpu")
    try:
        siblings = {
            (topology / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text("ascii")
            for cpu in cpus
        }
    except OSError:
        return len(cpus)
    return len(siblings)


def _quota_of(cpu_max: Path) -> int | None:
    """Cores' worth of time, rounded up; None without a limit."""
    try:
        quota, period = cpu_max.read_text("ascii").split()
        return None if quota == "max" else math.ceil(int(quota) / int(period))
    except (OSError, ValueError, ZeroDivisionError):
        return None
