"""What of a run's settings goes into its name."""

from dataclasses import asdict
from hashlib import blake2b

from icm_client.coherence.problem import IntArray
from icm_client.coherence.starts import Start
from icm_client.data import JsonValue
from icm_client.runs.presets import Settings, preset_of
from icm_client.training.trainer import Trainer


def run_settings(
    settings: Settings, start: Start | IntArray | None, trainer: Trainer | None = None
) -> dict[str, JsonValue]:
    """The preset, its numbers, where it starts, and who trains its models, where it trains any.

    A start is a kind, or a digest of given labels.
    """
    begun = (
        start
        if start is None or isinstance(start, str)
        else blake2b(start.tobytes(), digest_size=8).hexdigest()
    )
    trained = {} if trainer is None else {"trainer": described(trainer)}
    return {"preset": preset_of(settings), **asdict(settings), "start": begun, **trained}


def described(trainer: Trainer) -> dict[str, JsonValue]:
    """What of a trainer can change the models that it makes of the same examples and seed."""
    return {"kind": type(trainer).__name__, **trainer.described}
