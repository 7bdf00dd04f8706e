"""Iterative fine-tuning: how the paper made its Figure 1.

    split D at random into batches B_1, B_2, ... of about 256 items
    label B_1 by a search with the base model
    for j = 1, 2, ...: train a model on the labels of B_1 .. B_j, and label B_{j+1} by a search
                       with that one

The paper searches by Algorithm 1; here it is `fast`. Each model starts from the base model again. A
batch's labels must be mutually predictable under the trained model, so what it was taught
wrongly is not simply taken over.

Where a rule binds items, a group stands whole in one batch, and is given the best labels that the
rule allows as a whole (`assignment`), as in all searches but Algorithm 3.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from icm_client.coherence.assignment import prepared
from icm_client.coherence.batches import split_batches
from icm_client.coherence.calibration import coherence, label_counts, log_softmax
from icm_client.coherence.fast import search
from icm_client.coherence.problem import (
    NO_CONSTRAINT,
    UNLABELLED,
    Constraint,
    FloatArray,
    Groups,
    IntArray,
    Problem,
    Query,
    Score,
)
from icm_client.coherence.result import (
    UNWATCHED,
    Observed,
    PassRecord,
    SearchResult,
    SweepRecord,
    Watch,
)
from icm_client.coherence.settings import SweepSettings
from icm_client.coherence.trained import (
    Training,
    TrainModel,
    demos_of,
    names_in_context,
    renumbered,
)
from icm_client.errors import InputError


@dataclass(frozen=True, slots=True)
class IterateSettings:
    """The numbers of iterative fine-tuning.

    Attributes:
        batch: items in a batch; groups of a rule can make one larger.
        sweeps: of each batch's search, and of the contexts in which names are tried at the end.

    Raises:
        InputError: a batch of fewer than two items.
    """

    batch: int = 256
    sweeps: SweepSettings = field(default_factory=SweepSettings)

    def __post_init__(self) -> None:
        """Refuse batches that cannot be searched."""
        if self.batch < 2:  # noqa: PLR2004
            raise InputError(f"batch must be at least 2, not {self.batch}")

    @property
    def initial(self) -> int:
        """`K`: items labelled at random to start from."""
        return self.sweeps.initial


@dataclass(frozen=True, slots=True)
class _Numbered(Constraint):
    """A rule on some items, which are numbered from 0.

    Attributes:
        rule: over all items.
        items: each number's item.
        groups: of numbers.
    """

    rule: Constraint
    items: tuple[int, ...]
    groups: Groups = field()

    def consistent(self, i: int, y_i: int, j: int, y_j: int, /) -> bool:
        """What the rule says of the two items."""
        return self.rule.consistent(self.items[i], y_i, self.items[j], y_j)

    def allows(self, items: Sequence[int], labels: Sequence[int], /) -> bool:
        """What the rule says of the items."""
        return self.rule.allows([self.items[number] for number in items], labels)


class _Labelled:
    """What has been found so far, batch after batch."""

    def __init__(self, problem: Problem) -> None:
        self.labels = np.full(problem.n_items, UNLABELLED, dtype=np.int64)
        self.scores = np.full((problem.n_items, problem.n_labels), np.nan)
        self.label_mass = np.full(problem.n_items, np.nan)
        self.by_confidence = 0

    def add(self, items: IntArray, result: SearchResult) -> None:
        """Take over a batch's labels."""
        self.labels[items], self.scores[items] = result.labels, result.log_probs
        if result.label_mass is not None:
            self.label_mass[items] = result.label_mass
        self.by_confidence += result.by_confidence


