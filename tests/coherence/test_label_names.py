from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from concept_score import ConceptScore, ScriptedScore, planted_classes
from numpy.typing import NDArray

from icm_client.coherence.calibration import log_softmax
from icm_client.coherence.contexts import fold_contexts, score_folds
from icm_client.coherence.label_names import (
    FEWEST_OF_A_SPLIT,
    Effects,
    NameExchange,
    asked_first,
    exchange_names,
    exchange_names_in_folds,
    rotations,
    word_split,
)
from icm_client.coherence.problem import Demo, FloatArray, IntArray, Problem, Query
from icm_client.coherence.settings import SweepSettings

N = 64


async def exchange(score: ConceptScore | ScriptedScore, labels: IntArray) -> NameExchange:
    """Exchange names in a context of the first half, for targets of the second."""
    context = tuple(Demo(i, int(labels[i])) for i in range(N // 2))
    targets = np.arange(N // 2, N)
    return await exchange_names(await score_folds([(context, targets)], score), labels, score)


@pytest.mark.parametrize("n_labels", [2, 3])
async def test_words_that_mean_something_name_their_class(n_labels: int) -> None:
    classes = planted_classes(N, n_labels)
    found = await exchange(ConceptScore(classes, n_labels, meaning=2), classes)
    assert not found.ambiguous
    assert not found.better
    assert found.utility > found.exchanged_utility


@pytest.mark.parametrize("n_labels", [2, 3])
async def test_words_that_mean_nothing_are_ambiguous(n_labels: int) -> None:
    classes = planted_classes(N, n_labels)
    found = await exchange(ConceptScore(classes, n_labels), classes)
    assert found.ambiguous
    assert not found.better


async def test_labels_the_wrong_way_round_are_recognised() -> None:
    classes = planted_classes(N, 2)
    found = await exchange(ConceptScore(classes, 2, meaning=2), 1 - classes)
    assert found.better
    assert found.exchanged_utility > found.utility


@pytest.mark.parametrize("names", [(1, 0, 2, 3), (1, 2, 0, 3), (1, 2, 3, 0), (1, 0, 3, 2)])
async def test_the_names_that_the_words_mean_are_found_whichever_they_are(
    names: tuple[int, ...],
) -> None:
    classes = planted_classes(2 * N, 4)
    labels = np.argsort(names)[classes]  # so that label `k` should be called `names[k]`
    score = ConceptScore(classes, 4, meaning=0.5)
    context = tuple(Demo(i, int(labels[i])) for i in range(N))
    targets = np.arange(N, 2 * N)
    folds = await score_folds([(context, targets)], score)
    found = await exchange_names(folds, labels, score)
    assert found.names == names
    assert found.better
    assert not found.ambiguous
    assert found.exchanged_utility > found.utility
    assert found.response == 1
    (fold,) = folds
    by_new_name = found.renamed(fold.calibrated)
    right = (by_new_name.argmax(axis=1) == classes[targets]).mean()
    assert right > 0.9 > (fold.calibrated.argmax(axis=1) == classes[targets]).mean()


async def test_the_context_is_renamed_and_the_targets_are_the_same() -> None:
    classes = planted_classes(N, 3)
    score = ConceptScore(classes, 3, meaning=2)
    found = await exchange(score, classes)
    asked, rotated, exchanged = score.calls
    targets = [query.target for query in asked]
    assert [query.target for query in rotated] == 2 * targets
    assert [query.target for query in exchanged] == targets
    assert found.names not in rotations(3)  # it swaps two: no rotation says what that gives
    for names, queries in zip(
        [*rotations(3), found.names],
        [rotated[: len(targets)], rotated[len(targets) :], exchanged],
        strict=True,
    ):
        for query in queries:
            assert query.context == tuple(
                Demo(demo.item, names[demo.label]) for demo in asked[0].context
            )


async def test_labels_that_two_names_share_do_not_follow_the_demos() -> None:
    """One class under two of three names: nothing that demos teach tells the two apart."""
    classes = planted_classes(3 * N, 3)
    merged = classes.copy()
    twos = np.flatnonzero(classes == 2)
    ones = np.flatnonzero(classes == 1)
    merged[ones] = 2
    merged[twos] = 2
    halved = np.concatenate([ones, twos])
    merged[np.random.default_rng(0).permutation(halved)[: len(halved) // 2]] = 1
    score = ConceptScore(classes, 3, meaning=1)
    context = tuple(Demo(i, int(merged[i])) for i in range(N))
    targets = np.arange(N, 3 * N)
    folds = await score_folds([(context, targets)], score)
    found = await exchange_names(folds, merged, score)
    assert found.names == (0, 2, 1)
    assert found.response < 0.75


def test_a_difference_within_its_error_is_ambiguous_and_neither_way_better() -> None:
    for utility, exchanged in ((0.30, 0.29), (0.29, 0.30)):
        close = NameExchange((1, 0), utility, exchanged, standard_error=0.02)
        assert close.ambiguous
        assert not close.better


def test_names_that_are_clearly_better_are_not_ambiguous() -> None:
    wrong_way_round = NameExchange((1, 0), 0.2, 0.6, standard_error=0.01)
    assert wrong_way_round.better
    assert not wrong_way_round.ambiguous


@pytest.mark.parametrize("n_labels", [2, 3])
async def test_demos_decide_and_words_agree_where_names_are_right(n_labels: int) -> None:
    classes = planted_classes(N, n_labels)
    found = await exchange(ConceptScore(classes, n_labels, meaning=2), classes)
    assert found.response == 1
    assert found.words > 5
    if n_labels == 2:
        reversed_names = await exchange(ConceptScore(classes, 2, meaning=2), 1 - classes)
        assert reversed_names.response == 1
        assert reversed_names.words < -5


async def test_labels_taken_from_each_item_s_own_log_odds_do_not_follow_the_demos() -> None:
    """They are coherent by selection, and without `words` their names look certain."""
    classes = planted_classes(N, 2)
    concept = ConceptScore(classes, 2, noise=3.0)
    alone = await concept([Query((), i) for i in range(N)])
    own = alone.argmax(axis=1)
    found = await exchange(concept, own)
    assert found.utility - found.exchanged_utility > 3 * found.standard_error
    assert found.response < 0.75
    assert abs(found.words) < 3
    assert found.ambiguous
    assert not found.better


class Preferring(ConceptScore):
    """Prefers label 1 by some nats, whatever it is asked."""

    def __init__(self, classes: IntArray, *, by: float) -> None:
        super().__init__(classes, 2, meaning=1)
        self.by = by

    async def __call__(self, queries: Sequence[Query]) -> FloatArray:
        return log_softmax(await super().__call__(queries) + np.array([0.0, self.by]))


async def test_a_model_s_preference_hides_no_names() -> None:
    classes = planted_classes(N, 2)
    found = await exchange(Preferring(classes, by=4.0), classes)
    assert abs(found.utility - found.exchanged_utility) < 3 * found.standard_error
    assert not found.ambiguous
    assert not found.better
    wrong = await exchange(Preferring(classes, by=4.0), 1 - classes)
    assert wrong.better
    assert not wrong.ambiguous


def test_words_and_coherence_that_oppose_each_other_are_ambiguous() -> None:
    kept = NameExchange((1, 0), 0.6, 0.2, standard_error=0.01, words=-4.0, pull=-0.5)
    assert kept.ambiguous
    assert not kept.better
    by_words = NameExchange((1, 0), 0.3, 0.3, standard_error=0.01, words=-4.0, pull=-0.5)
    assert by_words.better
    assert not by_words.ambiguous


def test_nothing_to_compare_is_ambiguous() -> None:
    nothing = NameExchange((1, 0), float("nan"), float("nan"), standard_error=float("inf"))
    assert nothing.ambiguous
    assert not nothing.better
    alike = NameExchange((1, 0), 0.3, 0.3, standard_error=0.0)
    assert alike.ambiguous


@pytest.mark.parametrize(("meaning", "asked"), [(2.0, 1), (0.0, 2)])
async def test_other_folds_are_asked_where_one_leaves_it_open(meaning: float, asked: int) -> None:
    classes = planted_classes(N, 2)
    score = ConceptScore(classes, 2, meaning=meaning)
    halves = np.arange(N // 2), np.arange(N // 2, N)
    folds = await score_folds(
        [
            (tuple(Demo(i, int(classes[i])) for i in demos.tolist()), targets)
            for demos, targets in (halves, halves[::-1])
        ],
        score,
    )
    before = len(score.calls)
    found = await exchange_names_in_folds(folds, classes, score)
    assert len(score.calls) - before == asked
    assert found.ambiguous == (meaning == 0)
    assert found.response == 1


def test_words_that_pull_little_are_believed_only_where_u_shows_it() -> None:
    little = NameExchange((1, 0), 0.24, 0.19, standard_error=0.02, words=6.0, pull=0.1)
    assert little.ambiguous
    assert not little.better
    shown = NameExchange((1, 0), 0.24, 0.16, standard_error=0.02, words=6.0, pull=0.1)
    assert not shown.ambiguous


def test_names_chosen_among_many_must_be_favoured_by_more() -> None:
    for names, needed in (((1, 0), 3.0), ((1, 2, 0), 3.4), ((1, 2, 3, 4, 0), 4.2)):
        for words, better in ((-needed + 0.2, False), (-needed - 0.2, True)):
            found = NameExchange(names, 0.3, 0.3, standard_error=0.02, words=words, pull=-0.5)
            assert (found.better, found.ambiguous) == (better, not better)
        kept = NameExchange(names, 0.4, 0.3, standard_error=0.02, words=3.2, pull=0.5)
        assert not kept.ambiguous  # all others are favoured less still


async def test_rare_labels_are_asked_about_in_all_folds_together() -> None:
    classes = np.zeros(N, dtype=np.int64)
    classes[np.arange(1, N, 5)] = 1
    score = ConceptScore(classes, 2, meaning=2)
    everything = np.arange(N)
    folds = await score_folds(
        [
            (tuple(Demo(int(i), int(classes[i])) for i in np.setdiff1d(everything, part)), part)
            for part in np.split(everything, 4)  # three or four of each
        ],
        score,
    )
    folds = [fold for fold in folds if classes[fold.targets].sum() < 4]
    for few, told in ((folds[:1], False), (folds, True)):
        found = await exchange_names_in_folds(few, classes, score)
        assert np.isnan(found.words) != told
    assert found.words > 3
    assert found.response == 1


@pytest.mark.parametrize(("meaning", "clear"), [(2.0, True), (0.0, False)])
async def test_a_part_of_a_large_fold_is_asked_first(meaning: float, *, clear: bool) -> None:
    classes = planted_classes(700, 2)
    score = ConceptScore(classes, 2, meaning=meaning)
    contexts = fold_contexts(
        2,
        classes,
        np.zeros((700, 2)),
        Problem(700, 2),
        settings=SweepSettings(),
        rng=np.random.default_rng(0),
    )
    folds = await score_folds(contexts, score)
    score.calls.clear()
    found = await exchange_names_in_folds(folds, classes, score)
    assert found.ambiguous is not clear
    assert [len(call) for call in score.calls] == ([128] if clear else [128, 350, 350])
    (asked, *_) = score.calls
    assert {query.target for query in asked} <= set(folds[0].targets.tolist())


def test_the_part_grows_with_the_number_of_labels() -> None:
    assert [asked_first(n_labels) for n_labels in (2, 8, 20)] == [128, 128, 320]


def test_words_that_split_items_otherwise_than_the_labels_are_seen() -> None:
    classes, other = planted_classes(4 * N, 2), planted_classes(4 * N, 2).copy()
    other[::3] = 1 - other[::3]  # a feature that goes with the concept in two of three items
    rng = np.random.default_rng(0)
    found = word_split([effects(other, 3.0 * other, 2.0 * classes + 0.4 * rng.normal(size=4 * N))])
    assert found is not None
    assert found.gain > found.needed
    assert found.differing == pytest.approx(1 / 3, abs=0.02)
    same = word_split([effects(classes, 3.0 * classes, 2.0 * classes + 0.4 * rng.normal(size=256))])
    assert same is not None
    assert same.differing < 0.02
    # Under names the wrong way round they are the same groups.
    exchanged = word_split([effects(1 - classes, 3.0 * classes, 2.0 * classes)])
    assert exchanged is not None
    assert exchanged.differing == 0


def test_items_that_the_words_say_nothing_of_are_in_no_groups() -> None:
    """One normal heap, at many sizes: two groups are hardly ever seen where labels differ."""
    seen = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        n = (32, 64, 128, 512)[seed % 4]
        found = word_split([effects(np.arange(n) % 2, np.arange(n) % 2, rng.normal(size=n))])
        assert found is not None
        seen += found.gain >= found.needed
    assert seen <= 5
    few = np.arange(FEWEST_OF_A_SPLIT - 1) % 2
    assert word_split([effects(few, few, 1.0 * few)]) is None
    alike = np.arange(N) % 2
    assert word_split([effects(alike, alike, np.zeros(N))]) is None


def effects(labels: IntArray, taught: NDArray[Any], said: NDArray[Any]) -> Effects:
    """Of two labels, from log-odds in nats."""
    halves = [np.stack([-effect / 2, effect / 2], axis=1) for effect in (taught, said)]
    return Effects(labels, *(half - half.mean(axis=0) for half in halves))
