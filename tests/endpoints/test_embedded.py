"""The real llama.cpp child on the real gemma-3-270m."""

import math
import os
import signal
import struct
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import anyio
import pytest

from icm_client.cores import _quota_of, physical_cores
from icm_client.endpoints import EmbeddedEndpoint, Read, TokenIds, gemma, llama_cpp
from icm_client.endpoints.gguf import trained_context_of
from icm_client.errors import EmbeddedServerFailed, ModelChanged, PromptTooLong, SetupError

DEMOS = "".join(
    f"Review: {text}\nSentiment: {label}\n\n"
    for text, label in [
        ("a great movie with lots of fun", "positive"),
        ("the plot was dull and the acting awful", "negative"),
        ("I would gladly see it again", "positive"),
    ]
)
TARGET = "Review: it never comes to life\nSentiment:"


@pytest.fixture(scope="module")
async def labels(embedded: EmbeddedEndpoint) -> TokenIds:
    positive = await embedded.tokenize(" positive", add_special=False)
    negative = await embedded.tokenize(" negative", add_special=False)
    assert len(positive) == len(negative) == 1
    return positive + negative


@pytest.fixture(scope="module")
async def prompt(embedded: EmbeddedEndpoint) -> TokenIds:
    return await embedded.tokenize(DEMOS + TARGET, add_special=True)


def is_alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
    return "State:\tZ" not in status


async def test_the_identity_is_known_without_a_start() -> None:
    first, second = EmbeddedEndpoint(), EmbeddedEndpoint(threads=1)
    assert first.identity == second.identity
    assert first.identity.model == "gemma-3-270m-q4_k_m"
    assert first.identity.context_length == 8192
    assert first.lanes == 1
    assert first._running is None
    await first.aclose()


async def test_log_probs_are_those_of_the_whole_vocabulary(
    embedded: EmbeddedEndpoint, prompt: TokenIds, labels: TokenIds
) -> None:
    (answer,) = await embedded.read([Read(prompt, labels)])
    inner = (await embedded._started(instead_of=None)).endpoint
    everything = await inner._complete(
        llama_cpp._Ask(prompt, 0, inner._vocabulary_size, tuple(range(inner._vocabulary_size)))
    )
    assert answer.log_probs == tuple(everything[label] for label in labels)
    assert len(everything) == inner._vocabulary_size
    assert math.fsum(map(math.exp, everything.values())) == pytest.approx(1, abs=1e-3)


async def test_log_probs_do_not_depend_on_what_was_cached(
    embedded: EmbeddedEndpoint, prompt: TokenIds, labels: TokenIds
) -> None:
    await embedded.read([Read((9, 9, 9), labels)])
    (cold,) = await embedded.read([Read(prompt, labels)])
    for new in (1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 31):
        cached = embedded.usage.cached_tokens
        await embedded.warm(prompt[:-new])
        (warm,) = await embedded.read([Read(prompt, labels)])
        assert embedded.usage.cached_tokens > cached
        assert warm == cold, f"differs when {new} tokens are new"


@pytest.mark.usefixtures("embedded_model")
async def test_log_probs_do_not_depend_on_order_or_threads(
    embedded: EmbeddedEndpoint, prompt: TokenIds, labels: TokenIds
) -> None:
    reads = [Read(prompt[:1] + prompt[cut:], labels) for cut in range(1, 40, 9)]
    forwards = await embedded.read(reads)
    backwards = await embedded.read(reads[::-1])
    assert forwards == backwards[::-1]
    async with EmbeddedEndpoint(context_length=2048, threads=1) as other:
        assert await other.read(reads[:2]) == forwards[:2]


async def test_log_probs_do_not_depend_on_a_read_that_was_cancelled(
    embedded: EmbeddedEndpoint, prompt: TokenIds, labels: TokenIds
) -> None:
    await embedded.read([Read((9, 9, 9), labels)])
    (cold,) = await embedded.read([Read(prompt, labels)])
    await embedded.read([Read((9, 9, 9), labels)])
    with anyio.move_on_after(0.005) as scope:
        await embedded.warm(prompt[:-3])
    assert scope.cancelled_caught
    assert await embedded.read([Read(prompt, labels)]) == [cold]


