"""`icm-client watch`: show how busy a vLLM server is."""

import math
import time
from collections.abc import AsyncIterator
from dataclasses import asdict

import anyio
import click
from rich.console import Console
from rich.live import Live
from rich.table import Table

from icm_client.cli.documents import print_json_line
from icm_client.cli.streams import output_is_lost
from icm_client.endpoints import Transport
from icm_client.errors import EndpointError, InputError
from icm_client.serving.metrics import Rates, Snapshot, rates_between
from icm_client.settings import Environment

Moment = tuple[Snapshot, Rates] | EndpointError


@click.command("watch", short_help="Show how busy a vLLM server is.")
@click.option("-e", "--endpoint", metavar="URL", help="A vLLM server. [env: ICM_ENDPOINT]")
@click.option(
    "--interval",
    default=2.0,
    show_default=True,
    type=click.FloatRange(0.1),
    help="Seconds between lines.",
)
@click.option(
    "-n", "--count", type=click.IntRange(1), help="Stop after this many lines. [default: never]"
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object on each line.")
def watch_command(
    *, endpoint: str | None, interval: float, count: int | None, as_json: bool
) -> None:
    """Show a server's queue, its KV cache, its prefix hit rate and its tokens per second.

    Each line is about the interval before it, and about the requests of all clients.
    """
    environment = Environment()
    url = endpoint or environment.endpoint
    if url is None:
        raise InputError("no server to watch: name one with --endpoint or ICM_ENDPOINT")

    async def run() -> None:
        async with Transport(url, api_key=environment.api_key) as transport:
            moments = _moments(transport, interval, count)
            if as_json:
                await _print_json(moments)
            else:
                await _print_lines(moments)

    anyio.run(run)


async def _moments(
    transport: Transport, interval: float, count: int | None
) -> AsyncIterator[Moment]:
    """Yield a moment each interval, or the error of a server that does not answer.

    They end where standard output is not read any more.
    """
    before = await transport.get("/metrics", Snapshot.parse)
    asked = time.monotonic()
    yielded = 0
    while (count is None or yielded < count) and not output_is_lost():
        await anyio.sleep(interval)
        moment: Moment
        try:
            now = await transport.get("/metrics", Snapshot.parse, attempts=1)
        except EndpointError as error:
            moment = error
        else:
            came = time.monotonic()
            moment = now, rates_between(before, now, came - asked)
            before, asked = now, came
        yielded += 1
        yield moment


async def _print_json(moments: AsyncIterator[Moment]) -> None:
    async for moment in moments:
        document = (
            {"error": str(moment)}
            if isinstance(moment, EndpointError)
            else {**asdict(moment[0]), "rates": asdict(moment[1])}
        )
        print_json_line(document)


async def _print_lines(moments: AsyncIterator[Moment]) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        click.echo("  ".join(f"{name:>{width}}" for name, width in _COLUMNS.items()))
        async for moment in moments:
            click.echo(
                f"no answer: {moment}"
                if isinstance(moment, EndpointError)
                else "  ".join(
                    f"{cell:>{width}}"
                    for cell, width in zip(_cells(*moment), _COLUMNS.values(), strict=True)
                )
            )
        return
    recent: list[Moment] = []
    with Live(console=console, auto_refresh=False) as live:
        async for moment in moments:
            recent = [*recent, moment][-max(1, console.height - 5) :]
            live.update(_table(recent), refresh=True)


_COLUMNS = {
    "running": 7,
    "waiting": 7,
    "KV use": 6,
    "prefix hits": 11,
    "prompt tokens/s": 15,
    "computed/s": 10,
    "prompts/s": 9,
    "503s": 5,
    "preempted": 9,
}


def _cells(now: Snapshot, rates: Rates) -> list[str]:
    return [
        f"{now.running:,.0f}",
        f"{now.waiting:,.0f}",
        f"{now.kv_use:.0%}" if not math.isnan(now.kv_use) else "?",
        "-" if rates.hit_rate is None else f"{rates.hit_rate:.0%}",
        f"{rates.prompt_tokens:,.0f}",
        f"{rates.computed_tokens:,.0f}",
        f"{rates.prompts:,.1f}",
        f"{rates.rejected:,.0f}",
        f"{rates.preempted:,.0f}",
    ]


def _table(moments: list[Moment]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in _COLUMNS:
        table.add_column(name, justify="right")
    for moment in moments:
        if isinstance(moment, EndpointError):
            table.add_row("-", "-", "-", "-", "no answer")
        else:
            table.add_row(*_cells(*moment))
    return table
