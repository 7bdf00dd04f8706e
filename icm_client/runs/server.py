"""The server, as a user describes it: `Server`, and `open_endpoint`, which connects to it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import get_args

import anyio

from icm_client.endpoints import (
    EmbeddedEndpoint,
    Endpoint,
    Kind,
    TransportSettings,
    Waiting,
    WireEvent,
    connect,
)
from icm_client.endpoints.several import ATTEMPTS, connect_several
from icm_client.errors import EndpointError, InputError
from icm_client.settings import Environment


@dataclass(frozen=True, slots=True)
class Server:
    """Where the model is served, and how it is read.

    Attributes:
        url: the server's base URL, or those of several that serve the same model; None takes
            ICM_ENDPOINT, else the embedded server.
        model: which of its models; None takes ICM_MODEL, else the only one.
        kind: how to read it; None asks the server what it is.
        allow_floor: where a server reports only its most probable tokens, take an upper bound for a
            label that is not among them. Its rows are marked.
        context_length: of the server in tokens, where it does not report it.
        gguf: a base model's file for the embedded server; None takes gemma-3-270m.
        transport: deadlines, retries and requests in flight.

    Raises:
        InputError: a URL and a model file for the embedded server.
    """

    url: str | tuple[str, ...] | None = None
    model: str | None = None
    kind: Kind | None = None
    allow_floor: bool = False
    context_length: int | None = None
    gguf: Path | None = None
    transport: TransportSettings = field(default_factory=TransportSettings)

    def __post_init__(self) -> None:
        """Refuse two servers at once."""
        if self.gguf is not None and self.url is not None:
            raise InputError(
                "a GGUF file is for the embedded server: leave out either the file or the endpoint"
            )
        if self.kind is not None and self.kind not in get_args(Kind):
            raise InputError(
                f"there is no kind of server {self.kind!r}; there are {', '.join(get_args(Kind))}"
            )


@asynccontextmanager
async def open_endpoint(
    server: Endpoint | Server | str | None,
    observe: Callable[[WireEvent], None] | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> AsyncIterator[Endpoint]:
    """Open what a user named; close only what was opened here.

    Args:
        server: a base URL, a description, an endpoint that is open (and stays so), or None for
            ICM_ENDPOINT, else the embedded server.
        observe: called with waits and with changes of the limit of requests in flight.
        stopping: once it is true, no request is repeated any more.

    Raises:
        EndpointError: nothing usable answers at a URL.
        SetupError: the embedded server is not installed.
        InputError: a model was asked for, but no server.
    """
    if isinstance(server, str) or server is None:
        server = Server(server)
    if not isinstance(server, Server):
        if not hasattr(server, "read"):
            raise InputError(
                f"an endpoint must be a URL, a Server or an open endpoint, not {server!r}"
            )
        yield server
        return
    url, model, key = server.url, server.model, None
    if server.gguf is None:
        environment = Environment()
        url, model = url or environment.endpoint, model or environment.model
        key = environment.api_key
    urls = (url,) if isinstance(url, str) else url or ()
    transport = replace(server.transport, observe=observe, stopping=stopping)
    opened: Endpoint
    if not urls:
        if model is not None and server.gguf is None:
            raise InputError(
                f"the model {model!r} is named, but no server: name one with --endpoint or "
                "ICM_ENDPOINT (for the embedded server, --gguf takes a model's file)"
            )
        opened = EmbeddedEndpoint() if server.gguf is None else EmbeddedEndpoint(server.gguf)
    elif len(urls) == 1:
        opened = await connect(
            urls[0],
            model=model,
            api_key=key,
            settings=transport,
            kind=server.kind,
            allow_floor=server.allow_floor,
            context_length=server.context_length,
        )
    else:
        if server.allow_floor or server.context_length is not None:
            raise InputError(
                "several servers must give exact log-probs and their context's length: "
                "--allow-floor and --context-length are for one"
            )
        opened = await connect_several(
            urls,
            model=model,
            api_key=key,
            settings=transport,
            kind=server.kind,
            on_lost=partial(_report_lost, observe),
        )
    try:
        yield opened
    finally:
        with anyio.CancelScope(shield=True):
            await opened.aclose()


def _report_lost(
    observe: Callable[[WireEvent], None] | None, name: str, error: EndpointError
) -> None:
    if observe is not None:
        observe(Waiting(0.0, f"{name} is given up: {error}", ATTEMPTS, False))
