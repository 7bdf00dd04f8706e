from collections.abc import Sequence

import numpy as np
import pytest
from concept_score import ConceptScore, agreement, planted_classes
from hypothesis import given
from hypothesis import strategies as st

from icm_client.coherence.calibration import log_softmax
from icm_client.coherence.constraints import (
    Asymmetry,
    ExactlyOne,
    MutualExclusion,
    inconsistent_pairs,
)
from icm_client.coherence.initial_labels import (
    Start,
    balanced_start,
    closest_allowed,
    first_labels,
    random_start,
    zero_shot_start,
)
from icm_client.coherence.problem import (
    UNLABELLED,
    Constraint,
    FloatArray,
    IntArray,
    Problem,
    Query,
)
from icm_client.errors import InputError

SEEDS = st.integers(0, 2**32 - 1)
PAIRS = Asymmetry(tuple((i, i + 1) for i in range(0, 24, 2)), true=1, false=0)
ANSWERS = MutualExclusion(
    tuple((i, i + 1, i + 2, i + 3) for i in range(0, 24, 4)), tuple(i % 3 for i in range(24)), 1
)


@given(st.integers(1, 30), st.integers(0, 40), st.integers(2, 4), SEEDS)
def test_k_items_are_labelled_at_random(n: int, initial: int, n_labels: int, seed: int) -> None:
    labels = random_start(Problem(n, n_labels), initial, np.random.default_rng(seed))
    assert (labels != UNLABELLED).sum() == min(initial, n)
    assert set(labels.tolist()) <= {UNLABELLED, *range(n_labels)}


def test_random_labels_are_not_balanced() -> None:
    ones = {
        int(random_start(Problem(9, 2), 8, np.random.default_rng(s)).clip(0).sum())
        for s in range(60)
    }
    assert len(ones) > 4


@given(st.integers(2, 100), st.integers(2, 5), st.integers(1, 40), SEEDS)
def test_balanced_labels_are_each_as_often_as_the_others(
    n: int, n_labels: int, initial: int, seed: int
) -> None:
    labels = balanced_start(Problem(n, n_labels), initial, np.random.default_rng(seed))
    assert labels.shape == (n,)
    counts = np.bincount(labels[labels != UNLABELLED], minlength=n_labels)
    assert len(counts) == n_labels
    assert counts.sum() == min(initial, n)
    assert counts.max() - counts.min() <= 1


def test_which_items_and_which_labels_is_chance() -> None:
    drawn = [balanced_start(Problem(20, 2), 8, np.random.default_rng(seed)) for seed in range(30)]
    assert len({labels.tobytes() for labels in drawn}) == 30
    assert {int(label) for labels in drawn for label in labels[:1]} == {UNLABELLED, 0, 1}


@given(st.integers(2, 24), SEEDS, st.sampled_from([PAIRS, ANSWERS]))
def test_balanced_labels_stand_in_whole_groups_and_keep_the_rule(
    initial: int, seed: int, rule: Constraint
) -> None:
    labels = balanced_start(Problem(24, 2, rule), initial, np.random.default_rng(seed))
    assert inconsistent_pairs(labels, rule) == []
    size = len(rule.groups[0])
    assert (labels != UNLABELLED).sum() == max(initial // size * size, min(initial, size))
    if initial >= size:
        for group in rule.groups:
            assert len(set((labels[list(group)] == UNLABELLED).tolist())) == 1


@pytest.mark.parametrize("kind", ["random", "balanced", "zero-shot"])
async def test_each_kind_keeps_the_rule(kind: Start) -> None:
    for rule in (PAIRS, ANSWERS, ExactlyOne(ANSWERS.groups, 1)):
        for seed in range(5):
            labels = await first_labels(
                kind,
                Problem(24, 3, rule),
                ConceptScore(planted_classes(24, 3), 3, meaning=1.0),
                K=8,
                rng=np.random.default_rng(seed),
            )
            assert inconsistent_pairs(labels, rule) == []
            assert (labels != UNLABELLED).sum() == (24 if kind == "zero-shot" else 8)


async def test_kinds_differ_in_what_they_draw() -> None:
    async def drawn(kind: Start) -> list[IntArray]:
        score = ConceptScore(planted_classes(24, 2), 2)
        return [
            await first_labels(kind, Problem(24, 2), score, K=8, rng=np.random.default_rng(seed))
            for seed in range(30)
        ]

    ones = [{int((labels == 1).sum()) for labels in await drawn(k)} for k in ("random", "balanced")]
    assert len(ones[0]) > 3
    assert ones[1] == {4}


async def test_zero_shot_labels_are_what_the_prompt_alone_does_not_favour() -> None:
    class Leaning(ConceptScore):
        """Label 1 is 5 nats likelier for every item."""

        async def __call__(self, queries: Sequence[Query]) -> FloatArray:
            return log_softmax(await super().__call__(queries) + np.array([0.0, 5.0]))

    classes = planted_classes(64, 2)
    score = Leaning(classes, 2, meaning=2.0)
    labels = await zero_shot_start(Problem(64, 2), score)
    assert score.calls == [[Query((), i) for i in range(64)]]
    assert agreement(labels, classes, 2) > 0.8
    raw = (await score([Query((), i) for i in range(64)])).argmax(axis=1)
    assert len(set(raw.tolist())) == 1  # what was divided out


@given(st.lists(st.integers(UNLABELLED, 1), min_size=24, max_size=24).map(np.array), SEEDS)
def test_as_few_labels_as_possible_are_changed(labels: IntArray, seed: int) -> None:
    kept = closest_allowed(labels, Problem(24, 2, PAIRS), np.random.default_rng(seed))
    assert inconsistent_pairs(kept, PAIRS) == []
    assert (kept != labels).sum() == len(inconsistent_pairs(labels, PAIRS))
    assert ((kept == UNLABELLED) == (labels == UNLABELLED)).all()


def test_which_of_two_labels_is_changed_is_chance() -> None:
    ones = np.ones(24, dtype=np.int64)
    kept = [
        closest_allowed(ones, Problem(24, 2, PAIRS), np.random.default_rng(s))[0] for s in range(20)
    ]
    assert set(kept) == {0, 1}


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (np.zeros(5, dtype=np.int64), r"shape \(5,\) were given for 4 items"),
        (np.array([0, 1, 2, 0]), "item 2 has the first label 2, but there are 2 labels"),
        (np.array([0, -2, 1, 0]), "item 1 has the first label -2"),
        (np.zeros(4), "whole numbers, not float64"),
    ],
)
def test_what_is_no_start_is_refused(start: IntArray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Problem(4, 2, start=start)
    Problem(4, 2, start=np.array([0, UNLABELLED, 1, 0]))
