"""How a model is laid over the GPUs of one machine."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from icm_client.errors import InputError
from icm_client.serving.hardware import Gpu

ROOM: Final = 0.6
"""The share of a GPU's memory that weights may take; the KV cache and the activations need the
rest. vLLM itself takes 0.9 of it in all."""


@dataclass(frozen=True, slots=True)
class Parallel:
    """`tensor` GPUs hold one replica, `data` replicas share the requests; and why so."""

    tensor: int
    data: int
    reason: str


def parallel_over(
    gpus: Sequence[Gpu], weights: int | None, *, tensor: int | None = None, data: int | None = None
) -> Parallel:
    """As many replicas as fit: each over the fewest GPUs (1, 2, 4, ...) that hold the weights.

    Args:
        gpus: at least one.
        weights: bytes, as they are served; None where the model is not on this machine yet: one
            replica over all GPUs is then the layout that fits most.
        tensor: GPUs a replica, where the operator says so.
        data: replicas, where the operator says so.

    Raises:
        InputError: more GPUs are asked for than are there, or the weights fit in no layout.
    """
    if tensor is None and weights is not None:
        tensor = _fewest(gpus, weights, most=len(gpus) // (data or 1))
        reason = f"{weights / 1e9:.1f} GB of weights need {tensor} GPU(s) a replica"
    elif tensor is None:
        tensor = _power_of_two(len(gpus) // (data or 1))
        reason = "the model's size is unknown before it is downloaded: the most GPUs a replica"
    else:
        reason = "as asked"
    data = data or max(1, len(gpus) // max(tensor, 1))
    if tensor < 1 or tensor * data > len(gpus):
        raise InputError(
            f"{max(tensor, 1)} GPUs for each of {data} replicas are asked for, and {len(gpus)} "
            "are there: lower --tensor-parallel or --data-parallel"
        )
    return Parallel(tensor, data, reason)


def _fewest(gpus: Sequence[Gpu], weights: int, *, most: int) -> int:
    sizes = [gpu.memory for gpu in gpus if gpu.memory is not None]
    if not sizes:
        return 1
    room = min(sizes) * ROOM
    fewest = 1 << max(0, math.ceil(math.log2(weights / room)))
    if fewest > most:
        raise InputError(
            f"too little GPU memory: {weights / 1e9:.1f} GB of weights on {len(gpus)} GPU(s) of "
            f"{min(sizes) / 1e9:.0f} GB, {ROOM:.0%} of which may hold weights; take a smaller or "
            "quantized model, or say --tensor-parallel to try nevertheless"
        )
    return fewest


def _power_of_two(most: int) -> int:
    return 1 << (most.bit_length() - 1) if most > 0 else 0
