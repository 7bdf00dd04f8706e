"""What the client itself costs: `python scripts/bench_wire.py` prints scores a second and CPU.

Everything is asked of a server in a process of its own that answers at once and computes nothing.
Prompts are as a sweep makes them: four contexts, and targets behind them.
"""

import asyncio
import math
import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from subprocess import PIPE, Popen

try:
    import icm_client.cli.main  # noqa: F401 - nothing works without the package
except ModuleNotFoundError as missing:
    sys.stderr.write(
        f"Error: icm-client is not installed for {sys.executable} (no module {missing.name}). Run: "
        "pip install -e '.[dev]'\n"
    )
    sys.exit(2)

import aiohttp
import anyio
import click
import openai
import orjson
from rich.console import Console
from rich.table import Table

from icm_client.coherence.problem import Demo, Query
from icm_client.endpoints import Read, TransportSettings, VllmEndpoint
from icm_client.endpoints.transport import Transport
from icm_client.scoring import Scorer, ScoreStore
from icm_client.scoring.assemble import Pieces

CONTEXTS = 4
TARGET_IDS = 20
LABELS = (5676, 4414)
SCORES_A_SECOND = 5_000.0
CPU_MS = 0.2

Ask = Callable[[int], Awaitable[int]]
"""Sends the request with this number; returns how many scores it brought."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one score: how many come a second, and milliseconds of this process's CPU."""

    a_second: float
    cpu_ms: float


@click.command()
@click.option("--ids", default=600, show_default=True, help="Token ids of a prompt.")
@click.option("--group", default=16, show_default=True, help="Prompts of a grouped request.")
@click.option("--seconds", default=3.0, show_default=True, help="Measured for each figure.")
@click.option("--in-flight", default="1,32,256", show_default=True)
def wire(ids: int, group: int, seconds: float, in_flight: str) -> None:
    """Scores a second and CPU a score, beside other ways to ask the same."""
    with Popen([sys.executable, __file__, "serve"], stdout=PIPE, text=True) as server:
        assert server.stdout is not None  # noqa: S101 - for the type checker
        try:
            url = f"http://127.0.0.1:{int(server.stdout.readline())}"
            anyio.run(_wire, url, ids, group, seconds, [int(n) for n in in_flight.split(",")])
        finally:
            server.terminate()


async def _wire(url: str, ids: int, group: int, seconds: float, in_flight: list[int]) -> None:
    ways = {
        f"the scorer, {group} prompts a request": (_scorer, group),
        f"the endpoint, {group} prompts a request": (_endpoint, group),
        "the endpoint, one prompt a request": (_endpoint, 1),
        "bare aiohttp, one prompt a request": (_aiohttp, 1),
        "the SDK's completions.create, one prompt a request": (_sdk, 1),
    }
    harness = find_spec("lm_eval") is not None
    if harness:
        ways["lm-evaluation-harness, one label a request"] = (_harness, 1)
    table = Table(title=f"scores a second / CPU ms a score; prompts of {ids} ids")
    table.add_column("")
    for number in in_flight:
        table.add_column(f"{number} in flight", justify="right")
    best: dict[str, Cost] = {}
    for name, (way, size) in ways.items():
        costs = [await way(url, ids, size, number, seconds) for number in in_flight]
        best[name] = max(costs, key=lambda cost: cost.a_second)
        table.add_row(name, *(f"{cost.a_second:,.0f} / {cost.cpu_ms:.2f}" for cost in costs))
    console = Console(width=120)
    console.print(table)
    if not harness:
        console.print("without lm-evaluation-harness: pip install 'lm_eval[api]' (745 MB)")
    ours, _, _, bare, *_ = best.values()
    for held, words in (
        (ours.a_second >= SCORES_A_SECOND, f"{SCORES_A_SECOND:,.0f} scores a second, grouped"),
        (ours.cpu_ms <= CPU_MS, f"{CPU_MS} ms of CPU a score, grouped"),
        (ours.a_second > bare.a_second, "more than bare aiohttp's single prompts"),
    ):
        console.print(f"{'held' if held else 'MISSED'}: {words}")


