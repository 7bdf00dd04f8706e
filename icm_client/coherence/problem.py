"""The words that the method and the rest of the program share: queries, scores, problems.

Items and labels are indices here: item `i` is the i-th row, label `k` the k-th label word. What
they say, how they become prompts and who answers is none of this package's business.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


class Demo(NamedTuple):
    """An item with its label, as it stands in a context."""

    item: int
    label: int


Context = tuple[Demo, ...]


class Query(NamedTuple):
    """`P(y | x_target, context)` is asked for every label `y`; the target is not in the context."""

    context: Context
    target: int


Stop = Callable[[], bool]
"""Asked between sweeps or steps whether the search is to end with what it has."""


def never() -> bool:
    """Go on until the search ends by itself."""
    return False


class Score(Protocol):
    """The one door out of the method: label log-probs after a context and a target."""

    async def __call__(self, queries: Sequence[Query]) -> FloatArray:
        """Log-probs in nats, shape `[len(queries), K]`, each row `log P(y | x, context)`.

        Rows need not sum to one: what is missing is probability the model gives to text that is
        no label. A row of NaN stands for an item that cannot be scored. Raises `ScoreError` or
        `EndpointError`; it never returns a made-up number.
        """
        ...
