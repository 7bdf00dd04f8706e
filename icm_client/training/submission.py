"""A training as a service is told of it: file, job, and the digest that says which it is.

What a user may set about a training by a service.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Final, Literal, Self

import orjson

from icm_client.endpoints.exchange import Body
from icm_client.errors import InputError, TrainingError
from icm_client.runs.trainer import Example
from icm_client.training.fine_tuning_api import TuningJob

WAIT_GROWTH: Final = 1.5
"""Each wait for a job is this many times the one before."""


@dataclass(frozen=True, slots=True)
class ServedSettings:
    """What a user may set about a training by a service.

    Attributes:
        epochs: passes over the examples; None leaves it to the service.
        learning_rate_multiplier: as the service understands it; None leaves it to the service.
        batch_size: examples a step; None leaves it to the service.
        format: how examples are written: `completion`, a prompt and what follows it, as the scorer
            reads a model; or `chat`, a message and its answer, which chat models take only.
        parallel: trainings that may run at the same time.
        first_poll_s: seconds until a job is looked at again; half as long again each time.
        longest_poll_s: where that ends.
        deadline_s: how long one call waits for a job, in seconds; the job itself goes on.
        missing_polls: looks in a row that do not find the job, after which it is given up.
        served_within_s: how long `open` waits for a trained model to be served.
    """

    epochs: int | None = 3
    learning_rate_multiplier: float | None = None
    batch_size: int | None = None
    format: Literal["completion", "chat"] = "completion"
    parallel: int = 4
    first_poll_s: float = 2.0
    longest_poll_s: float = 60.0
    deadline_s: float = 24 * 3600.0
    missing_polls: int = 5
    served_within_s: float = 600.0

    def __post_init__(self) -> None:
        """Refuse numbers with which nothing could be trained or awaited; raises `InputError`."""
        for name, value in asdict(self).items():
            if isinstance(value, int | float) and not value > 0:
                raise InputError(f"{name} must be over 0, not {value}")

    @property
    def hyperparameters(self) -> dict[str, float]:
        """What is told to the service, under its names."""
        given = {
            "n_epochs": self.epochs,
            "learning_rate_multiplier": self.learning_rate_multiplier,
            "batch_size": self.batch_size,
        }
        return {name: value for name, value in given.items() if value is not None}


METADATA_KEY: Final = "icm_client"
"""Under which the digest stands in a job's metadata."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A training, as the service is told of it.

    Attributes:
        name: as the caller gave it.
        base: the model that is trained from.
        content: the training file.
        digest: hex, over examples, base, name, seed and settings: which training it is.
        seed: of the service's own randomness.
        hyperparameters: under the service's names.
    """

    name: str
    base: str
    content: bytes
    digest: str
    seed: int
    hyperparameters: dict[str, float]

    @classmethod
    def of(
        cls, examples: Sequence[Example], base: str, name: str, seed: int, settings: ServedSettings
    ) -> Self:
        """Write the examples down, in an order drawn from `seed`.

        Raises:
            TrainingError: they bear fewer than two different labels.
        """
        if len({example.label for example in examples}) < 2:  # noqa: PLR2004
            raise TrainingError(
                f"{name}: the {len(examples)} examples bear fewer than two different labels, from "
                "which there is nothing to learn"
            )
        ordered = list(examples)
        random.Random(seed).shuffle(ordered)  # noqa: S311 - an order, not a secret
        chat = settings.format == "chat"
        content = b"".join(orjson.dumps(_line(one, chat=chat)) + b"\n" for one in ordered)
        given = settings.hyperparameters
        facts = {"base": base, "name": name, "seed": seed, "hyperparameters": given}
        told = json.dumps(facts, sort_keys=True).encode()
        digest = blake2b(told + b"\n" + content, digest_size=16, person=b"icm training")
        return cls(name, base, content, digest.hexdigest(), seed, given)

    @property
    def file_name(self) -> str:
        """What the uploaded file is called."""
        return f"icm-{self.digest}.jsonl"

    @property
    def suffix(self) -> str:
        """Part of the model's name; the shortest limit that services have is 18 characters."""
        return f"icm-{self.digest[:12]}"

    def body(self, file: str) -> Body:
        """Return what submits the job."""
        return {
            "model": self.base,
            "training_file": file,
            "seed": self.seed % 2**31,
            "suffix": self.suffix,
            "metadata": {METADATA_KEY: self.digest},
            "method": {
                "type": "supervised",
                "supervised": {"hyperparameters": self.hyperparameters},
            },
        }

    def owns(self, job: TuningJob, file: str | None) -> bool:
        """Whether the job is this training; services differ in what of it they repeat."""
        return (
            (job.metadata or {}).get(METADATA_KEY) == self.digest
            or self.suffix in (job.suffix, job.user_provided_suffix)
            or (file is not None and job.training_file == file)
        )


def _line(example: Example, *, chat: bool) -> dict[str, object]:
    if not chat:
        return {"prompt": example.prompt, "completion": example.label}
    asked = {"role": "user", "content": example.prompt}
    return {"messages": [asked, {"role": "assistant", "content": example.label}]}
