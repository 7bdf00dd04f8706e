"""What a labelling run would take, reckoned ahead of it."""

import math
from dataclasses import dataclass

from icm_client.coherence.all_names import MOST_NAMES
from icm_client.coherence.polarity import asked_first
from icm_client.coherence.settings import SweepSettings
from icm_client.scoring import LabelTrie, Pieces

_GROUP = 16
"""Reads that the scorer sends in one request, where a server takes several."""


@dataclass(frozen=True, slots=True)
class RunCost:
    """From the fewest sweeps of one start to the most of all starts.

    Attributes:
        rows: of the run.
        requests: fewest and most, retries left out.
        tokens: prompt tokens that the server computes, fewest and most.
        minutes: fewest and most; None where nothing was measured.
    """

    rows: int
    requests: tuple[int, int]
    tokens: tuple[int, int]
    minutes: tuple[float, float] | None

    def sentence(self) -> str:
        """Return the same for people."""
        time = (
            "a time that was not measured"
            if self.minutes is None
            else f"{self.minutes[0]:.1f} to {self.minutes[1]:.1f} minutes"
        )
        return (
            f"A run over {self.rows:,} rows: {self.requests[0]:,} to {self.requests[1]:,} "
            f"requests, {self.tokens[0]:,} to {self.tokens[1]:,} tokens computed, {time}."
        )

    def summary(self) -> dict[str, object]:
        """Return the same as JSON has it."""
        return {
            "rows": self.rows,
            "requests": list(self.requests),
            "computed_tokens": list(self.tokens),
            "minutes": None if self.minutes is None else list(self.minutes),
        }


def run_cost(
    n_rows: int,
    pieces: Pieces,
    settings: SweepSettings,
    *,
    lanes: int,
    texts: bool,
    ids_a_token: float,
    tokens_a_second: float,
    reads_a_second: float,
    caches: bool,
) -> RunCost:
    """Return what `n_rows` like those of `pieces` would take.

    A sweep computes each fold's context once and every row behind it, `F * C + N` demos' worth; a
    server without a prefix cache computes the context for each row again. The time is that of the
    contexts at the speed of one long prompt, and of the rows at the best speed of short ones.

    Args:
        n_rows: `N`.
        pieces: of rows like those of the run.
        settings: of the run, fitted to the server.
        lanes: of the endpoint.
        texts: whether the ids of `pieces` are characters, one prompt a request.
        ids_a_token: characters a token, where they are; 0 for unknown.
        tokens_a_second: measured on one long prompt; 0 for unknown.
        reads_a_second: measured on short prompts, at its best; 0 for unknown.
        caches: whether the server has a prefix cache.
    """
    reads_a_row = len(LabelTrie(pieces.labels).reads(()))
    length = sum(map(len, pieces.prompts)) / max(len(pieces.prompts), 1)
    label = sum(map(len, pieces.labels)) / len(pieces.labels)
    scale = 1 / (ids_a_token or 4.0) if texts else 1.0
    demo = (length + label + len(pieces.separator)) * scale
    contexts = settings.folds * min(settings.demos, n_rows) * demo
    rows = n_rows * (length * scale if caches else length * scale + contexts / settings.folds)
    reads = n_rows * reads_a_row
    grouped = reads if lanes or texts else math.ceil(reads / _GROUP)
    # At the end names are rotated and exchanged, for a part of a fold or for all; and words may say
    # little.
    few = len(pieces.labels)
    exchanged = few - 1 + (few > 2)  # noqa: PLR2004 - of two labels, rotating is exchanging
    at_once = min(few, MOST_NAMES)
    under_all = settings.all_names and settings.all_names * at_once + exchanged - (at_once - 1)
    sweeps = (
        settings.min_sweeps + exchanged * min(1 / settings.folds, asked_first(few) / n_rows),
        settings.max_sweeps * settings.restarts + exchanged + max(under_all, settings.renamed),
    )
    minutes = None
    if tokens_a_second and reads_a_second:
        one = (contexts / tokens_a_second if caches else rows / tokens_a_second) + (
            reads / reads_a_second
        )
        minutes = (sweeps[0] * one / 60, sweeps[1] * one / 60)
    requests = grouped + (0 if lanes else settings.folds)
    return RunCost(
        n_rows,
        (math.ceil(sweeps[0] * requests), math.ceil(sweeps[1] * requests)),
        (math.ceil(sweeps[0] * (contexts + rows)), math.ceil(sweeps[1] * (contexts + rows))),
        minutes,
    )
