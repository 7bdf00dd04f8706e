"""Which demos a label hangs on, over models whose answers are a formula."""

from collections.abc import Iterable, Sequence

import numpy as np
import pytest

from icm_client.coherence.calibration import log_softmax
from icm_client.coherence.influence import (
    blocks_of,
    changed,
    demo_effects,
    last,
    reads_for,
    wording_effects,
)
from icm_client.coherence.problem import Context, Demo, FloatArray, IntArray, Query
from icm_client.scoring.planner import optimal_tokens

DEMOS, WITNESSES, TARGET = 16, 8, 24
LABELS = np.array([n % 2 for n in range(25)])
CONTEXT: Context = tuple(Demo(item, item % 2) for item in range(DEMOS))
SEEN = np.arange(DEMOS, DEMOS + WITNESSES)


class Teachers:
    """A model in which some demos teach the target, and every demo makes its label likelier.

    `taught[d]` nats are what demo `d` adds to the log-odds of the label that it is shown with, for
    the target alone; `lean` is what each demo adds for every target.
    """

    def __init__(self, taught: dict[int, float], *, lean: float = 0.4, n_labels: int = 2) -> None:
        self.taught, self.lean, self.n_labels = taught, lean, n_labels
        self.asked: list[Query] = []

    async def __call__(self, queries: Sequence[Query]) -> FloatArray:
        self.asked += queries
        return log_softmax(np.array([self._of(query) for query in queries]))

    def _of(self, query: Query) -> FloatArray:
        scores = np.zeros(self.n_labels)
        scores[query.target % 2] = 1.0
        for item, label in query.context:
            scores[label] += self.lean
            if query.target == TARGET:
                scores[label] += self.taught.get(item, 0.0)
        return scores


async def test_the_effects_of_demos_are_those_planted() -> None:
    """All demos lean to their labels; what they do to every target is no effect on this one."""
    score = Teachers({3: 2.0, 8: 1.0, 10: -0.5})
    reads = reads_for(DEMOS, 1 + WITNESSES)
    found = await demo_effects(CONTEXT, LABELS, SEEN, score, n_labels=2, target=TARGET, reads=reads)
    assert len(score.asked) == reads
    assert found.targets.tolist() == [TARGET, *SEEN]
    # The target has label 0: demo 3 has the other and speaks against it, demo 8 for it.
    expected = np.zeros(DEMOS)
    expected[[3, 8, 10]] = -2.0, 1.0, -0.5
    assert found.left_out[:, 0] == pytest.approx(expected)
    assert found.relabelled[:, 0] == pytest.approx(2 * expected)
    assert found.left_out[:, 1:] == pytest.approx(np.zeros((DEMOS, WITNESSES)))
    assert found.log_odds[0] == pytest.approx(1.0 - 2.0 + 1.0 - 0.5)
    assert found.others[0] == 1
    by_block = [expected[block].sum() for block in blocks_of(DEMOS)]
    assert found.without_block[:, 0] == pytest.approx(np.repeat(by_block, 4))


async def test_few_reads_go_to_the_blocks_that_matter() -> None:
    score = Teachers({9: 1.5})
    targets = 1 + WITNESSES
    reads = targets * (2 * 4 + 2 * 3)  # all four blocks, and three members of one
    found = await demo_effects(
        CONTEXT, LABELS, SEEN, score, n_labels=2, target=TARGET, reads=reads + targets
    )
    assert len(score.asked) == reads
    read = np.flatnonzero(~np.isnan(found.relabelled[:, 0]))
    assert read.tolist() == [8, 9, 10]
    assert found.relabelled[9, 0] == pytest.approx(-3.0)
    few = await demo_effects(
        CONTEXT, LABELS, SEEN, score, n_labels=2, target=TARGET, reads=targets * 4
    )
    assert np.isnan(few.relabelled).all()
    assert np.isnan(few.without_block[:, 0]).tolist() == [False] * 8 + [True] * 8


