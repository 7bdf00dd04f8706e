"""What a user may set about the way to a server."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long a request is tried.

    Attributes:
        attempts: at most this many, the first included.
        attempt_timeout_s: deadline of one attempt, its body included, in seconds.
        item_timeout_s: no attempt starts later than this after the first one began, in seconds.
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
class TransportSettings:
    """What a user may set about the way to a server.

    Attributes:
        retry: how long a request is tried.
        max_in_flight: requests on the wire at the same time.
        max_body_bytes: an answer longer than this is refused unread.
        connect_timeout_s: deadline for a TCP and TLS connection, in seconds.
    """

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    max_in_flight: int = 32
    max_body_bytes: int = 256 * 1024 * 1024
    connect_timeout_s: float = 10.0
