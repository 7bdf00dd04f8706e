"""What an interrupted search has found: the search again, from the score store alone.

A search is a function of rows, settings, seed and scores, so with the stored scores it goes the
same way again, without a request. It is ended where the interrupted one had finished its last whole
sweep or step. Reads that a search ends with, and that nobody has asked for, are left out: NaN.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence

import numpy as np

from icm_client.coherence.problem import UNLABELLED, FloatArray, Query, Score
from icm_client.coherence.result import Observed, PassRecord, SearchResult, SweepRecord, Watch
from icm_client.endpoints import Endpoint
from icm_client.errors import IcmError, RunStopped
from icm_client.scoring import Pieces, Scorer, ScoreStore

Search = Callable[[Score, Watch], Awaitable[SearchResult]]
"""A search, given where its scores come from, and how it is watched and ended."""


async def search_so_far(
    search: Search, stored: "StoredScores", seen: Sequence[Observed]
) -> SearchResult | None:
    """Return where the search stood; None where it had no labels of its own yet.

    Args:
        search: as it was begun.
        stored: the scores that were stored by then.
        seen: the sweeps or steps that it has reported.
    """
    if any(isinstance(one, PassRecord) for one in seen):
        return None  # what a trained model answered is not read again without that model
    n = len(seen)
    # The first sweep of a restart has random labels as demos.
    while n and isinstance(last := seen[n - 1], SweepRecord) and last.sweep == 0:
        n -= 1
    # One sweep less where the reads that follow the last one decide its labels, as after sweeps
    # under all label permutations.
    for steps in range(n, max(0, n - 2), -1):
        try:
            found = await _ended_after(steps, search, stored)
        except IcmError:
            return None  # a model would have to be trained
        last = seen[steps - 1]
        labelled = sum(last.counts) if isinstance(last, SweepRecord) else 1
        if np.isfinite(found.utility) and (found.labels != UNLABELLED).sum() >= labelled:
            return found
    return None


async def _ended_after(steps: int, search: Search, stored: "StoredScores") -> SearchResult:
    reported: list[Observed] = []
    return await search(stored, Watch(reported.append, lambda: len(reported) >= steps))


class StoredScores:
    """A `Score` of what the store has; NaN where it has nothing. The server is asked nothing.

    Args:
        endpoint: whose scores they are.
        store: has them.
        pieces: the token ids of items and labels.
        unusable: items that are known not to be scored.
    """

    def __init__(
        self, endpoint: Endpoint, store: ScoreStore, pieces: Pieces, unusable: Collection[int]
    ) -> None:
        self._stored = Scorer(endpoint, store, pieces, unusable=unusable, stopping=lambda: True)

    async def __call__(self, queries: Sequence[Query]) -> FloatArray:
        """As `Scorer`; NaN in the rows of which something is not stored."""
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
