"""Starts the server of the live view, and says under which URL it is to be opened."""

import secrets
import socket
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import uvicorn

from icm_client.errors import InputError
from icm_client.view.app import View
from icm_client.view.guard import EVERY_ADDRESS, Guard

_BACKLOG: Final = 128
_GRACE_S: Final = 1
"""For what is being answered when the server is to end."""


def serve(
    base: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    read_only: bool = False,
    opened: Callable[[str], None],
) -> None:
    """Serve the runs in `base` until the process is interrupted.

    Args:
        base: the folder of the runs; it need not exist yet.
        host: the address or name to listen at.
        port: to listen at; 0 takes the folder's own where it is free, and else any. What a browser
            keeps for a page, answers that are not saved among it, belongs to the page's port.
        read_only: refuse all that would change something.
        opened: called with the URL once requests are taken; the token is in it. None is answered
            before it returns.

    Raises:
        InputError: nothing can listen there.
    """
    try:
        listening = _listening(host, port, _own_port(base))
    except OSError as error:
        raise InputError(
            f"nothing can listen at {host}, port {port}: {error.strerror}. Name another with "
            "--host and --port"
        ) from None
    taken = listening.getsockname()[1]
    token = secrets.token_urlsafe(32)
    view = View(base, read_only=read_only)
    app = Guard(
        view.app(),
        token=token,
        host=host,
        port=taken,
        read_only=read_only,
    )
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_GRACE_S,
    )
    name = socket.gethostname() if host in EVERY_ADDRESS else host
    name = f"[{name}]" if ":" in name else name
    url = f"http://{name}:{taken}/?token={token}"
    _Server(config, view, lambda: opened(url)).run(sockets=[listening])


def _own_port(base: Path) -> int:
    """The same port each time for the same folder, below those that systems give away."""
    return 20_000 + zlib.crc32(str(base.resolve()).encode("utf-8", "surrogateescape")) % 12_000


def _listening(host: str, port: int, own_port: int) -> socket.socket:
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    if not port:
        with suppress(OSError):
            return socket.create_server((address[0], own_port), family=family, backlog=_BACKLOG)
    return socket.create_server(address[:2], family=family, backlog=_BACKLOG)


class _Server(uvicorn.Server):
    """Ends at once, whoever listens to events."""

    def __init__(self, config: uvicorn.Config, view: View, opened: Callable[[], None]) -> None:
        super().__init__(config)
        self._view = view
        self._opened = opened

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._opened()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._view.close()
        await super().shutdown(sockets)
