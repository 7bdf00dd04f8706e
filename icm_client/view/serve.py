"""Starts the server of the live view, and says under which URL it is to be opened."""

import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

import uvicorn

from icm_client.errors import InputError
from icm_client.view.app import View
from icm_client.view.guard import Guard

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
        port: to listen at; 0 takes a free one.
        read_only: refuse all that would change something.
        opened: called with the URL once requests are taken; the token is in it.

    Raises:
        InputError: nothing can listen there.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
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
    name = f"[{host}]" if ":" in host else host
    opened(f"http://{name}:{taken}/?token={token}")
    _Server(config, view).run(sockets=[listening])


class _Server(uvicorn.Server):
    """Ends at once, whoever listens to events."""

    def __init__(self, config: uvicorn.Config, view: View) -> None:
        super().__init__(config)
        self._view = view

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._view.close()
        await super().shutdown(sockets)
