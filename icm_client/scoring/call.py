"""One call of a scorer: its questions, what became of them, and which items made them fail.

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

IN_A_ROW: Final = 8
"""So many reads that fail alone, without an answer to any other between them, raise the question
whether the server is to blame."""

SLOW_IN_A_ROW: Final = 3
"""So do so many requests, whatever their size, that the server let fail for minutes."""

_OF_READS = (RequestRefused, MalformedAnswer, EndpointFault, EndpointTimeout, ScoreError)
_OF_ALL = (AuthenticationRefused, ModelNotFound)
_SLOW = (EndpointFault, EndpointTimeout)

Failure = EndpointError | ScoreError


@dataclass(slots=True)
class ScorerStats:
    """Running totals over a scorer's calls, in reads.

    Attributes:
        asked: answered by the server.
        from_store: answered by the store.
        checked: stored answers that were compared with the server's. The reads that this took do
            not count as `asked`.
    """

    asked: int = 0
    from_store: int = 0
    checked: int = 0


@dataclass(slots=True)
class Call:
    """Different questions, and what became of them.

    Attributes:
        questions: what is asked.
        needed: for each query, the indices of its questions.
        missing: the indices of those that are still to be asked.
        known: the answers of others, by index.
        failed: why others failed alone, by index.
        from_store: how many answers the store had.
        answered: whether the server answered any.
        trusted: whether the server was found to answer what it answered before: only lone reads
            count as failures from then on. Else groups that each hold a read that fails would
            raise the same question for ever.
        aside: whether it is asked to find out what failed, and does not count as progress.
    """

    questions: list[Question]
    needed: list[list[int]]
    missing: set[int]
    known: dict[int, Answer] = field(default_factory=dict)
    failed: dict[int, Failure] = field(default_factory=dict)
    from_store: int = 0
    answered: bool = False
    trusted: bool = False
    aside: bool = False

    def failure(self, query: int) -> Failure | None:
        """Return why one of the query's questions failed; None where none has."""
        return next((self.failed[n] for n in self.needed[query] if n in self.failed), None)


def is_about_reads(error: BaseException) -> bool:
    """Whether another request may fare better while this one fails.

    A refusal (400, 422), an answer that is malformed or holds no score, a 5xx and a time-out may be
    due to this prompt. A server that is not there (`EndpointUnreachable`), is too busy
    (`EndpointOverloaded`), asks for a key, lacks the model, has another one or cuts prompts without
    saying so fails for all.
    """
    if isinstance(error, PromptTooLong) and error.cut:
        return False
    return isinstance(error, _OF_READS) and not isinstance(error, _OF_ALL)


class Streak:
    """Requests that failed since the server last answered."""

    def __init__(self) -> None:
        self._alone = 0
        self._slow = 0

    def answered(self) -> None:
        """Record an answer."""
        self._alone = self._slow = 0

    def failed(self, error: IcmError, n_reads: int, *, trusted: bool) -> None:
        """Record a request of so many reads (0: a prefix) that failed for good."""
        self._alone += n_reads == 1
        self._slow += isinstance(error, _SLOW) and not trusted

    @property
    def is_suspicious(self) -> bool:
        """Whether so many failed in a row that the server may be to blame."""
        return self._alone >= IN_A_ROW or self._slow >= SLOW_IN_A_ROW


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
    """Return the items that made `failing` fail, from how each fares zero-shot.

    A target that fails zero-shot is to blame; else those of its demos that fail zero-shot; else the
    target, which then fails given these demos only.

    Args:
        failing: queries that failed, and why; at least one.
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
        spoilt = {
            demo.item: why for demo in query.context if (why := found.get(demo.item)) is not None
        }
        if (own := found[query.target]) is not None:
            blamed.setdefault(query.target, FailedItem(own, alone=True, as_demo=False))
        elif not spoilt:
            blamed.setdefault(query.target, FailedItem(error, alone=False, as_demo=False))
        else:
            blamed |= {item: FailedItem(why, True, True) for item, why in spoilt.items()}
    return dict(sorted(blamed.items()))
