"""What an interrupted search has found: the search again, from the score store alone.

A search is a function of rows, settings, seed and scores, so with the scores that were stored it
goes the same way again, without a request. It is ended where the interrupted one had its last whole
sweep or step. Reads that a search ends with, and that nobody has asked, are left out: NaN.
"""

from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from icm_client.coherence.problem import UNLABELLED, FloatArray, Query, Score
from icm_client.coherence.result import Observed, PassRecord, SearchResult, SweepRecord, Watch
from icm_client.errors import IcmError, RunStopped
from icm_client.scoring import Scorer

Search = Callable[[Score, Watch], Awaitable[SearchResult]]
"""A search, given where its scores come from, and how it is watched and ended."""


async def search_so_far(
    search: Search, stored: Scorer, seen: Sequence[Observed]
) -> SearchResult | None:
    """Return where the search stood; None where it had no labels of its own yet.

    Args:
        search: as it was begun.
        stored: a scorer that stops before every request.
        seen: the sweeps or steps that it had told of.
    """
    if any(isinstance(one, PassRecord) for one in seen):
        return None  # what was trained cannot be asked without its server
    n = len(seen)
    # The first sweep of a start has random labels for demos.
    while n and isinstance(last := seen[n - 1], SweepRecord) and last.sweep == 0:
        n -= 1
    # One sweep less where the reads that follow the last one decide its labels (all names).
    for steps in range(n, max(0, n - 2), -1):
        try:
            found = await _ended_after(steps, search, stored)
        except IcmError:
            return None  # first labels that are not all there, a model that is to be trained
        if np.isfinite(found.utility) and _labelled(found) >= _labelled_in(seen[steps - 1]):
            return found
    return None


async def _ended_after(steps: int, search: Search, stored: Scorer) -> SearchResult:
    told: list[Observed] = []
    return await search(_StoredScores(stored), Watch(told.append, lambda: len(told) >= steps))


def _labelled(found: SearchResult) -> int:
    return int((found.labels != UNLABELLED).sum())


def _labelled_in(seen: Observed) -> int:
    return sum(seen.counts) if isinstance(seen, SweepRecord) else 1


class _StoredScores:
    """A `Score` of what the store has; NaN where it has nothing."""

    def __init__(self, stored: Scorer) -> None:
        self._stored = stored

    async def __call__(self, queries: Sequence[Query]) -> FloatArray:
        try:
            return await self._stored(queries)
        except RunStopped:
            rows = [await self._row(query) for query in queries]
            return np.concatenate(rows)

    async def _row(self, query: Query) -> FloatArray:
        try:
            return await self._stored([query])
        except RunStopped:
            return np.full((1, len(self._stored.labels.describe())), np.nan)
