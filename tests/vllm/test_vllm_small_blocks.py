"""What the planner has computed where the prefix cache keeps blocks of 16 tokens, as on most GPUs.

vLLM's attention for CPUs says that it takes blocks of 32 and more, although its kernels take 16 as
well. A plugin of vLLM's own kind says so on its behalf, in the server alone.
"""

import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import pytest
from vllm_questions import (
    ON_A_GPU,
    OTHER_ENGINE,
    SAMPLE,
    SAMPLE_ROWS,
    forward,
    open_server,
    reads_for,
)
from vllm_server import PYTHON, ROOT, VllmServer

from icm_client.data import LabelledRow
from icm_client.data.job import Job
from icm_client.runs.frozen import Found
from icm_client.runs.predict import Prediction
from icm_client.runs.predictor import Predictor
from icm_client.scoring import context_ids, open_store, optimal_tokens, with_prompts

pytestmark = pytest.mark.skipif(PYTHON is None, reason="no vLLM given: scripts/test-vllm")

PLUGIN = """\
def register():
    from vllm.v1.attention.backend import MultipleOf
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    def block_sizes(kv_cache_spec=None):
        return [MultipleOf(16)]

    CPUAttentionBackend.get_supported_kernel_block_sizes = staticmethod(block_sizes)
"""


@pytest.fixture(scope="module")
def small_blocks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    folder = tmp_path_factory.mktemp("plugin")
    told = folder / "small_blocks-0.dist-info"
    told.mkdir()
    (folder / "small_blocks.py").write_text(PLUGIN, "utf-8")
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: small-blocks\nVersion: 0\n")
    (told / "entry_points.txt").write_text(
        "[vllm.general_plugins]\nsmall_blocks = small_blocks:register\n", "utf-8"
    )
    server = VllmServer(plugins=None if ON_A_GPU else folder)
    try:
        server.start()
        yield server
    finally:
        server.end()


async def test_blocks_of_16_change_no_log_prob(small_blocks: VllmServer) -> None:
    endpoint = await open_server(small_blocks)
    try:
        reads = await reads_for(endpoint)
        answers = await endpoint.read(reads)
        again = await endpoint.read(reads)
        cache = await endpoint.prefix_cache()
    finally:
        await endpoint.aclose()
    assert cache.block == 16
    for read in (answers, again):
        found = [log_prob for answer in read for log_prob in answer.log_probs]
        pairs = zip(found, forward(reads), strict=True)
        assert max(abs(one - other) for one, other in pairs) <= OTHER_ENGINE


def test_a_tree_and_a_sweep_compute_at_most_a_fifth_more_than_any_order_must(
    small_blocks: VllmServer,
) -> None:
    script: list[str | Path] = [sys.executable, ROOT / "scripts" / "bench_planner.py"]
    done = subprocess.run(
        [*script, "--planned-only", "--endpoint", small_blocks.url],
        env=small_blocks.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    click.echo(f"\n{done.stdout}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "held: planned, at most 1.20 times optimal, in tokens" in done.stdout


async def test_new_rows_compute_at_most_a_tenth_more_than_they_must(
    small_blocks: VllmServer, tmp_path: Path
) -> None:
    job = Job.prepare(SAMPLE_ROWS, SAMPLE / "task.toml")
    known = list(zip(job.dataset.rows, job.dataset.gold or (), strict=True))
    sure = {True: math.log(0.9), False: math.log(0.1)}
    labelled = [
        LabelledRow(row, str(word), 0.9, {one: sure[one == word] for one in job.labels}, "exact")
        for row, word in known[:64]
    ]
    endpoint = await open_server(small_blocks)
    try:
        with open_store(tmp_path / "scores.sqlite3") as store:
            found = Found("gold", job.task, labelled, endpoint.identity, 0, ())
            frozen = await Predictor(found).frozen(endpoint, store)
            before = endpoint.usage.computed_tokens
            new = replace(job.dataset, rows=job.dataset.rows[64:], gold=None, gold_field=None)
            batches = [batch async for batch in Prediction(frozen, endpoint, store).batches(new)]
            computed = endpoint.usage.computed_tokens - before
            demos = await frozen.pieces(endpoint, store)
            pieces, _ = await with_prompts(demos, job.prompts[64:], endpoint, store)
    finally:
        await endpoint.aclose()
    assert sum(len(batch.rows) for batch in batches) == 64
    (context,) = (context_ids(demos, one) for one in frozen.contexts)
    prompts = [context + own for own in pieces.prompts[len(demos.prompts) :]]
    # The context was computed when it was measured; its last block holds tokens of the row too.
    least = optimal_tokens(prompts, block=16) - len(context) // 16 * 16
    click.echo(f"\n64 new rows: {computed} tokens computed, {computed / least:.3f} of the least")
    assert computed <= 1.10 * least
