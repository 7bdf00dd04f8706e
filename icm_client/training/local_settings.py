"""A training on this machine: its settings, the learning rate, its orders and its reports.

Nothing here needs torch, so that the command line loads it at once.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from pydantic import BaseModel, ConfigDict

from icm_client.errors import InputError

Method = Literal["lora", "full"]
"""Low-rank adapters beside frozen weights (arXiv 2106.09685), or all weights."""

Objective = Literal["sft", "reward"]
"""Learn the label's tokens after the prompt, or a score for each response (Bradley-Terry)."""

WARMUP: Final = 0.1
"""Share of the steps over which the rate rises from 0; then it falls linearly to 0."""

ALPHA_OF_RANK: Final = 2
"""LoRA's alpha is the rank times this."""

CLIPPED_NORM: Final = 1.0
"""Each step's gradient is clipped at this norm."""

_PAPER: Final[dict[Method, tuple[float, float]]] = {"full": (1e-5, 8e9), "lora": (5e-5, 70e9)}
"""Learning rate and parameters of the paper's trainings: 8B, all weights; 70B, LoRA of rank 16."""


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """All that can change the weights, besides the base model, the examples and the seed.

    Attributes:
        method: which weights are trained.
        epochs: how often every example is seen; 3, as in the paper.
        rate: the highest learning rate; None takes `rate_for` the model's size.
        batch: examples in one forward pass.
        accumulate: forward passes in one optimizer step.
        rank: of the LoRA matrices; 16, as in the paper.

    Raises:
        InputError: a number is out of range, or the method is unknown.
    """

    method: Method = "lora"
    epochs: int = 3
    rate: float | None = None
    batch: int = 8
    accumulate: int = 1
    rank: int = 16

    def __post_init__(self) -> None:
        """Refuse settings that no training can run with."""
        if self.method not in get_args(Method):
            raise InputError(f"a training's method is lora or full, not {self.method!r}")
        for name in ("epochs", "batch", "accumulate", "rank"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.rate is not None and not 0 < self.rate < 1:
            raise InputError(f"the learning rate must lie between 0 and 1, not {self.rate:g}")


def rate_for(parameters: int, method: Method) -> float:
    """Return the paper's learning rate, scaled by the fourth root of the model's size.

    Smaller models tolerate larger steps, and need them where examples are few: a model of a
    sixteenth of the size is trained at twice the rate. This gives the paper's rates at the paper's
    sizes, and for gemma-3-270m a rate that was measured to be good
    (docs/experiments/finetuning.md).
    """
    rate, size = _PAPER[method]
    return rate * math.pow(size / parameters, 0.25)


class Orders(BaseModel):
    """What the training process is to do: one JSON line on its standard input.

    Attributes:
        base: the base model's folder.
        examples: a JSON file: `[[prompt, label], ...]`, or for `reward` `[[prompt, chosen,
            rejected], ...]`.
        objective: what is learned from the examples.
        settings: of the training.
        seed: of the examples' order and of new weights.
        work: the folder for checkpoints, and for the model until it is complete.
        threads: CPU threads.
        device: where it trains.
        checkpoint_s: seconds between checkpoints.
    """

    model_config = ConfigDict(frozen=True)

    base: Path
    examples: Path
    objective: Objective
    settings: LocalSettings
    seed: int
    work: Path
    threads: int
    device: Literal["cpu", "cuda"]
    checkpoint_s: float


class Report(BaseModel):
    """What the training process answers: one JSON line for each step, for the end, or for an error.

    Attributes:
        step: optimizer steps done.
        steps: optimizer steps of the whole training.
        loss: of the latest step; None before the first.
        seconds: of training, those of earlier processes included.
        rate: the highest learning rate.
        done: whether the model lies in `work/model`.
        error: why there will be no model.
    """

    model_config = ConfigDict(frozen=True)

    step: int = 0
    steps: int = 0
    loss: float | None = None
    seconds: float = 0.0
    rate: float = 0.0
    done: bool = False
    error: str | None = None
