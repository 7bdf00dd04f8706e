"""Labels that a person has checked: no search changes them, and every search is helped."""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import numpy as np
import pytest
from concept_score import ConceptScore, planted_classes
from hypothesis import example, given, settings
from hypothesis import strategies as st
from taught import Taught

from icm_client.coherence.anneal import AnnealSettings
from icm_client.coherence.anneal_official import OfficialSettings
from icm_client.coherence.assignment import JointAssignment, assign_jointly, prepared
from icm_client.coherence.batches import Within, split_batches
from icm_client.coherence.calibration import certainty, log_softmax
from icm_client.coherence.constraints import (
    Asymmetry,
    AtMostOne,
    ExactlyOne,
    Implication,
    inconsistent_pairs,
)
from icm_client.coherence.contexts import fold_contexts
from icm_client.coherence.decode import anneal_search
from icm_client.coherence.fast import search
from icm_client.coherence.folds import FoldSettings, MostConfident, fold_search
from icm_client.coherence.initial_labels import pinned_start
from icm_client.coherence.iterate import IterateSettings, iterative_search
from icm_client.coherence.label_names import NameExchange
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
from icm_client.coherence.result import SearchResult
from icm_client.coherence.settings import SweepSettings
from icm_client.coherence.trained import Train, Training
from icm_client.errors import InputError


def holding(pinned: IntArray | None) -> Problem:
    return Problem(4 if pinned is None else len(pinned), 2, pinned=pinned)


def turns(exchange: NameExchange, scores: FloatArray, pinned: IntArray | None) -> bool:
    return exchange.turns(scores, Problem(len(scores), scores.shape[1], pinned=pinned))


PRESETS = ("fast", "paper", "official", "folds", "iterate")


