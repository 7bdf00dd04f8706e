"""Votes: expectation maximisation by hand, weights, who is contradicted, and McNemar's test."""

from itertools import cycle

import numpy as np
import pytest

from icm_client.stats.votes import (
    HARDLY,
    ROWS_OF_A_LABEL,
    SUREST,
    bounded,
    dawid_skene,
    implied_accuracy,
    majority,
    paired_test,
    standings,
    weight,
    weighted_majority,
)


def labelling(words: str) -> dict[str, str]:
    return {str(row): word for row, word in enumerate(words)}


def noisy(right: np.ndarray, confusion: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    """Labels of one who gives label `l` where `k` is right with probability `confusion[k, l]`."""
    reached = chance.random(len(right))[:, np.newaxis] >= confusion.cumsum(axis=1)[right]
    labels: np.ndarray = np.minimum(reached.sum(axis=1), len(confusion) - 1)
    return labels


def test_one_step_by_hand() -> None:
    """The first two labellings agree on all four rows, the third one with them on two.

    Their first votes are for label 0 in 1, 2/3, 0 and 1/3 of the cases: 2 rows each. Of the label 0
    the first labelling has 1 + 2/3 of 2 rows right, 5/6, and the third one 1 + 1/3, 2/3. So row 1
    has (5/6)^2 (2/3) : (1/6)^2 (1/3) = 50 : 1, and row 2 (5/6)^2 (1/3) : (1/6)^2 (2/3) = 25 : 2.
    """
    votes = np.array([[0, 0, 0], [0, 0, 1], [1, 1, 1], [1, 1, 0]])
    found = dawid_skene(votes, 2, smoothing=0, iterations=1)
    assert found[:, 0] == pytest.approx([50 / 51, 25 / 27, 1 / 51, 2 / 27])


def test_smoothing_by_hand() -> None:
    """With a row of even votes for each label the first has 5/3 + 1/2 of 3 right, not 5/3 of 2."""
    votes = np.array([[0, 0, 0], [0, 0, 1], [1, 1, 1], [1, 1, 0]])
    first, third = (5 / 3 + 1 / 2) / 3, (4 / 3 + 1 / 2) / 3
    for_it, against = first**2 * third, (1 - first) ** 2 * (1 - third)
    found = dawid_skene(votes, 2, smoothing=1, iterations=1)
    assert found[0, 0] == pytest.approx(for_it / (for_it + against))


def test_without_smoothing_a_row_that_no_matrix_allows_has_no_nan() -> None:
    votes = np.array([[0, 0, 0], [1, 1, 1], [2, 2, 2], [0, 1, 2]])
    assert np.isfinite(dawid_skene(votes, 3, smoothing=0)).all()


def test_one_who_errs_in_one_direction_is_believed_in_the_other() -> None:
    """The fourth labelling gives b to half of the a, and hardly ever a to a b: its a says much.

    Two votes of four for a, its own among them, are for a; without it they are not.
    """
    chance = np.random.default_rng(0)
    right = chance.integers(2, size=2000)
    even, leaning = np.array([[0.8, 0.2], [0.2, 0.8]]), np.array([[0.5, 0.5], [0.01, 0.99]])
    given = [noisy(right, one, chance) for one in (even, even, even, leaning)]
    votes = np.stack(given, axis=1)
    found = dawid_skene(votes, 2)[:, 0]
    assert found[(votes == (0, 1, 1, 0)).all(axis=1)].min() > 0.8
    assert found[(votes == (0, 0, 1, 1)).all(axis=1)].max() < 0.8


@pytest.mark.parametrize(
    ("labellings", "n_labels", "leaning", "least"),
    [
        (3, 2, False, -0.5),
        (3, 2, True, -0.5),
        (3, 3, False, -0.5),
        (3, 3, True, 0.5),
        (4, 5, True, 1),
    ],
)
def test_matrices_are_worth_their_rows(
    labellings: int, n_labels: int, leaning: bool, least: float
) -> None:
    """Points of accuracy over a majority, at the fewest rows that they are estimated from.

    Labellings are right for 70 to 95% of the rows. Where wrong labels are even, majorities are as
    good; where some labels are taken for others, matrices see it.
    """
    chance = np.random.default_rng(n_labels)
    gained = []
    for _ in range(40):
        right = chance.integers(n_labels, size=ROWS_OF_A_LABEL * n_labels)
        votes = np.stack(
            [
                noisy(right, _confusion(n_labels, chance, leaning=leaning), chance)
                for _ in range(labellings)
            ],
            axis=1,
        )
        most = np.eye(n_labels)[votes].sum(axis=1)
        most += 1e-6 * chance.random(most.shape)  # ties are drawn
        found = dawid_skene(votes, n_labels).argmax(axis=1)
        gained.append(100 * (np.mean(found == right) - np.mean(most.argmax(axis=1) == right)))
    assert np.mean(gained) > least


def _confusion(n_labels: int, chance: np.random.Generator, *, leaning: bool) -> np.ndarray:
    accuracy = chance.uniform(0.7, 0.95, size=n_labels if leaning else 1) * np.ones(n_labels)
    confusion = np.diag(accuracy)
    for label, right in enumerate(accuracy):
        wrong = np.full(n_labels - 1, 1 / (n_labels - 1))
        if leaning:
            wrong = chance.dirichlet(np.full(n_labels - 1, 0.5))
        confusion[label, np.arange(n_labels) != label] = (1 - right) * wrong
    return confusion


def test_the_accuracy_that_a_coherence_implies() -> None:
    assert implied_accuracy(0.5, 2) == pytest.approx(0.88997, abs=1e-5)  # h(0.11) is half a bit
    assert implied_accuracy(0, 3) == implied_accuracy(-0.2, 3) == 1 / 3
    assert implied_accuracy(1, 2) == pytest.approx(SUREST)
    # 4 labels, 0.8 right: 1 - (0.7219 + 0.2 * 1.5850) / 2 bits
    assert implied_accuracy(0.48057, 4) == pytest.approx(0.8, abs=1e-4)


def test_votes_count_by_their_weights() -> None:
    assert weight(0.5, 2) == weight(0.2, 2) == 0
    assert weight(0.9, 2) == pytest.approx(np.log(9))
    assert weight(0.5, 3) == pytest.approx(np.log(2))
    weights = np.array([[np.log(9), np.log(3), np.log(2)]])
    found = weighted_majority(np.array([[0, 1, 1]]), weights, 2)
    assert found[0] == pytest.approx([9 / 15, 6 / 15])


def test_no_weight_of_three_is_as_large_as_the_others_together() -> None:
    assert bounded(np.array([6.0, 1.0, 1.0])).tolist() == pytest.approx([1.8, 1, 1])
    assert bounded(np.array([6.0, 1.0])).tolist() == [6, 1]


def test_more_than_half_make_a_majority() -> None:
    found = majority([labelling("aab"), labelling("abc"), labelling("bbd"), labelling("abd")])
    assert found == {"0": "a", "1": "b"}


def _shuffled(words: str, wrong: int, seed: int) -> dict[str, str]:
    """The labelling, with so many labels replaced by the next word's."""
    words_there = sorted(set(words))
    after = dict(zip(words_there, words_there[1:] + words_there[:1], strict=True))
    rows = np.random.default_rng(seed).permutation(len(words))[:wrong].tolist()
    return labelling(
        "".join(after[word] if row in rows else word for row, word in enumerate(words))
    )


def test_one_that_follows_something_else_is_contradicted_and_the_others_are_not() -> None:
    words = "ab" * 32
    honest = [_shuffled(words, 6, 1), _shuffled(words, 9, 2)]
    found = standings([*honest, _shuffled(words, 32, 3)])
    assert [one is not None and one.contradicted for one in found] == [False, False, True]
    assert not any(one is not None and one.exchanged for one in found)


def test_one_with_exchanged_names_is_not_taken_for_a_deceiver() -> None:
    words = "ab" * 32
    found = standings([_shuffled(words, 6, 1), _shuffled(words, 60, 2), _shuffled(words, 9, 3)])
    assert [one is not None and one.exchanged for one in found] == [False, True, False]
    assert not any(one is not None and one.contradicted for one in found)
    assert found[1] is not None
    assert found[1].with_others.names == {"a": "b", "b": "a"}


def test_two_names_of_five_that_are_exchanged_are_seen() -> None:
    """Most rows agree all the same: the run is far from being contradicted."""
    words = "abcde" * 20
    exchanged = labelling(words.translate(str.maketrans("ab", "ba")))
    found = standings([_shuffled(words, 10, 1), _shuffled(words, 10, 2), exchanged])
    assert found[2] is not None
    assert found[2].exchanged
    assert found[2].with_others.kappa is not None
    assert found[2].with_others.kappa > HARDLY


def test_where_nobody_agrees_nobody_is_contradicted() -> None:
    words = "ab" * 32
    found = standings([_shuffled(words, 32, seed) for seed in (1, 2, 3)])
    assert not any(one is not None and (one.contradicted or one.exchanged) for one in found)


def test_two_have_no_standing() -> None:
    assert standings([labelling("ab"), labelling("ba")]) == (None, None)


@pytest.mark.parametrize(
    ("ours", "theirs", "p"),
    [
        (0, 0, 1.0),
        (3, 3, 1.0),
        (5, 0, 2 / 2**5),
        (8, 1, 2 * (1 + 9) / 2**9),
        (2, 6, 2 * (1 + 8 + 28) / 2**8),
    ],
)
def test_mcnemar_by_hand(ours: int, theirs: int, p: float) -> None:
    right = labelling("a" * 20)
    first = labelling("a" * ours + "b" * theirs + "a" * (20 - ours - theirs))
    second = labelling("b" * ours + "a" * (20 - ours))
    found = paired_test(first, second, right)
    assert (found.first, found.second) == (ours, theirs)
    assert found.p == pytest.approx(p)


def test_only_rows_whose_label_is_known_are_compared() -> None:
    found = paired_test(labelling("aaaa"), labelling("bbbb"), {"1": "a", "2": "c"})
    assert (found.first, found.second) == (1, 0)


def test_a_test_of_many_rows_ends() -> None:
    words = "".join(word for word, _ in zip(cycle("ab"), range(20_000), strict=False))
    first, second = labelling(words), labelling(words[::-1])
    assert paired_test(first, second, labelling("a" * 20_000)).p == pytest.approx(1)
