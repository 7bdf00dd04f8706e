"""Who is to blame where prompts failed: the target, or a demo in front of it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

from icm_client.coherence.problem import Query
from icm_client.errors import EndpointError, ScoreError

Failure = EndpointError | ScoreError


class FailedItem(NamedTuple):
    """An item that cannot be scored.

    Attributes:
        error: why; the endpoint has repeated what a repetition may heal.
        alone: whether it failed without any demos too.
        as_demo: whether it made the prompts of others fail, in whose context it stood.
    """

    error: Failure
    alone: bool
    as_demo: bool


async def find_blamed(
    failing: Sequence[tuple[Query, Failure]],
    alone: Callable[[Sequence[int]], Awaitable[Mapping[int, Failure | None]]],
) -> dict[int, FailedItem]:
    """Return the items that made `failing` fail, from how each fares alone.

    A target that fails alone is to blame; else the demos in front of it that fail alone; else the
    target, which then fails behind these demos only.

    Args:
        failing: queries that failed, and how; at least one.
        alone: asks about items without a context; its answer holds None for those that have a
            score.

    Returns:
        item -> what is wrong with it, rising.
    """
    found = dict(await alone(sorted({query.target for query, _ in failing})))
    demos = {
        demo.item for query, _ in failing if found[query.target] is None for demo in query.context
    }
    if demos := demos - found.keys():
        found |= await alone(sorted(demos))
    blamed: dict[int, FailedItem] = {}
    for query, error in failing:
        behind = {demo.item: found.get(demo.item) for demo in query.context}
        spoilt = {item: why for item, why in behind.items() if why is not None}
        if (own := found[query.target]) is not None:
            blamed.setdefault(query.target, FailedItem(own, alone=True, as_demo=False))
        elif not spoilt:
            blamed.setdefault(query.target, FailedItem(error, alone=False, as_demo=False))
        else:
            blamed |= {item: FailedItem(why, True, True) for item, why in spoilt.items()}
    return dict(sorted(blamed.items()))
