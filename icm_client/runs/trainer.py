"""The protocol of a trainer: examples in, a model out, and an endpoint that serves that model.

What trains may be torch on this machine (`local`), or a service with an OpenAI-compatible
fine-tuning API (`served`). The fold-based search, the evaluation and the command line know only
this protocol.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from icm_client.data import JsonValue
from icm_client.endpoints import Endpoint


class Example(NamedTuple):
    """A row as a model learns it: only the label counts in the loss.

    `label` is the text that follows `prompt`, its space included, as `Task.label_texts` has it.
    """

    prompt: str
    label: str


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """A moment of a training.

    Attributes:
        name: which training.
        step: optimizer steps done, or what the service counts.
        steps: steps there will be; None while unknown.
        loss: the latest training loss, nats a label; None where it is not reported.
        seconds: since it began.
    """

    name: str
    step: int
    steps: int | None
    loss: float | None
    seconds: float


OnTraining = Callable[[TrainingProgress], None]


@dataclass(frozen=True, slots=True)
class Trained:
    """A model that training made.

    Attributes:
        name: of the training, as the caller gave it.
        model: its name on a server, or its folder.
        base: the model that it was trained from.
        examples: how many it was trained on.
        loss: the last training loss reported, nats a label; None where none was.
        seconds: that the training took; those of an earlier process included where it was resumed.
    """

    name: str
    model: str
    base: str
    examples: int
    loss: float | None
    seconds: float


class Trainer(Protocol):
    """Trains from one base model; `open` serves what came out.

    Attributes:
        parallel: trainings that may run at the same time.
        described: base model and settings, all that can change the trained model; part of the
            description of a run that trains.
    """

    @property
    def parallel(self) -> int:
        """As in the class docstring."""
        ...

    @property
    def described(self) -> Mapping[str, JsonValue]:
        """As in the class docstring."""
        ...

    async def train(
        self,
        examples: Sequence[Example],
        *,
        name: str,
        seed: int,
        progress: OnTraining | None = None,
    ) -> Trained:
        """Train on `examples`; the same call again finds the trained model, or goes on training.

        Args:
            examples: at least one of each label.
            name: of the training; with examples, seed and settings it identifies it.
            seed: of the order of examples, and of new weights.
            progress: called as it goes on.

        Raises:
            TrainingError: it cannot be done, or failed for good.
            SetupError: a package is missing.
            EndpointError: the service does not answer.
        """
        ...

    def open(self, trained: Trained) -> AbstractAsyncContextManager[Endpoint]:
        """Open the trained model as an endpoint; its identity differs from every other model's."""
        ...
