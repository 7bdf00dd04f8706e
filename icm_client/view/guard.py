"""Who may ask the server of the live view for anything, and what browsers may do with its answers.

Four things are asked of a request. Its Host must be ours, so that a foreign name that is made to
point here (DNS rebinding) gets nothing. It must bring the token, which is in the URL that is
printed, and in a cookie after that. Where it has an Origin it must be ours, and one that changes
something must have it: a page elsewhere cannot speak in the user's name. And with `read_only`,
nothing can be changed at all.
"""

import ipaddress
import secrets
import socket
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final
from urllib.parse import urlencode, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
EVERY_ADDRESS: Final = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 - what a user may have bound
_READING: Final = frozenset({"GET", "HEAD"})

HEADERS: Final[Mapping[str, str]] = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
"""Of every answer; one that says otherwise of its own cache keeps that."""


class Guard:
    """Lets through to an application what its own pages ask.

    Args:
        app: what is guarded.
        token: that who asks must know.
        host: the address or name that the server is bound to.
        port: its port; cookies of two servers on one machine differ by it.
        read_only: whether nothing can be changed.
    """

    def __init__(
        self, app: ASGIApp, *, token: str, host: str, port: int, read_only: bool = False
    ) -> None:
        self._app = app
        self._token = token
        self._cookie = f"icm-client-view-{port}"
        self._read_only = read_only
        self._any_address = host in EVERY_ADDRESS
        self._hosts = _LOOPBACK | {host.casefold()}
        if self._any_address:
            self._hosts |= {socket.gethostname().casefold(), socket.getfqdn().casefold()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        answer = self._refusal(Request(scope)) or self._app
        await answer(scope, receive, send_guarded)

    def _refusal(self, request: Request) -> Response | None:
        """What is answered in the application's place; None where it may answer."""
        host = request.headers.get("host", "")
        if not self._is_ours(host):
            return _refused(
                HTTPStatus.MISDIRECTED_REQUEST,
                "This server does not answer under that name. Open the URL that icm-client view "
                "has printed.",
            )
        if "token" in request.query_params:
            return self._welcome(request)
        if not secrets.compare_digest(
            request.cookies.get(self._cookie, "").encode(), self._token.encode()
        ):
            return _refused(
                HTTPStatus.FORBIDDEN,
                "The token is missing or wrong. Paste the URL that icm-client view has printed, "
                "with its ?token=, into the address bar.",
            )
        origin = request.headers.get("origin")
        reads = request.method in _READING
        ours = urlsplit(origin).netloc == host if origin is not None else reads
        if not ours:
            return _refused(HTTPStatus.FORBIDDEN, "This was asked by a page of another origin.")
        if self._read_only and not reads:
            return _refused(
                HTTPStatus.FORBIDDEN,
                "The view is read-only: start it without --read-only to change anything.",
            )
        return None

    def _welcome(self, request: Request) -> Response:
        """Keep the token as a cookie, and take it out of the address bar."""
        query = [(k, v) for k, v in request.query_params.multi_items() if k != "token"]
        given = request.query_params["token"]
        if request.method not in _READING or not secrets.compare_digest(
            given.encode(), self._token.encode()
        ):
            return _refused(
                HTTPStatus.FORBIDDEN,
                "The token is wrong: it is another one each time that icm-client view starts. Open "
                "the URL that it has printed.",
            )
        # One slash: two would begin the name of another server.
        path = f"/{request.scope['path'].lstrip('/')}{f'?{urlencode(query)}' if query else ''}"
        answer = RedirectResponse(path, HTTPStatus.SEE_OTHER)
        # Not "strict": the URL may be opened from another site's page, as from a chat. What changes
        # something must have our Origin.
        answer.set_cookie(self._cookie, self._token, httponly=True, samesite="lax")
        return answer

    def _is_ours(self, host: str) -> bool:
        """Whether a Host header names this server.

        Any port will do: through a tunnel (`ssh -L`) it is the tunnel's. An address is no name that
        could be made to point elsewhere.
        """
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self._hosts:
            return True
        if not self._any_address:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _refused(status: HTTPStatus, words: str) -> Response:
    return PlainTextResponse(f"{words}\n", status)
