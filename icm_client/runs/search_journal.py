"""What a search writes into its run's journal: sweeps, steps and passes, trained models, waits.

A run that goes on replays its search from the score store and from what has been trained. The first
sweeps, steps or passes that it then reports are in the journal already, and are not written twice.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

from icm_client.coherence.result import Observed, PassRecord, Step, SweepRecord
from icm_client.data.job import Job
from icm_client.endpoints import LimitChange, Waiting, WireEvent
from icm_client.record.journal import PASS, SWEEP, Journal, packed, read
from icm_client.runs.presets import Settings, TrainingEvent, preset_of
from icm_client.runs.trainer import Trained, TrainingProgress

_STEP, _TRAINED = "step", "trained"


class SearchJournal:
    """Writes what a search and its wire report, while there is a journal to write to.

    The labels of a sweep over all items are written, the rows' own only; those of a batch are not.
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
        """Write to `journal` in the block, in which a search with these settings goes on.

        Args:
            journal: None writes nothing.
            settings: of the search.
            notice: a sentence on the settings, or None.
        """
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
        finally:  # the wire may report something until it is closed
            self._journal = None

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
        written["counts"] = dict(zip(self._job.labels, sweep.counts, strict=True))
        if sweep.labels is not None and len(sweep.labels) == len(self._job.items):
            written["labels"] = packed(sweep.labels[self._job.row_items])
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
