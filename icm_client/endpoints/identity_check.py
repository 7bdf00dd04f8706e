"""Is the server still what it was when the run began?"""

from collections.abc import Awaitable, Callable
from typing import Final

import anyio

from icm_client.endpoints.answers import clipped
from icm_client.endpoints.protocol import ServerIdentity
from icm_client.errors import (
    EndpointError,
    EndpointFault,
    EndpointOverloaded,
    ModelChanged,
    Retry,
)

SILENCE_S: Final = 5.0
"""A server that has answered nothing for so long may have been restarted without a trace: the next
request opens a new connection."""

_SPACINGS: Final = 20
"""Where requests keep a distance, looks are at least so many of them apart: a look is two requests
or three, and each takes the place of one that scores."""

_TOO_MANY: Final = 429


class IdentityCheck:
    """Asks who answers before a request is sent in doubt.

    There is doubt after a failure that a restart may explain, after a silence, and from time to
    time. A server that answers 5xx is asked once, and once more before the first answer that comes
    after all is taken; a 429 is no sign of a restart. A model exchanged behind a gateway, without a
    failure, is found within `interval_s` and not before: answers tell no more of their model than
    its name.

    Args:
        interval_s: between two looks, at most, in seconds.
        known: what the server is; None: nothing is ever asked.
        ask: who answers now.
        spacing_s: seconds that requests keep between them.
    """

    def __init__(
        self,
        interval_s: float,
        known: ServerIdentity | None = None,
        ask: Callable[[], Awaitable[ServerIdentity]] | None = None,
        spacing_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._interval_s = interval_s
        self._known, self._ask, self._spacing_s = known, ask, spacing_s
        self._lock = anyio.Lock()
        self._in_doubt = False
        self._looked = False  # since the server began to answer 5xx
        self._replaced_by: ServerIdentity | None = None
        self._confirmed_at = self._answered_at = 0.0 if known is None else anyio.current_time()

    def failed(self, error: EndpointError) -> None:
        """Hear of an attempt that ended without an answer."""
        if error.retry is Retry.NEVER:
            return
        if isinstance(error, EndpointOverloaded) and error.status == _TOO_MANY:
            self._answered_at = anyio.current_time()
            return
        self._in_doubt = True
        if not isinstance(error, EndpointOverloaded | EndpointFault):
            self._looked = False

    def answered(self) -> None:
        """Hear of an answer."""
        self._answered_at = anyio.current_time()

    async def confirm(self) -> None:
        """Ask once more before an answer is taken, if there was no further look. Raises as `check`.

        A server that answered 5xx may have been exchanged since it was last looked at.
        """
        looked, self._looked = self._looked, False
        if looked and self._in_doubt:
            await self.check()

    async def check(self) -> None:
        """Ask, if there is doubt.

        Raises:
            ModelChanged: it is another one; so does every later call.
            EndpointError: from `ask`.
        """
        if self._ask is None or self._known is None or not self._is_due():
            return
        async with self._lock:
            if not self._is_due():  # somebody else asked meanwhile
                return
            if self._replaced_by is None:
                await self._look(self._known, self._ask)
            if self._replaced_by is not None:
                raise ModelChanged(
                    f"the server has changed in mid-run: it was {_described(self._known)} and is "
                    f"{_described(self._replaced_by)}; run the same command again to begin with "
                    "the new one",
                    last_confirmed_at=self._confirmed_at,
                )

    async def _look(
        self, known: ServerIdentity, ask: Callable[[], Awaitable[ServerIdentity]]
    ) -> None:
        asked_at = anyio.current_time()
        self._looked |= self._in_doubt
        self._in_doubt = False  # before the await: it may fail again meanwhile
        try:
            found = await ask()
        except BaseException:
            self._in_doubt = True
            raise
        if found.fingerprint != known.fingerprint:
            self._replaced_by = found
            self._in_doubt = True
        else:
            self._confirmed_at = asked_at
            self._answered_at = anyio.current_time()

    def _is_due(self) -> bool:
        if self._replaced_by is not None:
            return True
        if self._looked:
            return False
        now, apart_s = anyio.current_time(), _SPACINGS * self._spacing_s()
        return (
            self._in_doubt
            or now - self._confirmed_at >= max(self._interval_s, apart_s)
            or now - self._answered_at >= max(SILENCE_S, apart_s)
        )


def _described(identity: ServerIdentity) -> str:
    return f"{clipped(identity.model)} ({identity.kind}, fingerprint {identity.fingerprint[:12]})"
