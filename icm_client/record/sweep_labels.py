"""The labels after each sweep, as a run's journal keeps them: for looking at, not for searching.

A sweep's event holds one word: the rows' labels, numbered as in the event's `counts`, -1 where a
row has none, as little-endian 16-bit integers, deflated, in base64. Of 100,000 rows with two labels
that is 26 kB, with five 52 kB. A pair's other order is left out: its label follows from the row's.
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
from icm_client.record.journal import read

SWEEP, PASS = "sweep", "pass"

_NUMBERS = "<i2"
_SAME = ("utility", "coherence", "moved")


def packed(labels: IntArray) -> str:
    """Return the labels as one word."""
    return base64.b64encode(zlib.compress(labels.astype(_NUMBERS).tobytes())).decode()


def unpacked(word: str) -> IntArray:
    """Return the labels that `packed` was given; `ValueError` where it was given none."""
    try:
        content = zlib.decompress(base64.b64decode(word, validate=True))
        return np.frombuffer(content, _NUMBERS).astype(np.int64)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"no packed labels: {error}") from error


def labels_by_sweep(
    journal: Path, sweeps: Sequence[Mapping[str, Any]], words: Sequence[str]
) -> list[IntArray | None]:
    """Return the labels after each of a result's sweeps.

    A search that had to start again has told some sweeps twice, and an older version told no
    labels: a sweep has labels where the journal's last word on it is the result's own.

    Args:
        journal: of the run.
        sweeps: as the run's result lists them; those with `trained_on` are passes.
        words: the labels that the rows' numbers are to stand for.

    Returns:
        One a sweep, over all rows of the data, numbers in `words`, -1 where a row has no label.

    Raises:
        RunError: the journal cannot be read.
    """
    told: dict[object, Mapping[str, Any]] = {}
    for line in read(journal):
        if line["event"] in (SWEEP, PASS):
            told[line["event"], line.get("restart"), line.get("sweep")] = line
    found: list[IntArray | None] = []
    for sweep in sweeps:
        kind = PASS if "trained_on" in sweep else SWEEP
        event = told.get((kind, sweep["restart"], sweep["sweep"]), {})
        same = all(event.get(name) == sweep.get(name) for name in _SAME)
        found.append(_labels(event, words, journal) if same and "labels" in event else None)
    return found


def _labels(event: Mapping[str, Any], words: Sequence[str], journal: Path) -> IntArray:
    try:
        numbers = np.array([words.index(word) for word in event["counts"]] + [-1])
        return numbers[unpacked(event["labels"])]  # -1 is the last
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise RunError(
            f"{journal}: the labels of a sweep cannot be read ({error}): the file was damaged"
        ) from None
