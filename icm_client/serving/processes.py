"""A server's whole family of processes, and its end.

Why did the server end? One line out of the hundreds that it writes.
"""

import ctypes
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

_PREFIX: Final = re.compile(
    r"^(?:\([^)]*pid=\d+\)\s)?(?:[A-Z]+ \d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)? \[[^\]]*\] ?)?"
)
_ERROR: Final = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception)(?::|$)")
_KILLED: Final = re.compile(r"Failed core proc\(s\): \{.*?: -(\d+)")
_DIED: Final = re.compile(r"Engine core proc \S+ died unexpectedly")
_USAGE: Final = re.compile(r"^\S+: error: (?P<words>.*)$")
_ADVICE: Final = re.compile(r"^  Value error, (?P<words>.*?)(?: \[type=.*)?$")
# Told after the cause, by those who waited for it.
_FOLLOWS: Final = (
    "Engine core initialization failed",
    "Engine process failed to start",
    "WorkerProc",
    "EngineDeadError",
)
_NO_MEMORY: Final = ("MemoryError", "out of memory", "cannot allocate memory")
_CLIP: Final = 300


def without_prefix(line: str) -> str:
    """A line of vLLM's log without process, level, time and file."""
    return _PREFIX.sub("", line.rstrip())


def reason_in(log: str) -> str | None:
    """The line that says what went wrong, or None where no line does.

    The last error that is not merely the news of an earlier one; of a refused configuration what
    is wrong with it; of an unknown flag what `argparse` says. A process that was killed writes
    nothing: what those that waited for it say is taken where there is nothing else.
    """
    found = None
    for words in _errors(log):
        found = words
    if found is None and (died := _DIED.search(log)):
        found = f"{died[0]} (killed: out of memory?)"
    return _clipped(found) if found else None


def signal_in(log: str) -> int | None:
    """The signal that killed one of vLLM's own processes, or None; the main one then exits 1."""
    killed = _KILLED.findall(log)
    return int(killed[-1]) if killed else None


def signal_of(status: int) -> int | None:
    """The signal that an exit status stands for, or None.

    A shell exits with 128 + N after signal N of what it ran; a Python program that passes on what
    `subprocess` gave it, -N, with 256 - N.
    """
    numbers = {one.value for one in signal.Signals}
    return next((one for one in (status - 128, 256 - status) if one in numbers), None)


def _clipped(words: str) -> str:
    """At the end of a sentence, where one ends early enough."""
    if len(words) <= _CLIP:
        return words
    return words[: words.rfind(". ", 0, _CLIP) + 1 or _CLIP]


def _errors(log: str) -> Iterator[str]:
    for line in map(without_prefix, log.splitlines()):
        if match := _USAGE.match(line) or _ADVICE.match(line):
            yield match["words"]
        elif any(sign in line for sign in _NO_MEMORY):
            yield line.strip()
        elif _ERROR.match(line) and not any(sign in line for sign in _FOLLOWS):
            yield line


_SET_PDEATHSIG: Final = 1
_SET_CHILD_SUBREAPER: Final = 36
"""prctl(2)."""

_LOOK_S: Final = 0.05


def adopt_orphans() -> None:
    """Become the parent of grandchildren whose parent died, so that `descendants` sees them.

    A process that left the server's process group (a session of its own) is found by this too.
    Linux only; elsewhere the process group must do.
    """
    _prctl(_SET_CHILD_SUBREAPER, 1)


def dying_with_parent() -> None:
    """For `preexec_fn`: the process gets SIGTERM when its parent dies, kill -9 included."""
    _prctl(_SET_PDEATHSIG, signal.SIGTERM)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def descendants(pid: int) -> set[int]:
    """Living children, grandchildren and so on of `pid`; zombies are not alive."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            # The name in parentheses may hold anything, spaces and parentheses too.
            fields = (folder / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
            if fields[0] != "Z":
                children.setdefault(int(fields[1]), []).append(int(folder.name))
    found: set[int] = set()
    unseen = [pid]
    while unseen:
        new = [child for child in children.get(unseen.pop(), []) if child not in found]
        found.update(new)
        unseen += new
    return found


def end_all(group: int, *, grace_s: float) -> None:
    """End what is left of a process group and of this process's descendants.

    SIGTERM, `grace_s` seconds, then SIGKILL.
    """
    if not Path("/proc/self").exists():
        # Nobody can be looked up here (macOS): what is left of the group at least.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
        return
    left = _left(group)
    for sent, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, grace_s)):
        if not left:
            break
        for pid in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, sent)
        left = _until(lambda: _left(group), patience_s)


def _left(group: int) -> set[int]:
    _reap()
    members = {pid for pid in _living() if _group_of(pid) == group}
    return members | descendants(os.getpid())


def _living() -> set[int]:
    return {int(folder.name) for folder in Path("/proc").glob("[0-9]*") if not _is_zombie(folder)}


def _is_zombie(folder: Path) -> bool:
    try:
        return (folder / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return True


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except OSError:
        return None


def _until(left: Callable[[], set[int]], patience_s: float) -> set[int]:
    deadline = time.monotonic() + patience_s
    while (found := left()) and time.monotonic() < deadline:
        time.sleep(_LOOK_S)
    return found


def _reap() -> None:
    """Collect what was adopted and has ended: a zombie keeps its number."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
