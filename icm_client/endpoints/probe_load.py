"""What a server does with many requests at once: noise, throughput, and its other users."""

import time
from collections.abc import Mapping, Sequence
from typing import Final

import anyio

from icm_client.endpoints.probe import (
    SAME_NATS,
    Figure,
    Observation,
    Verdict,
    distance,
    lane_of,
)
from icm_client.endpoints.protocol import Answer, Endpoint, Read
from icm_client.endpoints.vllm import VllmEndpoint

_PADDING: Final = -9999.0


async def noise_floor(
    endpoint: Endpoint, cold: Sequence[Read], beside: Sequence[Read]
) -> Observation:
    """How far does the same question's answer move: cold, warm, and in a batch with others?"""
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
        Verdict.GOOD if floor <= SAME_NATS else Verdict.NOTE,
        f"log-probs repeat to {floor:.4f} nats (warm {most['warm']:.4f}, among "
        f"{len(beside)} others {most['batch']:.4f}): smaller differences mean nothing",
        {"noise_nats": floor, "warm_nats": most["warm"], "batch_nats": most["batch"]},
    )


async def throughput(
    endpoint: Endpoint, reads: Mapping[int, Sequence[Read]], *, seconds: float
) -> Observation:
    """How many reads a second at so many in flight? `reads` has fresh ones for each number."""
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
    told = ", ".join(
        f"not measured at {in_flight}, since some had to be sent again"
        if rate is None
        else f"{rate:.1f} at {in_flight}"
        for in_flight, rate in rates.items()
    )
    figures: dict[str, Figure] = {f"at_{number}_a_second": rate for number, rate in rates.items()}
    return Observation(
        "throughput",
        Verdict.NOTE if None in rates.values() else Verdict.GOOD,
        f"short requests a second, by how many in flight: {told}",
        figures,
    )


async def neighbours(endpoint: VllmEndpoint, reads: Sequence[Read], rounds: int = 3) -> Observation:
    """Does somebody's plain `logprobs` request survive beside reads of ours?"""
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
    figures: dict[str, Figure] = {"neighbours_asked": asked, "neighbours_padded": padded}
    if padded:
        return Observation(
            "neighbours",
            Verdict.NOTE,
            f"{padded} of {asked} requests of a neighbour lost their log-probs (-9999) beside "
            "ours: tell who shares this server, or use one of your own",
            figures,
        )
    return Observation(
        "neighbours", Verdict.GOOD, f"{asked} requests of a neighbour kept their log-probs", figures
    )
