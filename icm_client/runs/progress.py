"""What a run tells while it goes on."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from icm_client.coherence.settings import SweepSettings
from icm_client.coherence.sweep import SweepRecord
from icm_client.endpoints import Endpoint, TokenIds
from icm_client.scoring import Pieces, ScorerStats, ScoringProgress


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run has taken so far.

    Attributes:
        requests: requests for log-probs, retries included.
        retries: attempts beyond the first.
        from_server: log-prob reads that the server answered.
        from_store: log-prob reads that the score store answered.
        computed_tokens: prompt tokens that the server prefilled.
        cached_tokens: prompt tokens that it found in its prefix cache.
        seconds: wall clock, the embedded server's start included.
    """

    requests: int
    retries: int
    from_server: int
    from_store: int
    computed_tokens: int
    cached_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Progress:
    """A moment of a run.

    Attributes:
        labels: the label words, in the order of `last.counts`.
        label_tokens: the token ids that each is read as, after a prompt.
        done: reads answered in the sweep under way.
        total: reads that it needs; 0 between sweeps.
        last: the last sweep that ended, or None in the first. After the last sweep of all, the
            labels are scored once more with their names exchanged.
        cost: so far.
        left_s: seconds left if the search ends as early as it may and makes no further start;
            None while unknown.
    """

    labels: tuple[str, ...]
    label_tokens: tuple[TokenIds, ...]
    done: int
    total: int
    last: SweepRecord | None
    cost: Cost
    left_s: float | None


OnProgress = Callable[[Progress], None]


class ProgressMeter:
    """Turns what scorer and search report into `Progress`; made when the run begins."""

    def __init__(self, labels: tuple[str, ...], server: Endpoint, tell: OnProgress | None) -> None:
        self._started = time.monotonic()
        self._labels = labels
        self._server = server
        self._before = replace(server.usage)
        self._tell = tell
        self._stats = ScorerStats()
        self._last: SweepRecord | None = None
        self._now = ScoringProgress(0, 0, 0)

    def begin(self, pieces: Pieces, settings: SweepSettings) -> None:
        """Hear that the rows are tokenized, and how they will be searched."""
        self._label_tokens = pieces.labels
        self._settings = settings
        self._report()

    def scored(self, progress: ScoringProgress, stats: ScorerStats) -> None:
        """Hear from the scorer: of the call under way, and its totals."""
        self._now = progress
        self._stats = stats
        self._report()

    def swept(self, record: SweepRecord) -> None:
        """Hear from the search, after a sweep."""
        self._last = record
        self._now = ScoringProgress(0, 0, 0)
        self._report()

    def cost(self) -> Cost:
        """What has been used since this meter was made."""
        usage, before = self._server.usage, self._before
        return Cost(
            requests=usage.requests - before.requests,
            retries=usage.retries - before.retries,
            from_server=self._stats.asked,
            from_store=self._stats.from_store,
            computed_tokens=usage.computed_tokens - before.computed_tokens,
            cached_tokens=usage.cached_tokens - before.cached_tokens,
            seconds=time.monotonic() - self._started,
        )

    def _report(self) -> None:
        if self._tell is None:
            return
        cost = self.cost()
        self._tell(
            Progress(
                labels=self._labels,
                label_tokens=self._label_tokens,
                done=self._now.done,
                total=self._now.total,
                last=self._last,
                cost=cost,
                left_s=self._left(cost),
            )
        )

    def _left(self, cost: Cost) -> float | None:
        # As many reads a sweep as now, until the fewest sweeps of this start are done, and a
        # fold's with names exchanged.
        if cost.from_server == 0:
            return None
        ended = 0 if self._last is None else self._last.sweep + 1
        sweeps = max(self._settings.min_sweeps - ended, 0) + 1 / self._settings.folds
        left = max(0.0, sweeps * self._now.total - self._now.done)
        return left * cost.seconds / cost.from_server
