"""What a run tells while it goes on."""

import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from icm_client.coherence.anneal import AnnealSettings
from icm_client.coherence.official import OfficialSettings
from icm_client.coherence.search_result import SweepRecord
from icm_client.coherence.settings import SweepSettings
from icm_client.endpoints import (
    Endpoint,
    LimitChange,
    TextEndpoint,
    TokenIds,
    Usage,
    Waiting,
    WireEvent,
)
from icm_client.errors import InputError
from icm_client.runs.presets import Observed, Settings, TrainingEvent
from icm_client.runs.trainer import Trained, TrainingProgress
from icm_client.scoring import Pieces, ScorerStats, ScoringProgress


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run has taken so far.

    Attributes:
        requests: requests for log-probs, retries included; trained models' too, here and below.
        retries: attempts beyond the first.
        from_server: log-prob reads that the server answered.
        from_store: log-prob reads that the score store answered.
        computed_tokens: prompt tokens that the server prefilled.
        cached_tokens: prompt tokens that it found in its prefix cache.
        seconds: wall clock, the embedded server's start included.
        checked: reads from the score store that the server was asked again, to see that it still
            serves the model that answered them; not part of `from_server`.
    """

    requests: int
    retries: int
    from_server: int
    from_store: int
    computed_tokens: int
    cached_tokens: int
    seconds: float
    checked: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """A moment of a run.

    Attributes:
        labels: the label words, in the order of `last.counts`.
        label_tokens: the token ids that each is read as, after a prompt; empty where the server
            takes only text and tells no ids.
        done: reads answered in the sweep under way.
        total: reads that it needs; 0 between sweeps.
        last: the last sweep or step that ended, or None in the first. After the last one of all,
            labels are scored once more: with their names exchanged, and, after steps, as they are.
        of: the steps there will be at most in a batch; None for sweeps.
        cost: so far.
        left_s: seconds left if the search ends as early as it may and makes no further start;
            None while unknown.
        waiting: for what, where a request has to be sent again and nothing has come since.
        training: the latest moment of each training under way.
    """

    labels: tuple[str, ...]
    label_tokens: tuple[TokenIds, ...]
    done: int
    total: int
    last: Observed | None
    of: int | None
    cost: Cost
    left_s: float | None
    waiting: Waiting | None
    training: tuple[TrainingProgress, ...] = ()


_OF_STEPS = (AnnealSettings, OfficialSettings)

OnProgress = Callable[[Progress], None]


def check_progress(progress: OnProgress | None) -> None:
    """Refuse a callback that nobody would await; raises `InputError`."""
    if inspect.iscoroutinefunction(progress):
        raise InputError(
            "progress must be a plain function: it is called, not awaited. icm_client.Client has "
            "jobs whose progress is an async iterator"
        )


class ProgressMeter:
    """Turns what wire, scorer and search report into `Progress`; made when the run begins."""

    def __init__(self, labels: tuple[str, ...], tell: OnProgress | None) -> None:
        self._started = time.monotonic()
        self._labels = labels
        self._tell = tell
        self._stats = ScorerStats()
        self._last: Observed | None = None
        self._now = ScoringProgress(0, 0, 0)
        self._waiting: Waiting | None = None
        self._training: dict[str, TrainingProgress] = {}
        self._servers: list[tuple[Endpoint, Usage]] = []
        self._begun = False

    def connected(self, server: Endpoint) -> None:
        """Hear who answers; what it has been used for before is not counted."""
        self._servers = [(server, replace(server.usage))]

    def opened(self, trained: Endpoint) -> None:
        """Hear that a trained model answers too, from now on."""
        self._servers.append((trained, replace(trained.usage)))

    def begin(self, pieces: Pieces, settings: Settings) -> None:
        """Hear that the rows are tokenized, and how they will be searched."""
        takes_text = isinstance(self._servers[0][0], TextEndpoint) if self._servers else False
        self._label_tokens = tuple(() for _ in pieces.labels) if takes_text else pieces.labels
        self._settings = settings
        self._begun = True
        self._report()

    def scored(self, progress: ScoringProgress, stats: ScorerStats) -> None:
        """Hear from the scorer: of the call under way, and its totals."""
        self._now = progress
        self._stats = stats
        self._waiting = None
        self._report()

    def observed(self, seen: Observed | WireEvent | TrainingEvent) -> None:
        """Hear from the search, after a sweep or a step; from the wire, of a wait; of training."""
        if isinstance(seen, LimitChange):
            return
        if isinstance(seen, TrainingProgress):
            self._training[seen.name] = seen
        elif isinstance(seen, Trained):
            self._training.pop(seen.name, None)
        elif isinstance(seen, Waiting):
            self._waiting = seen
            if not self._begun:  # nothing is known yet that a moment could show
                return
        else:
            self._last = seen
            self._now = ScoringProgress(0, 0, 0)
        self._report()

    def cost(self) -> Cost:
        """What has been used since this meter was made."""
        used = [(server.usage, before) for server, before in self._servers]
        return Cost(
            requests=sum(now.requests - before.requests for now, before in used),
            retries=sum(now.retries - before.retries for now, before in used),
            from_server=self._stats.asked,
            from_store=self._stats.from_store,
            computed_tokens=sum(
                now.computed_tokens - before.computed_tokens for now, before in used
            ),
            cached_tokens=sum(now.cached_tokens - before.cached_tokens for now, before in used),
            seconds=time.monotonic() - self._started,
            checked=self._stats.checked,
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
                of=self._settings.iterations if isinstance(self._settings, _OF_STEPS) else None,
                cost=cost,
                left_s=self._left(cost),
                waiting=self._waiting,
                training=tuple(self._training.values()),
            )
        )

    def _left(self, cost: Cost) -> float | None:
        # As many reads a sweep as now, until the fewest sweeps of this start are done, and a
        # fold's with names exchanged. What a step of Algorithm 1 takes, nobody knows before.
        if cost.from_server == 0 or not isinstance(self._settings, SweepSettings):
            return None
        ended = self._last.sweep + 1 if isinstance(self._last, SweepRecord) else 0
        sweeps = max(self._settings.min_sweeps - ended, 0) + 1 / self._settings.folds
        left = max(0.0, sweeps * self._now.total - self._now.done)
        return left * cost.seconds / cost.from_server
