"""How many requests a second to send to a server that refuses even one at a time.

A gateway that counts requests (nginx's `limit_req`, an account's quota) says only yes or no. So the
pace climbs until a request is refused, is cut, and climbs again in smaller steps. Once it is near
the limit, about one request in sixty is refused. Where the limit is lifted, the steps grow again.
Pure: no clock, no tasks. Times are seconds on any monotonic clock.
"""

from collections import deque
from typing import Final

_STEPS: Final = (0.001, 0.1)
"""The least and the most by which a request raises the pace, as a fraction of it."""

_FINER: Final = 3.0
_COARSER: Final = 1.1
_BEYOND: Final = 1.1
"""A pace so many times the one that was refused last shows that the limit was lifted."""

_CUT_IN_STEPS: Final = 60
_DEEPEST_CUT: Final = 0.25
_CUT_AGAIN: Final = 0.15
_SOON: Final = 8
"""A refusal within so many requests shows that the pace is too high, and not by how much."""

_UNKNOWN_A_SECOND: Final = 1.0
_COUNTED: Final = 32
_COUNTED_S: Final = 10.0


class Pace:
    """The distance between two requests. There is none until `begin`.

    Attributes:
        a_second: requests a second; None where any number may be sent.
    """

    def __init__(self) -> None:
        self.a_second: float | None = None
        self._refused_a_second = 0.0
        self._begun_a_second = 0.0  # after the last cut
        self._step = _STEPS[1]
        self._soon = False  # whether the last cut came soon after the one before
        self._sent = 0  # since the last cut, those that did not have to wait left out
        self._next_at = 0.0
        self._answered_at: deque[float] = deque(maxlen=_COUNTED)

    def due_s(self, now: float) -> float:
        """Seconds until the next request may be sent, at least 0."""
        return 0.0 if self.a_second is None else max(0.0, self._next_at - now)

    def sent(self, now: float, *, waited: bool) -> None:
        """Count a request; `waited`: the pace held it back."""
        if self.a_second is None:
            return
        if waited:
            self._sent += 1
            self.a_second *= 1 + self._step
            if self.a_second > _BEYOND * self._refused_a_second:
                self._step = min(self._step * _COARSER, _STEPS[1])
        self._next_at = now + 1 / self.a_second

    def answered(self, now: float) -> None:
        """Count an answer."""
        self._answered_at.append(now)

    def begin(self, now: float) -> None:
        """Keep a pace from now on: that of the latest answers."""
        times = [at for at in self._answered_at if now - at <= _COUNTED_S]
        known = len(times) > 1
        self.a_second = len(times) / max(now - times[0], 1e-3) if known else _UNKNOWN_A_SECOND
        self._refused_a_second = self._begun_a_second = self.a_second
        self._step, self._sent = _STEPS[1], 0
        self._next_at = now + 1 / self.a_second

    def cut(self, now: float) -> None:
        """Slow down: a request at this pace was refused."""
        if self.a_second is None:
            return
        soon = self._sent <= _SOON
        depth = _CUT_AGAIN if soon and self._soon else 0.0
        self._soon = soon
        if not soon:
            self._step = max(self._step / _FINER, _STEPS[0])
            self._refused_a_second = self.a_second
        else:  # the first may pass as a burst: the pace was too high from the beginning
            self._refused_a_second = self._begun_a_second
        depth = max(depth, min(_CUT_IN_STEPS * self._step, _DEEPEST_CUT))
        self.a_second = self._refused_a_second * (1 - depth)
        self._begun_a_second, self._sent = self.a_second, 0
        self._next_at = now + 1 / self.a_second

    def end(self) -> None:
        """Keep no pace any more."""
        self.a_second = None
