"""Prompt tokens that a server computes, over the fewest: `python scripts/bench_planner.py`.

Two pieces of work on real reviews: a tree of leave-one-out contexts over 64 of them, and a sweep
of 4 folds over 256. Each is sent in the planner's order, one at a time in the order of the prefix
tree, and all at once as it comes. What was computed is what the server's `usage` says, and beside
it what vLLM's own counters in `/metrics` say: its `usage` tells the cached tokens of a request's
last prompt alone, and the client concludes from it what the others had.
"""

import os
import re
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

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
import numpy as np
from rich.console import Console
from rich.table import Table

from icm_client import EmbeddedEndpoint
from icm_client.coherence.contexts import fold_contexts
from icm_client.coherence.leave_one_out import queries
from icm_client.coherence.problem import Problem, Query
from icm_client.coherence.settings import SweepSettings
from icm_client.data.job import Job
from icm_client.endpoints import Endpoint, connect
from icm_client.endpoints.protocol import CachingEndpoint, PrefixCache, Read
from icm_client.errors import EndpointError, ScoreError
from icm_client.scoring import ScoreStore, tokenize_pieces
from icm_client.scoring.assemble import Pieces, context_ids
from icm_client.scoring.execute import Caller, execute
from icm_client.scoring.planner import optimal_tokens
from icm_client.scoring.prompts import LabelTrie, Question

EXAMPLES = Path(__file__).parents[1] / "examples"
LIMITS = {"llama.cpp": 1.10, "vllm": 1.20}
_COUNTED = re.compile(rb"^vllm:prefix_cache_(queries|hits)_total\{.*\} (\S+)", re.MULTILINE)
PROMISED_BLOCK = 16
"""Tokens. A server whose blocks are larger is held against what is optimal in its blocks."""
COLUMNS = ("by usage", "by /metrics", "over optimal", "over optimal blocks", "requests", "s")
GROUP = 16
IN_FLIGHT = 256

Opened = Callable[[], Awaitable[AbstractAsyncContextManager[Endpoint]]]


@dataclass(frozen=True, slots=True)
class Spent:
    """On one piece of work: prompt tokens computed, requests and seconds.

    `counted` are the computed tokens by the server's own counters, None where it has none.
    """

    computed: int
    counted: int | None
    requests: int
    seconds: float


@click.command()
@click.option(
    "--endpoint", help="A server's URL; its key is ICM_API_KEY.  [default: the embedded server]"
)
@click.option("--model", help="Which of its models.  [default: the only one]")
@click.option("--leave-one-out", "n_tree", default=64, show_default=True)
@click.option("--items", "n_sweep", default=256, show_default=True)
@click.option("--planned-only", is_flag=True, help="Leave the other two orders out.")
def planner(
    endpoint: str | None, model: str | None, n_tree: int, n_sweep: int, planned_only: bool
) -> None:
    """Computed over optimal prompt tokens, in three orders."""
    held = anyio.run(_planner, endpoint, model, n_tree, n_sweep, planned_only)
    if not held:
        raise click.ClickException("more tokens than promised")


async def _planner(
    url: str | None, model: str | None, n_tree: int, n_sweep: int, planned_only: bool
) -> bool:
    key = os.environ.get("ICM_API_KEY")

    async def opened() -> AbstractAsyncContextManager[Endpoint]:
        return EmbeddedEndpoint() if url is None else await connect(url, model=model, api_key=key)

    async with await opened() as server:
        pieces = await _pieces(server)
        kind = server.identity.kind
        cache = PrefixCache()
        if isinstance(server, CachingEndpoint):
            cache = await server.prefix_cache()
    orders = {"planned": planned, "one at a time": one_at_a_time, "all at once": all_at_once}
    if planned_only:
        del orders["one at a time"], orders["all at once"]
    limit = LIMITS.get(kind)
    console = Console(width=120)
    console.print(f"{kind}; prefixes found again in steps of {cache.block} tokens")
    held = True
    works = {
        f"leave-one-out tree, {n_tree} items": _tree(pieces, n_tree),
        f"sweep of 4 folds, {n_sweep} items": _sweep(pieces, n_sweep),
    }
    salt = int(time.time()) % 100_000
    for name, work in works.items():
        table = Table(title=name)
        for column in ("order", *COLUMNS):
            table.add_column(column, justify="right")
        for order, send in orders.items():
            salt += 1
            # Nothing is found again of the order before: a token at the start is another one.
            reads = [Read((*read.prompt[:1], salt, *read.prompt[1:]), read.wanted) for read in work]
            prompts = [read.prompt for read in reads]
            spent = await _spent(opened, url, partial(send, reads))
            computed = spent.computed if spent.counted is None else spent.counted
            ratio = computed / optimal_tokens(prompts)
            in_blocks = computed / optimal_tokens(prompts, block=cache.block)
            table.add_row(
                order,
                f"{spent.computed:,}",
                "" if spent.counted is None else f"{spent.counted:,}",
                f"{ratio:.2f}",
                f"{in_blocks:.2f}",
                f"{spent.requests:,}",
                f"{spent.seconds:.1f}",
            )
            counted = ratio if cache.block <= PROMISED_BLOCK else in_blocks
            held &= order != "planned" or limit is None or counted <= limit
        table.add_section()
        table.add_row("optimal", "", f"{optimal_tokens(prompts):,}", "1.00")
        console.print(table)
    if limit is not None:
        unit = "tokens" if cache.block <= PROMISED_BLOCK else f"blocks of {cache.block}"
        verdict = "held" if held else "MISSED"
        console.print(f"{verdict}: planned, at most {limit:.2f} times optimal, in {unit}")
    return held


