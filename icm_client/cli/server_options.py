"""The options that say where the model is served, as one `Server`."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from icm_client.endpoints import KINDS, GoodNeighbour, Kind, RetryPolicy, TransportSettings
from icm_client.runs.server import Server

_RETRY = RetryPolicy()
_TRANSPORT = TransportSettings()

_SERVER = (
    click.option(
        "-e",
        "--endpoint",
        "urls",
        metavar="URL",
        multiple=True,
        help="A server's base URL; several times for servers of one model. "
        "[env: ICM_ENDPOINT; default: the embedded server]",
    ),
    click.option(
        "-m", "--model", help="One of the server's models. [env: ICM_MODEL; default: its only one]"
    ),
    click.option(
        "--gguf",
        type=click.Path(path_type=Path),
        help="A base model's file for the embedded server. [default: gemma-3-270m]",
    ),
    click.option(
        "--kind",
        type=click.Choice(KINDS),
        help="How the server is read. [default: it is asked what it is]",
    ),
    click.option(
        "--allow-floor",
        is_flag=True,
        help="Take an upper bound for a label outside a server's most probable tokens; "
        "mark its rows.",
    ),
    click.option(
        "--context-length",
        type=click.IntRange(1),
        metavar="TOKENS",
        help="What the server's context holds, where it does not tell.",
    ),
)

_WIRE = (
    click.option(
        "--max-in-flight",
        type=click.IntRange(1),
        default=_TRANSPORT.max_in_flight,
        show_default=True,
        help="The most requests at a time; how many, the server's answers decide.",
    ),
    click.option(
        "--good-neighbour",
        type=click.IntRange(0),
        metavar="QUEUE",
        help="Let at most so many requests wait in the server, others' included, and ask vLLM "
        "to serve others first.",
    ),
    click.option(
        "--attempt-timeout",
        type=click.FloatRange(0, min_open=True),
        default=_RETRY.attempt_timeout_s,
        show_default=True,
        metavar="SECONDS",
        help="Deadline of one request.",
    ),
    click.option(
        "--item-timeout",
        type=click.FloatRange(0, min_open=True),
        default=_RETRY.item_timeout_s,
        show_default=True,
        metavar="SECONDS",
        help="Deadline of a request with its repetitions.",
    ),
)


def server_options(*, wire: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return what adds the options to a command, which receives one `server`.

    Args:
        wire: deadlines and requests in flight as well.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def with_server(
            *args: Any,
            urls: tuple[str, ...],
            model: str | None,
            gguf: Path | None,
            kind: Kind | None,
            allow_floor: bool,
            context_length: int | None,
            max_in_flight: int = _TRANSPORT.max_in_flight,
            good_neighbour: int | None = None,
            attempt_timeout: float = _RETRY.attempt_timeout_s,
            item_timeout: float = _RETRY.item_timeout_s,
            **kwargs: Any,
        ) -> None:
            neighbour = None if good_neighbour is None else GoodNeighbour(queue=good_neighbour)
            transport = TransportSettings(
                retry=RetryPolicy(attempt_timeout_s=attempt_timeout, item_timeout_s=item_timeout),
                max_in_flight=max_in_flight,
                good_neighbour=neighbour,
            )
            server = Server(
                url=urls or None,
                model=model,
                kind=kind,
                allow_floor=allow_floor,
                context_length=context_length,
                gguf=gguf,
                transport=transport,
            )
            command(*args, server=server, **kwargs)

        for option in reversed((*_SERVER, *(_WIRE if wire else ()))):
            with_server = option(with_server)
        return with_server

    return decorate
