r"""Another concept: labels that are coherent, and independent of others that are known.

A model may hold several concepts of the same rows, and which one a search ends at can be chance. To
find another, the labels known so far, classes `c`, must say nothing about the new ones:

    C           equally many demos of each label `y` in each class `c`
    s_i(y) <- log P(y | x_i, C) - log mean_{j: c_j = c_i} P(y | x_j, C)

Demos that are balanced over both give the old labels no say in a context, and what is left of it, a
lean of all items of a class, is subtracted. All else is the search as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from icm_client.coherence.calibration import label_bias
from icm_client.coherence.problem import UNLABELLED, Context, FloatArray, IntArray, Query, Score

FEWEST_OF_A_CLASS = 4
"""Items of a class under which its own mean says little: such classes count as one."""


def classes_of(labellings: Sequence[IntArray]) -> IntArray:
    """One class for each combination of labels that items have, shape `[N]`, numbered from 0.

    Args:
        labellings: at least one, each of shape `[N]`; `UNLABELLED` is a label like any other.
    """
    _, classes, counts = np.unique(
        np.stack(labellings), axis=1, return_inverse=True, return_counts=True
    )
    classes = classes.reshape(-1)
    rare = counts[classes] < FEWEST_OF_A_CLASS
    _, numbered = np.unique(np.where(rare, UNLABELLED, classes), return_inverse=True)
    found: IntArray = numbered.reshape(-1).astype(np.int64)
    return found


@dataclass(frozen=True, slots=True)
class WithinClasses:
    """A `Score` without what a context says of all items of a class.

    Attributes:
        score: asks the model.
        classes: shape `[N]`.
    """

    score: Score
    classes: IntArray

    async def __call__(self, queries: Sequence[Query]) -> FloatArray:
        """Log-probs in which all classes lean to the labels alike; NaN where `score` has none.

        Each label's log mean over the queries of the same context and class becomes that over all
        queries of the context. They are normalised no longer.
        """
        raw = await self.score(queries)
        by_context: dict[Context, list[int]] = {}
        for number, query in enumerate(queries):
            by_context.setdefault(query.context, []).append(number)
        levelled = raw.copy()
        for numbers in by_context.values():
            at = np.array(numbers)
            lean = label_bias(raw[at])
            classes = self.classes[[queries[number].target for number in numbers]]
            for one in np.unique(classes):
                of_class = at[classes == one]
                levelled[of_class] += lean - label_bias(raw[of_class])
        return levelled
