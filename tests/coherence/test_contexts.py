from collections import Counter
from functools import partial
from itertools import pairwise

import anyio
import numpy as np
from concept_score import ConceptScore, planted_classes
from hypothesis import given, settings
from hypothesis import strategies as st

from icm_client.coherence.constraints import SameAnswer
from icm_client.coherence.contexts import draw_demos, split_folds
from icm_client.coherence.fast import search
from icm_client.coherence.problem import UNLABELLED, Context, IntArray, Problem
from icm_client.coherence.settings import SweepSettings

SEEDS = st.integers(0, 2**32 - 1)


@given(st.integers(1, 200), st.integers(1, 8), SEEDS)
def test_folds_are_a_partition_in_nearly_equal_parts(n: int, folds: int, seed: int) -> None:
    parts = split_folds(n, folds, np.random.default_rng(seed))
    assert len(parts) == min(folds, n)
    assert sorted(item for part in parts for item in part.tolist()) == list(range(n))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


@given(st.lists(st.integers(1, 6), min_size=1, max_size=40), st.integers(1, 6), SEEDS)
def test_groups_stay_in_one_fold_and_folds_nearly_equal(
    sizes: list[int], folds: int, seed: int
) -> None:
    ends = np.cumsum([0, *sizes])
    groups = [tuple(range(low, high)) for low, high in pairwise(ends.tolist()) if high - low > 1]
    n = int(ends[-1])
    parts = split_folds(n, folds, np.random.default_rng(seed), groups)
    assert len(parts) == min(folds, len(sizes))
    assert sorted(item for part in parts for item in part.tolist()) == list(range(n))
    for group in groups:
        assert sum(not set(group).isdisjoint(part.tolist()) for part in parts) == 1
    lengths = [len(part) for part in parts]
    assert max(lengths) - min(lengths) <= max(sizes)


def test_pairs_go_to_other_folds_in_another_sweep() -> None:
    rng = np.random.default_rng(0)
    pairs = [(i, i + 1) for i in range(0, 32, 2)]
    first, second = (split_folds(32, 2, rng, pairs) for _ in range(2))
    assert [len(part) for part in (*first, *second)] == [16] * 4
    assert set(first[0].tolist()) not in (set(second[0].tolist()), set(second[1].tolist()))


def test_another_sweep_has_other_folds() -> None:
    rng = np.random.default_rng(0)
    first, second = (split_folds(32, 2, rng) for _ in range(2))
    assert set(first[0].tolist()) not in (set(second[0].tolist()), set(second[1].tolist()))


def drawn(
    labels: IntArray,
    *,
    pool: IntArray | None = None,
    size: int = 64,
    keep: float = 1.0,
    n_labels: int = 2,
    seed: int = 0,
) -> Context:
    return draw_demos(
        labels,
        np.arange(len(labels)) if pool is None else pool,
        np.arange(len(labels), dtype=np.float64),  # the later the item, the more certain
        size=size,
        keep=keep,
        n_labels=n_labels,
        rng=np.random.default_rng(seed),
    )


@given(
    st.integers(2, 4).flatmap(
        lambda k: st.tuples(
            st.just(k), st.lists(st.integers(UNLABELLED, k - 1), min_size=1, max_size=60)
        )
    ),
    st.integers(4, 40),
    st.floats(0.1, 1),
    st.data(),
)
def test_demos_are_labelled_items_of_the_pool_equally_many_of_each_label(
    problem: tuple[int, list[int]], size: int, keep: float, data: st.DataObject
) -> None:
    n_labels, given_labels = problem
    labels = np.array(given_labels)
    pool = np.flatnonzero(data.draw(st.lists(st.booleans(), min_size=len(labels)))[: len(labels)])
    context = drawn(
        labels, pool=pool, size=size, keep=keep, n_labels=n_labels, seed=data.draw(SEEDS)
    )
    assert all(labels[demo.item] == demo.label != UNLABELLED for demo in context)
    assert {demo.item for demo in context} <= set(pool.tolist())
    assert len({demo.item for demo in context}) == len(context) <= size
    present = {int(label) for label in labels[pool] if label != UNLABELLED}
    shares = Counter(demo.label for demo in context)
    assert set(shares) == present
    assert len(set(shares.values())) <= 1


def test_the_rarest_label_sets_the_share_of_all() -> None:
    context = drawn(np.array([0] * 20 + [1] * 3))
    assert Counter(demo.label for demo in context) == {0: 3, 1: 3}


def test_a_label_that_nothing_has_is_left_out() -> None:
    context = drawn(np.array([0] * 8 + [2] * 8), n_labels=3, size=6)
    assert Counter(demo.label for demo in context) == {0: 3, 2: 3}


def test_no_labelled_item_makes_an_empty_context() -> None:
    assert drawn(np.full(5, UNLABELLED)) == ()


def test_only_the_most_certain_are_drawn_from() -> None:
    labels = np.array([0, 1] * 10)
    for seed in range(20):
        items = {demo.item for demo in drawn(labels, keep=0.3, seed=seed)}
        assert items == {14, 15, 16, 17, 18, 19}  # the 3 most certain of the 10 of each label


def test_items_and_their_order_are_random() -> None:
    labels = np.array([0, 1] * 20)
    contexts = {drawn(labels, size=8, seed=seed) for seed in range(20)}
    assert len(contexts) == 20
    assert len({tuple(demo.label for demo in context) for context in contexts}) > 1


def test_no_more_demos_than_there_is_room_for() -> None:
    assert len(drawn(np.array([0, 1, 2] * 4), n_labels=3, size=2)) <= 2


@settings(max_examples=25)
@given(st.integers(6, 40), st.integers(2, 3), st.integers(2, 3), SEEDS)
def test_a_target_never_stands_in_its_own_context_in_a_whole_search(
    n: int, n_labels: int, folds: int, seed: int
) -> None:
    score = ConceptScore(planted_classes(n, n_labels), n_labels)
    chosen = SweepSettings(folds=folds, min_sweeps=2, max_sweeps=3)
    rng = np.random.default_rng(seed)
    with np.errstate(all="raise", under="ignore"):
        anyio.run(partial(search, Problem(n, n_labels), score, rng=rng, settings=chosen))
    for queries in score.calls:
        for context, target in queries:
            items = [demo.item for demo in context]
            assert target not in items
            assert len(set(items)) == len(items)
            assert all(0 <= demo.label < n_labels for demo in context)


@settings(max_examples=25)
@given(st.integers(6, 40), st.integers(2, 4), SEEDS)
def test_a_target_never_reads_the_label_of_an_item_of_its_group(
    n: int, size: int, seed: int
) -> None:
    score = ConceptScore(planted_classes(n, 2), 2)
    groups = tuple(tuple(range(i, i + size)) for i in range(0, n - size + 1, size))
    rule = SameAnswer(groups)
    rng = np.random.default_rng(seed)
    chosen = SweepSettings(min_sweeps=2, max_sweeps=3)
    anyio.run(partial(search, Problem(n, 2, rule), score, rng=rng, settings=chosen))
    group_of = {item: group for group in groups for item in group}
    for context, target in (query for call in score.calls for query in call):
        assert {demo.item for demo in context}.isdisjoint(group_of.get(target, (target,)))
