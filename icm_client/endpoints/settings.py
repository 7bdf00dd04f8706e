"""What a user may set about requests to a server, and what is reported of them meanwhile."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal, get_args

from icm_client.errors import InputError

Body = Mapping[str, object] | bytes
"""What is sent as JSON; bytes are sent as they are."""

NO_HEADERS: Final[Mapping[str, str]] = {}

Connections = Literal["aiohttp", "httpx2"]
"""Whose connections requests go over."""

BACKGROUND_PRIORITY: Final = 100
"""vLLM serves lower numbers first; a request without a priority has 0."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how long a request is repeated.

    Attributes:
        attempts: at most this many, the first included.
        attempt_timeout_s: deadline of one attempt, its body included, in seconds.
        item_timeout_s: deadline of all attempts and the waits between them, in seconds. The time
            in which a request waits for its turn here does not count.
        initial_wait_s: the first wait is drawn from 0 to this; the range doubles each time.
        maximum_wait_s: the range's end.
        retry_after_cap_s: the longest wait that a server may ask for with Retry-After.
        bad_answers: attempts end after so many answers that arrived and cannot be used
            (MalformedAnswer, ScoreNotFinite): a server that is up mostly gives them again.
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
        reason: what went wrong, fit for a message.
        attempt: how many attempts have failed.
        asked_by_server: whether the server named the time (Retry-After).
    """

    seconds: float
    reason: str
    attempt: int
    asked_by_server: bool


class Why(StrEnum):
    """What changed the limit, or stopped its growth."""

    DOUBLED = "doubled"
    """The start: a round went well."""

    GREW = "grew"
    """A round went well."""

    REFUSED = "refused"
    """429 or 503."""

    SLOWER = "slower"
    """Growth stopped: latency has grown."""

    QUEUE = "queue"
    """Growth stopped: the server's queue grows. Lowered: the queue is longer than it may be."""


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
    """How to spare a server that others use too.

    Attributes:
        queue: requests that may wait in the server, ours and others'. Its `/metrics` is asked
            every `TransportSettings.metrics_interval_s`; without one, its queue is not watched.
        priority: sent to vLLM with every request for log-probs. A server without
            `--scheduling-policy priority` takes none but 0.
    """

    queue: int = 4
    priority: int = BACKGROUND_PRIORITY

    def __post_init__(self) -> None:
        """Refuse a queue below 0; raises `InputError`."""
        if self.queue < 0:
            raise InputError(f"the server's queue cannot be kept under {self.queue} requests")


@dataclass(frozen=True, slots=True)
class TransportSettings:
    """Limits and deadlines of the requests to a server.

    Attributes:
        retry: how often and how long a request is repeated.
        max_in_flight: the most requests on the wire at the same time; never more than half of the
            descriptors that this process may open.
        min_in_flight: refusals do not lower that number further than to this.
        start_in_flight: where it begins.
        good_neighbour: how to spare others; None takes what the server gives.
        metrics_interval_s: how often the length of the server's queue is asked for, in seconds.
        identity_interval_s: how often the server is asked whether it still serves the same model,
            in seconds; it is also asked after every sign of a restart.
        max_body_bytes: a longer answer is refused.
        connect_timeout_s: deadline for a TCP and TLS connection, in seconds.
        transport: "aiohttp", which takes a third of the CPU, or "httpx2": under trio, without
            aiohttp, through SOCKS proxies (with socksio) and over HTTP/2 (with h2). None takes
            aiohttp where it is installed and the loop is asyncio's.
        observe: called with every wait before a repetition and every change of the limit, for the
            terminal and the journal. It must be quick, and must not raise.
        stopping: whether the run is to stop. Then nothing is repeated, waits end, and requests that
            wait for their turn are not sent: `RunStopped`.
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
    transport: Connections | None = None
    observe: Callable[[WireEvent], None] | None = None
    stopping: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        """Refuse bounds that are no range, and unknown transports; raises `InputError`."""
        if self.transport not in (None, *get_args(Connections)):
            raise InputError(f"there is no transport {self.transport!r}: aiohttp and httpx2 are")
        if not 1 <= self.min_in_flight <= self.max_in_flight:
            raise InputError(
                f"at least {self.min_in_flight} and at most {self.max_in_flight} requests in "
                "flight is no range; both are at least 1"
            )
