"""Commands in a terminal of a given width: a real one, whose every byte is looked at."""

import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from fcntl import ioctl
from pathlib import Path
from struct import pack
from termios import TIOCSWINSZ

LINES = 24

PROGRAM = (sys.executable, "-c", "from icm_client.cli.main import main; main()")
"""What stands for `icm-client`, before its arguments."""


def in_terminal(
    command: Sequence[str | Path], columns: int, *, interrupt_at: bytes | None = None
) -> str:
    """Return all that the command writes to a terminal of this width, escapes included.

    Args:
        command: with its arguments.
        columns: how wide the terminal is.
        interrupt_at: Ctrl-C is pressed once this has been written.
    """
    master, terminal = pty.openpty()
    ioctl(terminal, TIOCSWINSZ, pack("HHHH", LINES, columns, 0, 0))
    plain = {name: os.environ[name] for name in os.environ if name not in ("COLUMNS", "NO_COLOR")}
    child = subprocess.Popen(
        list(map(str, command)),
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=terminal,
        env=plain | {"TERM": "xterm-256color"},
    )
    os.close(terminal)
    written = bytearray()
    with suppress(OSError):  # as a terminal says that nobody is left to write to it
        while chunk := os.read(master, 65536):
            written += chunk
            if interrupt_at is not None and interrupt_at in written:
                child.send_signal(signal.SIGINT)
                interrupt_at = None
    os.close(master)
    child.wait()
    return written.decode()


_PIECE = re.compile(r"\x1b\[(\??[\d;]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)")


def screen(written: str, columns: int) -> list[str]:
    """Return the lines that a terminal shows after all that was written, scrolled ones included.

    Raises:
        ValueError: something was written that this does not know.
    """
    lines = [""]
    row = column = 0
    for end, piece in _pieces(written):
        argument, command, control, text = piece.groups()
        if control == "\r":
            column = 0
        elif control == "\n":
            row += 1
        elif command == "A":
            row -= int(argument or 1)
        elif command == "K" and argument == "2":
            lines[row] = ""
        elif command is None:
            for character in text:
                if column == columns:  # a full line goes on in the next one
                    row, column = row + 1, 0
                lines += [""] * (row + 1 - len(lines))
                lines[row] = (
                    f"{lines[row]:{column}}"[:column] + character + lines[row][column + 1 :]
                )
                column += 1
        elif (command, argument) not in (("h", "?25"), ("l", "?25")) and command != "m":
            raise ValueError(f"{written[end - 20 : end]!r}: what does this do to the screen?")
        lines += [""] * (row + 1 - len(lines))
    return [line.rstrip() for line in lines]


def _pieces(written: str) -> Iterator[tuple[int, re.Match[str]]]:
    end = 0
    while end < len(written):
        piece = _PIECE.match(written, end)
        if piece is None:
            raise ValueError(f"{written[end : end + 20]!r}: no text and no escape")
        end = piece.end()
        yield end, piece
