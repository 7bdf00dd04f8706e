"""The objective `U(D) = alpha * P(D) - I(D)` (paper, section 2.1)."""
# ruff: noqa: N803, E741 - the symbols are the paper's

from hashlib import blake2b

import numpy as np

from icm_client.coherence.constraints import Constraint, inconsistent_pairs
from icm_client.coherence.leave_one_out import Layout, queries
from icm_client.coherence.problem import FloatArray, IntArray, Score


def mutual_predictability(log_probs_at_labels: FloatArray) -> float:
    r"""`P(D) = sum_i log P(y_i | x_i, D \ (x_i, y_i))`, nats; 0 where nothing is labelled.

    Args:
        log_probs_at_labels: each labelled item's log-prob at its own label, any shape, nats.
    """
    return float(log_probs_at_labels.sum())


def inconsistency(labels: IntArray, constraint: Constraint) -> int:
    """`I(D) = sum_i sum_j c(x_i, y_i, x_j, y_j)` over ordered pairs, as printed.

    Each unordered pair that contradicts itself counts twice; the authors' released code counts it
    once. With the same `alpha`, a contradiction so weighs double here.

    Args:
        labels: shape `[N]`; `UNLABELLED` items contradict nothing.
        constraint: `c`.
    """
    return 2 * len(inconsistent_pairs(labels, constraint))


def utility(alpha: float, P: float, I: int) -> float:
    """`U(D) = alpha * P(D) - I(D)`."""
    return alpha * P - I


class LeaveOneOut:
    """`P(D)` by one leave-one-out pass over the labelled items, made once a labelling.

    Args:
        score: the only way out.
        order: shape `[N]`, the permutation that contexts are laid out by.
        layout: as for `queries`.
        max_demos: as for `queries`.
    """

    def __init__(
        self, score: Score, order: IntArray, layout: Layout, max_demos: int | None
    ) -> None:
        self._score, self._order = score, order
        self._layout, self._max_demos = layout, max_demos
        self._known: dict[bytes, float] = {}

    async def __call__(self, labels: IntArray) -> float:
        """`P(D)` in nats; raises what `score` raises."""
        key = blake2b(labels.tobytes(), digest_size=16).digest()
        if key not in self._known:
            asked = queries(labels, self._order, self._layout, self._max_demos)
            held = labels[[query.target for query in asked]]
            scores = await self._score(asked) if asked else np.zeros((0, 1))
            self._known[key] = mutual_predictability(scores[np.arange(len(asked)), held])
        return self._known[key]