async def measured(ask: Ask, in_flight: int, seconds: float) -> Cost:
    """The cost of what `ask` brings, with so many requests under way all the time."""
    numbers = count()
    scores = 0
    deadline = time.perf_counter() + seconds

    async def worker() -> None:
        nonlocal scores
        while time.perf_counter() < deadline:
            brought = await ask(next(numbers))  # not `+= await`, which would add to an old value
            scores += brought

    began, cpu = time.perf_counter(), time.process_time()
    async with anyio.create_task_group() as tasks:
        for _ in range(in_flight):
            tasks.start_soon(worker)
    spent = time.process_time() - cpu
    return Cost(scores / (time.perf_counter() - began), spent / scores * 1e3)


def prompt(number: int, ids: int) -> tuple[int, ...]:
    """Of `ids` ids, different from all others with another number; one context in four."""
    context = tuple(range(100_000, 100_000 + ids - TARGET_IDS))
    return (*context, 1000 + number % CONTEXTS, *range(2000, 1999 + TARGET_IDS - 1), number)


@asynccontextmanager
async def opened(url: str, in_flight: int) -> AsyncIterator[VllmEndpoint]:
    """Our endpoint with a limit that does not move."""
    limit = TransportSettings(
        min_in_flight=in_flight, max_in_flight=in_flight, start_in_flight=in_flight
    )
    async with await VllmEndpoint.open(Transport(url, settings=limit)) as endpoint:
        yield endpoint


async def _endpoint(url: str, ids: int, size: int, in_flight: int, seconds: float) -> Cost:
    async with opened(url, in_flight) as endpoint:

        async def ask(number: int) -> int:
            first = number * size
            reads = [Read(prompt(n, ids), LABELS) for n in range(first, first + size)]
            return len(await endpoint.read(reads))

        return await measured(ask, in_flight, seconds)


