import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from icm_client.coherence.contexts import UNLABELLED
from icm_client.coherence.labels import random_labels


@given(st.integers(2, 100), st.integers(2, 5), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_few_items_are_labelled_each_label_as_often_as_the_others(
    n: int, n_labels: int, initial: int, seed: int
) -> None:
    labels = random_labels(n, n_labels, initial, np.random.default_rng(seed))
    assert labels.shape == (n,)
    counts = np.bincount(labels[labels != UNLABELLED], minlength=n_labels)
    assert len(counts) == n_labels
    assert 1 <= counts.sum() == max(1, min(initial, n // 2))
    assert counts.max() - counts.min() <= 1


def test_which_items_and_which_labels_is_chance() -> None:
    drawn = [random_labels(20, 2, 8, np.random.default_rng(seed)) for seed in range(30)]
    assert len({labels.tobytes() for labels in drawn}) == 30
    assert {int(label) for labels in drawn for label in labels[:1]} == {UNLABELLED, 0, 1}
