"""Labels that came with the rows, read in the context of each other: one read a row, or a few.

    for c in 1..M:
        split the items in two halves, related ones kept together
        for each half: a context of up to 64 demos of the other half with their given labels,
        equally many of each; s_c(i, y) <- log P(y | x_i, C) - log mean_j P(y | x_j, C)
    s <- mean of s_c

No item stands in the context that it is read in, nor does one that is related to it. So what `s`
says of an item owes nothing to the label that it was given.
"""

from typing import NamedTuple

import numpy as np

from icm_client.coherence.contexts import joined, mean_of_scored, part_contexts, score_folds
from icm_client.coherence.problem import UNLABELLED, FloatArray, Groups, IntArray, Score

FOLDS = 2


class GivenRead(NamedTuple):
    """What the reads say of `N` items.

    Attributes:
        scores: shape `[N, K]`, nats, calibrated; NaN where an item has no score.
        parts: shape `[N]`; items of one number were read in the same contexts.
    """

    scores: FloatArray
    parts: IntArray


async def read_given(
    given: IntArray,
    n_labels: int,
    related: Groups,
    score: Score,
    *,
    demos: int,
    contexts: int,
    rng: np.random.Generator,
) -> GivenRead:
    """Read every item that has a given label.

    Args:
        given: shape `[N]`, `UNLABELLED` where an item has none: it is neither read nor shown.
        n_labels: `K`.
        related: disjoint groups of items, of which no one is read given another.
        score: the only I/O.
        demos: the most in a context.
        contexts: `M`, how often each item is read.
        rng: draws halves and demos.

    Raises:
        EndpointError, ScoreError: whatever `score` raises.
    """
    shape, read = (len(given), n_labels), []
    parts = np.zeros(len(given), dtype=np.int64)
    for _ in range(contexts):
        shown = part_contexts(given, related, folds=FOLDS, size=demos, n_labels=n_labels, rng=rng)
        labelled = [(context, part[given[part] != UNLABELLED]) for context, part in shown]
        read.append(joined(await score_folds(labelled, score), shape)[0])
        for number, (_, part) in enumerate(shown):
            parts[part] = FOLDS * parts[part] + number
    return GivenRead(mean_of_scored(read), parts)