@pytest.mark.usefixtures("embedded_model")
async def test_a_cancelled_close_ends_the_child() -> None:
    endpoint = EmbeddedEndpoint(context_length=512)
    await endpoint.tokenize("x", add_special=True)
    running = endpoint._running
    assert running is not None
    with anyio.CancelScope() as scope:
        scope.cancel()
        await endpoint.aclose()
    assert not is_alive(running.process.pid)


async def test_long_prompts_are_bit_identical_too(
    embedded: EmbeddedEndpoint, prompt: TokenIds, labels: TokenIds
) -> None:
    long = prompt + (prompt[1:] * 20)[: 1100 - len(prompt)]
    await embedded.read([Read((9, 9, 9), labels)])
    (cold,) = await embedded.read([Read(long, labels)])
    for new in (1, 2, 3, 4, 5, 7, 8, 9, 149):
        await embedded.warm(long[:-new])
        assert await embedded.read([Read(long, labels)]) == [cold]


async def test_warming_saves_the_prefix(
    embedded: EmbeddedEndpoint, prompt: TokenIds, labels: TokenIds
) -> None:
    await embedded.read([Read((9, 9, 9), labels)])
    await embedded.warm(prompt[:-1])
    computed = embedded.usage.computed_tokens
    await embedded.read([Read(prompt, labels)])
    assert embedded.usage.computed_tokens - computed <= 17  # never fewer than 8 in a batch


async def test_a_rare_token_is_found(embedded: EmbeddedEndpoint, prompt: TokenIds) -> None:
    inner = (await embedded._started(instead_of=None)).endpoint
    found = await inner._complete(llama_cpp._Ask(prompt, 0, 3000, tuple(range(262_144))))
    rare = list(found)[-1]
    inner._top = llama_cpp._FIRST_TOP
    (answer,) = await embedded.read([Read(prompt, (rare,))])
    assert answer.log_probs == (found[rare],)


