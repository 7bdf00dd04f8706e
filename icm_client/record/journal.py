"""The journal of a run: what happened, one JSON object a line, appended and never changed.

A line is written with one call and ends in a newline, so that a process that is killed leaves at
most its last line torn. Such a line never happened: reading leaves it out, and opening cuts it off.
"""

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from icm_client.errors import RunError

__all__ = ["Journal", "RunError", "read"]

_OURS = frozenset({"at", "event"})


class Journal:
    """Appends to one file; made with `Journal.open`. One process writes at a time."""

    def __init__(self, path: Path, descriptor: int, size: int) -> None:
        self.path = path
        self._descriptor: int | None = descriptor
        self._size = size

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the journal at `path` to append to it; make it if it is not there.

        Raises:
            RunError: the file cannot be opened, or its torn last line not be cut off.
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

    def append(self, event: str, /, **fields: object) -> None:
        """Write one line: the time (`at`, UTC), `event`, and `fields` in their order.

        The line is with the operating system when this returns: a killed process loses nothing. A
        power cut may take lines since the last `sync`.

        Args:
            event: what happened.
            fields: JSON values; NumPy's numbers and arrays are written as Python's.

        Raises:
            ValueError: a number is not finite, a field is called `at` or `event`, or the journal
                is closed.
            TypeError: a value has no place in JSON.
            RunError: the line cannot be written; nothing of it stays.
        """
        if _OURS & fields.keys():
            raise ValueError("a journal's fields cannot be called 'at' or 'event'")
        if self._descriptor is None:
            raise ValueError(f"{self.path} is closed")
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        text = json.dumps(
            {"at": at, "event": event, **fields},
            allow_nan=False,
            separators=(",", ":"),
            default=_plain,
        )
        line = text.encode() + b"\n"
        try:
            written = os.write(self._descriptor, line)
            if written < len(line):  # the disk is full; the second call says so
                os.write(self._descriptor, line[written:])
        except OSError as error:
            os.ftruncate(self._descriptor, self._size)
            raise RunError(
                f"{self.path}: the journal cannot be written: {error.strerror}. Make room on the "
                "disk, then run the same command again."
            ) from error
        self._size += len(line)

    def sync(self) -> None:
        """Have every line on the disk; takes milliseconds. Raises `RunError` if it cannot be."""
        if self._descriptor is not None:
            try:
                os.fsync(self._descriptor)
            except OSError as error:
                raise RunError(f"{self.path}: cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Sync and close; a second time does nothing."""
        if self._descriptor is None:
            return
        try:
            self.sync()
        finally:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def read(path: Path) -> list[dict[str, Any]]:
    """Return the events of a journal, in their order; a torn last line is left out.

    Where there is no file yet, nothing has happened: the list is empty.

    Raises:
        RunError: the file cannot be read, or a line before the last one is no event.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(f"{path}: the journal cannot be read: {error.strerror}") from error
    events = []
    for number, line in enumerate(lines[:-1], start=1):  # behind the last newline: torn, or empty
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if not isinstance(event, Mapping) or not event.keys() >= _OURS:
            raise RunError(f"{path}:{number}: no event of a journal: the file was damaged")
        events.append(dict(event))
    return events


def _plain(value: object) -> object:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} has no place in a journal")