async def _spent(
    opened: Opened, url: str | None, send: Callable[[Endpoint], Awaitable[None]]
) -> Spent:
    async with await opened() as server:
        await server.read([Read((2, 3, 4), (5,))])  # it is started, and its limit asked for
        before = (server.usage.computed_tokens, server.usage.requests)
        counted_before = await _counted(url)
        began = time.perf_counter()
        await send(server)
        seconds = time.perf_counter() - began
        counted = await _counted(url)
        return Spent(
            server.usage.computed_tokens - before[0],
            None if counted is None or counted_before is None else counted - counted_before,
            server.usage.requests - before[1],
            seconds,
        )


async def _counted(url: str | None) -> int | None:
    """Prompt tokens that vLLM has computed since it was started."""
    if url is None:
        return None
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as answer:
        found = _COUNTED.findall(await answer.read())
    if not found:
        return None
    return int(sum(float(count) * (1 if kind == b"queries" else -1) for kind, count in found))


async def planned(reads: Sequence[Read], server: Endpoint) -> None:
    """As a run does."""

    def failed(_: Sequence[int], error: EndpointError | ScoreError) -> None:
        raise error

    answered: list[int] = []
    await execute(
        [Question((), *read) for read in reads],
        range(len(reads)),
        server,
        Caller(
            arrived=lambda indices, _: answered.extend(indices),
            failed=failed,
            stopping=lambda: False,
        ),
        group_size=GROUP,
        reads_in_flight=IN_FLIGHT,
    )
    if sorted(answered) != list(range(len(reads))):
        raise RuntimeError("not every read was answered once")


async def one_at_a_time(reads: Sequence[Read], server: Endpoint) -> None:
    """Depth first over the prefix tree: what a loop over sorted prompts does."""
    for read in sorted(reads):
        await server.read([read], lane=0 if server.lanes else None)


async def all_at_once(reads: Sequence[Read], server: Endpoint) -> None:
    """In no order, as many as may be in flight."""
    order = np.random.default_rng(0).permutation(len(reads)).tolist()
    async with anyio.create_task_group() as tasks:
        for number, index in enumerate(order):
            lane = number % server.lanes if server.lanes else None
            tasks.start_soon(partial(server.read, [reads[index]], lane=lane))


async def _pieces(server: Endpoint) -> Pieces:
    jobs = [
        Job.prepare(EXAMPLES / sample / f"{sample}.jsonl", EXAMPLES / sample / "task.toml")
        for sample in ("movie_reviews", "product_reviews")
    ]
    prompts = [prompt for job in jobs for prompt in job.prompts]
    task = jobs[0].task
    with (
        tempfile.TemporaryDirectory() as folder,
        ScoreStore.open(Path(folder) / "scores.sqlite3") as store,
    ):
        return await tokenize_pieces(prompts, task.label_texts, task.separator, server, store)


def _tree(pieces: Pieces, items: int) -> list[Read]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, size=items)
    return _reads(pieces, queries(labels, rng.permutation(items), "tree"))


def _sweep(pieces: Pieces, items: int) -> list[Read]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, size=items)
    settings = SweepSettings(folds=4)
    sure = rng.normal(size=(items, 2))
    folds = fold_contexts(2, labels, sure, Problem(items, 2), settings=settings, rng=rng)
    return _reads(pieces, [Query(context, int(i)) for context, targets in folds for i in targets])


def _reads(pieces: Pieces, asked: Sequence[Query]) -> list[Read]:
    labels = LabelTrie(pieces.labels, pieces.label_texts)
    return [
        read
        for query in asked
        for read in labels.reads(context_ids(pieces, query.context) + pieces.prompts[query.target])
    ]


if __name__ == "__main__":
    planner()
