import numpy as np
import pytest

from icm_client.coherence.label_names import (
    Effects,
    best_other_names,
    contrast,
    rotations,
    separate,
)


def test_under_the_rotations_every_label_has_every_name_once() -> None:
    assert rotations(2) == [(1, 0)]
    assert rotations(3) == [(1, 2, 0), (2, 0, 1)]
    for k in range(5):
        assert sorted([k, *(names[k] for names in rotations(5))]) == list(range(5))


def test_two_labels_by_hand() -> None:
    # Log-odds of label 1 behind the names as they are: 3 and -1; exchanged: 1 and -3. Half the
    # differences, 1 and 1, are what demos teach; half the sums, 2 and -2, what words say. Less the
    # means over the items, 1 and 0, that leaves 0, 0 and 2, -2: as centred pairs +-0 and +-1.
    scores = np.array([[[0.0, 3.0], [0.0, -1.0]], [[0.0, 1.0], [0.0, -3.0]]])
    parts = separate(np.array([1, 0]), scores)
    np.testing.assert_allclose(parts.taught, 0)
    np.testing.assert_allclose(parts.said, [[-1, 1], [1, -1]])


@pytest.mark.parametrize("n_labels", [2, 3, 5])
def test_what_is_put_together_is_taken_separate(n_labels: int) -> None:
    chance = np.random.default_rng(n_labels)
    taught, said = chance.normal(size=(2, 40, n_labels))
    ways = [tuple(range(n_labels)), *rotations(n_labels)]
    scores = np.stack([taught[:, np.argsort(names)] + said for names in ways])
    parts = separate(chance.integers(n_labels, size=40), scores)
    for found, planted in ((parts.taught, taught), (parts.said, said)):
        centred = planted - planted.mean(axis=1, keepdims=True)
        np.testing.assert_allclose(found, centred - centred.mean(axis=0))


@pytest.mark.parametrize("names", [(1, 0, 2), (1, 2, 0)])
def test_the_pull_is_what_words_move_for_each_nat_of_the_demos(names: tuple[int, ...]) -> None:
    chance = np.random.default_rng(0)
    held = np.arange(60) % 3
    taught = 2.0 * np.eye(3)[held] + chance.normal(size=(60, 3)) * 0.2
    for pull, called in ((0.4, np.arange(3)), (-0.4, np.argsort(names))):
        said = 0.4 * taught[:, called] + chance.normal(size=(60, 3)) * 0.01
        ways = [(0, 1, 2), *rotations(3)]
        scores = np.stack([taught[:, np.argsort(way)] + said for way in ways])
        parts = [separate(held, scores)]
        found = contrast(parts, names)
        assert found.pull == pytest.approx(pull, abs=0.02)
        assert found.words * pull > 0
        assert abs(found.words) > 15
        assert found.response == 1
        if pull < 0:
            assert best_other_names(parts) == names


def test_words_that_say_nothing_are_within_their_errors() -> None:
    told = []
    for seed in range(200):
        chance = np.random.default_rng(seed)
        held = np.arange(40) % 4
        parts = Effects(held, np.eye(4)[held] - 0.25, chance.normal(size=(40, 4)))
        told.append(contrast([parts], (1, 0, 2, 3)).words)
    assert np.std(told) == pytest.approx(1, abs=0.15)
    assert np.mean(told) == pytest.approx(0, abs=0.25)


def test_too_few_items_of_a_label_say_nothing() -> None:
    held = np.array([0, 0, 0, 0, 0, 1, 1, 1])
    parts = Effects(held, np.eye(2)[held] - 0.5, np.eye(2)[held] - 0.5)
    assert np.isnan(contrast([parts], (1, 0))).all()
    assert contrast([parts, parts], (1, 0)).words > 3
