"""One server, from its start to Ctrl-C; the tests stand in the order of its life."""

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import httpx2
import pytest
from vllm_questions import (
    COMMAND,
    ON_A_GPU,
    ONE_SERVER,
    OTHER_ENGINE,
    SAMPLE,
    SAMPLE_ROWS,
    forward,
    label,
    label_command,
    labelled,
    labels_in,
    open_server,
    reads_for,
)
from vllm_server import PYTHON, ROOT, VllmServer, free_port

from icm_client.cache import cache_folder
from icm_client.endpoints import EmbeddedEndpoint, Read
from icm_client.serving.metrics import Snapshot

pytest_plugins = ["vllm_fixtures"]
pytestmark = pytest.mark.skipif(PYTHON is None, reason="no vLLM given: scripts/test-vllm")

LLAMA_CPP = 0.5
"""Nats between vLLM and llama.cpp, which rounds activations to 8 bits in every layer."""
AGREEMENT = 0.93
"""Of the labels that llama.cpp finds; the others are of rows that neither is clear about."""


def clearness(row: dict[str, Any]) -> float:
    """Return how far the row is from the threshold, in nats."""
    return float(abs(row["log_prob_positive"] - row["log_prob_negative"]))


WATCH = "from icm_client.cli.watch import watch_command; watch_command()"


def test_it_says_where_it_is_and_shows_its_key_to_nobody(vllm: VllmServer) -> None:
    assert vllm.said[0] == f"Serving gemma-3-270m at {vllm.url}. Ctrl-C ends it."
    assert vllm.said[2] == f"icm-client label ROWS -o labels.jsonl --endpoint {vllm.url}"
    family = vllm.family()
    assert len(family) > 1
    for pid in family:
        with contextlib.suppress(FileNotFoundError):
            assert vllm.key.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert vllm.key not in (cache_folder() / "logs" / f"vllm-{vllm.port}.log").read_text("utf-8")
    assert httpx2.get(f"{vllm.url}/v1/models").status_code == 401
    assert "server_load" in httpx2.get(f"{vllm.url}/load").json()
    click.echo(f"\nready after {vllm.started_in_s:.0f} s")


