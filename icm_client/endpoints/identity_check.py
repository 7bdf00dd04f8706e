"""Is the server still what it was when the run began?"""

from collections.abc import Awaitable, Callable
from typing import Final

import anyio

from icm_client.endpoints.answers import clipped
from icm_client.endpoints.protocol import ServerIdentity
from icm_client.errors import EndpointError, ModelChanged, Retry

SILENCE_S: Final = 5.0
"""A server that has answered nothing for so long may have been restarted without a trace: the next
request opens a new connection."""


class IdentityCheck:
    """Asks who answers before a request is sent in doubt.

    There is doubt after a failure that a restart may explain, after a silence, and from time to
    time. A model exchanged behind a gateway, without a failure, is found within `interval_s`
    and not before: answers tell no more of their model than its name.

    Args:
        interval_s: between two looks, at most, in seconds.
        known: what the server is; None: nothing is ever asked.
        ask: who answers now.
    """

    def __init__(
        self,
        interval_s: float,
        known: ServerIdentity | None = None,
        ask: Callable[[], Awaitable[ServerIdentity]] | None = None,
    ) -> None:
        self._interval_s = interval_s
        self._known, self._ask = known, ask
        self._lock = anyio.Lock()
        self._in_doubt = False
        self._replaced_by: ServerIdentity | None = None
        self._confirmed_at = self._answered_at = 0.0 if known is None else anyio.current_time()

    def failed(self, error: EndpointError) -> None:
        """Hear of an attempt that ended without an answer."""
        self._in_doubt |= error.retry is not Retry.NEVER

    def answered(self) -> None:
        """Hear of an answer."""
        self._answered_at = anyio.current_time()

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
        now = anyio.current_time()
        return (
            self._in_doubt
            or now - self._confirmed_at >= self._interval_s
            or now - self._answered_at >= SILENCE_S
        )


def _described(identity: ServerIdentity) -> str:
    return f"{clipped(identity.model)} ({identity.kind}, fingerprint {identity.fingerprint[:12]})"
