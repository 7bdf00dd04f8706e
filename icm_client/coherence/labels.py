"""First labels."""

import numpy as np

from icm_client.coherence.contexts import UNLABELLED
from icm_client.coherence.problem import IntArray


def random_labels(n_items: int, n_labels: int, initial: int, rng: np.random.Generator) -> IntArray:
    """Label `initial` random items at random, each label as often as the others (+-1).

    Returns:
        Shape `[N]`, `UNLABELLED` for all others. At most half of the items are labelled, so that
        the first context leaves items to score.
    """
    labels = np.full(n_items, UNLABELLED, dtype=np.int64)
    first = rng.permutation(n_items)[: max(1, min(initial, n_items // 2))]
    labels[first] = rng.permutation(np.arange(len(first)) % n_labels)
    return labels
