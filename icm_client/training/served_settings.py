"""What a user may set about a training by a service."""

from dataclasses import asdict, dataclass
from typing import Final, Literal

from icm_client.errors import InputError

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
