"""Every error that icm-client raises on purpose.

    IcmError
    ├── InputError                  the user's own input; raised before anything is spent
    │   ├── RowError                rows of a data file
    │   │   └── RowsTooLong         for the server's context; a PromptTooLong too
    │   ├── TaskError               template, labels or prior
    │   └── SetupError              a missing extra, model file or cache folder
    ├── EndpointError               the server, or the way to it
    │   ├── EndpointUnreachable     * refused, reset, DNS
    │   ├── EndpointUntrusted         its TLS certificate could not be verified
    │   ├── EndpointTimeout         * no complete answer within the deadline
    │   ├── EndpointOverloaded      ~ 429 or 503: back-pressure
    │   ├── EndpointFault           * any other 5xx
    │   ├── MalformedAnswer         * 200 with a body that is not the protocol's
    │   ├── RequestRefused            4xx that a repetition cannot heal
    │   │   ├── AuthenticationRefused 401, 403, or an account without credit
    │   │   ├── ModelNotFound         404 for the model's name
    │   │   └── PromptTooLong         longer than the server's context
    │   ├── ModelChanged              another model answers behind the same name
    │   ├── UnsupportedServer         answers, but not as any server known here
    │   └── EmbeddedServerFailed      the llama.cpp child did not start, or died
    ├── ScoreError                  an answer from which no score may be taken
    │   ├── LabelMissing              a label's token is not among the log-probs
    │   ├── ScoreNotFinite          * NaN, infinite, positive, or the -9999 padding
    │   └── TooManyFailed             more rows without a score than the run allows
    ├── StoreError                  the score store cannot be read or written
    ├── RunError                    a run's folder cannot be used
    ├── TrainingError               a model cannot be trained, or a fine-tuning job failed
    └── RunStopped                  the run was asked to stop, and did

`IcmError.retry` says what a repetition is good for: an asterisk marks what is transient, a tilde
back-pressure; the others are never repeated.
"""

from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from icm_client.runs.result import Labels


class Retry(StrEnum):
    """What a repetition of the request that failed is good for."""

    NEVER = "never"
    """It would fail again: input, configuration or server must change first."""

    TRANSIENT = "transient"
    """It may well succeed: repeated after a short wait, a limited number of times."""

    BACK_PRESSURE = "back-pressure"
    """The server has too much to do: repeated after the wait it asks for, with fewer at a time."""


class IcmError(Exception):
    """The root: `except IcmError` catches everything that this package raises on purpose."""

    retry: ClassVar[Retry] = Retry.NEVER

    goes_on: bool = False
    """Whether scores were kept before it, and the same command may go on from there."""

    def __reduce__(self) -> tuple[object, ...]:
        """Cross into another process as it is: what it was made from is not kept."""
        return _as_it_was, (type(self), self.args, self.__dict__)


def _as_it_was(kind: type[IcmError], args: tuple[object, ...], held: dict[str, object]) -> IcmError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(held)
    return error


class InputError(IcmError):
    """The user's input is wrong; nothing has been sent yet. The message says what to do."""


class RowError(InputError):
    """A row cannot be used, or several. Carries where they stand.

    Attributes:
        path: the file as the user named it, or None for rows given from Python.
        line: 1-based line of a text file, or 1-based row of a Parquet file or list; None where
            the whole file is meant. Of several rows the first one's.
        skippable: whether `skip_bad_rows`, `--skip-bad-rows`, leaves rows enough to go on with.
    """

    def __init__(
        self,
        reason: str,
        *,
        path: str | None = None,
        line: int | None = None,
        skippable: bool = False,
    ) -> None:
        """Join place and reason into `FILE:LINE: reason`."""
        self.path = path
        self.line = line
        self.skippable = skippable
        where = path if path is not None else "rows"
        super().__init__(f"{where}:{line}: {reason}" if line is not None else f"{where}: {reason}")


class TaskError(InputError):
    """The template, the labels or the prior cannot be used, or not with this model's tokenizer."""


class SetupError(InputError):
    """Something that must be installed or present is not; the message has the command to run."""


class EndpointError(IcmError):
    """The server failed or refused, or could not be reached.

    Attributes:
        status: the answer's HTTP status; None where there was no answer, or the status was 2xx.
    """

    status: int | None = None


class EndpointUnreachable(EndpointError):
    """No connection, or one that broke: the server may be starting or restarting."""

    retry = Retry.TRANSIENT


