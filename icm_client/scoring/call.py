"""One call of a scorer: its reads, what becomes of them, and who is to blame where they fail.

A request that failed for good has been repeated by the endpoint for as long as that may help. If
what it asked is to blame, the others go on: a group is split down to the reads that fail alone. If
the server is, nothing goes on.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from icm_client.coherence.problem import Query
from icm_client.endpoints.protocol import Answer
from icm_client.errors import (
    AuthenticationRefused,
    EndpointError,
    EndpointFault,
    EndpointTimeout,
    IcmError,
    MalformedAnswer,
    ModelNotFound,
    PromptTooLong,
    RequestRefused,
    ScoreError,
)
from icm_client.scoring.prompts import Question


class ScoringProgress(NamedTuple):
    """How far one call of a scorer is, in reads.

    Attributes:
        done: reads with an answer, those from the store included.
        total: different reads that the call needs.
        from_store: reads that the store had.
    """

    done: int
    total: int
    from_store: int


IN_A_ROW: Final = 8
"""Reads that failed alone, without an answer to any other between them, that raise the question
whether the server is to blame."""

SLOW_IN_A_ROW: Final = 3
"""The same of requests that the server let fail for minutes, whatever their size."""

_OF_READS = (RequestRefused, MalformedAnswer, EndpointFault, EndpointTimeout, ScoreError)
_OF_ALL = (AuthenticationRefused, ModelNotFound)
_SLOW = (EndpointFault, EndpointTimeout)


def is_about_reads(error: BaseException) -> bool:
    """Whether another request may fare better while this one fails.

    A refusal (400, 422), an answer that is none or holds no score, a 5xx and a time-out may be
    this prompt's. A server that is not there (`EndpointUnreachable`), is too busy
    (`EndpointOverloaded`), asks for a key, lacks the model, has another one or cuts prompts without
    a word is so for all.
    """
    if isinstance(error, PromptTooLong) and error.cut:
        return False
    return isinstance(error, _OF_READS) and not isinstance(error, _OF_ALL)


class Streak:
    """Requests that failed since the server last answered."""

    def __init__(self) -> None:
        self._alone = 0
        self._slow = 0
        self._trusted = False

    def begin(self) -> None:
        """Hear that other reads are asked now."""
        self._trusted = False

    def trust(self) -> None:
        """Hear that the server answers what it answered before: only lone reads count from now on.

        Else groups that each hold a read that fails would raise the same question for ever.
        """
        self._trusted = True
        self.answered()

    def answered(self) -> None:
        """Hear of an answer."""
        self._alone = self._slow = 0

    def failed(self, error: IcmError, n_reads: int) -> None:
        """Hear of a request of so many reads that failed for good; 0 for a prefix sent ahead."""
        self._alone += n_reads == 1
        self._slow += isinstance(error, _SLOW) and not self._trusted

    @property
    def is_suspicious(self) -> bool:
        """Whether so many failed in a row that the server may be to blame."""
        return self._alone >= IN_A_ROW or self._slow >= SLOW_IN_A_ROW


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


@dataclass(slots=True)
class Call:
    """Different reads, and what has become of them.

    Attributes:
        reads: what is asked.
        known: their answers, by index.
        failed: those that failed alone, by index.
        from_store: how many the store had.
        heard: whether the server answered any.
        aside: whether it is asked to find out what failed, and no progress.
    """

    reads: list[Question]
    known: dict[int, Answer]
    from_store: int
    failed: dict[int, Failure] = field(default_factory=dict)
    heard: bool = False
    aside: bool = False

    @property
    def missing(self) -> frozenset[int]:
        """Those that are still to be asked."""
        return frozenset(range(len(self.reads))) - self.known.keys() - self.failed.keys()
