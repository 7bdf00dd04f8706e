import numpy as np
import pytest
from concept_score import ConceptScore, ScriptedScore, planted_classes, towards

from icm_client.coherence.calibration import pointwise_mutual_information
from icm_client.coherence.polarity import NameExchange, exchange_names, exchanges
from icm_client.coherence.problem import Demo, IntArray, Query

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
