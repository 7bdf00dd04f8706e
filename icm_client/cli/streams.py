"""Standard output and standard error that do not end a run.

A run takes hours, and what it prints goes to a terminal that may lack its characters, to a pipe
whose reader has gone (`2>&1 | head -1`), or to a full disk. None of these may cost labels:
characters outside the stream's encoding are printed as escapes, and what cannot be written is
dropped. The command reports that at its end, unless the reader has closed the pipe itself.
"""

import errno
import io
import os
import select
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_OUTPUT: Final = 1
_ERRORS: Final = 2

_lost: dict[int, OSError] = {}
"""File descriptor -> why nothing is written there any more."""


def prepare_streams() -> None:
    """Make this process's standard streams safe to print to; called as a command begins."""
    _open_closed()
    sys.stdout = _prepared(sys.stdout, sys.__stdout__, _OUTPUT)
    sys.stderr = _prepared(sys.stderr, sys.__stderr__, _ERRORS)


def output_is_lost() -> bool:
    """Whether nobody reads standard output: a command that prints without end then ends."""
    return _OUTPUT in _lost


def output_error() -> str | None:
    """Why standard output could not be written; None where it was, or its reader has gone."""
    with suppress(OSError, ValueError):  # of streams that are not ours
        if sys.stdout is not None:
            sys.stdout.flush()
    error = _lost.get(_OUTPUT)
    return None if error is None or _is_reader_gone(error) else error.strerror


def say_above(words: str) -> None:
    """Print a line on standard error; above a live display, where there is one.

    `click.echo` would write into the display: it goes past what the display has put in the place of
    `sys.stderr`.
    """
    sys.stderr.write(f"{words}\n")
    sys.stderr.flush()


class _Descriptor(io.FileIO):
    """Writes to a file descriptor that stays open, and drops what cannot be written."""

    def __init__(self, number: int) -> None:
        super().__init__(number, "wb", closefd=False)

    def write(self, data: "ReadableBuffer", /) -> int:
        """Return the bytes written, or taken for written."""
        number = self.fileno()
        try:
            while number not in _lost:
                if (written := super().write(data)) is not None:
                    return written
                select.select([], [number], [])  # somebody has made it non-blocking, and it is full
        except OSError as error:
            _lost[number] = error
        return memoryview(data).nbytes


def _is_reader_gone(error: OSError) -> bool:
    """A closed pipe or socket, or a terminal that was hung up."""
    return isinstance(error, ConnectionError) or (
        error.errno == errno.EIO and not os.path.isfile(_OUTPUT)  # noqa: PTH113 - a descriptor
    )


def _prepared(stream: TextIO | None, own: TextIO | None, number: int) -> TextIO | None:
    """The stream over a `_Descriptor`; one that a test or a caller has put there stays."""
    if not isinstance(stream, io.TextIOWrapper) or stream is not own:
        return stream
    stream.flush()
    if sys.platform == "win32":  # a console there takes text, not bytes
        stream.reconfigure(errors="backslashreplace")
        return stream
    return io.TextIOWrapper(
        io.BufferedWriter(_Descriptor(number)),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _open_closed() -> None:
    """Give standard streams that were closed (`2>&-`) to the null device.

    Else the next file that is opened has their number, and takes in what a child process or a C
    library prints.
    """
    for number in (0, _OUTPUT, _ERRORS):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
