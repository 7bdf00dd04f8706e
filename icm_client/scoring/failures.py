"""Failures that are about what was asked, and those that are about the server as a whole.

A request that failed for good has been repeated by the endpoint for as long as that may help. Is
what it asked to blame, the others go on: a group is split down to the reads that fail alone. Is the
server, nothing goes on.
"""

from typing import Final

from icm_client.errors import (
    AuthenticationRefused,
    EndpointFault,
    EndpointTimeout,
    IcmError,
    MalformedAnswer,
    ModelNotFound,
    PromptTooLong,
    RequestRefused,
    ScoreError,
)

IN_A_ROW: Final = 8
"""Reads that failed alone, without an answer to any other between them, that raise the question
whether the server is to blame."""

SLOW_IN_A_ROW: Final = 3
"""The same of requests that the server let fail for minutes, whatever their size."""

_OF_READS = (RequestRefused, MalformedAnswer, EndpointFault, EndpointTimeout, ScoreError)
_OF_ALL = (AuthenticationRefused, ModelNotFound)
_SLOW = (EndpointFault, EndpointTimeout)


def is_about_reads(error: BaseException) -> bool:
    """Whether another request may fare better while this one fails.

    A refusal (400, 422), an answer that is none or holds no score, a 5xx and a time-out may be
    this prompt's. A server that is not there (`EndpointUnreachable`), is too busy
    (`EndpointOverloaded`), asks for a key, lacks the model, has another one or cuts prompts without
    a word is so for all.
    """
    if isinstance(error, PromptTooLong) and error.cut:
        return False
    return isinstance(error, _OF_READS) and not isinstance(error, _OF_ALL)


class Streak:
    """Requests that failed since the server last answered."""

    def __init__(self) -> None:
        self._alone = 0
        self._slow = 0
        self._trusted = False

    def begin(self) -> None:
        """Hear that other reads are asked now."""
        self._trusted = False

    def trust(self) -> None:
        """Hear that the server answers what it answered before: only lone reads count from now on.

        Else groups that each hold a read that fails would raise the same question for ever.
        """
        self._trusted = True
        self.answered()

    def answered(self) -> None:
        """Hear of an answer."""
        self._alone = self._slow = 0

    def failed(self, error: IcmError, n_reads: int) -> None:
        """Hear of a request of so many reads that failed for good; 0 for a prefix sent ahead."""
        self._alone += n_reads == 1
        self._slow += isinstance(error, _SLOW) and not self._trusted

    @property
    def is_suspicious(self) -> bool:
        """Whether so many failed in a row that the server may be to blame."""
        return self._alone >= IN_A_ROW or self._slow >= SLOW_IN_A_ROW
