import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icm_client.coherence.leave_one_out import FOLDS, Layout, queries, query_for
from icm_client.coherence.problem import UNLABELLED, Context, Demo, IntArray, Query

LABELS = st.lists(st.integers(UNLABELLED, 2), min_size=1, max_size=40).map(np.array)
LAYOUTS: st.SearchStrategy[Layout] = st.sampled_from(("tree", "fixed", "folds"))
ROOM = st.none() | st.integers(1, 45)
SEEDS = st.integers(0, 2**32 - 1)


def shuffled(n: int, seed: int = 0) -> IntArray:
    return np.random.default_rng(seed).permutation(n)


def prefilled(asked: list[Query]) -> int:
    """Demos that must be computed when shared prefixes are computed once."""
    return len({q.context[: n + 1] for q in asked for n in range(len(q.context))})


def fold_of(target: int, order: IntArray) -> list[int]:
    """The items that are left out of a target's context in the layout `folds`."""
    n = len(order)
    cuts = [n * part // min(FOLDS, n) for part in range(min(FOLDS, n) + 1)]
    folds = [order[low:high].tolist() for low, high in pairwise(cuts)]
    return next(fold for fold in folds if target in fold)


def items(context: Context) -> list[int]:
    return [demo.item for demo in context]


def test_the_tree_by_hand() -> None:
    # Order 3 1 | 0 2; item 2 has no label. Target 3: first the other half (0), then 1.
    labels = np.array([0, 1, UNLABELLED, 1])
    assert queries(labels, np.array([3, 1, 0, 2]), "tree") == [
        Query((Demo(0, 0), Demo(1, 1)), 3),
        Query((Demo(0, 0), Demo(3, 1)), 1),
        Query((Demo(3, 1), Demo(1, 1)), 0),
    ]


def test_the_fixed_order_by_hand() -> None:
    labels = np.array([0, 1, UNLABELLED, 1])
    assert queries(labels, np.array([3, 1, 0, 2]), "fixed") == [
        Query((Demo(1, 1), Demo(0, 0)), 3),
        Query((Demo(3, 1), Demo(0, 0)), 1),
        Query((Demo(3, 1), Demo(1, 1)), 0),
    ]


@given(LABELS, st.sampled_from(("tree", "fixed")), SEEDS)
def test_every_other_labelled_item_stands_in_a_context_once_and_the_target_never(
    labels: IntArray, layout: Layout, seed: int
) -> None:
    labelled = np.flatnonzero(labels != UNLABELLED).tolist()
    asked = queries(labels, shuffled(len(labels), seed), layout)
    assert sorted(query.target for query in asked) == labelled
    for context, target in asked:
        assert sorted(items(context)) == [item for item in labelled if item != target]
        assert all(demo.label == labels[demo.item] for demo in context)


def test_folds_by_hand() -> None:
    # 16 items in order 15, 14, ..., 0; eight folds of two: (15, 14), (13, 12), ...
    labels = np.arange(16) % 2
    labels[3] = UNLABELLED
    asked = queries(labels, np.arange(16)[::-1], "folds")
    assert [query.target for query in asked] == [i for i in range(15, -1, -1) if i != 3]
    for context, target in asked:
        left_out = {target, target ^ 1, 3}
        assert context == tuple(Demo(i, i % 2) for i in range(15, -1, -1) if i not in left_out)


@given(LABELS, SEEDS)
def test_all_labelled_items_of_other_folds_stand_in_a_context(labels: IntArray, seed: int) -> None:
    order = shuffled(len(labels), seed)
    for context, target in queries(labels, order, "folds"):
        left_out = fold_of(target, order)
        wanted = [i for i in order.tolist() if labels[i] != UNLABELLED and i not in left_out]
        assert items(context) == wanted


def test_folds_prefill_each_demo_once_a_fold_at_most() -> None:
    asked = queries(np.zeros(64, dtype=np.int64), shuffled(64), "folds")
    assert len({query.context for query in asked}) == FOLDS
    assert prefilled(asked) <= FOLDS * 56


@given(LABELS, LAYOUTS, ROOM, SEEDS)
def test_items_without_a_label_are_asked_about_on_request(
    labels: IntArray, layout: Layout, room: int | None, seed: int
) -> None:
    order = shuffled(len(labels), seed)
    asked = queries(labels, order, layout, room, unlabelled=True)
    assert sorted(query.target for query in asked) == list(range(len(labels)))
    for query in asked:
        assert query == query_for(query.target, labels, order, layout, room)


@given(LABELS, LAYOUTS, ROOM, SEEDS, st.data())
def test_a_batch_of_the_order_is_all_there_is(
    labels: IntArray, layout: Layout, room: int | None, seed: int, data: st.DataObject
) -> None:
    order = shuffled(len(labels), seed)[: data.draw(st.integers(1, len(labels)))]
    outside = np.setdiff1d(np.arange(len(labels)), order)
    labels[outside] = UNLABELLED
    for context, target in queries(labels, order, layout, room, unlabelled=True):
        assert {target, *items(context)} <= set(order.tolist())


@given(LABELS, LAYOUTS, ROOM, SEEDS, st.data())
def test_a_targets_own_label_changes_nothing_in_its_context(
    labels: IntArray, layout: Layout, room: int | None, seed: int, data: st.DataObject
) -> None:
    order = shuffled(len(labels), seed)
    target = data.draw(st.integers(0, len(labels) - 1))
    contexts = set()
    for label in (UNLABELLED, 0, 1, 2):
        labels[target] = label
        contexts.add(query_for(target, labels, order, layout, room).context)
    assert len(contexts) == 1
    assert target not in items(contexts.pop())


@given(LABELS, LAYOUTS, ROOM, SEEDS)
def test_one_target_is_asked_about_as_among_all(
    labels: IntArray, layout: Layout, room: int | None, seed: int
) -> None:
    order = shuffled(len(labels), seed)
    for query in queries(labels, order, layout, room):
        assert query == query_for(query.target, labels, order, layout, room)


@given(LABELS, LAYOUTS, st.integers(1, 45), SEEDS)
def test_a_sample_is_full_and_as_balanced_as_the_labels_allow(
    labels: IntArray, layout: Layout, room: int, seed: int
) -> None:
    order = shuffled(len(labels), seed)
    for context, target in queries(labels, order, layout, room):
        left_out = fold_of(target, order) if layout == "folds" else [target]
        there = Counter(np.delete(labels, left_out).tolist())
        del there[UNLABELLED]
        assert len(set(items(context))) == len(context) == min(room, there.total())
        drawn = Counter(demo.label for demo in context)
        for label in there:
            rivals = max(drawn.values())
            assert drawn[label] >= min(there[label], rivals - 1)  # fewer only where it has no more


def test_the_sample_hardly_moves_when_one_label_does() -> None:
    labels = np.arange(200) % 2
    order = shuffled(200)
    before = {query.target: set(query.context) for query in queries(labels, order, "tree", 40)}
    labels[order[3]] = 1 - labels[order[3]]
    for query in queries(labels, order, "tree", 40):
        assert len(before[query.target] ^ set(query.context)) <= 4


def test_another_order_draws_another_sample() -> None:
    labels = np.arange(200) % 2
    first, second = (set(queries(labels, shuffled(200, s), "tree", 20)[-1].context) for s in (0, 1))
    assert len(first & second) < 10


@pytest.mark.parametrize("n", [2, 4, 16, 64, 256])
def test_a_tree_prefills_n_log_n_demos(n: int) -> None:
    labels = np.arange(n) % 2
    # Each of the log2 N halvings puts each demo once in front of the half it is not in.
    assert prefilled(queries(labels, shuffled(n), "tree")) == n * int(math.log2(n))


@given(LABELS, SEEDS)
def test_a_tree_never_prefills_more_than_n_log_n_demos(labels: IntArray, seed: int) -> None:
    labelled = int((labels != UNLABELLED).sum())
    asked = queries(labels, shuffled(len(labels), seed), "tree")
    assert prefilled(asked) <= labelled * math.ceil(math.log2(len(labels)))


def test_a_fixed_order_prefills_half_of_n_squared() -> None:
    # Target at place p shares p demos with all others: 64 * 63 / 2, and the full line's first 63.
    asked = queries(np.zeros(64, dtype=np.int64), shuffled(64), "fixed")
    assert prefilled(asked) == 64 * 63 // 2 + 63


def test_a_sample_is_shared_by_all_that_are_not_in_it() -> None:
    labels = np.arange(1024) % 2
    asked = queries(labels, shuffled(1024), "tree", 32)
    # Its 32 members' own contexts: 2 labels * 32 * log2 32 at most, for the member that is missing.
    assert prefilled(asked) < 32 * 32


def test_one_labelled_item_has_an_empty_context() -> None:
    labels = np.array([UNLABELLED, 1])
    assert queries(labels, np.array([0, 1]), "tree") == [Query((), 1)]
    assert query_for(0, labels, np.array([0, 1]), "tree") == Query((Demo(1, 1),), 0)
