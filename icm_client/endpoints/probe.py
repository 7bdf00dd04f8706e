"""What a server does, found out by asking it: one function a question, for `icm-client check`.

Each sends a few reads and returns what came of them as an `Observation`; an error that it cannot
explain it raises as an endpoint does. No version number is relied on. The last three ask what the
server does with many requests at once: noise, throughput, and what becomes of its other users.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

import anyio

from icm_client.endpoints import llama_cpp
from icm_client.endpoints.protocol import (
    SAME_NATS,
    Answer,
    Endpoint,
    Exactness,
    NoticingEndpoint,
    Read,
    SampledEndpoint,
    TextEndpoint,
    Usage,
    distance,
    lane_of,
)
from icm_client.endpoints.vllm import VllmEndpoint
from icm_client.errors import IcmError, LabelMissing

Figure = str | int | float | bool | None

_TELLING_S: Final = 0.05
"""Two requests whose times differ by less say nothing of what the server had to compute."""

_PADDING: Final = -9999.0
"""What vLLM writes in the place of a log-prob that it did not compute."""

_NEUTRAL: Final[Mapping[str, float]] = {
    "temperature": 1.0,
    "top_p": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
_HOT: Final[Mapping[str, float]] = {**_NEUTRAL, "temperature": 1.9}  # 2 is the most OpenAI takes


class Grade(StrEnum):
    """What an observation means for a run."""

    GOOD = "good"
    NOTE = "note"
    """A run works, and the user should know this."""

    BAD = "bad"
    """A run would fail, or its scores would be wrong."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What one question found.

    Attributes:
        name: of the question.
        verdict: what it means for a run.
        says: a sentence for the user.
        figures: what was measured; units are in the names.
    """

    name: str
    verdict: Grade
    says: str
    figures: Mapping[str, Figure] = field(default_factory=dict)


async def label_scores(endpoint: Endpoint, read: Read, labels: Sequence[str]) -> Observation:
    """Does each label come back with a log-prob, and how exact is it?"""
    (answer,) = await endpoint.read([read], lane=lane_of(endpoint))
    values = ", ".join(
        f"{label} {value:.2f}" for label, value in zip(labels, answer.log_probs, strict=True)
    )
    exactness = answer.exactness
    mass = sum(map(math.exp, answer.log_probs))
    grade, how = Grade.GOOD, "exact"
    if exactness is not Exactness.EXACT:
        grade, how = Grade.NOTE, f"of exactness {exactness.value!r}: rows are marked so"
    return Observation(
        "log-probs",
        grade,
        f"every label came back ({values} nats; {mass:.1%} of the probability), {how}",
        {"exactness": exactness.value, "probability_of_labels": mass},
    )


async def prompts_arrive(endpoint: Endpoint, short: Read, long: Read) -> Observation:
    """Does the server read the whole prompt, and nothing else?"""
    of_short, _ = await _timed(endpoint, short)
    used, _ = await _timed(endpoint, long)
    few, arrived = (one.computed_tokens + one.cached_tokens for one in (of_short, used))
    sent, is_text = len(long.prompt), isinstance(endpoint, TextEndpoint)
    sent_bytes = used.sent_bytes // max(used.requests, 1)
    uploaded = f", {sent_bytes / 1000:.1f} kB uploaded" if sent_bytes else ""
    grade = Grade.GOOD
    if not few or not arrived:
        says = (
            f"the server does not say how many tokens it read, but all of a text of {sent:,} "
            "characters has a part in its answer"
        )
        if isinstance(endpoint, NoticingEndpoint) and (notices := endpoint.notices):
            grade, says = Grade.NOTE, " ".join(notices)
    elif sent / arrived > 2 * len(short.prompt) / few if is_text else arrived < sent:
        grade = Grade.BAD
        says = (
            f"the server cut a prompt to {arrived:,} tokens and did not say so: start it with a "
            "larger context"
        )
    elif is_text:
        says = f"sent as text, {sent / arrived:.1f} characters a token{uploaded}"
    elif arrived > sent:
        grade = Grade.NOTE
        says = f"{sent:,} token ids were sent and {arrived:,} computed: more than the prompt"
    else:
        says = f"sent as token ids; {sent:,} of them arrive as they are{uploaded}"
    return Observation(
        "prompts",
        grade,
        says,
        {
            "sent": sent,
            "unit": "characters" if is_text else "tokens",
            "read_tokens": arrived,
            "sent_bytes": sent_bytes,
        },
    )


async def raw_log_probs(endpoint: Endpoint, read: Read) -> Observation:
    """Are the log-probs the model's own, or warped by sampling settings?

    The read is sent as a run sends it, then at temperature 1 without penalties, which gives the
    model's own log-probs by definition, and at 1.9. A server with raw log-probs answers all three
    alike. The first must be like the second.
    """
    name, grade = "raw or processed", Grade.GOOD
    if not isinstance(endpoint, SampledEndpoint):
        return Observation(name, grade, "raw: the server is started here, and asked for those")
    (ours,) = await endpoint.read([read], lane=lane_of(endpoint))
    own = await endpoint.read_sampled(read, _NEUTRAL)
    moved = distance(ours, own)
    try:
        scaled = distance(own, await endpoint.read_sampled(read, _HOT))
    except LabelMissing:  # scaling made other tokens the most probable
        scaled = math.inf
    if moved > SAME_NATS:
        grade = Grade.BAD
        says = (
            f"processed: the server's own sampling settings move log-probs by {moved:.2f} nats; "
            "start it without them (vLLM: --logprobs-mode raw_logprobs --generation-config vllm)"
        )
    elif scaled > SAME_NATS:
        says = (
            "processed, but what a run asks for are the model's own: temperature 1 gives the same"
        )
    else:
        says = "raw: temperature moves nothing"
    figures: dict[str, Figure] = {
        "moved_from_temperature_1_nats": moved,
        "moved_by_temperature_1.9_nats": None if math.isinf(scaled) else scaled,
    }
    return Observation(name, grade, says, figures)


async def prefix_cache(endpoint: Endpoint, cold: Read) -> Observation:
    """Is the same prompt cheaper the second time, in tokens and in seconds?

    `cold` must be a prompt that the server has never seen.
    """
    first, first_s = await _timed(endpoint, cold)
    again, again_s = await _timed(endpoint, cold)
    figures: dict[str, Figure] = {
        "caches": True,
        "prompt_length": len(cold.prompt),
        "cold_s": first_s,
        "cold_computed_tokens": first.computed_tokens,
        "cold_cached_tokens": first.cached_tokens,
        "warm_s": again_s,
        "warm_computed_tokens": again.computed_tokens,
        "warm_cached_tokens": again.cached_tokens,
    }
    grade = Grade.NOTE
    took = f"{first_s:.2f} s cold, {again_s:.2f} s warm"
    # A server that has counted cached tokens before would count them now.
    counts = endpoint.identity.kind == llama_cpp.KIND or endpoint.usage.cached_tokens > 0
    if retries := first.retries + again.retries:
        # A repetition is quick if a time-out left the prompt computed, and slow for its wait.
        figures |= {"caches": None, "cold_s": None, "warm_s": None}
        says = (
            f"not measured: a request had to be sent again ({retries} times in all), so that its "
            "time says nothing"
        )
    elif again.cached_tokens > first.cached_tokens:
        grade = Grade.GOOD
        says = (
            f"on: {first.computed_tokens:,} tokens computed cold, {again.computed_tokens:,} warm; "
            f"{took}"
        )
    elif not counts and again_s < first_s / 2 and first_s - again_s > _TELLING_S:
        says = (
            f"on, by the time it took ({took}); the server does not say how many tokens (vLLM: "
            "--enable-prompt-tokens-details, SGLang: --enable-cache-report)"
        )
    else:
        figures["caches"] = False
        says = f"no sign of one ({took}): every context is computed again for each row"
    return Observation("prefix cache", grade, says, figures)


def failed(name: str, error: IcmError, *, fatal: bool) -> Observation:
    """The observation of a question that got no answer."""
    return Observation(
        name,
        Grade.BAD if fatal else Grade.NOTE,
        f"failed: {error}",
        {"error": type(error).__name__},
    )


def number_of(figure: Figure) -> float:
    """`figure`, or 0 if it is no number."""
    return float(figure) if isinstance(figure, int | float) else 0.0


def ratio(one: Figure, other: Figure) -> float:
    """`one` over `other`, or 0 if that is not known."""
    return number_of(one) / number_of(other) if number_of(other) else 0.0


async def noise_floor(
    endpoint: Endpoint, cold: Sequence[Read], beside: Sequence[Read]
) -> Observation:
    """How far do log-probs of the same read move: cold, warm, and in a batch with others?"""
    most = {"warm": 0.0, "batch": 0.0}
    for read in cold:
        (alone,) = await endpoint.read([read], lane=lane_of(endpoint))
        (warm,) = await endpoint.read([read], lane=lane_of(endpoint))
        together: list[Answer] = []

        async def one_of(number: int, asked: Read, kept: list[Answer] = together) -> None:
            answers = await endpoint.read([asked], lane=lane_of(endpoint, number))
            if number == 0:
                kept += answers

        async with anyio.create_task_group() as tasks:
            for number, asked in enumerate([read, *beside]):
                tasks.start_soon(one_of, number, asked)
        most["warm"] = max(most["warm"], distance(alone, warm))
        most["batch"] = max(most["batch"], distance(alone, together[0]))
    floor = max(most.values())
    return Observation(
        "noise",
        Grade.GOOD if floor <= SAME_NATS else Grade.NOTE,
        f"log-probs repeat to {floor:.4f} nats (warm {most['warm']:.4f}, among "
        f"{len(beside)} others {most['batch']:.4f}): smaller differences mean nothing",
        {"noise_nats": floor, "warm_nats": most["warm"], "batch_nats": most["batch"]},
    )


async def throughput(
    endpoint: Endpoint, reads: Mapping[int, Sequence[Read]], *, seconds: float
) -> Observation:
    """How many reads a second? `reads` has new ones for each number in flight."""
    rates: dict[int, float | None] = {}
    for in_flight, asked in reads.items():
        todo = iter(enumerate(asked))
        done = 0
        retries = endpoint.usage.retries
        started = time.monotonic()

        async def work(
            worker: int, todo: "enumerate[Read]" = todo, started: float = started
        ) -> None:
            nonlocal done
            for _, read in todo:
                await endpoint.read([read], lane=lane_of(endpoint, worker))
                done += 1
                if time.monotonic() - started > seconds:
                    return

        async with anyio.create_task_group() as tasks:
            for worker in range(in_flight):
                tasks.start_soon(work, worker)
        again = endpoint.usage.retries - retries
        rates[in_flight] = None if again else done / (time.monotonic() - started)
    measured = ", ".join(
        f"not measured at {in_flight}, since some had to be sent again"
        if rate is None
        else f"{rate:.1f} at {in_flight}"
        for in_flight, rate in rates.items()
    )
    figures: dict[str, Figure] = {f"at_{number}_a_second": rate for number, rate in rates.items()}
    return Observation(
        "throughput",
        Grade.NOTE if None in rates.values() else Grade.GOOD,
        f"short requests a second, by how many in flight: {measured}",
        figures,
    )


async def neighbours(endpoint: VllmEndpoint, reads: Sequence[Read], rounds: int = 3) -> Observation:
    """Does another user's plain `logprobs` request keep its log-probs beside reads of ours?"""
    padded = asked = 0

    async def neighbour(read: Read) -> None:
        nonlocal padded, asked
        values = await endpoint.neighbour_log_probs(read.prompt)
        asked += 1
        padded += not values or any(one is None or one <= _PADDING for one in values)

    async def ours(read: Read) -> None:
        await endpoint.read([read])

    for _ in range(rounds):
        async with anyio.create_task_group() as tasks:
            for read in reads:
                tasks.start_soon(ours, read)
                tasks.start_soon(neighbour, read)
    grade, says = Grade.GOOD, f"{asked} requests of a neighbour kept their log-probs"
    if padded:
        grade = Grade.NOTE
        says = (
            f"{padded} of {asked} requests of a neighbour lost their log-probs (-9999) beside "
            "ours: warn those who share this server, or use one of your own"
        )
    figures: dict[str, Figure] = {"neighbours_asked": asked, "neighbours_padded": padded}
    return Observation("neighbours", grade, says, figures)


async def _timed(endpoint: Endpoint, read: Read) -> tuple[Usage, float]:
    """The tokens and the seconds that one read took."""
    before = replace(endpoint.usage)
    started = time.monotonic()
    await endpoint.read([read], lane=lane_of(endpoint))
    took = time.monotonic() - started
    return endpoint.usage - before, took
