"""Why did the server end? One line out of the hundreds that it writes."""

import re
import signal
from collections.abc import Iterator
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
