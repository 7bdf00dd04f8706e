"""Every error that icm-client raises on purpose.

    IcmError
    ├── InputError                  the user's own input; raised before anything is spent
    │   ├── RowError                rows of a data file
    │   │   └── RowsTooLong           for the server's context; a PromptTooLong too
    │   ├── TaskError               template, labels or prior
    │   └── SetupError              a missing extra, model file or cache folder
    ├── EndpointError               the server, or the way to it
    │   ├── EndpointUnreachable   * refused, reset, DNS
    │   ├── EndpointUntrusted       its TLS certificate could not be verified
    │   ├── EndpointTimeout       * no complete answer within the deadline
    │   ├── EndpointOverloaded    ~ 429 or 503: back-pressure
    │   ├── EndpointFault         * any other 5xx but 501
    │   ├── MalformedAnswer       * status 200 with a body that is not the protocol's
    │   ├── RequestRefused          4xx, 501 or a redirect: the same request fails again
    │   │   ├── AuthenticationRefused   401, 402, 403, 407, or an account without credit
    │   │   ├── ModelNotFound           the server does not serve this model
    │   │   └── PromptTooLong           longer than the server's context
    │   ├── ModelChanged            another model answers under the same name
    │   ├── UnsupportedServer       the answers fit no kind of server known here
    │   └── EmbeddedServerFailed    the llama.cpp child did not start, or died
    ├── ScoreError                  the answer came, but no score may be taken from it
    │   ├── LabelMissing            a label's token is not among the log-probs
    │   ├── ScoreNotFinite        * NaN, infinite, positive, or the -9999 padding
    │   └── TooManyFailed           more rows without a score than the run allows
    ├── StoreError                  the score store cannot be read or written
    ├── RunError                    a run's folder cannot be used
    ├── TrainingError               a model cannot be trained, or a fine-tuning job failed
    └── RunStopped                  the run was asked to stop, and did

`icm_client.serving.launch` adds `ServerFailed`, for the server that `icm-client serve` starts.

`IcmError.retry` says whether a repetition of the request heals it. `*` marks what is transient: it
is repeated a few times before it is raised. `~` marks back-pressure: it is repeated after the wait
that the server asks for. All others are raised at once.

The same command again never asks twice for what is in the score store.
"""

import copyreg
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from icm_client.runs.result import Labels


class Retry(StrEnum):
    """Whether a repetition of the failed request heals it."""

    NEVER = "never"
    """No: input, configuration or server must change first."""

    TRANSIENT = "transient"
    """Often: it is repeated a limited number of times, after short waits."""

    BACK_PRESSURE = "back-pressure"
    """Later: it is repeated after the wait the server asks for, with fewer requests in flight."""


class IcmError(Exception):
    """The root: `except IcmError` catches everything that this package raises on purpose."""

    retry: ClassVar[Retry] = Retry.NEVER

    goes_on: bool = False
    """Whether scores were kept before it, so that the same command resumes from there."""

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle message and attributes; calling the constructor again would need its arguments."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class InputError(IcmError):
    """The user's input is wrong; nothing has been sent yet.

    No retry heals it. Correct the input as the message says.
    """


