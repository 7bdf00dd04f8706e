"""Which items are asked about: names first, then the uncertain ones, none that read alike."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icm_client.coherence.asking import SURE, order_to_ask
from icm_client.coherence.calibration import log_softmax
from icm_client.coherence.problem import UNLABELLED, FloatArray, IntArray


def unlike(items: IntArray) -> FloatArray:
    """No item is like another."""
    return np.zeros((len(items), 1))


def of_log_odds(*log_odds: float) -> tuple[FloatArray, IntArray, IntArray]:
    """Log-probs, labels and no answers for items with these log-odds of label 1."""
    scores = np.stack([np.zeros(len(log_odds)), np.array(log_odds)], axis=1)
    return log_softmax(scores), scores.argmax(axis=1), np.full(len(log_odds), UNLABELLED)


ODDS = (-5.0, 0.1, 4.0, -0.3, 2.0, -3.0, 0.6, -1.0, 3.0, 5.0)


def test_sure_items_of_each_label_come_first_and_then_the_uncertain_ones() -> None:
    chosen = order_to_ask(*of_log_odds(*ODDS), 8, unlike)
    assert [one.item for one in chosen] == [0, 9, 1, 3, 6, 7, 4, 5]
    assert [one.why for one in chosen] == ["names"] * 2 + ["uncertain"] * 6
    assert [one.rival for one in chosen[:2]] == [1, 0]


def test_a_label_that_answers_are_known_of_needs_no_sure_ones() -> None:
    log_probs, labels, answers = of_log_odds(*ODDS)
    answers[[0, 5, 1]] = 0  # the last one was found to be label 1
    chosen = order_to_ask(log_probs, labels, answers, 4, unlike)
    assert [one.item for one in chosen] == [9, 3, 6, 7]
    answers[2], answers[4] = 1, 1
    chosen = order_to_ask(log_probs, labels, answers, 20, unlike)
    assert [one.item for one in chosen] == [3, 6, 7, 8, 9], "all that nobody was asked about"


def test_of_many_labels_half_of_the_budget_is_left_for_uncertain_items() -> None:
    scores = np.eye(5)[np.arange(60) % 5] * np.linspace(1, 6, 60)[:, np.newaxis]
    labels = scores.argmax(axis=1)
    nobody = np.full(60, UNLABELLED)
    for budget, sure in ((20, 5 * SURE), (12, 5), (10, 5), (3, 3)):
        chosen = order_to_ask(log_softmax(scores), labels, nobody, budget, unlike)
        assert len(chosen) == budget
        assert sum(one.why == "names" for one in chosen) == sure
        assert len({int(labels[one.item]) for one in chosen[:5]}) == min(budget, 5)


def test_a_label_held_against_the_scores_is_asked_about_before_others() -> None:
    """A rule may leave an item a label that is not its likeliest: no answer corrects more."""
    log_probs, labels, answers = of_log_odds(*ODDS)
    labels[8] = 0
    chosen = order_to_ask(log_probs, labels, answers, 8, unlike)
    assert (chosen[2].item, chosen[2].rival) == (8, 1)


def test_what_has_no_score_is_never_asked_about() -> None:
    log_probs, labels, answers = of_log_odds(*ODDS)
    log_probs[[1, 9]] = np.nan
    chosen = order_to_ask(log_probs, labels, answers, 20, unlike)
    assert {one.item for one in chosen} == set(range(10)) - {1, 9}


def test_an_item_that_reads_like_one_asked_about_waits_until_all_others_were() -> None:
    kinds = np.array([0, 1, 2, 1, 3, 4, 1, 5, 6, 7])

    def by_kind(items: IntArray) -> FloatArray:
        vectors: FloatArray = np.eye(8)[kinds[items]]
        return vectors

    log_probs, labels, answers = of_log_odds(*ODDS)
    chosen = order_to_ask(log_probs, labels, answers, 10, by_kind)
    assert [one.item for one in chosen] == [0, 9, 1, 7, 4, 5, 8, 2, 3, 6]
    assert [one.alike for one in chosen] == [0, 0, 2, 0, 0, 0, 0, 0, 1, 0]
    answers[1] = 1
    chosen = order_to_ask(log_probs, labels, answers, 5, by_kind)
    assert 3 not in [one.item for one in chosen], "it reads like the answered one"


@given(st.integers(2, 4), st.integers(1, 40), st.integers(1, 30), st.integers(0, 1000))
def test_it_asks_about_as_many_as_it_may_and_about_none_twice(
    n_labels: int, n_items: int, budget: int, seed: int
) -> None:
    chance = np.random.default_rng(seed)
    log_probs = log_softmax(chance.normal(size=(n_items, n_labels)))
    labels = chance.integers(n_labels, size=n_items)
    answers = np.where(
        chance.random(n_items) < 0.3, chance.integers(n_labels, size=n_items), UNLABELLED
    )

    def vectors(items: IntArray) -> FloatArray:
        of_all: FloatArray = np.eye(4)[np.arange(n_items) * 7 % 4]
        return of_all[items]

    asked = [one.item for one in order_to_ask(log_probs, labels, answers, budget, vectors)]
    free = np.flatnonzero(answers == UNLABELLED)
    assert len(asked) == len(set(asked)) == min(budget, len(free))
    assert set(asked) <= set(free.tolist())


def test_a_hundred_thousand_items_are_no_burden() -> None:
    """Only some of them are compared with one another."""
    log_probs, labels, answers = of_log_odds(*np.linspace(-5, 5, 100_000))
    compared = []

    def vectors(items: IntArray) -> FloatArray:
        compared.append(len(items))
        return np.zeros((len(items), 512))

    assert len(order_to_ask(log_probs, labels, answers, 20, vectors)) == 20
    assert compared == [pytest.approx(4224)]
