"""The server's processes: how all of them are ended, and why one of them ended by itself."""

import ctypes
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

_SET_PDEATHSIG: Final = 1
_SET_CHILD_SUBREAPER: Final = 36
"""prctl(2)."""
_LOOK_S: Final = 0.05

_PREFIX: Final = re.compile(
    r"^(?:\([^)]*pid=\d+\)\s)?(?:[A-Z]+ \d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)? \[[^\]]*\] ?)?"
)
_ERROR: Final = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception)(?::|$)")
_KILLED: Final = re.compile(r"Failed core proc\(s\): \{.*?: -(\d+)")
_DIED: Final = re.compile(r"Engine core proc \S+ died unexpectedly")
_USAGE: Final = re.compile(r"^\S+: error: (?P<words>.*)$")
_ADVICE: Final = re.compile(r"^  Value error, (?P<words>.*?)(?: \[type=.*)?$")
# Lines that follow the cause, from processes that waited for it.
_FOLLOWS: Final = (
    "Engine core initialization failed",
    "Engine process failed to start",
    "WorkerProc",
    "EngineDeadError",
)
_NO_MEMORY: Final = ("MemoryError", "out of memory", "cannot allocate memory")
_CLIP: Final = 300


def adopt_orphans() -> None:
    """Become the parent of grandchildren whose parent died, so that `descendants` sees them.

    A process that left the server's process group (a session of its own) is found by this too.
    Linux only; elsewhere only the process group is ended.
    """
    _prctl(_SET_CHILD_SUBREAPER, 1)


def dying_with_parent() -> None:
    """As `preexec_fn`: have the process get SIGTERM when its parent dies, by SIGKILL too."""
    _prctl(_SET_PDEATHSIG, signal.SIGTERM)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def descendants(pid: int) -> set[int]:
    """Living children, grandchildren and so on of `pid`; zombies are not alive."""
    living = _living()
    found: set[int] = set()
    new = {pid}
    while new:
        new = {child for child, (parent, _) in living.items() if parent in new} - found
        found |= new
    return found


def end_all(group: int, *, grace_s: float) -> None:
    """End what is left of a process group and of this process's descendants.

    SIGTERM, `grace_s` seconds, then SIGKILL.
    """
    if not Path("/proc/self").exists():
        # Processes cannot be looked up here (macOS): end what is left of the group at least.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
        return
    for sent in (signal.SIGTERM, signal.SIGKILL):
        for pid in _left(group):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, sent)
        deadline = time.monotonic() + grace_s
        while _left(group):
            if time.monotonic() >= deadline:
                break
            time.sleep(_LOOK_S)
        else:
            return


def _left(group: int) -> set[int]:
    """Living processes of the group, and this process's descendants."""
    # What was adopted and has ended is collected first: a zombie keeps its number.
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    members = {pid for pid, (_, its) in _living().items() if its == group}
    return members | descendants(os.getpid())


def _living() -> dict[int, tuple[int, int]]:
    """Every living process -> its parent and its group; zombies are not alive."""
    living = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            # The name in parentheses may hold anything, spaces and parentheses too.
            fields = (folder / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
            if fields[0] != "Z":
                living[int(folder.name)] = int(fields[1]), int(fields[2])
    return living


def without_prefix(line: str) -> str:
    """A line of vLLM's log without process, level, time and file."""
    return _PREFIX.sub("", line.rstrip())


def reason_in(log: str) -> str | None:
    """The line of the server's log that says what went wrong, or None where no line does.

    It is the last error that does not only report an earlier one. A refused configuration gives
    what is wrong with it, an unknown flag what `argparse` says. A killed process writes nothing:
    where there is no error, what the processes that waited for it wrote is used.
    """
    errors = list(_errors(log))
    if not errors and (died := _DIED.search(log)):
        errors = [f"{died[0]} (killed: out of memory?)"]
    if not errors:
        return None
    reason = errors[-1]
    if len(reason) <= _CLIP:
        return reason
    # At the end of a sentence, where one ends early enough.
    return reason[: reason.rfind(". ", 0, _CLIP) + 1 or _CLIP]


def signal_in(log: str) -> int | None:
    """The signal that killed one of vLLM's processes, or None; its main process then exits 1."""
    killed = _KILLED.findall(log)
    return int(killed[-1]) if killed else None


def signal_of(status: int) -> int | None:
    """The signal that an exit status stands for, or None.

    A shell exits with 128 + N when signal N ended its command. A Python program that passes on
    `subprocess`'s -N exits with 256 - N.
    """
    numbers = {one.value for one in signal.Signals}
    return next((one for one in (status - 128, 256 - status) if one in numbers), None)


def _errors(log: str) -> Iterator[str]:
    for line in map(without_prefix, log.splitlines()):
        if match := _USAGE.match(line) or _ADVICE.match(line):
            yield match["words"]
        elif any(sign in line for sign in _NO_MEMORY):
            yield line.strip()
        elif _ERROR.match(line) and not any(sign in line for sign in _FOLLOWS):
            yield line
