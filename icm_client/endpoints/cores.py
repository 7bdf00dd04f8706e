"""How many threads are worth starting here."""

import os
from pathlib import Path


def physical_cores() -> int:
    """Physical cores that this process may run on, at least 1; logical ones where unknown."""
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
    return max(1, len(siblings))
