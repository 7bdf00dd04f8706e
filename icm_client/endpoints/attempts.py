"""How often and how long one item is tried."""

from dataclasses import dataclass

from tenacity import RetryCallState, wait_random_exponential

from icm_client.endpoints.settings import RetryPolicy
from icm_client.errors import (
    EndpointOverloaded,
    IcmError,
    MalformedAnswer,
    Retry,
    ScoreNotFinite,
)


@dataclass(slots=True)
class Item:
    """The attempts at one item: how many were made, and what they took."""

    policy: RetryPolicy
    attempts: int
    made: int = 0
    bad: int = 0
    spent_s: float = 0.0  # on the wire and between attempts; waiting for a turn is not

    def deadline_s(self) -> float:
        """Of the next attempt."""
        left_s = self.policy.item_timeout_s - self.spent_s
        return max(0.001, min(self.policy.attempt_timeout_s, left_s))

    def may_heal(self, error: BaseException) -> bool:
        """Whether the attempt that ended so is worth another."""
        self.bad += isinstance(error, MalformedAnswer | ScoreNotFinite)
        return (
            isinstance(error, IcmError)
            and error.retry is not Retry.NEVER
            and self.bad < self.policy.bad_answers
        )

    def is_over(self, state: RetryCallState) -> bool:
        """Whether there is no attempt left, or no time for one."""
        return (
            self.made >= self.attempts
            or self.spent_s + state.upcoming_sleep >= self.policy.item_timeout_s
        )

    def wait_s(self, state: RetryCallState, spacing_s: float) -> float:
        """Seconds until the next attempt.

        Args:
            state: of the attempts so far.
            spacing_s: seconds that requests keep between them; 0 for none. Where they do, it is
                what a refusal is answered with, and a long wait besides would leave gaps.
        """
        policy = self.policy
        error = state.outcome.exception() if state.outcome else None
        paced = spacing_s > 0 and isinstance(error, EndpointOverloaded)
        drawn = wait_random_exponential(
            multiplier=min(policy.initial_wait_s, 2 * spacing_s)
            if paced
            else policy.initial_wait_s,
            max=policy.maximum_wait_s,
        )(state)
        asked = error.retry_after_s if isinstance(error, EndpointOverloaded) else None
        return max(drawn, min(asked or 0.0, policy.retry_after_cap_s))
