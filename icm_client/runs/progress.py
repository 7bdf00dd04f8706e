"""Who follows a run while it goes on: its caller, its limits, and its journal.

`ProgressMeter` reports a `Progress` to the caller, `BudgetMeter` ends the search before it passes
a `Budget`, `SearchJournal` writes into the run's folder.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from typing import Final

import numpy as np

from icm_client.coherence.anneal import AnnealSettings
from icm_client.coherence.anneal_official import OfficialSettings
from icm_client.coherence.problem import UNLABELLED
from icm_client.coherence.result import Observed, PassRecord, Step, SweepRecord
from icm_client.coherence.settings import SweepSettings
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
from icm_client.errors import InputError, RunError
from icm_client.record.journal import PASS, SWEEP, Journal, read
from icm_client.record.run_labels import packed
from icm_client.runs.presets import Settings, TrainingEvent, preset_of
from icm_client.runs.trainer import Trained, TrainingProgress
from icm_client.scoring import Pieces, ScorerStats, ScoringProgress

_TIME_TOLERATED: Final = 1.1
"""Times `max_minutes`, after which even a sweep under way is broken off. Between the two the reads
that a search ends with can still be made."""

_STEP, _TRAINED, _PROGRESS = "step", "trained", "progress"
"""Events of the journal, beside those that hold labels."""

_PROGRESS_INTERVAL_S: Final = 2.0
"""Between two `progress` events, at least: who watches the run from elsewhere sees it move."""


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


def cost_since(began: float, servers: Iterable[tuple[Endpoint, Usage]], stats: ScorerStats) -> Cost:
    """Return what was used since `began` (`time.monotonic`), by servers with their usage then."""
    used = sum((server.usage - before for server, before in servers), Usage())
    return Cost(
        requests=used.requests,
        retries=used.retries,
        from_server=stats.asked,
        from_store=stats.from_store,
        computed_tokens=used.computed_tokens,
        cached_tokens=used.cached_tokens,
        seconds=time.monotonic() - began,
        checked=stats.checked,
    )


class ProgressMeter:
    """Turns what the wire, the scorer and the search report into `Progress`."""

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
        return cost_since(self._started, self._servers, self._stats)

    def _report(self) -> None:
        if self._report_to is not None and (moment := self.now()) is not None:
            self._report_to(moment)

    def now(self) -> Progress | None:
        """The moment of the run; None until its rows are tokenized."""
        settings = self._settings
        if settings is None:
            return None
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
        return Progress(
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


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits on what is spent from when the command begins; answers from the store are free.

    Attributes:
        max_requests: requests for log-probs, retries included.
        max_prompt_tokens: prompt tokens that the server computes; those that it finds in its
            prefix cache are free.
        max_minutes: wall clock; the run stops soon after a tenth more, even within a sweep.

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


def left_of(budget: Budget | None, costs: Sequence[Cost]) -> tuple[Budget | None, str | None]:
    """What runs of these costs leave of a budget for all; and which limit they have reached."""
    if budget is None:
        return None, None
    spent = {
        "max_requests": sum(cost.requests for cost in costs),
        "max_prompt_tokens": sum(cost.computed_tokens for cost in costs),
        "max_minutes": sum(cost.seconds for cost in costs) / 60,
    }
    left = {
        name: limit - spent[name] for name, limit in asdict(budget).items() if limit is not None
    }
    for name, rest in left.items():
        if rest <= 0:
            return budget, f"--{name.replace('_', '-')} {getattr(budget, name):g}"
    return replace(budget, **left), None


class BudgetMeter:
    """Ends a search before the next sweep would pass a limit.

    A sweep or step is expected to take what the one before it took. A limit is therefore passed by
    what a sweep takes more than the last one, and by the reads that a search ends with. A run that
    goes on does not know what its first sweep beyond the stored ones will take.

    Attributes:
        spent: the limit that has ended the search, in words; None where none has.
    """

    def __init__(self, budget: Budget, cost: Callable[[], Cost]) -> None:
        self.spent: str | None = None
        self._budget = budget
        self._cost = cost
        self._before = (0.0, 0.0, 0.0)

    def __call__(self) -> bool:
        """Whether another sweep or step is too much: the search's `Watch.stop`."""
        cost, budget = self._cost(), self._budget
        now = (float(cost.requests), float(cost.computed_tokens), cost.seconds / 60)
        limits = (budget.max_requests, budget.max_prompt_tokens, budget.max_minutes)
        names = ("requests", "prompt tokens", "minutes")
        for used, before, limit, name in zip(now, self._before, limits, names, strict=True):
            if self.spent is None and limit is not None and 2 * used - before > limit:
                self.spent = f"the limit of {limit:,g} {name}"
        self._before = now
        return self.spent is not None

    def out_of_time(self) -> bool:
        """Whether a sweep or step under way is to be broken off, because its time is over."""
        limit = self._budget.max_minutes
        if limit is None or self._cost().seconds / 60 <= _TIME_TOLERATED * limit:
            return False
        self.spent = self.spent or f"the limit of {limit:,g} minutes"
        return True