async def found(
    preset: str,
    n_labels: int,
    score: Score,
    train: Train,
    *,
    pinned: IntArray | None,
    constraint: Constraint = NO_CONSTRAINT,
    left_out: Collection[int] = (),
    start: IntArray | None = None,
    seed: int = 0,
    steps: int = 120,
) -> SearchResult:
    n = 32 if pinned is None else len(pinned)
    items = np.setdiff1d(np.arange(n), list(left_out))
    problem = Problem(n, n_labels, constraint, start=start, pinned=pinned, items=items)
    rng = np.random.default_rng(seed)
    if preset == "iterate":
        chosen = IterateSettings(batch=max(2, n // 2))
        return await iterative_search(
            replace(problem, start=None), score, train, rng=rng, settings=chosen
        )
    if preset == "folds":
        return await fold_search(problem, score, train, rng=rng, settings=FoldSettings())
    if preset == "fast":
        return await search(problem, score, rng=rng, settings=SweepSettings())
    kind = AnnealSettings if preset == "paper" else OfficialSettings
    return await anneal_search(problem, score, rng=rng, settings=kind(iterations=steps))


def some_of(classes: IntArray, each: int, labels: Sequence[int], seed: int = 0) -> IntArray:
    """Pins on `each` items of each of these classes."""
    pinned = np.full(len(classes), UNLABELLED)
    for label in labels:
        members = np.flatnonzero(classes == label)
        pinned[np.random.default_rng(seed).permutation(members)[:each]] = label
    return pinned


def pairs(n: int) -> Asymmetry:
    return Asymmetry(tuple((i, i + 1) for i in range(0, n, 2)), true=1, false=0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ruled", [False, True], ids=["free", "pairs"])
@pytest.mark.parametrize("preset", PRESETS)
async def test_words_that_say_nothing_end_with_the_names_of_four_pinned_items(
    preset: str, ruled: bool, seed: int
) -> None:
    classes = planted_classes(48, 2)
    if ruled:
        classes = np.stack([classes[:24], 1 - classes[:24]], axis=1).ravel()
    pinned = some_of(classes, 2, [0, 1], seed)
    result = await found(
        preset,
        2,
        ConceptScore(classes, 2),
        Taught(classes, 2, half=5.0, noise=0.5),
        pinned=pinned,
        constraint=pairs(48) if ruled else NO_CONSTRAINT,
        seed=seed,
    )
    assert result.exchange.ambiguous  # without pins this is a toss-up
    assert (result.labels == classes).mean() > 0.95
    assert np.array_equal(result.labels[pinned >= 0], pinned[pinned >= 0])


@pytest.mark.parametrize("preset", PRESETS)
async def test_a_pin_stands_against_all_that_the_model_says(preset: str) -> None:
    classes = planted_classes(48, 2)
    pinned = some_of(classes, 3, [0, 1], seed=4)
    odd = int(np.flatnonzero(pinned == 0)[0])
    pinned[odd] = 1
    score = ConceptScore(classes, 2, meaning=4.0)
    train = Taught(classes, 2, half=5.0, noise=0.5)
    result = await found(preset, 2, score, train, pinned=pinned)
    assert result.labels[odd] == 1
    assert result.log_probs[odd].argmax() == 0  # the confidence stays the model's
    assert (np.delete(result.labels == classes, odd)).mean() > 0.95
    for training in (one for call in train.calls for one in call):
        assert all(label == pinned[i] for i, label in training.demos if pinned[i] != UNLABELLED)


class Arbitrary:
    """Both doors, of a model that says whatever it likes, and is now and then quite sure."""

    def __init__(self, n_labels: int, seed: int, unscored: Collection[int] = ()) -> None:
        self.n_labels, self.unscored = n_labels, unscored
        self.rng = np.random.default_rng(seed)
        self.trained: list[Training] = []

    def says(self, items: Sequence[int]) -> FloatArray:
        scores = self.rng.normal(size=(len(items), self.n_labels)) * self.rng.choice([1, 400])
        scores[[item in self.unscored for item in items]] = np.nan
        return log_softmax(scores)

    async def score(self, queries: Sequence[Query]) -> FloatArray:
        return self.says([query.target for query in queries])

    async def __call__(self, trainings: Sequence[Training]) -> list[FloatArray]:
        self.trained += trainings
        return [self.says(training.targets.tolist()) for training in trainings]

    @asynccontextmanager
    async def model(self, training: Training) -> AsyncIterator[Score]:
        self.trained.append(training)
        yield self.score


def rules(n: int) -> dict[str, Constraint]:
    threes = tuple((i, i + 1, i + 2) for i in range(0, n - 2, 3))
    return {
        "none": NO_CONSTRAINT,
        "pairs": pairs(n - n % 2),
        "exactly-one": ExactlyOne(threes, true=1),
        "chain": Implication(frozenset((i, i + 1) for i in range(n // 2)), true=1),
        "large": AtMostOne((tuple(range(14)),), true=1),  # 2 ** 14 are too many to try
    }


@pytest.mark.parametrize("rule", rules(16))
@pytest.mark.parametrize("preset", PRESETS)
@settings(max_examples=10)
@given(
    n=st.integers(16, 22),
    n_labels=st.integers(2, 3),
    share=st.floats(0.05, 1),
    gone=st.sets(st.integers(0, 15), max_size=2),
    started=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
# The first labels stand on all items but one of a group, and on none that can be scored.
@example(n=16, n_labels=2, share=0.5, gone={14}, started=False, seed=0)
def test_no_search_ever_changes_a_pin(  # noqa: PLR0917
    preset: str,
    rule: str,
    n: int,
    n_labels: int,
    share: float,
    gone: set[int],
    started: bool,
    seed: int,
) -> None:
    constraint = rules(n)[rule]
    chance = np.random.default_rng(seed)
    truth = assign_jointly(chance.normal(size=(n, n_labels)), constraint).labels
    pinned = np.where(chance.random(n) < share, truth, UNLABELLED)
    start = chance.integers(-1, n_labels, size=n) if started else None
    model = Arbitrary(n_labels, seed, gone)

    async def run() -> SearchResult:
        return await found(
            preset,
            n_labels,
            model.score,
            model,
            pinned=pinned,
            constraint=constraint,
            left_out=gone,
            start=start,
            seed=seed,
            steps=12,
        )

    result = anyio.run(run)
    at = np.setdiff1d(np.flatnonzero(pinned != UNLABELLED), list(gone))
    assert np.array_equal(result.labels[at], pinned[at])
    assert (result.labels[list(gone)] == UNLABELLED).all()
    assert inconsistent_pairs(result.labels, constraint) == []
    assert not {step.item for step in result.steps} & set(at.tolist())
    fixed = {change.item for step in result.steps for change in step.fix}
    assert not fixed & set(at.tolist())
    for training in model.trained:
        assert all(label == pinned[i] for i, label in training.demos if i in at)


@pytest.mark.parametrize("preset", ["fast", "folds", "iterate"])
async def test_a_pinned_item_that_cannot_be_scored_has_no_label_to_report(preset: str) -> None:
    pinned = np.full(20, UNLABELLED)
    pinned[[3, 4]] = 0, 1
    model = Arbitrary(2, 0, unscored=(3,))
    result = await found(preset, 2, model.score, model, pinned=pinned)
    assert result.labels[3] == UNLABELLED
    assert result.labels[4] == 1
    assert (np.delete(result.labels, 3) != UNLABELLED).all()


@pytest.mark.parametrize("preset", PRESETS)
async def test_all_may_be_pinned(preset: str) -> None:
    classes = planted_classes(20, 2)
    score, train = ConceptScore(classes, 2, meaning=1.0), Taught(classes, 2, half=5.0)
    result = await found(preset, 2, score, train, pinned=classes)
    assert np.array_equal(result.labels, classes)
    assert np.isfinite(result.log_probs).all()
    assert result.steps == ()


@pytest.mark.parametrize("preset", PRESETS)
async def test_pins_that_pin_nothing_change_nothing(preset: str) -> None:
    classes = planted_classes(32, 2)
    told = []
    for pinned in (None, np.full(32, UNLABELLED)):
        score, train = ConceptScore(classes, 2, meaning=1.0), Taught(classes, 2, half=5.0)
        result = await found(preset, 2, score, train, pinned=pinned)
        told.append((score.calls, repr(result)))
    assert told[0] == told[1]


@pytest.mark.parametrize("preset", PRESETS)
async def test_pins_that_the_rule_forbids_are_refused_before_anything_is_asked(preset: str) -> None:
    classes = planted_classes(16, 2)
    score, train = ConceptScore(classes, 2), Taught(classes, 2)
    for pinned, message in (
        (np.array([1, 1, *[UNLABELLED] * 14]), "item 0 has its pinned label 1"),
        (np.array([2, *[UNLABELLED] * 15]), "there are 2 labels"),
    ):
        with pytest.raises(InputError, match=message):
            await found(preset, 2, score, train, pinned=pinned, constraint=pairs(16))
    assert (score.calls, train.calls) == ([], [])


async def test_one_pinned_item_turns_names_that_were_found_the_wrong_way_round() -> None:
    classes = planted_classes(64, 2)
    pinned = some_of(classes, 1, [0])
    result = await found(
        "fast", 2, ConceptScore(classes, 2), Taught(classes, 2), pinned=pinned, start=1 - classes
    )
    assert result.exchanged
    assert (result.labels == classes).mean() > 0.95
    assert min(result.utility, result.exchange.exchanged_utility) > 0.5


async def test_words_that_are_clear_are_not_turned_by_pins_against_them() -> None:
    classes = planted_classes(64, 2)
    pinned = some_of(1 - classes, 2, [0, 1])  # all four are wrong
    result = await found(
        "fast", 2, ConceptScore(classes, 2, meaning=4.0), Taught(classes, 2), pinned=pinned
    )
    free = pinned == UNLABELLED
    assert not result.exchanged
    assert (result.labels == classes)[free].mean() > 0.95
    assert (result.labels != classes)[~free].all()


def exchange(words: float, pull: float = 1.0) -> NameExchange:
    lead = float(np.sign(words))
    return NameExchange((1, 0), lead, 0.0, 0.01, words=words, pull=pull, response=1.0)


def test_who_turns_names_by_hand() -> None:
    scores = np.array([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [0.0, 0.9], [np.nan, np.nan]])
    right, reversed_, open_ = exchange(9.0), exchange(-9.0), exchange(0.0)
    assert (right.ambiguous, right.better) == (False, False)
    assert (reversed_.ambiguous, reversed_.better) == (False, True)
    assert (open_.ambiguous, open_.better) == (True, False)

    def pins(**labels: int) -> IntArray:
        pinned = np.full(5, UNLABELLED)
        for item, label in labels.items():
            pinned[int(item[1:])] = label
        return pinned

    # The margins are 2, 2, 2 and 0.9: items must be over 1 nat against their pins.
    against, weakly, agreeing = pins(i0=1), pins(i3=0), pins(i0=0)
    cases = [(one, turns(one, scores, None)) for one in (right, reversed_, open_)]
    assert [turned for _, turned in cases] == [False, True, False]
    for one, wanted in ((right, False), (reversed_, True), (open_, True)):
        assert turns(one, scores, against) is wanted
        assert not turns(one, scores, weakly)
        assert not turns(one, scores, agreeing)
        assert not turns(one, scores, pins(i4=0))  # it was never scored
    # -0.9 + 2 over two pins is 0.55 a pin against them, which is not enough; three make 1.03.
    assert not turns(open_, scores, pins(i0=1, i3=1))
    assert turns(open_, scores, pins(i0=1, i1=0, i3=1))


def test_held_scores_by_hand() -> None:
    scores = np.array([[1.0, 2.0], [np.nan, np.nan], [-np.inf, 0.0], [3.0, 0.0]])
    pinned = np.array([0, 1, UNLABELLED, UNLABELLED])
    of_pins = holding(pinned).hold_pins(scores)
    assert of_pins[:2].tolist() == [[0.0, -np.inf], [-np.inf, 0.0]]
    assert of_pins[3].tolist() == [3.0, 0.0]
    # Item 2 would rather have nothing than label 0, and must have it: item 3 is pinned to 1.
    rule = Asymmetry(((2, 3),), true=1, false=0)
    pinned = np.array([UNLABELLED, UNLABELLED, UNLABELLED, 1])
    assert assign_jointly(holding(pinned).hold_pins(scores), rule).labels.tolist() == [
        1,
        UNLABELLED,
        0,
        1,
    ]
    assert Problem(4, 2).hold_pins(scores) is scores


def test_a_pin_outvotes_the_most_confident_of_its_group() -> None:
    scores = np.array([[0.0, 0.1], [0.0, 9.0], [0.0, 5.0]])
    rule = ExactlyOne(((0, 1, 2),), true=1)
    pinned = np.array([1, UNLABELLED, UNLABELLED])
    for assign in (JointAssignment(rule, 2), MostConfident(rule, 2)):
        assert assign(scores).labels.tolist() == [0, 1, 0]
        assert assign(holding(pinned).hold_pins(scores)).labels.tolist() == [1, 0, 0]


def test_pins_of_items_that_are_left_out_are_void() -> None:
    pinned = np.array([UNLABELLED, 1, 0])
    kept = prepared(Problem(3, 2, pinned=pinned, items=np.array([0, 2])))[0].pinned
    assert kept is not None
    assert kept.tolist() == [UNLABELLED, UNLABELLED, 0]
    assert prepared(Problem(3, 2, pinned=pinned, items=np.array([0])))[0].pinned is None
    assert pinned.tolist() == [UNLABELLED, 1, 0]


@pytest.mark.parametrize("seed", range(5))
def test_only_labels_without_a_pin_begin_at_random(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pinned = np.array([0, 1, *[UNLABELLED] * 18])
    assert (
        pinned_start(Problem(20, 2, pinned=pinned), 8, rng, among=np.arange(20)).tolist()
        == pinned.tolist()
    )
    three = Problem(20, 3, pinned=pinned)
    begun = pinned_start(three, 9, rng, among=np.arange(20))
    assert np.bincount(begun + 1).tolist() == [15, 1, 1, 3]
    assert begun[:2].tolist() == [0, 1]
    # Item 2 is bound to a pinned one, and no more than half of the free ones begin.
    rule = AtMostOne(((0, 2),), true=1)
    bound = Problem(5, 2, rule, pinned=np.array([0, -1, -1, -1, -1]))
    begun = pinned_start(bound, 8, rng, among=np.arange(5))
    assert begun[2] == UNLABELLED
    assert np.bincount(begun + 1).tolist() == [3, 1, 1]
    among = pinned_start(three, 9, rng, among=np.arange(2, 8))
    assert set(np.flatnonzero(among != UNLABELLED)) <= set(range(8))


async def test_the_first_context_holds_the_pins_and_no_random_label() -> None:
    classes = planted_classes(40, 2)
    score = ConceptScore(classes, 2, meaning=1.0)
    pinned = some_of(classes, 2, [0, 1])
    await found("fast", 2, score, Taught(classes, 2), pinned=pinned)
    (context,) = {query.context for query in score.calls[0]}
    assert {demo.item: demo.label for demo in context} == {
        int(i): int(pinned[i]) for i in np.flatnonzero(pinned >= 0)
    }


def test_more_pins_than_a_start_has_are_drawn_from_and_are_the_most_certain() -> None:
    classes = planted_classes(60, 2)
    pinned = some_of(classes, 10, [0, 1])
    averaged = np.full((60, 2), np.nan)
    rng = np.random.default_rng(0)
    contexts = fold_contexts(
        0, pinned, averaged, Problem(60, 2, pinned=pinned), settings=SweepSettings(), rng=rng
    )
    assert len(contexts) == 2
    for context, targets in contexts:
        assert all(pinned[item] == label for item, label in context)
        assert {item for item, _ in context}.isdisjoint(targets.tolist())
        assert len(context) >= 2
    averaged = np.stack([np.zeros(60), np.arange(60.0)], axis=1)
    certain = certainty(averaged, pinned)
    assert np.isinf(certain[pinned >= 0]).all()
    assert np.array_equal(certain[pinned < 0], np.flatnonzero(pinned < 0))


def test_pinned_items_and_their_groups_are_moved_to_the_first_batch() -> None:
    rule = AtMostOne(((0, 1), (2, 3), (4, 5)), true=1)
    pinned = np.full(40, UNLABELLED)
    pinned[[3, 20, 30]] = 0
    problem = Problem(40, 2, rule, pinned=pinned)
    batches = split_batches(problem, 8, np.random.default_rng(3))
    first, *others = split_batches(problem, 8, np.random.default_rng(3), pinned_first=True)
    assert first.pinned is not None
    assert all(other.pinned is None for other in others)
    assert {2, 3, 20, 30} | set(batches[0].searched.tolist()) == set(first.searched.tolist())
    every = np.concatenate([first.searched, *(batch.searched for batch in others)])
    assert sorted(every.tolist()) == list(range(40))
    for batch in (first, *others):
        assert isinstance(batch.constraint, Within)
        inside = set(batch.searched.tolist())
        held_groups = {group for group in rule.groups if inside >= set(group)}
        assert set(batch.constraint.groups) == held_groups
