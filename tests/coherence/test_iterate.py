from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import numpy as np
import pytest
from concept_score import ConceptScore, planted_classes
from taught import Taught

from icm_client.coherence.constraints import MutualExclusion, inconsistent_pairs
from icm_client.coherence.iterate import IterateSettings, iterative_search
from icm_client.coherence.problem import (
    NO_CONSTRAINT,
    UNLABELLED,
    Constraint,
    FloatArray,
    IntArray,
    Problem,
    Query,
    Score,
)
from icm_client.coherence.result import UNWATCHED, PassRecord, SearchResult, Watch
from icm_client.coherence.trained import Training
from icm_client.errors import InputError


async def run(
    base: ConceptScore,
    train: Taught,
    *,
    batch: int = 64,
    constraint: Constraint = NO_CONSTRAINT,
    items: IntArray | None = None,
    watch: Watch = UNWATCHED,
) -> SearchResult:
    return await iterative_search(
        Problem(len(base.prompts), len(train.texts), constraint, items=items),
        base,
        train,
        rng=np.random.default_rng(0),
        settings=IterateSettings(batch=batch),
        watch=watch,
    )


@pytest.mark.parametrize("n_labels", [2, 3])
async def test_each_batch_is_labelled_by_a_model_of_all_batches_before_it(n_labels: int) -> None:
    classes = planted_classes(320, n_labels)
    base = ConceptScore(classes, n_labels, meaning=2.0)
    train = Taught(classes, n_labels, half=5.0, noise=1.0)
    told: list[Any] = []
    found = await run(base, train, watch=Watch(observe=told.append))
    assert (found.labels == classes).mean() > 0.95
    assert [[training.name for training in call] for call in train.calls] == [
        [f"batch-{number}"] for number in range(2, 6)
    ]
    seen: set[int] = set()
    for (training,) in train.calls:
        taught = {item for item, _ in training.demos}
        assert taught >= seen
        assert taught.isdisjoint(training.targets.tolist())
        assert all(found.labels[item] == label for item, label in training.demos)
        seen = taught | set(training.targets.tolist())
    assert seen == set(range(320))
    batches = [record for record in told if isinstance(record, PassRecord)]
    assert [record.sweep for record in batches] == [1, 2, 3, 4]
    assert [record.trained_on for record in batches] == [64, 128, 192, 256]
    assert [sum(record.counts) for record in batches] == [128, 192, 256, 320]
    told_labels = [record.labels for record in batches if record.labels is not None]
    assert [np.sum(labels != UNLABELLED) for labels in told_labels] == [128, 192, 256, 320]
    assert found.history == tuple(told)
    assert found.coherence > 0.25


async def test_the_base_model_is_asked_about_one_batch_until_the_names_are_tried() -> None:
    classes = planted_classes(200, 2)
    base, train = ConceptScore(classes, 2, meaning=2.0), Taught(classes, 2, half=5.0)
    calls_before: list[int] = []

    class Noting:
        def model(self, training: Training) -> AbstractAsyncContextManager[Score]:
            calls_before.append(len(base.calls))
            return train.model(training)

    await iterative_search(
        Problem(200, 2),
        base,
        Noting(),
        rng=np.random.default_rng(0),
        settings=IterateSettings(batch=50),
    )
    first = {item for item, _ in train.calls[0][0].demos}
    assert set(calls_before) == {calls_before[0]}
    for queries in base.calls[: calls_before[0]]:
        for query in queries:
            assert query.target in first
            assert all(item in first for item, _ in query.context)
    assert len(base.calls) == calls_before[0] + 2  # as found, and exchanged


class Reading:
    """Trained models that say little of an item without demos, and much behind them."""

    def __init__(self, classes: IntArray) -> None:
        self.says = ConceptScore(classes, 2, meaning=0.25)
        self.trainings: list[Training] = []

    @asynccontextmanager
    async def model(self, training: Training) -> AsyncIterator[Score]:
        self.trainings.append(training)
        yield self.says


async def test_every_batch_is_searched_behind_the_model_trained_before_it() -> None:
    classes = planted_classes(240, 2)
    base, train = ConceptScore(classes, 2, meaning=2.0), Reading(classes)
    found = await iterative_search(
        Problem(240, 2),
        base,
        train,
        rng=np.random.default_rng(0),
        settings=IterateSettings(batch=80),
    )
    alone = await train.says([Query((), item) for item in range(240)])
    assert (alone.argmax(axis=1) == classes).mean() < 0.85
    assert (found.labels == classes).mean() > 0.95
    second, third = (set(training.targets.tolist()) for training in train.trainings)
    for queries in train.says.calls[:-1]:
        for query in queries:
            batch = second if query.target in second else third
            assert batch.issuperset({query.target, *(item for item, _ in query.context)})
    batches = [record for record in found.history if isinstance(record, PassRecord)]
    assert min(record.coherence for record in batches) > 0.5


