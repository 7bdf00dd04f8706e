"""What of a run's settings goes into its name."""

from dataclasses import asdict
from hashlib import blake2b

from icm_client.coherence.problem import IntArray
from icm_client.coherence.starts import Start
from icm_client.data import JsonValue
from icm_client.runs.presets import Settings, preset_of
from icm_client.runs.trainer import Trainer


def run_settings(
    settings: Settings,
    start: Start | IntArray | None,
    trainer: Trainer | None = None,
    pinned: IntArray | None = None,
) -> dict[str, JsonValue]:
    """The preset, its numbers, where it starts, who trains its models, and what is pinned.

    A start is a kind, or a digest of given labels; pins are one, and like a trainer not spoken of
    where there are none.
    """
    begun = start if start is None or isinstance(start, str) else _digest(start)
    trained = {} if trainer is None else {"trainer": described(trainer)}
    pins = {} if pinned is None else {"pinned": _digest(pinned)}
    return {"preset": preset_of(settings), **asdict(settings), "start": begun, **trained, **pins}


def _digest(labels: IntArray) -> str:
    return blake2b(labels.tobytes(), digest_size=8).hexdigest()


def described(trainer: Trainer) -> dict[str, JsonValue]:
    """What of a trainer can change the models that it makes of the same examples and seed."""
    return {"kind": type(trainer).__name__, **trainer.described}