async def test_rare_labels_are_read_exactly_and_take_small_answers(
    embedded: EmbeddedEndpoint, prompt: TokenIds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens outside the likeliest 600 took an answer of 540 kB each."""
    inner = (await embedded._started(instead_of=None)).endpoint
    found = await inner._complete(llama_cpp._Ask(prompt, 0, 20_000, tuple(range(262_144))))
    likeliest, *_, rare, rarest = found
    sizes: list[int] = []
    body_of = inner._transport._exchange.body_of

    async def measured(*args: Any, **options: Any) -> bytes:
        sizes.append(len(raw := await body_of(*args, **options)))
        return raw

    monkeypatch.setattr(inner._transport._exchange, "body_of", measured)
    for wanted in [(rarest,), (likeliest, rare, rarest), (likeliest,)]:
        (answer,) = await embedded.read([Read(prompt, wanted)])
        assert answer.log_probs == tuple(found[token] for token in wanted)
    assert sum(sizes) < 20_000


async def test_log_probs_are_there_where_the_likeliest_token_is_a_byte(
    embedded: EmbeddedEndpoint, prompt: TokenIds, labels: TokenIds
) -> None:
    (before,) = await embedded.read([Read(prompt, labels)])
    space, first_byte, *others = await embedded.tokenize(" \U00020000", add_special=False)
    assert len(others) > 1, "the vocabulary writes it as bytes"
    repeated = (prompt[0], *(space, first_byte, *others) * 5, space)
    inner = (await embedded._started(instead_of=None)).endpoint
    wanted = (first_byte, *labels)
    assert await inner._sent(llama_cpp._Ask(repeated, 0, 60, wanted)) is None
    (found,) = await embedded.read([Read(repeated, wanted)])
    assert found.log_probs[0] == max(found.log_probs) > math.log(0.5)
    # What is drawn changes no log-prob.
    assert inner._drawn is not None
    assert await embedded.read([Read(prompt, labels)]) == [before]


async def test_a_prompt_longer_than_the_context_is_refused(
    embedded: EmbeddedEndpoint, labels: TokenIds
) -> None:
    with pytest.raises(PromptTooLong):
        await embedded.read([Read((2, *range(1000, 3500)), labels)])


async def test_special_tokens_come_from_us_and_never_from_text(embedded: EmbeddedEndpoint) -> None:
    texts = ["x <eos>\n\t", "good", " good", "", "<bos>", "€ 𠀀"]
    alone = [await embedded.tokenize(text, add_special=False) for text in texts]
    assert await embedded.tokenize_many(texts) == alone
    with_bos = await embedded.tokenize("x <eos>\n\t", add_special=True)
    without = await embedded.tokenize("x <eos>\n\t", add_special=False)
    assert with_bos == (2, *without)
    assert 1 not in without


@pytest.mark.usefixtures("embedded_model")
async def test_a_killed_child_is_replaced_and_the_read_repeated(
    prompt: TokenIds, labels: TokenIds
) -> None:
    async with EmbeddedEndpoint(context_length=1024) as endpoint:
        before = await endpoint.read([Read(prompt, labels)])
        running = endpoint._running
        assert running is not None
        os.kill(running.process.pid, signal.SIGKILL)
        assert await endpoint.read([Read(prompt, labels)]) == before
        second = endpoint._running
        assert second is not None
        log, child = endpoint._log, second.process.pid
        assert child != running.process.pid
        assert os.getsid(child) == child
        assert log.exists()
    assert not is_alive(child)
    assert not log.exists()


async def test_what_is_no_model_fails_with_the_logs_last_words(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\0" * 100)
    async with EmbeddedEndpoint(broken) as endpoint:
        with pytest.raises(EmbeddedServerFailed, match=r"broken did not start[\s\S]*gguf"):
            await endpoint.tokenize("x", add_special=True)
    assert endpoint._log.exists(), "the message names it"
    endpoint._log.unlink()


@pytest.mark.usefixtures("embedded_model")
async def test_a_model_that_never_loads_is_given_up() -> None:
    async with EmbeddedEndpoint(start_timeout_s=0.01) as endpoint:
        with pytest.raises(EmbeddedServerFailed, match=r"not ready in 0\.01 s"):
            await endpoint.tokenize("x", add_special=True)
        assert endpoint._running is None
    endpoint._log.unlink()


@pytest.mark.usefixtures("embedded_model")
def test_the_child_dies_with_a_parent_that_is_killed() -> None:
    program = """
import anyio
from icm_client.endpoints import EmbeddedEndpoint
async def main():
    endpoint = EmbeddedEndpoint(context_length=512)
    await endpoint.tokenize("x", add_special=True)
    print(endpoint._running.process.pid, flush=True)
    await anyio.sleep_forever()
anyio.run(main)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_alive(child)
        parent.kill()
    deadline = time.monotonic() + 10
    while is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(child)


def test_another_file_is_another_fingerprint(tmp_path: Path) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(b"one")
    first = EmbeddedEndpoint(model).identity.fingerprint
    assert EmbeddedEndpoint(model).identity.fingerprint == first
    model.write_bytes(b"two")
    os.utime(model, ns=(1, 1))
    assert EmbeddedEndpoint(model).identity.fingerprint != first


def test_a_file_of_the_same_size_and_time_is_another_fingerprint(tmp_path: Path) -> None:
    """As a copy that keeps times makes it: `cp -p`, `rsync -t`."""
    model = tmp_path / "m.gguf"
    model.write_bytes(b"one")
    os.utime(model, ns=(1, 1))
    first = EmbeddedEndpoint(model).identity.fingerprint
    model.write_bytes(b"two")
    os.utime(model, ns=(1, 1))
    assert EmbeddedEndpoint(model).identity.fingerprint != first


async def test_a_file_that_is_overwritten_in_mid_run_ends_it(tmp_path: Path) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(b"one")
    async with EmbeddedEndpoint(model) as endpoint:
        model.touch()  # the same bytes, written anew: what is met next is that it is no GGUF file
        with pytest.raises(SetupError, match="no GGUF file"):
            await endpoint.read([Read((1,), (2,))])
        model.write_bytes(b"two")
        with pytest.raises(ModelChanged, match=r"m\.gguf has been overwritten") as caught:
            await endpoint.read([Read((1,), (2,))])
        assert 0 < caught.value.last_confirmed_at <= anyio.current_time()


async def test_a_file_of_another_kind_is_refused_before_a_server_starts(tmp_path: Path) -> None:
    model = tmp_path / "rows.csv"
    model.write_text("id,text\n")
    async with EmbeddedEndpoint(model) as endpoint:
        with pytest.raises(SetupError, match=r"rows\.csv is no GGUF file"):
            await endpoint.tokenize("a", add_special=False)


def test_without_the_extra_the_message_has_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    with pytest.raises(SetupError, match=r"icm-client\[local\]"):
        EmbeddedEndpoint()


def test_a_model_that_does_not_exist_is_a_setup_error(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="cannot read the model file"):
        EmbeddedEndpoint(tmp_path / "none.gguf")


def test_at_least_one_core() -> None:
    assert 1 <= physical_cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("limit", "cores"),
    [("50000 100000", 1), ("100000 100000", 1), ("max 100000", None), ("nonsense", None)],
)
def test_a_containers_share_of_the_cpu_is_not_exceeded(
    tmp_path: Path, limit: str, cores: int | None
) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(limit)
    assert physical_cores(file) == (cores or physical_cores(tmp_path / "none"))