async def test_a_batch_may_have_one_item() -> None:
    classes = planted_classes(5, 2)
    train = Reading(classes)
    found = await iterative_search(
        Problem(5, 2),
        ConceptScore(classes, 2, meaning=4.0),
        train,
        rng=np.random.default_rng(0),
        settings=IterateSettings(batch=2),
    )
    assert [len(training.targets) for training in train.trainings] == [2, 1]
    assert (found.labels != UNLABELLED).all()


async def test_a_limit_in_a_later_batch_keeps_the_labels_that_it_has() -> None:
    classes = planted_classes(200, 2)
    train = Taught(classes, 2, half=5.0)
    found = await run(
        ConceptScore(classes, 2, meaning=2.0),
        train,
        batch=50,
        watch=Watch(stop=lambda: bool(train.calls)),
    )
    assert found.stopped
    assert len(train.calls) == 1
    assert (found.labels != UNLABELLED).sum() == 100


async def test_few_rows_are_one_batch_and_nothing_is_trained() -> None:
    classes = planted_classes(60, 2)
    train = Taught(classes, 2)
    found = await run(ConceptScore(classes, 2, meaning=2.0), train)
    assert train.calls == []
    assert (found.labels == classes).mean() > 0.9


async def test_groups_stand_in_one_batch_and_keep_their_rule() -> None:
    n_items = 180
    truth = np.arange(n_items) % 3 == 0
    classes = truth.astype(np.int64)
    groups = tuple((3 * g, 3 * g + 1, 3 * g + 2) for g in range(60))
    rule = MutualExclusion(groups, tuple(range(n_items)), 1)
    train = Taught(classes, 2, half=5.0)
    found = await run(ConceptScore(classes, 2, meaning=2.0), train, batch=60, constraint=rule)
    assert inconsistent_pairs(found.labels, rule) == []
    assert (found.labels == classes).mean() > 0.9
    for (training,) in train.calls:
        taught = {item for item, _ in training.demos}
        for group in groups:
            assert len(taught.intersection(group)) in (0, 3)


async def test_a_limit_leaves_later_batches_without_a_label() -> None:
    classes = planted_classes(200, 2)
    train = Taught(classes, 2, half=5.0)
    told: list[Any] = []
    found = await run(
        ConceptScore(classes, 2, meaning=2.0),
        train,
        batch=50,
        watch=Watch(told.append, lambda: isinstance(told[-1], PassRecord)),
    )
    assert found.stopped
    assert len(train.calls) == 1
    assert (found.labels != UNLABELLED).sum() == 100
    assert np.isnan(found.log_probs[found.labels == UNLABELLED]).all()


async def test_items_that_are_left_out_are_in_no_batch() -> None:
    classes = planted_classes(120, 2)
    base, train = ConceptScore(classes, 2, meaning=2.0), Taught(classes, 2, half=5.0)
    found = await run(base, train, batch=40, items=np.setdiff1d(np.arange(120), [0, 77]))
    assert np.flatnonzero(found.labels == UNLABELLED).tolist() == [0, 77]
    asked = {query.target for queries in base.calls for query in queries}
    assert asked.isdisjoint({0, 77})


async def test_names_that_are_clearly_wrong_are_exchanged_in_all_batches() -> None:
    """The words say nothing to the first search's eyes, and all to those of the last question."""
    classes = planted_classes(200, 2)
    asked = ConceptScore(classes, 2, meaning=0.0)
    knowing = ConceptScore(1 - classes, 2, meaning=2.0, noise=0.1)
    train = Taught(classes, 2, half=5.0, noise=0.5)

    async def score(queries: Sequence[object]) -> FloatArray:
        return await (knowing if train.calls else asked)(queries)  # type: ignore[arg-type]

    outcome = []
    for truth in (classes, 1 - classes):
        train.calls.clear()
        knowing = ConceptScore(truth, 2, meaning=2.0, noise=0.1)
        found = await iterative_search(
            Problem(200, 2),
            score,
            train,
            rng=np.random.default_rng(0),
            settings=IterateSettings(batch=50),
        )
        assert (found.labels == truth).mean() > 0.9
        assert (found.log_probs.argmax(axis=1) == found.labels).all()
        outcome.append(found.exchanged)
    assert sorted(outcome) == [False, True]


def test_a_batch_of_one_is_refused() -> None:
    with pytest.raises(InputError):
        IterateSettings(batch=1)