class RowError(InputError):
    """One or more rows cannot be used.

    No retry heals it. Correct the rows, or leave them out with `--skip-bad-rows` (from Python
    `skip_bad_rows=True`) where the error is `skippable`.

    Attributes:
        path: the file as the user named it; None for rows given from Python.
        line: 1-based line of a text file, or 1-based row of a Parquet file or list, of the first
            such row; None where the whole file is meant.
        skippable: whether enough rows are left without them.
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
    """Template, labels or prior cannot be used, or not with this model's tokenizer.

    No retry heals it. Change the task as the message says.
    """


class SetupError(InputError):
    """A package, a model file or a folder is missing.

    No retry heals it. Run the command in the message.
    """


class EndpointError(IcmError):
    """The server failed, refused, or could not be reached.

    Attributes:
        status: the answer's HTTP status; None where there was no answer, or it was 2xx.
    """

    status: int | None = None


class EndpointUnreachable(EndpointError):
    """The connection was refused, could not be made, or broke.

    Transient: a server that restarts is waited for. Raised after the last attempt: check the URL
    and whether the server runs, then give the same command again.
    """

    retry = Retry.TRANSIENT


class EndpointUntrusted(EndpointError):
    """The server's TLS certificate could not be verified; neither prompt nor key has been sent.

    No retry heals it. Set SSL_CERT_FILE=authority.pem to trust a private authority.
    """


class EndpointTimeout(EndpointError):
    """No complete answer came within the attempt's deadline.

    Transient. Raised after the last attempt: see whether the server is overloaded, or allow more
    time (`attempt_timeout_s`).
    """

    retry = Retry.TRANSIENT


class EndpointOverloaded(EndpointError):
    """The server answered 429 or 503: it has too much to do, or a quota is used up.

    Back-pressure. Raised after the last attempt: give the same command again later, or lower
    `max_in_flight`.

    Attributes:
        retry_after_s: the wait that the server asked for, in seconds, or None.
        status: 429 or 503.
    """

    retry = Retry.BACK_PRESSURE

    def __init__(
        self, message: str, *, retry_after_s: float | None = None, status: int = 503
    ) -> None:
        """Set the wait and the status."""
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.status = status


class EndpointFault(EndpointError):
    """The server answered 5xx, other than 501 and 503.

    Transient. Raised after the last attempt: look at the server's log.
    """

    retry = Retry.TRANSIENT


class MalformedAnswer(EndpointError):
    """The status is 200, the body not the protocol's: HTML, cut-off JSON, too few choices.

    Transient. Raised after the last attempt: the message shows how the answer begins; a login page
    or a proxy may stand before the server.

    Attributes:
        is_json: whether the body is JSON, of another shape.
    """

    retry = Retry.TRANSIENT

    is_json: bool = False


class RequestRefused(EndpointError):
    """The server answered 4xx, 501 or a redirect, which is not followed.

    No retry heals it. The message has the server's reason, and the URL that a redirect points to.
    """


class AuthenticationRefused(RequestRefused):
    """The key is missing or refused (401, 403, 407), or the account has no credit (402, 429).

    No retry heals it. Set ICM_API_KEY, ask the server's owner, or add credit.
    """


class ModelNotFound(RequestRefused):
    """The server does not serve the model that was asked for.

    No retry heals it. Choose with `--model` one of those that the message lists.
    """


class PromptTooLong(RequestRefused):
    """The prompt does not fit the server's context.

    No retry heals it. Use fewer demos or shorter rows, or serve a longer context.

    Attributes:
        cut: whether the server silently cut the prompt and answered. Then none of its answers can
            be relied on.
    """

    def __init__(self, message: str, *, cut: bool = False) -> None:
        """Set whether the server cut the prompt."""
        super().__init__(message)
        self.cut = cut


class RowsTooLong(RowError, PromptTooLong):
    """Rows do not fit the server's context together with a demo of each label; nothing was asked.

    No retry heals it. Shorten the rows, leave them out, or serve a longer context.
    """


class ModelChanged(EndpointError):
    """The server's model is not the one that the run began with, or whose scores are stored.

    Log-probs of two models cannot be combined, so no retry heals it. Where the server names another
    model, the same command again starts over with it, and the old model's scores are kept under
    their own fingerprint. Where only the answers differ, add `--accept-drift`. Answers that came
    after `last_confirmed_at` have been removed from the score store.

    Attributes:
        last_confirmed_at: when the server was last known to be the same, in seconds on the event
            loop's clock; later answers may be the new model's. Infinite where none came later.
        stored: the fingerprint under which the score store holds another model's answers; None
            where none are known.
    """

    def __init__(
        self, message: str, *, last_confirmed_at: float, stored: str | None = None
    ) -> None:
        """Set since when, and under which fingerprint, answers are in doubt."""
        super().__init__(message)
        self.last_confirmed_at = last_confirmed_at
        self.stored = stored


class UnsupportedServer(EndpointError):
    """The server's answers fit no kind of server known here, or it gives no log-probs.

    No retry heals it. The message says what is missing; docs/servers.md lists what works.
    """


class EmbeddedServerFailed(EndpointError):
    """The embedded llama.cpp server did not start, or died.

    A child that dies is restarted for the next request; raised where that does not help. The
    message ends with the child's last output. If memory is short, use a smaller model or context.
    """


class ScoreError(IcmError):
    """The server answered, but no score may be taken from the answer."""


class LabelMissing(ScoreError):
    """A label's token is not among the returned log-probs; it is never taken as probability 0.

    No retry heals it. The message says what the model writes instead, and what to change.
    """


class ScoreNotFinite(ScoreError):
    """A log-prob is NaN, infinite, positive, or -9999.0 (vLLM's padding; its JSON has no -inf).

    Transient. Raised after the last attempt: the server computes wrongly, often in half precision.
    """

    retry = Retry.TRANSIENT


class TooManyFailed(ScoreError):
    """More rows have no score than `--fail-on-error` allows.

    The message says why they have none. What was answered is kept; the same command again asks for
    the others once more.
    """


class StoreError(IcmError):
    """The score store cannot be opened, read or written: disk full, permissions, damage.

    No retry heals it. Free space or correct the permissions; `icm-client store check --repair`
    drops what is damaged.
    """


class RunError(IcmError):
    """A run's folder cannot be made, read or written, or another process works in it.

    No retry heals it. Wait for the other process, or name another folder.
    """


class TrainingError(IcmError):
    """A model cannot be trained, or a fine-tuning job failed.

    The message says why. The same command again finds trainings that are finished, and resumes or
    repeats the one that failed.
    """


class RunStopped(IcmError):
    """The run was stopped on request: requests under way were awaited and kept, no more were sent.

    The same command again resumes from there if anything was kept (`goes_on`).

    Attributes:
        labels: what a `label` call had found by then, with `Labels.stopped` set; None where it had
            no labels yet.
    """

    def __init__(
        self, message: str, *, labels: "Labels | None" = None, goes_on: bool = True
    ) -> None:
        """Set what was found."""
        super().__init__(message)
        self.labels = labels
        self.goes_on = goes_on