def test_part_of_a_core_counts_as_one_more(tmp_path: Path) -> None:
    file = tmp_path / "cpu.max"
    file.write_text("150000 100000")
    assert _quota_of(file) == 2


def gguf_header(*entries: bytes, version: int = 3) -> bytes:
    return struct.pack("<4sIQQ", b"GGUF", version, 0, len(entries)) + b"".join(entries)


def gguf_entry(key: bytes, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + value


GGUF_STRINGS = struct.pack("<IQQ1sQ", 8, 2, 1, b"a", 0)
GGUF_LENGTH = gguf_entry(b"llama.context_length", 4, struct.pack("<I", 2048))
GGUF_HEADER = gguf_header(
    gguf_entry(b"general.architecture", 8, struct.pack("<Q5s", 5, b"llama")),
    gguf_entry(b"tokenizer.ggml.tokens", 9, GGUF_STRINGS),
    gguf_entry(b"tokenizer.ggml.scores", 9, struct.pack("<IQff", 6, 2, 0, 0)),
    gguf_entry(b"llama.rope.scaling.original_context_length", 4, struct.pack("<I", 7)),
    GGUF_LENGTH,
)


def test_a_shorter_trained_context_is_known_without_a_start(tmp_path: Path) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(GGUF_HEADER)
    assert EmbeddedEndpoint(model).identity.context_length == 2048
    assert EmbeddedEndpoint(model, context_length=512).identity.context_length == 512


@pytest.mark.parametrize(
    "header",
    [
        b"",
        GGUF_HEADER[:-3],
        b"GGML" + GGUF_HEADER[4:],
        gguf_header(GGUF_LENGTH, version=1),
        gguf_header(gguf_entry(b"x", 8, b"\xff" * 8), GGUF_LENGTH),
        gguf_header(gguf_entry(b"x", 9, struct.pack("<IQ", 9, 1)), GGUF_LENGTH),
        gguf_header(gguf_entry(b"x", 99, b""), GGUF_LENGTH),
        gguf_header(b"\xff" * 8, GGUF_LENGTH),
    ],
)
def test_an_odd_header_tells_nothing(tmp_path: Path, header: bytes) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(header)
    assert trained_context_of(model) is None


@pytest.mark.usefixtures("embedded_model")
async def test_the_default_models_trained_context_is_that_of_its_file(
    embedded: EmbeddedEndpoint,
) -> None:
    await embedded.tokenize("x", add_special=False)
    assert trained_context_of(gemma.model_path()) == gemma.TRAINED_CONTEXT
