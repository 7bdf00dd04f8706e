"""The journal of a run: what happened, one JSON object a line, appended and never changed.

A line is written with one call and ends in a newline, so a killed process leaves at most its last
line torn. Such a line never happened: reading ignores it, and opening cuts it off.

A sweep's event holds the labels after it, for looking at and not for searching, as one word: the
rows' labels, numbered as in the event's `counts`, -1 where a row has none, as little-endian 16-bit
integers, deflated, in base64. 100,000 rows take 26 kB with two labels, 52 kB with five. A pair's
other order is left out: its label follows from the row's.
"""

import base64
import binascii
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from icm_client.coherence.problem import IntArray
from icm_client.errors import RunError

__all__ = ["Journal", "RunError", "read"]

SWEEP, PASS = "sweep", "pass"
"""The events that hold labels."""

_OURS = frozenset({"at", "event"})
_NUMBERS = "<i2"
_SAME = ("utility", "coherence", "moved")
"""A sweep's event and the run's result agree in these, or belong to different searches."""


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

    def append(self, event: str, /, **fields: object) -> None:
        """Write one line: the time (`at`, UTC), `event`, and `fields` in their order.

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
        text = json.dumps(
            {"at": at, "event": event, **fields},
            allow_nan=False,
            separators=(",", ":"),
            default=_plain,
        )
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
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
    events = []
    for number, line in enumerate(lines[:-1], start=1):  # after the last newline: torn, or empty
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if not isinstance(event, Mapping) or not event.keys() >= _OURS:
            raise RunError(f"{path}:{number}: not an event of a journal: the file was damaged")
        events.append(dict(event))
    return events


def _plain(value: object) -> object:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} cannot be written to a journal")


def packed(labels: IntArray) -> str:
    """Return a sweep's labels as one word."""
    return base64.b64encode(zlib.compress(labels.astype(_NUMBERS).tobytes())).decode()


def unpacked(word: str) -> IntArray:
    """Return the labels that `packed` was given, or raise `ValueError`."""
    try:
        content = zlib.decompress(base64.b64decode(word, validate=True))
        return np.frombuffer(content, _NUMBERS).astype(np.int64)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"no packed labels: {error}") from error


def labels_by_sweep(
    journal: Path, sweeps: Sequence[Mapping[str, Any]], words: Sequence[str]
) -> list[IntArray | None]:
    """Return the labels after each of a result's sweeps, or None where they are unknown.

    A search that started again recorded some sweeps twice, and an older version recorded no
    labels: they are known where the journal's last event of a sweep agrees with the result.

    Args:
        journal: of the run.
        sweeps: as the run's result lists them; those with `trained_on` are passes.
        words: the labels that the numbers returned are to stand for.

    Returns:
        For each sweep all rows of the data, as numbers in `words`, -1 where a row has no label.

    Raises:
        RunError: the journal cannot be read.
    """
    last: dict[object, Mapping[str, Any]] = {}
    for event in read(journal):
        if event["event"] in (SWEEP, PASS):
            last[event["event"], event.get("restart"), event.get("sweep")] = event
    found: list[IntArray | None] = []
    for sweep in sweeps:
        kind = PASS if "trained_on" in sweep else SWEEP
        recorded = last.get((kind, sweep["restart"], sweep["sweep"]), {})
        same = all(recorded.get(name) == sweep.get(name) for name in _SAME)
        found.append(_labels(recorded, words, journal) if same and "labels" in recorded else None)
    return found


def _labels(event: Mapping[str, Any], words: Sequence[str], journal: Path) -> IntArray:
    try:
        numbers = np.array([words.index(word) for word in event["counts"]] + [-1])
        return numbers[unpacked(event["labels"])]  # -1 is the last
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise RunError(
            f"{journal}: the labels of a sweep cannot be read ({error}): the file was damaged"
        ) from None