async def iterative_search(
    problem: Problem,
    score: Score,
    train: TrainModel,
    *,
    settings: IterateSettings,
    rng: np.random.Generator,
    watch: Watch = UNWATCHED,
) -> SearchResult:
    """Search batch after batch, each with a model trained on the batches before it.

    Args:
        problem: at least 2 items, without first labels. Pinned items, with their groups, are all in
            the first batch: what all others are taught.
        score: the base model; searches the first batch, and tries names at the end.
        train: trains a model a batch, to search with.
        settings: its numbers.
        rng: the only source of chance.
        watch: follows each sweep of the first batch, and then each further batch when its search is
            over (`PassRecord`). Its `stop` is asked after each sweep, and after each batch; once it
            is true, the search ends, and items of later batches have no label.

    Returns:
        `log_probs` and `label_mass` of an item are of the model that its batch was searched with,
        and a trained one is as sure as it was taught to be. So `utility` and `coherence` are the
        base model's, in context: of some items of all batches given demos of others, as names are
        tried (`names_in_context`).

    Raises:
        InputError: the rule allows a group no labels, or forbids the pins. Nothing was asked yet.
        TrainingError: the batches so far have no example of a label.
        EndpointError, ScoreError: whatever `score` and `train` raise.
    """
    problem, assign = prepared(problem)
    n_items = problem.n_items
    batches = split_batches(problem, settings.batch, rng, pinned_first=True)
    history: list[SweepRecord] = []

    def note(record: SweepRecord) -> None:
        history.append(record)
        watch.observe(record)

    def note_sweep(record: Observed) -> None:
        assert isinstance(record, SweepRecord)  # noqa: S101 - what a search by sweeps reports
        note(_of_all(record, batches[0].searched, n_items))

    found = _Labelled(problem)
    first = await _searched(
        batches[0], score, settings=settings.sweeps, rng=rng, watch=Watch(note_sweep, watch.stop)
    )
    found.add(batches[0].searched, first)
    stopped = first.stopped
    for number, batch in enumerate(batches[1:], start=1):
        if stopped or watch.stop():
            stopped = True
            break
        training = Training(
            f"batch-{number + 1}",
            demos_of(found.labels, np.arange(n_items)),
            np.sort(batch.searched),
        )
        async with train.model(training) as trained:
            result = await _searched(
                batch, trained, settings=settings.sweeps, rng=rng, watch=Watch(stop=watch.stop)
            )
        found.add(batch.searched, result)
        stopped = result.stopped
        note(_record(number, training, result, found.labels))
    exchange, asked = await names_in_context(
        problem, found.labels, found.scores, score, settings=settings.sweeps, rng=rng
    )
    if exchanged := exchange.turns(found.scores, problem):
        found.scores = exchange.renamed(found.scores)
        found.labels, found.by_confidence = assign(problem.hold_pins(found.scores))
        found.labels = problem.reported(found.labels, found.scores)
    utility = exchange.exchanged_utility if exchanged else exchange.utility
    return SearchResult(
        labels=found.labels,
        log_probs=log_softmax(found.scores),
        utility=utility,
        coherence=coherence(utility, label_counts(found.labels, problem.n_labels)),
        restart=first.restart,
        prior=first.prior,
        exchange=exchange,
        history=tuple(history),
        by_confidence=found.by_confidence,
        exchanged=exchanged,
        stopped=stopped,
        restarts=first.restarts if len(batches) == 1 else (),
        label_mass=found.label_mass,
        last_asked=asked,
    )


async def _searched(
    batch: Problem,
    score: Score,
    *,
    settings: SweepSettings,
    rng: np.random.Generator,
    watch: Watch,
) -> SearchResult:
    """Search one batch as if there were no other items."""
    items = batch.searched
    number_of = {item: number for number, item in enumerate(items.tolist())}

    async def of_these(queries: Sequence[Query]) -> FloatArray:
        return await score(renumbered(queries, items))

    groups = tuple(tuple(number_of[item] for item in group) for group in batch.constraint.groups)
    alone = Problem(
        len(items),
        batch.n_labels,
        constraint=_Numbered(batch.constraint, tuple(number_of), groups)
        if groups
        else NO_CONSTRAINT,
        prior=batch.prior,
        pinned=None if batch.pinned is None else batch.pinned[items],
    )
    return await search(alone, of_these, settings=settings, rng=rng, watch=watch)


def _of_all(record: SweepRecord, items: IntArray, n_items: int) -> SweepRecord:
    """The same record with the batch's labels among all items'."""
    labels = np.full(n_items, UNLABELLED)
    if record.labels is not None:
        labels[items] = record.labels
    return replace(record, labels=labels)


def _record(number: int, training: Training, result: SearchResult, labels: IntArray) -> PassRecord:
    return PassRecord(
        restart=0,
        sweep=number,
        utility=result.utility,
        coherence=result.coherence,
        counts=label_counts(labels, result.log_probs.shape[1]),
        moved=len(training.targets),
        trained_on=len(training.demos),
        labels=labels,
    )
