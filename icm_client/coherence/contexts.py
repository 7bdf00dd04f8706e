"""Contexts for folds: no target ever stands in its own context."""

import numpy as np

from icm_client.coherence.problem import Context, Demo, FloatArray, IntArray

UNLABELLED = -1


def split_folds(n_items: int, folds: int, rng: np.random.Generator) -> list[IntArray]:
    """Split the items at random into `folds` parts (at most one an item) of almost equal sizes."""
    parts = np.array_split(rng.permutation(n_items), min(folds, n_items))
    return [part.astype(np.int64) for part in parts]


def draw_demos(
    labels: IntArray,
    pool: IntArray,
    certainty: FloatArray,
    *,
    size: int,
    keep: float,
    n_labels: int,
    rng: np.random.Generator,
) -> Context:
    """Draw at most `size` demos from `pool`, equally many of each label, in random order.

    The label with the fewest candidates sets the share of all, so that a context never tells the
    model that one label is likelier. A label without any candidate is left out.

    Args:
        labels: shape `[N]`, `UNLABELLED` where an item has none; such items are never drawn.
        pool: the items that may be demos.
        certainty: shape `[N]`; only the most certain candidates of each label are drawn from.
        size: the most demos that the context may hold.
        keep: the share of each label's candidates, the most certain ones, to draw from.
        n_labels: `K`.
        rng: decides which items, and their order.
    """
    candidates = []
    for k in range(n_labels):
        members = pool[labels[pool] == k]
        members = members[np.argsort(-certainty[members], kind="stable")]
        candidates.append(members[: int(np.ceil(keep * len(members)))])
    present = [len(members) for members in candidates if len(members)]
    if not present:
        return ()
    share = max(1, min(size // len(present), *present))
    drawn = [
        Demo(int(item), k)
        for k, members in enumerate(candidates)
        for item in rng.permutation(members)[:share]
    ]
    return tuple(drawn[j] for j in rng.permutation(len(drawn))[:size])
