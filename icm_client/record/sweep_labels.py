"""The labels after each sweep, as the journal keeps them: for looking at, not for searching.

They are written as one word: the rows' labels, numbered as in the event's `counts`, -1 where a row
has none, as little-endian 16-bit integers, deflated, in base64. 100,000 rows take 26 kB with two
labels, 52 kB with five. A pair's other order is left out: its label follows from the row's.
"""

import base64
import binascii
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from icm_client.coherence.problem import IntArray
from icm_client.errors import RunError
from icm_client.record.journal import PASS, SWEEP, read

_NUMBERS = "<i2"
_SAME = ("utility", "coherence", "moved")
"""A sweep's event and the run's result agree in these, or belong to different searches."""


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
