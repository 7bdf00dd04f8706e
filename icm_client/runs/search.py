"""The search of a run: without items that cannot be scored, and replayed where it is interrupted.

`search_or_replay` calls `find_labels`, the search of the run's settings, and keeps it going;
`FailureBudget` knows which items it is to leave out, and when they are too many.

A search is a function of rows, settings, seed and scores. So where it is interrupted, the same
search over the stored scores goes the same way again, without a request. It is ended where the
interrupted one had finished its last whole sweep or step. Reads that a search ends with, and that
nobody has asked for, are left out: NaN.
"""

import math
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

import numpy as np

from icm_client.coherence import fast, simple
from icm_client.coherence.anneal import AnnealSettings
from icm_client.coherence.anneal_official import OfficialSettings
from icm_client.coherence.decode import anneal_search
from icm_client.coherence.folds import FoldSettings, fold_search
from icm_client.coherence.initial_labels import Start, first_labels
from icm_client.coherence.iterate import iterative_search
from icm_client.coherence.problem import UNLABELLED, FloatArray, IntArray, Query, Score
from icm_client.coherence.result import (
    UNWATCHED,
    Observed,
    PassRecord,
    SearchResult,
    SweepRecord,
    Watch,
)
from icm_client.coherence.settings import SweepSettings
from icm_client.coherence.simple import FewShotSettings, ZeroShotSettings
from icm_client.coherence.trained import Train
from icm_client.data.job import Job
from icm_client.data.rows import FailedRow
from icm_client.endpoints import Endpoint
from icm_client.errors import IcmError, InputError, RunStopped, TooManyFailed
from icm_client.runs.presets import Settings
from icm_client.scoring import Pieces, Scorer, ScoreStore
from icm_client.scoring.call import FailedItem

DEFAULT_FAIL_ON_ERROR: Final = 0.05
"""A twentieth of the rows. Labels of the others stand without these; where more fail, something is
wrong with all of them."""

Search = Callable[[Score, Watch], Awaitable[SearchResult]]
"""A search, given where its scores come from, and how it is watched and ended."""


async def find_labels(
    job: Job,
    settings: Settings,
    score: Score,
    train: Train | None = None,
    *,
    seed: int,
    first: Start | IntArray | None = None,
    pinned: IntArray | None = None,
    unlike: IntArray | None = None,
    left_out: Collection[int] = (),
    watch: Watch = UNWATCHED,
) -> SearchResult:
    """Run the search that the settings are for.

    Args:
        job: whose items are searched.
        settings: fitted to the server (`icm_client.runs.presets.fit`).
        score: asks the served model.
        train: trains models, for `folds` and `iterate`.
        seed: of all that is random.
        first: first labels, shape `[N]`, or their kind; None leaves them to the search.
        pinned: labels that the search keeps, shape `[N]`, `UNLABELLED` where an item is free.
        unlike: classes of other labels that those found are to be independent of, shape `[N]`.
        left_out: items that cannot be scored.
        watch: follows the search, and ends it.

    Raises:
        InputError: the constraint allows some items no labels, or not the pinned ones.
        TrainingError: a model cannot be trained.
        EndpointError, ScoreError, StoreError: whatever `score` raises.
    """
    if isinstance(first, str):  # drawn from a random generator of their own
        assert not isinstance(settings, ZeroShotSettings)  # noqa: S101 - refused by `LabelRequest`
        chance = np.random.default_rng((seed, 1))
        first = await first_labels(first, job.problem(), score, K=settings.initial, rng=chance)
    problem = job.problem(start=first, pinned=pinned, left_out=left_out, unlike=unlike)
    rng = np.random.default_rng(seed)
    match settings:
        case SweepSettings():
            return await fast.search(problem, score, settings=settings, rng=rng, watch=watch)
        case AnnealSettings() | OfficialSettings():
            return await anneal_search(problem, score, settings=settings, rng=rng, watch=watch)
        case ZeroShotSettings() | FewShotSettings():
            return await simple.search(problem, score, settings=settings, rng=rng, watch=watch)
    assert train is not None  # noqa: S101 - `LabelRequest.prepared` has seen to it
    if isinstance(settings, FoldSettings):
        return await fold_search(problem, score, train, settings=settings, rng=rng, watch=watch)
    return await iterative_search(problem, score, train, settings=settings, rng=rng, watch=watch)


async def search_or_replay(
    search: Search, scorer: Score, stored: Score, failures: "FailureBudget", watch: Watch
) -> tuple[SearchResult, RunStopped | None]:
    """Search, again each time that more items are to be left out; replay it where interrupted.

    Args:
        search: searches all items but `failures.left_out`.
        scorer: asks the server, and reports to `failures.failed`.
        stored: the `stored_scores`, which the replay reads.
        failures: what is known of items that cannot be scored.
        watch: follows the search, and ends it.

    Returns:
        What was found; and where the search was interrupted, by what.

    Raises:
        RunStopped: it was interrupted before it had labels of its own.
        TooManyFailed: too many rows have no score.
        IcmError: what `search` raises.
    """
    seen: list[Observed] = []

    def observe(one: Observed) -> None:
        seen.append(one)
        watch.observe(one)

    try:
        while True:
            with suppress(StartAgainError):
                return await search(scorer, Watch(observe, watch.stop)), None
            seen.clear()
            await failures.ask_zero_shot(scorer)
    except RunStopped as stopped:
        if any(isinstance(one, PassRecord) for one in seen):
            raise  # what a trained model answered is not read again without that model
        n = len(seen)
        # The first sweep of a restart has random labels as demos.
        while n and isinstance(last := seen[n - 1], SweepRecord) and last.sweep == 0:
            n -= 1
        # One sweep less where the reads that follow the last one decide its labels, as after sweeps
        # under all label permutations.
        for steps in range(n, max(0, n - 2), -1):
            again: list[Observed] = []
            ended = Watch(again.append, lambda: len(again) >= steps)  # noqa: B023 - awaited here
            try:
                found = await search(stored, ended)
            except IcmError:  # a model would have to be trained
                break
            last = seen[steps - 1]
            labelled = sum(last.counts) if isinstance(last, SweepRecord) else 1
            if np.isfinite(found.utility) and (found.labels != UNLABELLED).sum() >= labelled:
                return replace(found, stopped=True), stopped
        raise


