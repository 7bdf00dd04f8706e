"""How a model is trained on this machine, and at which rate: the paper's, scaled by size."""

import math
from dataclasses import dataclass
from typing import Final, Literal, get_args

from icm_client.errors import InputError

Method = Literal["lora", "full"]
"""Low-rank adapters beside frozen weights (arXiv 2106.09685), or all weights."""

Objective = Literal["sft", "reward"]
"""The label's token after the prompt, or a score for each of two responses (Bradley-Terry)."""

WARMUP: Final = 0.1
"""Share of the steps over which the rate rises from 0; then it falls to 0 in a straight line."""

ALPHA_OF_RANK: Final = 2
"""LoRA's alpha over its rank."""

CLIPPED_NORM: Final = 1.0
"""Of a step's gradient."""

_PAPER: Final[dict[Method, tuple[float, float]]] = {"full": (1e-5, 8e9), "lora": (5e-5, 70e9)}
"""Rate and parameters of the paper's two trainings: 8B all weights, 70B LoRA of rank 16."""


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """All that can change the weights, besides base, examples and seed.

    Attributes:
        method: which weights change.
        epochs: times that every example is seen; the paper's 3.
        rate: the highest learning rate; None takes `rate_for` the model's size.
        batch: examples in one forward pass.
        accumulate: forward passes in one optimizer step.
        rank: of the LoRA matrices; the paper's 16.

    Raises:
        InputError: a number that is too small, or a method that is not known.
    """

    method: Method = "lora"
    epochs: int = 3
    rate: float | None = None
    batch: int = 8
    accumulate: int = 1
    rank: int = 16

    def __post_init__(self) -> None:
        """Refuse what no training can run with."""
        if self.method not in get_args(Method):
            raise InputError(f"a training's method is lora or full, not {self.method!r}")
        for name in ("epochs", "batch", "accumulate", "rank"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.rate is not None and not 0 < self.rate < 1:
            raise InputError(f"the learning rate must lie between 0 and 1, not {self.rate:g}")


def rate_for(parameters: int, method: Method) -> float:
    """Return the paper's learning rate, scaled by the fourth root of the model's size.

    Smaller models bear, and on few examples need, larger steps: a model of a sixteenth of the size
    is trained at twice the rate. That hits the paper's two rates, and for gemma-3-270m what was
    measured to be good (docs/finetuning.md).

    Args:
        parameters: of the base model.
        method: which weights change.
    """
    rate, size = _PAPER[method]
    return rate * math.pow(size / parameters, 0.25)
