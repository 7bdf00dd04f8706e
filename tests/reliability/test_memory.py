"""What a sweep over many items takes."""

import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pytest

from icm_client.coherence.problem import Demo, Query
from icm_client.endpoints import Answer, Exactness, Read, ServerIdentity, TokenIds, Usage
from icm_client.scoring import Pieces, Scorer, ScoreStore

pytestmark = pytest.mark.slow

ITEMS, DEMOS, ITEM_IDS = 2000, 60, 50
CONTEXT_BYTES = 8 * DEMOS * (ITEM_IDS + 2)


class Forgetful:
    """Gives every read the same answer, and keeps none."""

    identity = ServerIdentity("vllm", "forgetful", 8192, "f")
    lanes = 0
    usage = Usage()

    async def tokenize(self, text: str, *, add_special: bool) -> TokenIds:
        raise NotImplementedError

    async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
        assert lane is None
        return [Answer((-0.5, -1.5), Exactness.EXACT) for _ in reads]

    async def warm(self, prefix: TokenIds, *, lane: int | None = None) -> None:
        pass

    async def aclose(self) -> None:
        pass


async def test_a_sweep_holds_a_context_once_and_not_for_every_item(tmp_path: Path) -> None:
    prompts = [(1000 + item, *range(ITEM_IDS - 1)) for item in range(ITEMS)]
    pieces = Pieces((1,), tuple(prompts), ((5,), (7,)), (9,))
    context = tuple(Demo(item, item % 2) for item in range(DEMOS))
    queries = [Query(context, item) for item in range(DEMOS, ITEMS)]
    written_out = CONTEXT_BYTES * len(queries)
    with ScoreStore.open(tmp_path / "store") as store:
        scorer = Scorer(Forgetful(), store, pieces)
        tracemalloc.start()
        try:
            for _ in ("asked", "from the store"):
                tracemalloc.reset_peak()
                await scorer(queries)
                _, peak = tracemalloc.get_traced_memory()
                assert peak < written_out / 5, (peak, written_out)
        finally:
            tracemalloc.stop()
    assert scorer.stats.from_store == len(queries)
