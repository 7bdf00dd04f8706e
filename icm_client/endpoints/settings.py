"""What a user may set about the way to a server."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from icm_client.errors import InputError

BACKGROUND_PRIORITY: Final = 100
"""vLLM serves lower numbers first; 0 is what everybody has who sends none."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long a request is tried.

    Attributes:
        attempts: at most this many, the first included.
        attempt_timeout_s: deadline of one attempt, its body included, in seconds.
        item_timeout_s: the attempts and the waits between them take no longer than this together,
            in seconds. The time in which a request waits for its turn here does not count.
        initial_wait_s: the first wait is drawn from 0 to this; the range doubles each time.
        maximum_wait_s: the range's end.
        retry_after_cap_s: the longest wait that a server may ask for with Retry-After.
        bad_answers: attempts end with this many answers that came and are none (MalformedAnswer,
            ScoreNotFinite): a server that is up gives most of them again.
    """

    attempts: int = 20
    attempt_timeout_s: float = 120.0
    item_timeout_s: float = 600.0
    initial_wait_s: float = 1.0
    maximum_wait_s: float = 30.0
    retry_after_cap_s: float = 60.0
    bad_answers: int = 3


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request failed, and will be sent again.

    Attributes:
        seconds: until then.
        reason: what went wrong, fit to be shown.
        attempt: how many have failed.
        asked_by_server: whether the server named the time (Retry-After).
    """

    seconds: float
    reason: str
    attempt: int
    asked_by_server: bool


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


WireEvent = Waiting | LimitChange


@dataclass(frozen=True, slots=True)
class GoodNeighbour:
    """How a server that others use too is spared.

    Attributes:
        queue: requests that may wait in the server, ours and others'. Its `/metrics` is asked
            every `TransportSettings.metrics_interval_s`; a server without one is not spared so.
        priority: sent to vLLM with every request for log-probs. A server without
            `--scheduling-policy priority` knows no other than 0.
    """

    queue: int = 4
    priority: int = BACKGROUND_PRIORITY

    def __post_init__(self) -> None:
        """Refuse a queue that cannot be; raises `InputError`."""
        if self.queue < 0:
            raise InputError(f"the server's queue cannot be kept under {self.queue} requests")


@dataclass(frozen=True, slots=True)
class TransportSettings:
    """What a user may set about the way to a server.

    Attributes:
        retry: how long a request is tried.
        max_in_flight: requests on the wire at the same time, at most; never more than half of the
            descriptors that this process may open.
        min_in_flight: what refusals lower that number to, at most.
        start_in_flight: where it begins.
        good_neighbour: how others are spared; None takes what the server gives.
        metrics_interval_s: how often the length of the server's queue is asked for, in seconds.
        identity_interval_s: how often the server is asked whether it still serves the same model,
            in seconds; it is asked after every sign of a restart as well.
        max_body_bytes: an answer longer than this is refused unread.
        connect_timeout_s: deadline for a TCP and TLS connection, in seconds.
        observe: called with what a user may want to see and a journal to keep: every wait before a
            repetition, every change of the limit. Be quick, and do not raise.
        stopping: once it says so, nothing is repeated any more, no wait goes on, and what waits for
            its turn is not sent: `RunStopped`.
    """

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    max_in_flight: int = 256
    min_in_flight: int = 1
    start_in_flight: int = 4
    good_neighbour: GoodNeighbour | None = None
    metrics_interval_s: float = 2.0
    identity_interval_s: float = 60.0
    max_body_bytes: int = 256 * 1024 * 1024
    connect_timeout_s: float = 10.0
    observe: Callable[[WireEvent], None] | None = None
    stopping: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        """Refuse bounds that are none; raises `InputError`."""
        if not 1 <= self.min_in_flight <= self.max_in_flight:
            raise InputError(
                f"at least {self.min_in_flight} and at most {self.max_in_flight} requests in "
                "flight is no range; both are at least 1"
            )