class EndpointUntrusted(EndpointError):
    """The server's TLS certificate could not be verified; nothing, and no key, has been sent.

    The certificate of a private authority is trusted with SSL_CERT_FILE=authority.pem.
    """


class EndpointTimeout(EndpointError):
    """No complete answer within the attempt's deadline."""

    retry = Retry.TRANSIENT


class EndpointOverloaded(EndpointError):
    """429 or 503.

    Attributes:
        retry_after_s: the wait that the server asked for, in seconds, or None.
        status: 429 or 503.
    """

    retry = Retry.BACK_PRESSURE

    def __init__(
        self, message: str, *, retry_after_s: float | None = None, status: int = 503
    ) -> None:
        """Keep the wait and the status."""
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.status = status


class EndpointFault(EndpointError):
    """A 5xx other than 503."""

    retry = Retry.TRANSIENT


class MalformedAnswer(EndpointError):
    """Status 200, but not the protocol: HTML, cut-off JSON, fewer choices than prompts.

    Attributes:
        is_json: whether it is JSON, of another shape.
    """

    retry = Retry.TRANSIENT

    is_json: bool = False


class RequestRefused(EndpointError):
    """A 4xx: the same request would be refused again."""


class AuthenticationRefused(RequestRefused):
    """401 or 403: set ICM_API_KEY, or ask the server's owner. Or an account without credit."""


class ModelNotFound(RequestRefused):
    """The server does not serve the model that was asked for; the message lists what it has."""


class PromptTooLong(RequestRefused):
    """The prompt does not fit the server's context: fewer demos, shorter rows, a larger context.

    Attributes:
        cut: whether the server cut it and answered all the same. That says something of all its
            answers, not of this prompt alone.
    """

    def __init__(self, message: str, *, cut: bool = False) -> None:
        """Keep whether the server said nothing of it."""
        super().__init__(message)
        self.cut = cut


class RowsTooLong(RowError, PromptTooLong):
    """Rows do not fit the server's context with a demo of each label; no score has been asked."""


class ModelChanged(EndpointError):
    """Another model answers than when the run began, or than the one whose scores are stored.

    Log-probs of two models make no scores. Where the server says that it is another one, the same
    command again begins with that; what the old one answered is kept, under its own fingerprint.
    Where only its answers say so, `--accept-drift` does. Answers that came after
    `last_confirmed_at` are no longer in the score store.

    Attributes:
        last_confirmed_at: when the server was last known to be what it was, on the event loop's
            clock; answers that came later may be the new model's. Infinite where none came.
        stored: the fingerprint under which the score store holds another model's answers; None
            where it does not, as far as is known.
    """

    def __init__(
        self, message: str, *, last_confirmed_at: float, stored: str | None = None
    ) -> None:
        """Keep since when there is doubt, and of which answers."""
        super().__init__(message)
        self.last_confirmed_at = last_confirmed_at
        self.stored = stored


class UnsupportedServer(EndpointError):
    """The server's answers fit none of the servers known here."""


class EmbeddedServerFailed(EndpointError):
    """The embedded llama.cpp server did not start or died; the message ends with its last words."""


class ScoreError(IcmError):
    """The server answered, but no score may be taken from the answer."""


class LabelMissing(ScoreError):
    """A label's token is not among the returned log-probs; it is never read as probability 0."""


class ScoreNotFinite(ScoreError):
    """A log-prob is NaN, infinite, positive, or -9999.0 (vLLM's padding; its JSON has no -inf)."""

    retry = Retry.TRANSIENT


class TooManyFailed(ScoreError):
    """More rows have no score than `--fail-on-error` allows; the message says why they have none.

    What was answered is kept; the same command again asks for the others once more.
    """


class StoreError(IcmError):
    """The score store cannot be opened, read or written (disk full, permissions, damage)."""


class RunError(IcmError):
    """A run's folder cannot be made, read or written, or another process is at work in it."""


class TrainingError(IcmError):
    """A model cannot be trained, or a fine-tuning job failed for good. The message says why."""


class RunStopped(IcmError):
    """The run was asked to stop: what was under way has been awaited and kept, no more was asked.

    The same command again goes on from there, if anything was kept (`goes_on`).

    Attributes:
        labels: of a `label` call what it had found by then, `Labels.stopped` saying so; None where
            it had no labels yet.
    """

    def __init__(
        self, message: str, *, labels: "Labels | None" = None, goes_on: bool = True
    ) -> None:
        """Keep what was found."""
        super().__init__(message)
        self.labels = labels
        self.goes_on = goes_on
