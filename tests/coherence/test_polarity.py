from collections.abc import Sequence

import numpy as np
import pytest
from concept_score import ConceptScore, ScriptedScore, planted_classes, towards

from icm_client.coherence.calibration import log_softmax, pointwise_mutual_information
from icm_client.coherence.fold_scores import score_folds
from icm_client.coherence.polarity import (
    NameExchange,
    exchange_names,
    exchange_names_in_folds,
    exchanges,
)
from icm_client.coherence.problem import Demo, FloatArray, IntArray, Query

N = 64


async def exchange(score: ConceptScore | ScriptedScore, labels: IntArray) -> NameExchange:
    """Exchange names in a context of the first half, for targets of the second."""
    context = tuple(Demo(i, int(labels[i])) for i in range(N // 2))
    targets = np.arange(N // 2, N)
    log_probs = await score([Query(context, int(i)) for i in targets])
    calibrated = pointwise_mutual_information(log_probs)
    return await exchange_names(context, targets, calibrated, labels, score)


def test_two_labels_have_one_exchange_and_more_have_one_each() -> None:
    assert exchanges(2) == [(1, 0)]
    assert exchanges(3) == [(1, 0, 2), (0, 2, 1), (2, 1, 0)]
    for names in exchanges(5):
        assert [names[names[k]] for k in range(5)] == list(range(5))  # its own inverse


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


async def test_the_context_is_renamed_and_the_targets_are_the_same() -> None:
    classes = planted_classes(N, 3)
    score = ConceptScore(classes, 3)
    await exchange(score, classes)
    (asked, *renamed) = score.calls
    assert len(renamed) == 3
    for names, queries in zip(exchanges(3), renamed, strict=True):
        assert [query.target for query in queries] == [query.target for query in asked]
        for query in queries:
            assert query.context == tuple(
                Demo(demo.item, names[demo.label]) for demo in asked[0].context
            )


async def test_of_several_exchanges_the_most_coherent_is_told() -> None:
    classes = planted_classes(N, 3)
    # Call 0 is as found; call 2 is the second exchange, (0, 2, 1), which fits best.
    sharp = {0: 3.0, 1: 0.1, 2: 2.0, 3: 0.1}
    renamed = [list(range(3)), *map(list, exchanges(3))]
    score = ScriptedScore(lambda n: towards(np.asarray(renamed[n])[classes], 3, sharp[n]))
    found = await exchange(score, classes)
    assert found.names == (0, 2, 1)
    assert found.utility > found.exchanged_utility > 0


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