async def _scorer(url: str, ids: int, size: int, in_flight: int, seconds: float) -> Cost:
    """Whole sweeps: prompts put together, looked up, planned, sent, checked and stored."""
    demo_ids = 29
    demos = (ids - TARGET_IDS) // (demo_ids + 2)
    targets = max(256, 4 * size * in_flight // CONTEXTS)
    pieces = Pieces(
        bos=(2,),
        prompts=tuple(
            tuple(range(10_000 + item, 10_000 + item + TARGET_IDS))
            if item >= demos
            else tuple(range(10_000 + item, 10_000 + item + demo_ids))
            for item in range(demos + targets)
        ),
        labels=tuple((label,) for label in LABELS),
        separator=(108,),
    )
    with tempfile.TemporaryDirectory() as folder:
        async with opened(url, in_flight) as endpoint:
            with ScoreStore.open(Path(folder) / "scores.sqlite3") as store:
                scorer = Scorer(
                    endpoint, store, pieces, group_size=size, reads_in_flight=size * in_flight
                )

                async def sweep(number: int) -> int:
                    contexts = [
                        tuple(
                            Demo(item, (number * CONTEXTS + fold) >> item & 1)
                            for item in range(demos)
                        )
                        for fold in range(CONTEXTS)
                    ]
                    queries = [Query(c, demos + t) for c in contexts for t in range(targets)]
                    scores = await scorer(queries)
                    if not math.isfinite(scores.sum()):
                        raise RuntimeError("not a score")
                    return len(queries)

                return await measured(sweep, 1, seconds)


def _body(number: int, ids: int) -> dict[str, object]:
    return {
        "model": "null",
        "prompt": [prompt(number, ids)],
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": 1,
        "logprob_token_ids": LABELS,
        "return_tokens_as_token_ids": True,
    }


async def _aiohttp(url: str, ids: int, size: int, in_flight: int, seconds: float) -> Cost:
    connector = aiohttp.TCPConnector(limit=in_flight)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def ask(number: int) -> int:
            async with session.post(f"{url}/v1/completions", json=_body(number, ids)) as answer:
                body = await answer.json()
            return len(body["choices"][0]["logprobs"]["top_logprobs"]) * size

        return await measured(ask, in_flight, seconds)


async def _sdk(url: str, ids: int, size: int, in_flight: int, seconds: float) -> Cost:
    async with openai.AsyncOpenAI(
        base_url=f"{url}/v1",
        api_key="none",
        max_retries=0,
        timeout=600.0,
        http_client=openai.DefaultAioHttpClient(timeout=600.0),
    ) as client:

        async def ask(number: int) -> int:
            answer = await client.completions.create(
                model="null",
                prompt=[list(prompt(number, ids))],
                max_tokens=1,
                temperature=0,
                logprobs=1,
                extra_body={"logprob_token_ids": LABELS, "return_tokens_as_token_ids": True},
            )
            logprobs = answer.choices[0].logprobs
            return size * len((logprobs and logprobs.top_logprobs) or ())

        return await measured(ask, in_flight, seconds)


async def _harness(url: str, ids: int, size: int, in_flight: int, seconds: float) -> Cost:
    """A label's log-prob is a request of its own there, with the log-probs of the whole prompt."""
    completions = import_module("lm_eval.models.openai_completions")
    model = completions.LocalCompletionsAPI(
        model="null",
        base_url=f"{url}/v1/completions",
        tokenizer_backend=None,
        num_concurrent=in_flight,
        max_length=10**6,
    )
    model.tokenized_requests = True  # without a tokenizer it would send text
    together = max(64, 4 * in_flight)

    async def ask(number: int) -> int:
        first = number * together
        asked = [[*prompt(first + n, ids), label] for n in range(together) for label in LABELS]
        found = await model.get_batched_requests(
            asked, [None] * len(asked), generate=False, ctxlens=[ids] * len(asked)
        )
        return size * len(found) // len(LABELS)

    return await measured(ask, 1, seconds)


class NullServer(asyncio.Protocol):
    """HTTP/1.1 as little as will do: answers to any number of prompts, made once."""

    _answers: dict[tuple[int, int], bytes] = {}  # noqa: RUF012 - shared by all connections
    _length = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)

    def __init__(self) -> None:
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        if isinstance(transport, asyncio.Transport):
            self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer once the whole request is there."""
        self._received += data
        head = self._received.find(b"\r\n\r\n")
        if head < 0 or self._transport is None:
            return
        found = self._length.search(self._received, 0, head)
        body = self._received[head + 4 :]
        if found and len(body) < int(found[1]):
            return
        path = self._received.split(b" ", 2)[1]
        self._received.clear()
        self._transport.write(self._answer(bytes(path), body))

    def _answer(self, path: bytes, body: bytearray) -> bytes:
        if path == b"/v1/models":
            entry = {"id": "null", "owned_by": "vllm", "root": "null", "max_model_len": 10**6}
            return _http({"object": "list", "data": [entry]})
        if path == b"/version":
            return _http({"version": "0"})
        prompts = body.count(b"[") - 1 - body.count(b'"logprob_token_ids"')
        echoed = body.count(b",", 0, body.find(b"]")) + 1 if b'"echo": true' in body else 0
        if (prompts, echoed) not in self._answers:
            self._answers[prompts, echoed] = _http(_completion(prompts, echoed))
        return self._answers[prompts, echoed]


def _completion(prompts: int, echoed: int) -> dict[str, object]:
    positions = echoed + 1
    found = {f"token_id:{label}": -0.5 - n for n, label in enumerate(LABELS)}
    logprobs = {
        "text_offset": [0] * positions,
        "token_logprobs": [-0.5] * positions,
        "tokens": [f"token_id:{LABELS[0]}"] * positions,
        "top_logprobs": [found] * positions,
    }
    choices = [
        {"index": n, "text": "", "logprobs": logprobs, "finish_reason": "length"}
        for n in range(prompts)
    ]
    usage = {"prompt_tokens": 10**6, "completion_tokens": prompts, "total_tokens": 10**6 + prompts}
    return {
        "id": "cmpl-0",
        "object": "text_completion",
        "created": 0,
        "model": "null",
        "choices": choices,
        "usage": usage,
    }


def _http(body: dict[str, object]) -> bytes:
    raw = orjson.dumps(body)
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
    )
    return head.encode() + raw


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(NullServer, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        asyncio.run(_serve())
    wire()
