"""Iterative fine-tuning: how the paper made its Figure 1.

    split D at random into batches B_1, B_2, ... of about 256 items
    label B_1 by a search behind the base model
    for j = 1, 2, ...: train a model on the labels of B_1 .. B_j, and label B_{j+1} by a search
                       behind that one

The paper searches by Algorithm 1; here it is `fast`. Each model starts from the base model again. A
batch's labels must hold together among themselves behind the trained model, so what it was taught
wrongly is not simply taken over.

Where a rule binds items, a group stands whole in one batch, and is given the best labels that the
rule allows as a whole (`assignment`), as in all searches but Algorithm 3.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from icm_client.coherence.assignment import JointAssignment
from icm_client.coherence.batches import Batch, split_batches, without
from icm_client.coherence.calibration import coherence, label_counts, log_softmax
from icm_client.coherence.constraints import NO_CONSTRAINT, Constraint, Groups, check_groups
from icm_client.coherence.contexts import UNLABELLED
from icm_client.coherence.pins import as_scored, checked_pins, held, names_turn, pinned_first
from icm_client.coherence.problem import FloatArray, IntArray, Query, Score, Stop, never
from icm_client.coherence.search_result import Observer, SearchResult, SweepRecord
from icm_client.coherence.settings import SweepSettings
from icm_client.coherence.sweep import search
from icm_client.coherence.trained import (
    PassRecord,
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

    def __init__(self, n_items: int, n_labels: int) -> None:
        self.labels = np.full(n_items, UNLABELLED, dtype=np.int64)
        self.scores = np.full((n_items, n_labels), np.nan)
        self.label_mass = np.full(n_items, np.nan)
        self.by_confidence = 0

    def add(self, items: IntArray, result: SearchResult) -> None:
        """Take over a batch's labels."""
        self.labels[items], self.scores[items] = result.labels, result.log_probs
        if result.label_mass is not None:
            self.label_mass[items] = result.label_mass
        self.by_confidence += result.by_confidence


async def iterative_search(
    n_items: int,
    n_labels: int,
    score: Score,
    train: TrainModel,
    *,
    rng: np.random.Generator,
    settings: IterateSettings,
    prior: FloatArray | None = None,
    constraint: Constraint = NO_CONSTRAINT,
    pinned: IntArray | None = None,
    left_out: Collection[int] = (),
    observe: Observer = lambda _: None,
    stop: Stop = never,
) -> SearchResult:
    """Search batch after batch, each with a model trained on the batches before it.

    Args:
        n_items: `N`, at least 2.
        n_labels: `K`, at least 2.
        score: the base model; searches the first batch, and tries names at the end.
        train: trains a model a batch, to search with.
        rng: the only source of chance.
        settings: its numbers.
        prior: shape `[K]`, the labels' shares where the user knows them.
        constraint: the rule that labels keep.
        pinned: shape `[N]`, labels that stay as they are, `UNLABELLED` where an item is free. Such
            items, with their groups, are all in the first batch: what all others are taught.
        left_out: items that are known not to be scored.
        observe: told of each sweep of the first batch, and then of each further batch when its
            search is over (`PassRecord`).
        stop: asked after each sweep, and after each batch; once it says so, the search ends, and
            items of later batches have no label.

    Returns:
        `log_probs` and `label_mass` of an item are of the model that its batch was searched with,
        and a trained one is as sure as it was taught to be. So `utility` and `coherence` are the
        base model's, in context: of some items of all batches behind demos of others, as names are
        tried (`names_in_context`).

    Raises:
        InputError: the constraint names items that are not there, or allows a group no labels; the
            pins are none of these items', or the rule forbids them. Nothing has been asked yet.
        TrainingError: the batches so far have no example of a label.
        EndpointError, ScoreError: whatever `score` and `train` raise.
    """
    check_groups(constraint.groups, n_items)
    assign = JointAssignment(constraint, n_labels)
    pinned = checked_pins(pinned, n_items, n_labels, assign, left_out)
    batches = split_batches(n_items, settings.batch, constraint, rng)
    batches = without(left_out, pinned_first(batches, pinned, constraint))
    history: list[SweepRecord] = []

    def note(record: SweepRecord) -> None:
        history.append(record)
        observe(record)

    found = _Labelled(n_items, n_labels)
    first = await _searched(
        batches[0],
        n_labels,
        score,
        rng=rng,
        sweeps=settings.sweeps,
        prior=prior,
        pinned=pinned,
        note=lambda record: note(_of_all(record, batches[0].items, n_items)),
        stop=stop,
    )
    found.add(batches[0].items, first)
    stopped = first.stopped
    for number, batch in enumerate(batches[1:], start=1):
        if stopped or stop():
            stopped = True
            break
        training = Training(
            f"batch-{number + 1}", demos_of(found.labels, np.arange(n_items)), np.sort(batch.items)
        )
        async with train.model(training) as trained:
            result = await _searched(
                batch,
                n_labels,
                trained,
                rng=rng,
                sweeps=settings.sweeps,
                prior=prior,
                stop=stop,
            )
        found.add(batch.items, result)
        stopped = result.stopped
        note(_record(number, training, result, found.labels))
    exchange, asked = await names_in_context(
        found.labels,
        found.scores,
        score,
        rng=rng,
        settings=settings.sweeps,
        groups=constraint.groups,
        pinned=pinned,
    )
    if turned := names_turn(exchange, found.scores, pinned):
        found.scores = exchange.renamed(found.scores)
        found.labels, found.by_confidence = assign(held(found.scores, pinned))
        found.labels = as_scored(found.labels, found.scores, pinned)
    utility = exchange.exchanged_utility if turned else exchange.utility
    return SearchResult(
        labels=found.labels,
        log_probs=log_softmax(found.scores),
        utility=utility,
        coherence=coherence(utility, label_counts(found.labels, n_labels)),
        restart=first.restart,
        prior=first.prior,
        exchange=exchange,
        history=tuple(history),
        by_confidence=found.by_confidence,
        exchanged=turned,
        stopped=stopped,
        restarts=first.restarts if len(batches) == 1 else (),
        label_mass=found.label_mass,
        last_asked=asked,
    )


async def _searched(
    batch: Batch,
    n_labels: int,
    score: Score,
    *,
    rng: np.random.Generator,
    sweeps: SweepSettings,
    prior: FloatArray | None,
    pinned: IntArray | None = None,
    note: Observer = lambda _: None,
    stop: Stop,
) -> SearchResult:
    """Search one batch as if there were no other items."""
    items = tuple(batch.items.tolist())
    number_of = {item: number for number, item in enumerate(items)}

    async def of_these(queries: Sequence[Query]) -> FloatArray:
        return await score(renumbered(queries, batch.items))

    groups = tuple(tuple(number_of[item] for item in group) for group in batch.constraint.groups)
    return await search(
        len(items),
        n_labels,
        of_these,
        rng=rng,
        settings=sweeps,
        prior=prior,
        constraint=_Numbered(batch.constraint, items, groups) if groups else NO_CONSTRAINT,
        pinned=None if pinned is None else pinned[batch.items],
        observe=note,
        stop=stop,
    )


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
