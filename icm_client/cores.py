"""How many threads are worth starting on this machine."""

import math
import os
import time
from pathlib import Path
from typing import Final

_CPU_MAX: Final = Path("/sys/fs/cgroup/cpu.max")
_STAT: Final = Path("/proc/stat")
_SAMPLE_S: Final = 0.3
_NOISE: Final = 0.25
"""The part of a core that a machine uses by itself now and then."""

YIELDING: Final = {"GOMP_SPINCOUNT": "1000"}
"""Environment of a program that computes with OpenMP, set before that library is loaded. Threads
that wait for each other then leave their cores to others after a short spin. By default they do
not, and one other program makes all of them nearly stand still."""


def physical_cores(cpu_max: Path = _CPU_MAX) -> int:
    """Physical cores that this process may run on, at least 1; logical ones if that is unknown.

    Args:
        cpu_max: the control group's limit, as "QUOTA PERIOD" in microseconds or "max PERIOD"
            (https://docs.kernel.org/admin-guide/cgroup-v2.html); if it does not exist, the two
            files of version 1 beside it. A container that may use 2 of 64 cores sees all 64; more
            threads than 2 would only be throttled.
    """
    cores, quota = _cores_in_reach(), _quota_of(cpu_max)
    return max(1, cores if quota is None else min(cores, quota))


def threads_beside(cores: int, busy: float) -> int:
    """Threads that each get a core of their own: at a barrier, all wait for one that does not.

    Args:
        cores: of the machine.
        busy: how many of them other programs keep busy; 1.5 for one and a half.
    """
    return max(1, min(cores, math.floor(cores - busy + _NOISE)))


def busy_cores(stat: Path = _STAT, sample_s: float = _SAMPLE_S) -> float:
    """How many of the CPUs that this process may run on are busy now; 1.5 for one and a half.

    Measured while this process sleeps. The load average would also count what ended within the
    last minutes, and on a shared host what runs on other CPUs; it is used only if there is no
    /proc/stat.
    """
    before = _times(stat)
    if not before:
        return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    time.sleep(sample_s)
    busy = 0.0
    for cpu, (idle, total) in _times(stat).items():
        idle_before, total_before = before.get(cpu, (idle, total))
        if total > total_before:
            busy += 1 - (idle - idle_before) / (total - total_before)
    return max(0.0, busy)


def _times(stat: Path) -> dict[int, tuple[int, int]]:
    """CPU -> idle time and all time, in ticks (https://docs.kernel.org/filesystems/proc.html)."""
    reach = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    times = {}
    try:
        for line in stat.read_text("ascii").splitlines():
            name, *ticks = line.split()
            number = name.removeprefix("cpu")
            if name.startswith("cpu") and number.isdigit() and int(number) in reach:
                user, nice, system, idle, iowait, *others = map(int, ticks)
                # The last two are guests' times, which the first two include.
                total = user + nice + system + idle + iowait + sum(others[:3])
                times[int(number)] = idle + iowait, total
    except (OSError, ValueError):
        return {}
    return times


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
    """The limit in cores, rounded up; None without one."""
    older = cpu_max.parent / "cpu"
    try:
        if cpu_max.exists():
            quota, period = cpu_max.read_text("ascii").split()
        else:
            quota = (older / "cpu.cfs_quota_us").read_text("ascii").strip()
            period = (older / "cpu.cfs_period_us").read_text("ascii").strip()
        return None if quota in ("max", "-1") else math.ceil(int(quota) / int(period))
    except (OSError, ValueError, ZeroDivisionError):
        return None
