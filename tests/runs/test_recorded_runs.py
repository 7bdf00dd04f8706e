"""The same labels and the same requests as were recorded, for every preset."""

import json
from pathlib import Path

import pytest
from recorded_runs import RECORDED, all_cases, outcome


@pytest.mark.parametrize(
    ("preset", "name", "seed"),
    [
        pytest.param(
            preset,
            name,
            seed,
            id=f"{preset}, {name}, seed {seed}",
            marks=[pytest.mark.slow] if seed else [],
        )
        for preset, name, seed in all_cases()
    ],
)
async def test_a_run_is_as_it_was_recorded(
    preset: str, name: str, seed: int, tmp_path: Path
) -> None:
    recorded = json.loads(RECORDED.read_bytes())[f"{preset}, {name}, seed {seed}"]
    now = await outcome(preset, name, seed, tmp_path)
    for found in (now, recorded):  # rounded, and summed up in an order of the processor's own
        found["coherence"] = pytest.approx(found.get("coherence", 0), abs=2e-6)
    assert now == recorded