def stored_scores(
    endpoint: Endpoint, store: ScoreStore, pieces: Pieces, unusable: Collection[int]
) -> Score:
    """Return a `Score` of what the store has; NaN where it has nothing. Nothing is asked.

    Args:
        endpoint: whose scores they are.
        store: has them.
        pieces: the token ids of items and labels.
        unusable: items that are known not to be scored.
    """
    stored = Scorer(endpoint, store, pieces, unusable=unusable, stopping=lambda: True)

    async def score(queries: Sequence[Query]) -> FloatArray:
        try:
            return await stored(queries)
        except RunStopped:  # of some rows something is not stored
            if len(queries) == 1:
                return np.full((1, len(pieces.labels)), np.nan)
            return np.concatenate([await score([query]) for query in queries])

    return score


class FailureBudget:
    """Takes note of items that cannot be scored, and ends the run where they are too many.

    The searches go on in two ways. One that sweeps or trains leaves an item without a score aside,
    and may meet it again in the next sweep or pass. Algorithm 1 cannot: a label whose context fails
    has no `U`. Its search starts again without the item; so does one that sweeps, where the item
    was a demo and spoilt the scores of all rows in its context. Either way the search stays a
    function of rows, settings, seed and scores: where an item fails again, the same command goes
    the same way.

    Args:
        job: whose items they are.
        settings: which search.
        fail_on_error: rows without a score that end the run: a count if at least 1, else a fraction
            of the rows, and then at least 2.
        unusable: items that are known not to be scored, with the reason; they do not count.

    Attributes:
        left_out: items that the search leaves out.

    Raises:
        InputError: `fail_on_error` is no such number.
    """

    def __init__(
        self,
        job: Job,
        settings: Settings,
        fail_on_error: float = DEFAULT_FAIL_ON_ERROR,
        unusable: Mapping[int, str] | None = None,
    ) -> None:
        if not 0 < fail_on_error < math.inf:
            raise InputError(
                "fail_on_error must be a number of rows or, under 1, a share of them, not "
                f"{fail_on_error}"
            )
        self._unusable = dict(unusable or {})
        self.left_out: set[int] = set(self._unusable)
        self._job = job
        self._sweeps = not isinstance(settings, AnnealSettings | OfficialSettings)
        self._limit = fail_on_error
        self._reasons: dict[int, str] = {}

    def failed(self, failed: Mapping[int, FailedItem]) -> None:
        """Record items that have no score: the scorer's `on_failed`.

        Raises:
            TooManyFailed: as many rows as `fail_on_error` says have no score.
        """
        self._reasons |= {item: str(one.error) for item, one in failed.items()}
        rows = {self._job.items[item].row for item in self._reasons}
        total = len(self._job.dataset.rows)
        # A search needs two rows, whatever it is allowed to lose.
        ends = min(self._limit if self._limit >= 1 else max(self._limit * total, 2), total - 1)
        if len(rows) >= ends:
            item, reason = next(iter(self._reasons.items()))
            row = self._job.dataset.rows[self._job.items[item].row]
            raise TooManyFailed(
                "too many rows cannot be scored: mend them, or allow more with --fail-on-error "
                f"({len(rows)} of {total} have no score, and {math.ceil(ends)} end the run). The "
                f"first, {row.id!r}: {reason}"
            )
        gone = {item for item, one in failed.items() if one.as_demo or not self._sweeps}
        if gone:
            self.left_out |= gone
            raise StartAgainError

    async def ask_zero_shot(self, score: Score) -> None:
        """Ask for every item zero-shot before Algorithm 1 starts again; no other search needs it.

        One pass finds most of the items that would make it start once more.
        """
        while not self._sweeps:
            items = (item for item in range(len(self._job.items)) if item not in self.left_out)
            with suppress(StartAgainError):
                await score([Query((), item) for item in items])
                return

    def without_label(self, labels: IntArray) -> tuple[FailedRow, ...]:
        """The rows without a label, in their order: those that failed, and those skipped.

        Args:
            labels: shape `[N]`, those found, `UNLABELLED` where an item has none.
        """
        dataset = self._job.dataset
        reasons = {**self._unusable, **self._reasons}
        failed = (
            dataset.rows[number].failed(reasons.get(item, "it was never scored"))
            for number, item in enumerate(self._job.row_items.tolist())
            if labels[item] == UNLABELLED
        )
        return tuple(sorted((*dataset.skipped, *failed), key=lambda row: row.number))


class StartAgainError(Exception):
    """The search cannot go on with an item that it has built on."""
