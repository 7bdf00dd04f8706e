"""What a run reports while it goes on: `Progress`, with `Cost`, what it has used so far."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from icm_client.coherence.anneal import AnnealSettings
from icm_client.coherence.anneal_official import OfficialSettings
from icm_client.coherence.result import Observed, SweepRecord
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
from icm_client.runs.presets import Settings, TrainingEvent
from icm_client.runs.trainer import Trained, TrainingProgress
from icm_client.scoring import Pieces, ScorerStats, ScoringProgress


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run has used so far.

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
            takes only text and reports no ids.
        done: reads answered in the sweep under way.
        total: reads that it needs; 0 between sweeps.
        last: the last sweep or step that ended, or None in the first. After the last one of all,
            items are scored once more: under other label permutations, and, after steps, as they
            are.
        of: the steps there will be at most in a batch; None for sweeps.
        cost: so far.
        left_s: seconds left if the search ends as early as it may and makes no further start;
            None while unknown.
        waiting: why a request is to be sent again, and when; None once an answer has come since.
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


OnProgress = Callable[[Progress], None]


class ProgressMeter:
    """Turns what the wire, the scorer and the search report into `Progress`.

    Args:
        labels: the label words.
        report: called with each moment; None for nobody.
    """

    def __init__(self, labels: tuple[str, ...], report: OnProgress | None) -> None:
        self._started = time.monotonic()
        self._labels = labels
        self._report_to = report
        self._stats = ScorerStats()
        self._last: Observed | None = None
        self._now = ScoringProgress(0, 0, 0)
        self._waiting: Waiting | None = None
        self._training: dict[str, TrainingProgress] = {}
        self._servers: list[tuple[Endpoint, Usage]] = []
        self._settings: Settings | None = None  # until the rows are tokenized
        self._label_tokens: tuple[TokenIds, ...] = ()

    def connected(self, server: Endpoint) -> None:
        """Record the connected endpoint; what it has been used for before is not counted."""
        self._servers = [(server, replace(server.usage))]

    def opened(self, trained: Endpoint) -> None:
        """Record a trained model's endpoint: its usage counts too, from now on."""
        self._servers.append((trained, replace(trained.usage)))

    def begin(self, pieces: Pieces, settings: Settings, stats: ScorerStats) -> None:
        """Record that the rows are tokenized, how they are searched, and the scorer's totals."""
        takes_text = isinstance(self._servers[0][0], TextEndpoint)
        self._label_tokens = tuple(() for _ in pieces.labels) if takes_text else pieces.labels
        self._settings = settings
        self._stats = stats
        self._report()

    def scored(self, progress: ScoringProgress) -> None:
        """Record how far the scorer is with the reads of the sweep under way."""
        self._now = progress
        self._waiting = None
        self._report()

    def observed(self, seen: Observed | WireEvent | TrainingEvent) -> None:
        """Record what the search, its trainings or the wire report."""
        match seen:
            case LimitChange():
                return
            case Waiting():
                self._waiting = seen
            case TrainingProgress():
                self._training[seen.name] = seen
            case Trained():
                self._training.pop(seen.name, None)
            case _:
                self._last = seen
                self._now = ScoringProgress(0, 0, 0)
        self._report()

    def cost(self) -> Cost:
        """What has been used since this meter was made."""

        def used(total: str) -> int:
            return sum(
                getattr(server.usage, total) - getattr(before, total)
                for server, before in self._servers
            )

        return Cost(
            requests=used("requests"),
            retries=used("retries"),
            from_server=self._stats.asked,
            from_store=self._stats.from_store,
            computed_tokens=used("computed_tokens"),
            cached_tokens=used("cached_tokens"),
            seconds=time.monotonic() - self._started,
            checked=self._stats.checked,
        )

    def _report(self) -> None:
        settings = self._settings
        if self._report_to is None or settings is None:
            return
        cost = self.cost()
        left_s = None
        # What a step of Algorithm 1 takes, nobody knows before. Of sweeps, the fewest of this
        # start are expected, each with as many reads as now, and a part of a fold under other
        # label permutations.
        if cost.from_server and isinstance(settings, SweepSettings):
            ended = self._last.sweep + 1 if isinstance(self._last, SweepRecord) else 0
            sweeps = max(settings.min_sweeps - ended, 0) + 1 / settings.folds
            reads = max(0.0, sweeps * self._now.total - self._now.done)
            left_s = reads * cost.seconds / cost.from_server
        steps = None
        if isinstance(settings, AnnealSettings | OfficialSettings):
            steps = settings.iterations
        self._report_to(
            Progress(
                labels=self._labels,
                label_tokens=self._label_tokens,
                done=self._now.done,
                total=self._now.total,
                last=self._last,
                of=steps,
                cost=cost,
                left_s=left_s,
                waiting=self._waiting,
                training=tuple(self._training.values()),
            )
        )
