"""Rows that cannot be scored: how many a run bears, and how its search goes on without them."""

import math
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Final, TypeVar

from icm_client.coherence.anneal import AnnealSettings
from icm_client.coherence.anneal_official import OfficialSettings
from icm_client.coherence.problem import UNLABELLED, Query, Score
from icm_client.coherence.result import SearchResult
from icm_client.data.job import Job
from icm_client.data.rows import FailedRow
from icm_client.errors import InputError, TooManyFailed
from icm_client.runs.presets import Settings
from icm_client.scoring.call import FailedItem

DEFAULT_FAIL_ON_ERROR: Final = 0.05
"""A twentieth of the rows. Labels of the others stand without these; where more fail, something is
wrong with all of them."""

T = TypeVar("T")


class FailureBudget:
    """Hears of items that cannot be scored, and ends the run where they are too many.

    The searches cope in two ways. One that sweeps or trains leaves an item without a score aside,
    and may meet it again in the next sweep or pass. Algorithm 1 can not: a label whose context
    fails has no `U`. Its search starts again without the item; so does one that sweeps, where the
    item spoilt a context and with it the scores of all behind it. Either way the search stays a
    function of rows, settings, seed and scores: where an item fails again, the same command goes
    the same way.

    Args:
        job: whose items they are.
        settings: which search.
        fail_on_error: rows without a score that end the run: so many from 1 on, under 1 that share
            of the rows, and then at least 2.
        unusable: items that are known not to be scored, with the reason; they count for nothing.

    Attributes:
        left_out: items that the search is to do without.

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
                f"fail_on_error must be a number of rows or, under 1, a share of them, not "
                f"{fail_on_error}"
            )
        self._unusable = dict(unusable or {})
        self.left_out: set[int] = set(self._unusable)
        self._job = job
        self._sweeps = not isinstance(settings, AnnealSettings | OfficialSettings)
        self._limit = fail_on_error
        self._reasons: dict[int, str] = {}

    def hear(self, failed: Mapping[int, FailedItem]) -> None:
        """Be the scorer's `on_failed`.

        Raises:
            TooManyFailed: as many rows as `fail_on_error` says have no score.
        """
        self._reasons |= {item: str(one.error) for item, one in failed.items()}
        self._check()
        gone = {item for item, one in failed.items() if one.as_demo or not self._sweeps}
        if gone:
            self.left_out |= gone
            raise _StartAgainError

    async def searched(self, search: Callable[[Collection[int]], Awaitable[T]], score: Score) -> T:
        """Return what `search` returns, called again while items fail that it cannot do without.

        Args:
            search: given the items to leave out, rising.
            score: the scorer that tells `hear`. Before Algorithm 1 starts again, every item is
                scored alone: one pass finds most of what would make it start once more.

        Raises:
            TooManyFailed: as `hear`.
            IcmError: what `search` raises.
        """
        while True:
            try:
                return await search(tuple(sorted(self.left_out)))
            except _StartAgainError:
                pass
            while not self._sweeps:
                try:
                    await score(
                        [
                            Query((), item)
                            for item in range(len(self._job.items))
                            if item not in self.left_out
                        ]
                    )
                except _StartAgainError:
                    continue
                break

    def without_label(self, result: SearchResult) -> tuple[FailedRow, ...]:
        """The rows that the search ended without a label for, and those skipped, in their order."""
        dataset = self._job.dataset
        reasons = {**self._unusable, **self._reasons}
        failed = (
            dataset.rows[number].failed(reasons.get(item, "it was never scored"))
            for number, item in enumerate(self._job.row_items.tolist())
            if result.labels[item] == UNLABELLED
        )
        return tuple(sorted((*dataset.skipped, *failed), key=lambda row: row.line))

    def _check(self) -> None:
        rows = {self._job.items[item].row for item in self._reasons}
        total = len(self._job.dataset.rows)
        # A search needs two rows, whatever it is allowed to lose.
        ends = min(self._limit if self._limit >= 1 else max(self._limit * total, 2), total - 1)
        if len(rows) >= ends:
            item, reason = next(iter(self._reasons.items()))
            row = self._job.dataset.rows[self._job.items[item].row]
            many = "1 row has" if len(rows) == 1 else f"{len(rows)} rows have"
            raise TooManyFailed(
                f"{many} no score, of {total}, and the run ends with {math.ceil(ends)} "
                f"(--fail-on-error). The first, {row.id!r}: {reason}"
            )


class _StartAgainError(Exception):
    """The search cannot go on with an item that it has built on."""


def labelled_rows(job: Job, result: SearchResult) -> tuple[int, ...]:
    """Numbers of the rows that have a label."""
    held = result.labels[job.row_items]
    return tuple((held != UNLABELLED).nonzero()[0].tolist())