def test_check_finds_nothing_amiss(vllm: VllmServer) -> None:
    done = subprocess.run(
        [COMMAND, "check", "--task", SAMPLE / "task.toml", "--data", SAMPLE_ROWS],
        env=vllm.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    click.echo(f"\n{done.stdout}")


async def test_one_token_reads_are_what_prompt_logprobs_and_transformers_say(
    vllm: VllmServer,
) -> None:
    endpoint = await open_server(vllm)
    try:
        reads = await reads_for(endpoint)
        answers = await endpoint.read(reads)
    finally:
        await endpoint.aclose()
    read = [log_prob for answer in answers for log_prob in answer.log_probs]

    through_prompts = []
    async with httpx2.AsyncClient(
        base_url=vllm.url, headers={"Authorization": f"Bearer {vllm.key}"}, timeout=120
    ) as client:
        for prompt, wanted in reads:
            for token in wanted:
                body = {
                    "model": "gemma-3-270m",
                    "prompt": [*prompt, token],
                    "max_tokens": 1,
                    "prompt_logprobs": 0,
                    "add_special_tokens": False,
                }
                answer = (await client.post("/v1/completions", json=body)).json()
                last = answer["choices"][0]["prompt_logprobs"][-1]
                through_prompts.append(last[str(token)]["logprob"])

    through_transformers = forward(reads)
    same = max(abs(a - b) for a, b in zip(read, through_prompts, strict=True))
    other = max(abs(a - b) for a, b in zip(read, through_transformers, strict=True))
    click.echo(
        f"\n{len(read)} log-probs: {same:.1e} from prompt_logprobs, {other:.1e} from transformers"
    )
    assert same <= ONE_SERVER
    assert other <= OTHER_ENGINE


async def test_texts_are_tokenized_together_as_each_one_alone(vllm: VllmServer) -> None:
    endpoint = await open_server(vllm)
    texts = ["good", " good", "a\nb", "Ünïcode €", "x" * 300, "<eos> is text", "  "]
    try:
        together = await endpoint.tokenize_many(texts)
        alone = [await endpoint.tokenize(text, add_special=False) for text in texts]
    finally:
        await endpoint.aclose()
    assert together == alone


async def test_a_context_is_computed_once(vllm: VllmServer) -> None:
    endpoint = await open_server(vllm)
    try:
        reads = await reads_for(endpoint)
        context = reads[-1].prompt
        targets = [read.prompt[-20:] for read in reads] * 4
        following = [
            Read((*context, number + 1000, *target), reads[0].wanted)
            for number, target in enumerate(targets)
        ]
        await endpoint.warm(context)
        before = endpoint.usage.computed_tokens
        await endpoint.read(following)
        computed = endpoint.usage.computed_tokens - before
    finally:
        await endpoint.aclose()
    sent = sum(len(read.prompt) for read in following)
    least = sum(len(read.prompt) - len(context) for read in following)
    click.echo(
        f"\n{sent:,} tokens sent behind a context, {computed:,} computed, {least:,} at least"
    )
    # Blocks of 16 tokens are kept whole, so that up to 15 of the context are computed again.
    assert computed <= least + 16 * len(following)


def test_64_reviews_are_labelled(vllm: VllmServer, folder: Path) -> None:
    watching = subprocess.Popen(
        [sys.executable, "-c", WATCH, "--json", "--interval", "1"],
        env=vllm.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        found = label(folder, 64, "undisturbed", vllm.environment)
    finally:
        watching.terminate()
        seen, _ = watching.communicate()
    moments = [json.loads(line) for line in seen.splitlines()]
    accuracy, cost = found["accuracy"], found["cost"]
    assert isinstance(accuracy, float)
    assert isinstance(cost, dict)
    prompt_rate = max(moment["rates"]["prompt_tokens"] for moment in moments)
    read_rate = max(moment["rates"]["prompts"] for moment in moments)
    click.echo(
        f"\naccuracy {accuracy:.1%}, {cost}; at most {prompt_rate:,.0f} prompt tokens/s and "
        f"{read_rate:.0f} reads/s on the {'GPU' if ON_A_GPU else 'CPU'}"
    )
    assert accuracy >= 0.8
    assert cost["cached_tokens"] > 2 * cost["computed_tokens"]
    assert any(moment["rates"]["hit_rate"] for moment in moments)


async def test_the_dequantized_model_is_the_one_that_llama_cpp_serves(vllm: VllmServer) -> None:
    served = await open_server(vllm)
    async with EmbeddedEndpoint(context_length=4096) as local:
        try:
            reads = await reads_for(served)
            assert await reads_for(local) == reads, "other tokens"
            ours = await served.read(reads)
        finally:
            await served.aclose()
        theirs = await local.read(reads)
    pairs = [
        pair
        for one, other in zip(ours, theirs, strict=True)
        for pair in zip(one.log_probs, other.log_probs, strict=True)
    ]
    apart = [abs(one - other) for one, other in pairs]
    click.echo(
        f"\n{len(pairs)} log-probs: {statistics.median(apart):.3f} nats from llama.cpp in the "
        f"median, {max(apart):.3f} at most; vLLM and llama.cpp: "
        f"{', '.join(f'{one:.2f} {other:.2f}' for one, other in pairs)}"
    )
    assert max(apart) <= LLAMA_CPP


def test_llama_cpp_gives_the_same_labels(vllm: VllmServer, folder: Path) -> None:
    embedded = {
        name: value
        for name, value in vllm.environment.items()
        if name not in ("ICM_ENDPOINT", "ICM_API_KEY", "ICM_MODEL")
    }
    served = label(folder, 64, "undisturbed", vllm.environment)  # from its store
    local = label(folder, 64, "llama", embedded)
    files = folder / "undisturbed.jsonl", folder / "llama.jsonl"
    rows = list(zip(*map(labelled, files), strict=True))
    apart = [pair for pair in rows if pair[0]["label"] != pair[1]["label"]]
    unclear = [max(map(clearness, pair)) for pair in apart]
    shared = 1 - len(apart) / len(rows)
    click.echo(
        f"\nvLLM {served['accuracy']:.1%}, llama.cpp {local['accuracy']:.1%}, the same label for "
        f"{shared:.1%}; the others at most {max(unclear, default=0):.2f} nats from the threshold"
    )
    assert shared >= AGREEMENT
    # A log-odds is the difference of two log-probs, each so far from the other engine's.
    assert max(unclear, default=0) <= 2 * LLAMA_CPP


def prompts_answered(vllm: VllmServer) -> float:
    return Snapshot.parse(httpx2.get(f"{vllm.url}/metrics").content).finished


def test_a_server_killed_in_mid_run_is_waited_for(vllm: VllmServer, folder: Path) -> None:
    before = prompts_answered(vllm)
    running = subprocess.Popen(
        label_command(folder, 64, "disturbed"),
        env=vllm.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while prompts_answered(vllm) - before < 100 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert running.poll() is None, running.communicate()
    answered = prompts_answered(vllm) - before
    for pid in vllm.family():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert vllm.process is not None
    vllm.process.wait(30)
    vllm.start()
    answer, errors = running.communicate(timeout=500)
    assert running.returncode == 0, errors
    found = json.loads(answer)
    click.echo(f"\nkilled after {answered:.0f} prompts, and restarted: {found['cost']}")
    assert 100 <= answered < found["cost"]["from_server"]
    assert found["cost"]["retries"] > 0
    assert labels_in(folder / "disturbed.jsonl") == labels_in(folder / "undisturbed.jsonl")


def test_a_taken_port_is_told_before_anything_is_loaded(vllm: VllmServer) -> None:
    assert PYTHON is not None
    done = subprocess.run(
        [PYTHON, "server/serve_vllm.py", "gemma-3-270m", "--port", str(vllm.port)],
        cwd=ROOT,
        env=vllm.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"Error: cannot listen at 127.0.0.1:{vllm.port}: Address already")
    assert done.stderr.count("\n") == 1


def test_a_wrong_flag_of_vllms_own_is_told_in_one_line() -> None:
    assert PYTHON is not None
    done = subprocess.run(
        [
            PYTHON,
            "server/serve_vllm.py",
            "gemma-3-270m",
            "--port",
            str(free_port()),
            "--",
            "--nonsense",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2
    assert "Error: the server did not start: unrecognized arguments: --nonsense;" in done.stderr


def test_ctrl_c_leaves_no_process(vllm: VllmServer) -> None:
    family = vllm.family()
    assert len(family) > 2
    begun = time.monotonic()
    status = vllm.stop(signal.SIGINT)
    click.echo(f"\nended in {time.monotonic() - begun:.1f} s with status {status}")
    assert status == 0
    assert not [pid for pid in family if Path(f"/proc/{pid}").exists()]
