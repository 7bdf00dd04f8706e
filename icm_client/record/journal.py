"""The journal of a run: what happened, one JSON object a line, appended and never changed.

A line is written with one call and ends in a newline, so a killed process leaves at most its last
line torn. Such a line never happened: reading ignores it, and opening cuts it off.

A sweep's event holds the labels after it: `run_labels.py` packs them.
"""

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from icm_client.errors import RunError

__all__ = ["Journal", "RunError", "read"]

SWEEP, PASS = "sweep", "pass"
"""The events that hold labels."""

FINISHED, STOPPED, FAILED = ENDS = ("finished", "stopped", "failed")
"""The last event of a process that worked on the run."""

_OURS = frozenset({"at", "event"})


class Journal:
    """Appends to one file; made with `Journal.open`. One process writes at a time."""

    def __init__(self, path: Path, descriptor: int, size: int) -> None:
        self.path = path
        self._descriptor: int | None = descriptor
        self._size = size

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the journal at `path` to append to it, and make it if needed.

        Raises:
            RunError: the file cannot be opened, or its torn last line cannot be cut off.
        """
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                size = path.read_bytes().rfind(b"\n") + 1
                os.ftruncate(descriptor, size)
            except BaseException:
                os.close(descriptor)
                raise
        except OSError as error:
            raise RunError(f"{path}: the journal cannot be opened: {error.strerror}") from error
        return cls(path, descriptor, size)

    def append(self, event: str, /, **fields: object) -> Mapping[str, Any]:
        """Write one line and return it: the time (`at`, UTC), `event`, `fields` in their order.

        The operating system has the line when this returns: a killed process loses nothing, a
        power cut may lose the lines since the last `sync`.

        Args:
            event: what happened.
            fields: JSON values; NumPy's numbers and arrays are written as Python's.

        Raises:
            ValueError: a number is NaN or infinite, a field is called `at` or `event`, or the
                journal is closed.
            TypeError: a value cannot be written as JSON.
            RunError: the line cannot be written; no part of it stays in the file.
        """
        if _OURS & fields.keys():
            raise ValueError("a journal's fields cannot be called 'at' or 'event'")
        if self._descriptor is None:
            raise ValueError(f"{self.path} is closed")
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        whole = {"at": at, "event": event, **fields}
        text = json.dumps(whole, allow_nan=False, separators=(",", ":"), default=_plain)
        line = text.encode() + b"\n"
        try:
            written = os.write(self._descriptor, line)
            if written < len(line):  # the disk is full, as the second call will say
                os.write(self._descriptor, line[written:])
        except OSError as error:
            os.ftruncate(self._descriptor, self._size)
            raise RunError(
                f"{self.path}: the journal cannot be written: {error.strerror}. Make room on the "
                "disk, then run the same command again."
            ) from error
        self._size += len(line)
        return whole

    def sync(self) -> None:
        """Force every line onto the disk, which takes milliseconds, or raise `RunError`."""
        if self._descriptor is not None:
            try:
                os.fsync(self._descriptor)
            except OSError as error:
                raise RunError(f"{self.path}: cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Sync and close; a second call does nothing."""
        if self._descriptor is None:
            return
        try:
            self.sync()
        finally:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read(path: Path) -> list[dict[str, Any]]:
    """Return the events of a journal in order, without a torn last line; none without a file.

    Raises:
        RunError: the file cannot be read, or a line before the last one is no event.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(f"{path}: the journal cannot be read: {error.strerror}") from error
    # After the last newline: a torn line, or nothing.
    return [_event(line, path, number) for number, line in enumerate(lines[:-1], start=1)]


class Tail:
    """Reads a journal that grows: each call of `new` returns what has been written since the last.

    A journal that is not the one it was, of a run that was started over, is read from its start.

    Attributes:
        count: events read so far.
        last: the last of them; empty where there is none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode: int | None = None
        self._head = b""
        self._start_over()

    def _start_over(self) -> None:
        self._offset = self.count = 0
        self.last: Mapping[str, Any] = {}

    def new(self) -> list[dict[str, Any]]:
        """Return the events since the last call; a torn line waits until it is whole.

        Raises:
            RunError: the file cannot be read, or a line is no event; the next call goes on.
        """
        try:
            with self._path.open("rb") as file:
                about = os.fstat(file.fileno())
                # The first line has a time: ext4 gives a new file the inode of the one before.
                head = file.readline()
                another = about.st_ino != self._inode or (self._offset and head != self._head)
                if another or about.st_size < self._offset:
                    self._start_over()
                self._inode, self._head = about.st_ino, head
                file.seek(self._offset)
                content = file.read()
        except FileNotFoundError:
            self._start_over()
            return []
        except OSError as error:
            raise RunError(f"{self._path}: the journal cannot be read: {error.strerror}") from error
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        events = [
            _event(line, self._path, number)
            for number, line in enumerate(whole.split(b"\n")[:-1], start=self.count + 1)
        ]
        self.count += len(events)
        self.last = events[-1] if events else self.last
        return events


def count_events(path: Path) -> tuple[int, Mapping[str, Any]]:
    """Return how many events a journal has, and the last one; 0 and nothing without a file.

    A journal may have megabytes, and only its last line is looked at.

    Raises:
        RunError: the file cannot be read, or its last whole line is no event.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return 0, {}
    except OSError as error:
        raise RunError(f"{path}: the journal cannot be read: {error.strerror}") from error
    count, end = content.count(b"\n"), content.rfind(b"\n")
    if not count:
        return 0, {}
    return count, _event(content[content.rfind(b"\n", 0, end) + 1 : end], path, count)


def _event(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if not isinstance(event, Mapping) or not event.keys() >= _OURS:
        raise RunError(f"{path}:{number}: not an event of a journal: the file was damaged")
    return dict(event)


def _plain(value: object) -> object:
    if hasattr(value, "tolist"):  # NumPy's, which is not imported for reading a journal
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} cannot be written to a journal")
