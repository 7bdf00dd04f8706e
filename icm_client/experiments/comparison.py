"""What `eval` and `ablate` share: a sample of the rows, errors that end it all, and the table."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from icm_client.coherence.contexts import in_units
from icm_client.data import Dataset
from icm_client.data.job import Job
from icm_client.errors import (
    InputError,
    ModelChanged,
    RunError,
    RunStopped,
    SetupError,
    StoreError,
)

FATAL: Final = (ModelChanged, RunError, RunStopped, SetupError, StoreError)
"""Errors after which no other run would fare better. All others are recorded as a run's outcome."""

Record = dict[str, str | int | float | None]
"""A line of a table, by column; None where there is no figure."""


def some_rows(job: Job, count: int) -> Dataset:
    """Draw a seeded sample of at most `count` rows, in their order; a rule's groups stay whole.

    Raises:
        InputError: fewer than two rows would be left.
    """
    units = in_units(np.random.default_rng(0).permutation(len(job.items)), job.constraint.groups)
    chosen: set[int] = set()
    for unit in units:
        rows = {job.items[item].row for item in unit} - chosen
        if len(chosen) + len(rows) <= count:
            chosen |= rows
    if len(chosen) < 2:  # noqa: PLR2004
        raise InputError(
            f"{len(chosen)} of the rows, in whole groups, fit into {count}: ask for more"
        )
    data = job.dataset
    kept = sorted(chosen)
    return replace(
        data,
        rows=tuple(data.rows[row] for row in kept),
        gold=None if data.gold is None else tuple(data.gold[row] for row in kept),
    )


def csv_of(records: Sequence[Record]) -> str:
    """A table as CSV; a cell is empty where there is no figure."""
    text = io.StringIO()
    writer = csv.DictWriter(text, records[0] if records else (), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def counted(words: Iterable[str]) -> str:
    """Each word with how often it occurs: `one-label (2), weak (1)`."""
    return ", ".join(f"{word} ({times})" for word, times in sorted(Counter(words).items()))


def rounded(figure: float | None) -> float | None:
    """The figure to four digits, or None."""
    return None if figure is None else round(figure, 4)
