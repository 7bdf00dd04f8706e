"""How many requests a server is sent at a time. Pure: no sockets, no clock, no tasks.

The limit doubles while that goes well, as a TCP connection's window does in slow start (RFC 5681,
3.1), and grows by one a round afterwards. It is halved once an episode when the server answers 429
or 503, and stays where it is while more requests only mean longer waits. Where refusals go on all
the same, requests keep a distance too: see `icm_client.endpoints.pace`.

A round is as many answers as the limit. Times are seconds on any monotonic clock, passed in.
"""

import statistics
from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from icm_client.endpoints.pace import Pace

TOLERANCE: Final = 2.0
"""A round whose median latency is more than this many times the lowest is slower."""

REMEMBERED_ROUNDS: Final = 32
"""How far back the lowest latency is looked for: prompts get longer, and then all are slower."""

_SOON: Final = 16
"""Answers: where a server refuses again after fewer, fewer requests in flight do not help."""


class Why(StrEnum):
    """What changed the limit, or keeps it from growing."""

    DOUBLED = "doubled"
    """The start: a round went well."""

    GREW = "grew"
    """A round went well."""

    REFUSED = "refused"
    """429 or 503."""

    SLOWER = "slower"
    """Held: latency has grown."""

    QUEUE = "queue"
    """Held: the server's queue grows. Lowered: it is longer than a good neighbour lets it be."""


@dataclass(frozen=True, slots=True)
class LimitChange:
    """An entry of the limit's history.

    Attributes:
        at_s: seconds since the limiter was made.
        before: requests in flight that were allowed until now.
        limit: requests in flight that are allowed from now on; `before` where growth has stopped.
        why: the reason.
    """

    at_s: float
    before: int
    limit: int
    why: Why


