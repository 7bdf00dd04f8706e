"""The objective `U(D) = alpha * P(D) - I(D)` (paper, section 2.1)."""
# ruff: noqa: N803, E741 - the symbols are the paper's

from collections.abc import Callable
from hashlib import blake2b

import numpy as np

from icm_client.coherence.constraints import inconsistent_pairs
from icm_client.coherence.leave_one_out import Layout, queries
from icm_client.coherence.problem import Constraint, FloatArray, IntArray, Score

Predictability = Callable[[FloatArray, IntArray], float]
"""`P(D)` from log-probs, shape `[n, K]`, nats, of labelled items and their labels, shape `[n]`."""


def mutual_predictability(log_probs: FloatArray, labels: IntArray) -> float:
    r"""`P(D) = sum_i log P(y_i | x_i, D \ (x_i, y_i))`, nats; 0 where nothing is labelled.

    Args:
        log_probs: shape `[n, K]`, nats, of the labelled items, each given all others.
        labels: shape `[n]`, theirs.
    """
    return float(log_probs[np.arange(len(labels)), labels].sum())


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
        score: the only I/O.
        order: as for `queries`.
        layout: as for `queries`.
        max_demos: as for `queries`.
        predictability: what `P` is; 0 where nothing is labelled.
    """

    def __init__(
        self,
        score: Score,
        order: IntArray,
        layout: Layout,
        max_demos: int | None,
        predictability: Predictability = mutual_predictability,
    ) -> None:
        self._score, self._order = score, order
        self._layout: Layout = layout
        self._max_demos, self._predictability = max_demos, predictability
        self._known: dict[bytes, float] = {}

    async def __call__(self, labels: IntArray) -> float:
        """`P(D)` in nats; raises what `score` raises."""
        key = blake2b(labels.tobytes(), digest_size=16).digest()
        if key not in self._known:
            asked = queries(labels, self._order, self._layout, self._max_demos)
            held = labels[[query.target for query in asked]] if asked else labels[:0]
            self._known[key] = (
                self._predictability(await self._score(asked), held) if asked else 0.0
            )
        return self._known[key]
