"""What is sent to a server that tells of its prefix cache, and in which order."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_endpoint import TableEndpoint

from icm_client.endpoints.protocol import Answer, CachingEndpoint, PrefixCache, Read, TokenIds
from icm_client.endpoints.vllm import vllm_prefix_cache
from icm_client.errors import EndpointError, EndpointFault, ScoreError
from icm_client.scoring.execute import Caller, execute
from icm_client.scoring.planner import optimal_tokens
from icm_client.scoring.prompts import Question

BLOCK = 16


class BlockServer(TableEndpoint):
    """Caches whole blocks, as vLLM does for models with a sliding window: where a prompt ended.

    What the same prompt could resume at is kept, so its last token never counts.
    """

    def __init__(self, cache: PrefixCache, *, refused: int = 0) -> None:
        super().__init__()
        self.cache = cache
        self.refused = refused
        self.kept: set[TokenIds] = {()}
        self.computed = 0

    async def prefix_cache(self) -> PrefixCache:
        return self.cache

    async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
        if self.refused:
            self.refused -= 1
            raise EndpointFault("500")
        self._compute([read.prompt for read in reads])
        return await super().read(reads, lane=lane)

    async def warm(self, prefix: TokenIds, *, lane: int | None = None) -> None:
        self._compute([prefix])
        await super().warm(prefix, lane=lane)

    def _compute(self, prompts: list[TokenIds]) -> None:
        ends = []
        for prompt in prompts:
            end = (len(prompt) - 1) // BLOCK * BLOCK
            ends.append(prompt[:end])
            while prompt[:end] not in self.kept:
                end -= BLOCK
            self.computed += len(prompt) - end
        self.kept.update(ends)


async def executed(
    server: BlockServer, reads: list[Read], *, reads_in_flight: int = 64, group_size: int = 4
) -> list[int]:
    """Which reads were answered, in that order."""
    found: list[int] = []
    failed: list[EndpointError | ScoreError] = []
    await execute(
        [Question((), *read) for read in reads],
        range(len(reads)),
        server,
        Caller(
            arrived=lambda indices, _: found.extend(indices),
            failed=lambda _, error: failed.append(error),
            stopping=lambda: False,
        ),
        group_size=group_size,
        reads_in_flight=reads_in_flight,
    )
    return found


def tree(depth: int, demo: int, begins: TokenIds = (1,)) -> list[Read]:
    """A binary tree whose branches add `demo` ids a level, and two reads at each leaf."""
    if not depth:
        return [Read((*begins, 7000 + n, *range(5), n), (5, 6)) for n in range(2)]
    demos = [range(10_000 * depth + start, 10_000 * depth + start + demo) for start in (0, 1000)]
    return [read for ids in demos for read in tree(depth - 1, demo, (*begins, *ids))]


def test_a_block_server_is_one_that_reports_its_cache() -> None:
    assert isinstance(BlockServer(PrefixCache()), CachingEndpoint)
    assert not isinstance(TableEndpoint(), CachingEndpoint)


@pytest.mark.parametrize("demo", [47, 48, 49, 70])
async def test_warmed_prefixes_are_whole_blocks_and_cost_a_token_each(demo: int) -> None:
    reads = tree(4, demo)
    server = BlockServer(PrefixCache(BLOCK))
    assert sorted(await executed(server, reads)) == list(range(len(reads)))
    sent_ahead = [prefix for kind, prefix in server.events if kind == "warm"]
    assert sent_ahead
    assert {len(prefix) % BLOCK for prefix in sent_ahead} == {1}
    least = optimal_tokens([read.prompt for read in reads], block=BLOCK)
    # A read whose length is a whole number of blocks has its last one computed in any case.
    whole = sum(BLOCK for read in reads if len(read.prompt) % BLOCK == 0)
    assert server.computed <= least + len(sent_ahead) + whole


async def test_blocks_that_hold_two_prefixes_in_one_send_nothing_twice() -> None:
    server = BlockServer(PrefixCache(1024))
    reads = tree(2, 40)
    assert sorted(await executed(server, reads)) == list(range(len(reads)))
    assert {kind for kind, _ in server.events} == {"read"}


async def test_a_small_cache_is_filled_depth_first() -> None:
    reads = tree(5, 48)
    half = 48 * 6
    server = BlockServer(PrefixCache(BLOCK, 2 * half))
    assert sorted(await executed(server, reads)) == list(range(len(reads)))
    # Where nothing fits any more, one path is followed down to its reads.
    most = half + 48 * 5
    assert _most_open(server, reads) <= most

    wide = BlockServer(PrefixCache(BLOCK, 10**6))
    await executed(wide, reads)
    assert _most_open(wide, reads) > most


def _most_open(server: BlockServer, reads: list[Read]) -> int:
    events = server.events
    return max(_open(events[:end], reads) for end in range(len(events)))


def _open(events: list[tuple[str, TokenIds]], reads: list[Read]) -> int:
    """Tokens of prefixes that were sent ahead and that an unanswered read begins with."""
    answered = {prompt for kind, prompt in events if kind == "read"}
    left = [read.prompt for read in reads if read.prompt not in answered]
    warm = [prefix[:-1] for kind, prefix in events if kind == "warm"]
    used = [prefix for prefix in warm if any(p[: len(prefix)] == prefix for p in left)]
    return len({prefix[:end] for prefix in used for end in range(1, len(prefix) + 1)})


async def test_a_cache_too_small_for_any_prefix_stops_nothing() -> None:
    reads = tree(4, 48)
    server = BlockServer(PrefixCache(BLOCK, 8))
    assert sorted(await executed(server, reads)) == list(range(len(reads)))


async def test_groups_that_failed_leave_room_for_what_follows() -> None:
    reads = tree(4, 48)
    server = BlockServer(PrefixCache(BLOCK, 48 * 6), refused=5)
    found = await executed(server, reads, group_size=2)
    assert len(found) == len(set(found))
    assert len(found) >= len(reads) - 5


prompts = st.lists(st.integers(0, 1), min_size=1, max_size=30).map(tuple)


@given(st.lists(prompts, max_size=12), st.sampled_from([1, 2, 5]))
def test_the_least_tokens_in_blocks_are_distinct_blocks_and_the_rests(
    asked: list[TokenIds], block: int
) -> None:
    distinct = {prompt[:end] for prompt in asked for end in range(block, len(prompt) + 1, block)}
    rests = [len(prompt) % block for prompt in set(asked)]
    assert optimal_tokens(sorted(set(asked)), block=block) == block * len(distinct) + sum(rests)


INFO = 'vllm:cache_config_info{block_size="16",%scache_dtype="auto",num_gpu_blocks="100"} 1.0\n'


@pytest.mark.parametrize(
    ("metrics", "found"),
    [
        ("", PrefixCache()),
        ("vllm:num_requests_waiting 0.0\n", PrefixCache()),
        (INFO % "", PrefixCache(16, 1600)),
        (INFO % 'kv_cache_size_tokens="900",', PrefixCache(16, 900)),
        (2 * (INFO % 'cache_hit_alignment_tokens="32",'), PrefixCache(32, 3200)),
        (INFO.replace('"100"', '"None"') % "", PrefixCache(16, None)),
    ],
)
def test_what_vllm_reports_of_its_cache(metrics: str, found: PrefixCache) -> None:
    assert vllm_prefix_cache(metrics.encode()) == found
