"""Commands in a terminal of a given width: a real one, whose every byte is looked at."""

import os
import pty
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from fcntl import ioctl
from pathlib import Path
from struct import pack
from termios import TIOCSWINSZ

LINES = 24

PROGRAM = (sys.executable, "-c", "from icm_client.cli.main import main; main()")
"""What stands for `icm-client`, before its arguments."""


def in_terminal(command: Sequence[str | Path], columns: int) -> str:
    """Return all that the command writes to a terminal of this width, escapes included."""
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
    os.close(master)
    child.wait()
    return written.decode()