async def test_what_is_asked_for_a_block_shares_the_other_blocks_as_its_beginning() -> None:
    score = Teachers({})
    await demo_effects(CONTEXT, LABELS, SEEN, score, n_labels=2, target=TARGET, reads=10_000)
    beginnings = {query.context[: DEMOS - 4] for query in score.asked}
    assert len(beginnings) == 4
    assert all(TARGET not in {item for item, _ in query.context} for query in score.asked)
    assert last(CONTEXT, np.array([1, 2]))[-2:] == CONTEXT[1:3]
    assert last(CONTEXT, blocks_of(DEMOS)[-1]) == CONTEXT


async def test_witnesses_are_taught_what_the_demos_teach_all_of_a_label() -> None:
    """Demo 5 teaches the concept: each target gets its own label the surer for it."""

    class Concept(Teachers):
        def _of(self, query: Query) -> FloatArray:
            scores = super()._of(query)
            for item, label in query.context:
                if item == 5:
                    right = label == LABELS[item]
                    scores[LABELS[query.target]] += 0.8 if right else -0.8
            return scores

    score = Concept({})
    reads = reads_for(DEMOS, WITNESSES, leave_out=False)
    found = await demo_effects(
        CONTEXT, LABELS, SEEN, score, n_labels=2, leave_out=False, reads=reads
    )
    assert len(score.asked) == reads
    assert np.isnan(found.left_out).all()
    mean = found.relabelled.mean(axis=1)
    assert mean[5] == pytest.approx(1.6)
    assert np.delete(mean, 5) == pytest.approx(np.zeros(DEMOS - 1), abs=1e-9)


async def test_three_labels_are_held_against_the_likeliest_other() -> None:
    labels: IntArray = np.array([n % 3 for n in range(25)])
    context = tuple(Demo(item, item % 3) for item in range(6))

    async def score(queries: Sequence[Query]) -> FloatArray:
        scores = np.zeros((len(queries), 3))
        for row, (demos, target) in zip(scores, queries, strict=True):
            row[labels[target]] += 3.0
            for item, label in demos:
                row[label] += {0: 1.0, 1: 0.5}.get(item, 0.0) if target == 6 else 0.0
        return log_softmax(scores)

    found = await demo_effects(
        context, labels, np.arange(7, 16), score, n_labels=3, target=6, reads=1000
    )
    assert found.others[0] == 1
    assert found.left_out[:, 0] == pytest.approx([1.0, -0.5, 0, 0, 0, 0])
    # Relabelled, demo 0 speaks for label 1, and demo 1 for label 2 and no longer for label 1.
    assert found.relabelled[:, 0] == pytest.approx([2.0, -0.5, 0, 0, 0, 0])


async def test_demos_that_are_tried_at_the_end_cost_less_than_where_they_stand() -> None:
    labels = np.array([n % 2 for n in range(80)])
    context = tuple(Demo(item, item % 2) for item in range(64))
    score = Teachers({})
    await demo_effects(
        context, labels, np.array([66, 67]), score, n_labels=2, target=65, reads=10_000
    )
    where_they_stand = [
        changed(context, place, 2, drop=drop) for place in range(64) for drop in (True, False)
    ]

    def tokens(contexts: Iterable[Context]) -> int:
        return optimal_tokens(
            [tuple(100 * item + label for item, label in one) for one in contexts]
        )

    assert tokens({query.context for query in score.asked}) < tokens(where_they_stand) / 4


def test_a_changed_context_by_hand() -> None:
    context = (Demo(4, 0), Demo(7, 2))
    assert changed(context, 1, 3, drop=True) == (Demo(4, 0),)
    assert changed(context, 1, 3, drop=False) == (Demo(4, 0), Demo(7, 0))
    assert [len(block) for block in blocks_of(64)] == [8] * 8
    assert [len(block) for block in blocks_of(2)] == [2]


async def test_a_word_that_the_label_hangs_on() -> None:
    odds = {20: 2.0, 21: -1.0, 22: 2.5, 23: np.nan}

    async def score(queries: Sequence[Query]) -> FloatArray:
        return np.array([[odds[query.target], 0.0] for query in queries])

    found = await wording_effects(CONTEXT, 20, [21, 22, 23], (0, 1), score)
    assert found[:2] == pytest.approx([3.0, -0.5])
    assert np.isnan(found[2])
