"""What comparisons share: the cost, the errors that end all, the table."""

import csv
import io
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Final

from icm_client.data.whole_files import replace_file
from icm_client.endpoints import Endpoint
from icm_client.errors import (
    ModelChanged,
    RunError,
    RunStopped,
    SetupError,
    StoreError,
)
from icm_client.scoring import ScorerStats

FATAL: Final = (ModelChanged, RunError, RunStopped, SetupError, StoreError)
"""Errors after which no other run would fare better. All others are recorded as a run's outcome."""

Record = dict[str, str | int | float | None]
"""A line of a table, by column; None where there is no figure."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What a method or a probe cost.

    Attributes:
        reads: log-probs that it needed, from the server or from the store: the same whatever ran
            before it.
        requests: sent for it; none for what an earlier method has read.
        computed_tokens: prompt tokens that the server prefilled for it; as above.
        seconds: wall clock; as above.
        training_seconds: of training its model, whenever that was, in all processes together.
    """

    reads: int = 0
    requests: int = 0
    computed_tokens: int = 0
    seconds: float = 0.0
    training_seconds: float = 0.0

    def __add__(self, other: "Spent") -> "Spent":
        """The sum of each figure; seconds to the millisecond."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Spent(*(round(one + two, 3) for one, two in pairs))


class Meter:
    """Measures what is spent on an endpoint from now on."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._before = replace(endpoint.usage)
        self._started = time.monotonic()

    def spent(self, *stats: ScorerStats) -> Spent:
        """What was spent since then, `stats` being those of the scorers that read."""
        usage = self._endpoint.usage
        return Spent(
            sum(one.asked + one.from_store for one in stats),
            usage.requests - self._before.requests,
            usage.computed_tokens - self._before.computed_tokens,
            round(time.monotonic() - self._started, 3),
        )


def write_results(
    out: Path,
    files: Mapping[str, bytes],
    pictures: Sequence[str],
    draw: Callable[[Sequence[Path]], None],
) -> tuple[list[str], str | None]:
    """Write files and pictures; return their paths, and why there are no pictures, or None.

    Args:
        out: the folder.
        files: name -> content.
        pictures: the names of the pictures.
        draw: draws the pictures into files of these paths.

    Raises:
        RunError: a file cannot be written.
    """
    written = [str(out / name) for name in files]
    drawn = [out / name for name in pictures]
    try:
        for name, content in files.items():
            replace_file(out / name, content)
        draw(drawn)
    except SetupError as error:
        return written, str(error)
    except OSError as error:
        raise RunError(f"{out}: cannot be written: {error.strerror}") from error
    return [*written, *map(str, drawn)], None


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