class InFlightLimiter:
    """The limit, and what it learns from answers, refusals and the server's queue.

    Args:
        minimum: the limit's lower bound, at least 1.
        maximum: its upper bound; equal to `minimum`, the limit never changes.
        start: where it begins; put between the bounds.
        now: the time, seconds.
        queue_limit: requests that may wait in the server, ours and others'; None leaves that to
            the server.

    Attributes:
        limit: requests that may be in flight.

    Raises:
        ValueError: bounds that are none.
    """

    def __init__(
        self,
        *,
        minimum: int,
        maximum: int,
        start: int,
        now: float,
        queue_limit: int | None = None,
    ) -> None:
        if not 1 <= minimum <= maximum:
            raise ValueError(
                f"at least {minimum} and at most {maximum} requests in flight is no range; both "
                "are at least 1"
            )
        self.limit = min(max(start, minimum), maximum)
        self._minimum, self._maximum, self._queue_limit = minimum, maximum, queue_limit
        self._began = now
        self._doubling = True
        self._was_the_limit = False
        self._latencies_s: list[float] = []  # of this round
        self._medians_s: deque[float] = deque(maxlen=REMEMBERED_ROUNDS)
        self._kind = ""
        self._waiting = 0.0  # in the server, when last heard
        self._queue_holds = False
        self._held: Why | None = None
        self._cut_at: float | None = None
        self._in_episode = False
        self._paused_until = now
        self._pace = Pace()
        self._keeps_pace = False  # after the episode too
        self._answers = _SOON  # since the last episode

    @property
    def spacing_s(self) -> float:
        """Seconds between two requests; 0 where they need keep no distance."""
        return 1 / self._pace.a_second if self._pace.a_second is not None else 0.0

    def full(self) -> None:
        """Hear that a request has to wait because of the limit."""
        self._was_the_limit = True

    def paused_s(self, now: float) -> float:
        """Seconds until the next request may be sent, at least 0: a pause asked for, or a pace."""
        return max(0.0, self._paused_until - now, self._pace.due_s(now))

    def sent(self, now: float, *, waited: bool) -> None:
        """Count a request that is sent now.

        Args:
            now: the time.
            waited: whether `paused_s` kept it back.
        """
        # In an episode nothing says that the server bears more.
        self._pace.sent(now, waited=waited and not self._in_episode)

    def answered(self, kind: str, *, sent_at: float, now: float) -> LimitChange | None:
        """Hear of an answer.

        Args:
            kind: of request; latencies of one kind are never compared with another's.
            sent_at: when its request was sent.
            now: when it was there.
        """
        self._pace.answered(now)
        self._answers += 1
        if self._in_episode and (self._cut_at is None or sent_at >= self._cut_at):
            self._in_episode = False
            self._answers = 1
            if not self._keeps_pace:
                self._pace.end()
        if kind != self._kind:
            self._kind = kind
            self._latencies_s.clear()
            self._medians_s.clear()
        self._latencies_s.append(now - sent_at)
        return self._round_ended(now) if len(self._latencies_s) >= self.limit else None

    def refused(
        self, *, sent_at: float, now: float, retry_after_s: float = 0.0
    ) -> LimitChange | None:
        """Hear of a 429 or 503 to a request sent at `sent_at`.

        An episode begins with a cut. It lasts until a request sent after the cut is answered; until
        then the others that are refused say nothing new. In an episode requests keep a distance,
        and afterwards too, if one at a time is too many or the last episode was just now.
        """
        self._paused_until = max(self._paused_until, now + retry_after_s)
        if self._in_episode or (self._cut_at is not None and sent_at < self._cut_at):
            return None
        self._in_episode = True
        self._cut_at = now
        self._keeps_pace |= self.limit == self._minimum or self._answers < _SOON
        if self._pace.a_second is None:
            self._pace.begin(now)
        else:
            self._pace.cut(now)
        return self._lowered(max(self._minimum, self.limit // 2), Why.REFUSED, now)

    def queue(self, waiting: float, now: float) -> LimitChange | None:
        """Hear how many requests wait in the server, ours and others'."""
        grows = waiting > 0 and waiting >= self._waiting
        self._waiting = waiting
        if self._queue_limit is None:
            self._queue_holds = grows
            return None
        self._queue_holds = grows or 2 * waiting > self._queue_limit
        if waiting <= self._queue_limit:
            return None
        # A request may hold many prompts, and those in the queue may be others': half at most.
        excess = max(1, int(waiting - self._queue_limit))
        lowest = max(self._minimum, self.limit // 2)
        return self._lowered(max(lowest, self.limit - excess), Why.QUEUE, now)

    def _round_ended(self, now: float) -> LimitChange | None:
        median_s = statistics.median(self._latencies_s)
        lowest_s = min(self._medians_s, default=median_s)
        self._medians_s.append(median_s)
        self._latencies_s.clear()
        was_the_limit, self._was_the_limit = self._was_the_limit, False
        if not was_the_limit or self.limit == self._maximum:
            return None
        if self._queue_holds:
            return self._hold(Why.QUEUE, now)
        if median_s > TOLERANCE * lowest_s:
            return self._hold(Why.SLOWER, now)
        step, why = (self.limit, Why.DOUBLED) if self._doubling else (1, Why.GREW)
        return self._moved(min(self.limit + step, self._maximum), why, now)

    def _hold(self, why: Why, now: float) -> LimitChange | None:
        """Told once: it is the same every round."""
        self._doubling = False
        if self._held is why:
            return None
        self._held = why
        return LimitChange(now - self._began, self.limit, self.limit, why)

    def _lowered(self, limit: int, why: Why, now: float) -> LimitChange | None:
        self._doubling = False
        self._latencies_s.clear()
        self._was_the_limit = False
        return self._moved(limit, why, now)

    def _moved(self, limit: int, why: Why, now: float) -> LimitChange | None:
        before, self.limit, self._held = self.limit, limit, None
        return None if limit == before else LimitChange(now - self._began, before, limit, why)