class SearchJournal:
    """Writes what a search and its wire report, while there is a journal to write to.

    The labels of a sweep over all items are written, the rows' own only; those of a batch are not.
    With them stands the cost so far of the process at work, and between sweeps how far it is: no
    other process can know that.

    A run that goes on replays its search from the score store and from what has been trained. The
    first sweeps, steps or passes that it then reports are in the journal already, and are not
    written twice.
    """

    def __init__(
        self, job: Job, searched: Sequence[int] | None, n_rows: int, meter: ProgressMeter
    ) -> None:
        self._job = job
        self._meter = meter
        self._searched = searched
        self._n_rows = n_rows
        self._journal: Journal | None = None
        self._written = 0
        self._due = time.monotonic() + _PROGRESS_INTERVAL_S
        self._trained: set[object] = set()

    @contextmanager
    def into(
        self, journal: Journal | None, settings: Settings, notice: str | None
    ) -> Iterator[None]:
        """Write to `journal`, if there is one, in the block, in which the search goes on."""
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
        if self._searched is not None:
            journal.append("searched", rows=list(self._searched), of=self._n_rows)
        try:
            yield
        finally:  # the wire may report something until it is closed
            self._journal = None

    def scored(self) -> None:
        """Write how far the run is, where the last time was long ago."""
        if self._journal is None or time.monotonic() < self._due:
            return
        self._due = time.monotonic() + _PROGRESS_INTERVAL_S
        now = self._meter.now()
        if now is not None:
            with suppress(RunError):  # what has to be written will fail too, and say so
                self._journal.append(
                    _PROGRESS,
                    done=now.done,
                    total=now.total,
                    left_s=now.left_s,
                    cost=asdict(now.cost),
                )

    def observed(self, seen: Observed | WireEvent | TrainingEvent) -> None:
        """Write it; labels as their words, items as row ids."""
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
        written = sweep.summary()
        written["cost"] = asdict(self._meter.cost())
        written["counts"] = dict(zip(self._job.labels, sweep.counts, strict=True))
        if sweep.labels is not None and len(sweep.labels) == len(self._job.items):
            labels = np.full(self._n_rows, UNLABELLED)
            labels[slice(None) if self._searched is None else list(self._searched)] = sweep.labels[
                self._job.row_items
            ]
            written["labels"] = packed(labels)
        return written

    def _step(self, step: Step) -> dict[str, object]:
        fix = [
            {
                "item": self._item(change.item),
                "before": self._word(change.before),
                "after": self._word(change.after),
            }
            for change in step.fix
        ]
        words = {"item": self._item(step.item), "proposal": self._word(step.proposal), "fix": fix}
        return {**step._asdict(), **words}

    def _item(self, item: int) -> str:
        row, exchanged = self._job.items[item]
        return f"{self._job.dataset.rows[row].id}{' (exchanged)' if exchanged else ''}"

    def _word(self, label: int) -> str | None:
        return self._job.labels[label] if label >= 0 else None
