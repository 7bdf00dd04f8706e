"""What a run may spend: `Budget`, and `BudgetMeter`, which ends the search in time."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Final

from icm_client.errors import InputError
from icm_client.runs.progress import Cost

_TIME_TOLERATED: Final = 1.1
"""Times `max_minutes`, after which even a sweep under way is broken off. Between the two the reads
that a search ends with can still be made."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits on what is spent from when the command begins; answers from the store are free.

    Attributes:
        max_requests: requests for log-probs, retries included.
        max_prompt_tokens: prompt tokens that the server computes; those that it finds in its
            prefix cache are free.
        max_minutes: wall clock; the run stops soon after a tenth more, even within a sweep.

    Raises:
        InputError: a limit that is not over 0.
    """

    max_requests: int | None = None
    max_prompt_tokens: int | None = None
    max_minutes: float | None = None

    def __post_init__(self) -> None:
        """Refuse limits with which nothing could begin."""
        for limit in fields(self):
            value = getattr(self, limit.name)
            if value is not None and not value > 0:
                raise InputError(f"{limit.name} must be over 0, not {value}")


class BudgetMeter:
    """Ends a search before the next sweep would pass a limit.

    A sweep or step is expected to take what the one before it took. A limit is therefore passed by
    what a sweep takes more than the last one, and by the reads that a search ends with. A run that
    goes on does not know what its first sweep beyond the stored ones will take.

    Args:
        budget: the limits.
        cost: what has been spent so far.

    Attributes:
        spent: the limit that has ended the search, in words; None where none has.
    """

    def __init__(self, budget: Budget, cost: Callable[[], Cost]) -> None:
        self.spent: str | None = None
        self._budget = budget
        self._cost = cost
        self._before = (0.0, 0.0, 0.0)

    def __call__(self) -> bool:
        """Whether another sweep or step is too much: the search's `Watch.stop`."""
        cost, budget = self._cost(), self._budget
        now = (float(cost.requests), float(cost.computed_tokens), cost.seconds / 60)
        limits = (budget.max_requests, budget.max_prompt_tokens, budget.max_minutes)
        names = ("requests", "prompt tokens", "minutes")
        for used, before, limit, name in zip(now, self._before, limits, names, strict=True):
            if self.spent is None and limit is not None and 2 * used - before > limit:
                self.spent = f"the limit of {limit:,g} {name}"
        self._before = now
        return self.spent is not None

    def out_of_time(self) -> bool:
        """Whether a sweep or step under way is to be broken off, because its time is over."""
        limit = self._budget.max_minutes
        if limit is None or self._cost().seconds / 60 <= _TIME_TOLERATED * limit:
            return False
        self.spent = self.spent or f"the limit of {limit:,g} minutes"
        return True
