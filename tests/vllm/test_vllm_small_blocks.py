"""What the planner has computed where the prefix cache keeps blocks of 16 tokens, as on most GPUs.

vLLM's attention for CPUs says that it takes blocks of 32 and more, although its kernels take 16 as
well. A plugin of vLLM's own kind says so on its behalf, in the server alone.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from vllm_questions import ON_A_GPU, OTHER_ENGINE, forward, open_server, reads_for
from vllm_server import PYTHON, ROOT, VllmServer

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
