"""What of a run's settings goes into its name."""

from dataclasses import asdict
from hashlib import blake2b

from icm_client.coherence.problem import IntArray
from icm_client.coherence.starts import Start
from icm_client.data import JsonValue
from icm_client.runs.presets import Settings, preset_of


def run_settings(settings: Settings, start: Start | IntArray | None) -> dict[str, JsonValue]:
    """The preset, its numbers, and where it starts: a kind, or a digest of given labels."""
    begun = (
        start
        if start is None or isinstance(start, str)
        else blake2b(start.tobytes(), digest_size=8).hexdigest()
    )
    return {"preset": preset_of(settings), **asdict(settings), "start": begun}
