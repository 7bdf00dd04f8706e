"""What a run may spend: it ends between two sweeps or steps with the best labels so far.

Where a sweep takes much longer than the one before it, as at a server that asks to wait, a run that
is out of time is broken off within it.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Final

from icm_client.errors import InputError
from icm_client.runs.progress import Cost

_GRACE: Final = 1.1
"""A sweep is broken off at so many times the limit: scores that a search ends with may pass it."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits on what is spent from when the command begins; answers from the store are free.

    Attributes:
        max_requests: requests for log-probs, retries included.
        max_prompt_tokens: prompt tokens that the server computes; those that it finds in its
            prefix cache are free.
        max_minutes: wall clock; whatever is under way, the run stops soon after a tenth more.

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
    """Says when a search has to end, so that the next sweep does not pass a limit.

    A sweep or step is expected to take what the one before it took. So a limit is passed by what a
    sweep takes more than the last one, and by the scores that a search ends with. A run that goes
    on does not know what its first sweep beyond the stored ones will take.

    Args:
        budget: the limits.
        cost: what has been spent so far.
    """

    def __init__(self, budget: Budget, cost: Callable[[], Cost]) -> None:
        self._budget = budget
        self._cost = cost
        self._before = (0.0, 0.0, 0.0)
        self._words: str | None = None

    @property
    def spent(self) -> str | None:
        """Which limit has ended the search, in words; None where none has."""
        return self._words

    def __call__(self) -> bool:
        """Be the search's `stop`: whether another sweep or step is too much."""
        cost, budget = self._cost(), self._budget
        now = (float(cost.requests), float(cost.computed_tokens), cost.seconds / 60)
        limits = (budget.max_requests, budget.max_prompt_tokens, budget.max_minutes)
        names = ("requests", "prompt tokens", "minutes")
        for spent, before, limit, name in zip(now, self._before, limits, names, strict=True):
            if self._words is None and limit is not None and 2 * spent - before > limit:
                self._words = f"the limit of {limit:,g} {name}"
        self._before = now
        return self._words is not None

    def out_of_time(self) -> bool:
        """Whether a sweep or step is to be broken off, because time has passed its limit."""
        limit = self._budget.max_minutes
        if limit is None or self._cost().seconds / 60 <= _GRACE * limit:
            return False
        self._words = self._words or f"the limit of {limit:,g} minutes"
        return True
