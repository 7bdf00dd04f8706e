"""What a run tells while it goes on.

What a run may spend: it ends between two sweeps or steps with the best labels so far.

What a search writes into its run's journal: every sweep, step and pass, every trained model.

A run that goes on replays its search from the score store and from what has been trained, so the
first sweeps, steps or passes that it tells of are those that the journal has already; they are not
written twice.
"""

import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from typing import Final

from icm_client.coherence.anneal import AnnealSettings
from icm_client.coherence.anneal_official import OfficialSettings
from icm_client.coherence.fast import SweepSettings
from icm_client.coherence.result import Observed, PassRecord, Step, SweepRecord
from icm_client.data.job import Job
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
from icm_client.record.journal import PASS, SWEEP, Journal, packed, read
from icm_client.runs.presets import Settings, TrainingEvent, preset_of
from icm_client.runs.trainer import Trained, TrainingProgress
from icm_client.scoring import Pieces, ScorerStats, ScoringProgress

_STEP, _TRAINED = "step", "trained"


class SearchJournal:
    """Writes what a search and its wire tell; nothing until a journal is there.

    A sweep's labels are written where it was one over all items, the rows' own only; a batch's are
    not.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._journal: Journal | None = None
        self._written = 0
        self._trained: set[object] = set()

    @contextmanager
    def into(
        self, journal: Journal | None, settings: Settings, notice: str | None
    ) -> Iterator[None]:
        """Write there while a search of these settings goes on; `notice` is said about them."""
        if journal is None:
            yield
            return
        self._journal = journal
        before = read(journal.path)
        self._written = sum(event["event"] in (SWEEP, _STEP, PASS) for event in before)
        self._trained = {event["model"] for event in before if event["event"] == _TRAINED}
        journal.append(
            "search", preset=preset_of(settings), settings=asdict(settings), notice=notice
        )
        try:
            yield
        finally:  # the wire may have something to tell until it is closed
            self._journal = None

    def observed(self, seen: Observed | WireEvent | TrainingEvent) -> None:
        """Write it down; labels as their words, items as row ids."""
        if self._journal is None:
            return
        match seen:
            case Waiting():
                self._journal.append("waiting", **asdict(seen))
            case LimitChange():
                self._journal.append("in-flight", **asdict(seen))
            case TrainingProgress():
                pass  # the model's own log has every step
            case Trained():
                if seen.model not in self._trained:
                    self._trained.add(seen.model)
                    self._journal.append(_TRAINED, **asdict(seen))
            case _ if self._written:
                self._written -= 1
            case SweepRecord():
                event = PASS if isinstance(seen, PassRecord) else SWEEP
                self._journal.append(event, **self._sweep(seen))
            case Step():
                self._journal.append(_STEP, **self._step(seen))

    def _sweep(self, sweep: SweepRecord) -> dict[str, object]:
        told = sweep.summary()
        told["counts"] = dict(zip(self._job.labels, sweep.counts, strict=True))
        if sweep.labels is not None and len(sweep.labels) == len(self._job.items):
            told["labels"] = packed(sweep.labels[self._job.row_items])
        return told

    def _step(self, step: Step) -> dict[str, object]:
        fix = [
            {
                "item": self._item(c.item),
                "before": self._word(c.before),
                "after": self._word(c.after),
            }
            for c in step.fix
        ]
        told = {"item": self._item(step.item), "proposal": self._word(step.proposal), "fix": fix}
        return {**step._asdict(), **told}

    def _item(self, item: int) -> str:
        row, exchanged = self._job.items[item]
        return f"{self._job.dataset.rows[row].id}{' (exchanged)' if exchanged else ''}"

    def _word(self, label: int) -> str | None:
        return self._job.labels[label] if label >= 0 else None


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


_GRACE: Final = 1.1
"""A sweep is broken off at so many times the limit: scores that a search ends with may pass it."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits on what is spent from when the command begins; answers from the store are free.

    Attributes:
        max_requests: requests for log-probs, retries included.
        max_prompt_tokens: prompt tokens that the server computes; those that it finds in its
            prefix cache are free.
        max_minutes: wall clock; whatever is under way, the run stops soon after a tenth more.

    Raises:
        InputError: a limit that is not over 0.
    """

    max_requests: int | None = None
    max_prompt_tokens: int | None = None
    max_minutes: float | None = None

    def __post_init__(self) -> None:
        """Refuse limits with which nothing could begin."""
        for limit in fields(self):
            value = getattr(self, limit.name)
            if value is not None and not value > 0:
                raise InputError(f"{limit.name} must be over 0, not {value}")


class BudgetMeter:
    """Says when a search has to end, so that the next sweep does not pass a limit.

    A sweep or step is expected to take what the one before it took. So a limit is passed by what a
    sweep takes more than the last one, and by the scores that a search ends with. A run that goes
    on does not know what its first sweep beyond the stored ones will take.

    Args:
        budget: the limits.
        cost: what has been spent so far.
    """

    def __init__(self, budget: Budget, cost: Callable[[], Cost]) -> None:
        self._budget = budget
        self._cost = cost
        self._before = (0.0, 0.0, 0.0)
        self._words: str | None = None

    @property
    def spent(self) -> str | None:
        """Which limit has ended the search, in words; None where none has."""
        return self._words

    def __call__(self) -> bool:
        """Be the search's `stop`: whether another sweep or step is too much."""
        cost, budget = self._cost(), self._budget
        now = (float(cost.requests), float(cost.computed_tokens), cost.seconds / 60)
        limits = (budget.max_requests, budget.max_prompt_tokens, budget.max_minutes)
        names = ("requests", "prompt tokens", "minutes")
        for spent, before, limit, name in zip(now, self._before, limits, names, strict=True):
            if self._words is None and limit is not None and 2 * spent - before > limit:
                self._words = f"the limit of {limit:,g} {name}"
        self._before = now
        return self._words is not None

    def out_of_time(self) -> bool:
        """Whether a sweep or step is to be broken off, because time has passed its limit."""
        limit = self._budget.max_minutes
        if limit is None or self._cost().seconds / 60 <= _GRACE * limit:
            return False
        self._words = self._words or f"the limit of {limit:,g} minutes"
        return True
