"""A check of the real embedded server: what its documentation promises, a check must find."""

from pathlib import Path

import pytest

from icm_client.coherence.settings import SweepSettings
from icm_client.endpoints import EmbeddedEndpoint
from icm_client.runs.check import check


@pytest.mark.usefixtures("embedded_model")
async def test_the_embedded_server_is_ready_cached_and_without_noise(tmp_path: Path) -> None:
    steps: list[str] = []
    async with EmbeddedEndpoint(context_length=2048) as server:
        report = await check(
            task="sentiment",
            endpoint=server,
            run_rows=100,
            settings=SweepSettings(demos=8, second_demos=8),
            store=tmp_path / "scores.sqlite3",
            seed=0,
            step=steps.append,
        )
    found = {one.name: one for one in report.observations}
    assert report.ready, report.reasons
    steps = [one for one in steps if not one.endswith(" so far")]  # slow ones report on the way
    assert [one for one in steps if one not in found] == ["connecting to the server"]
    assert found["noise"].figures["noise_nats"] == 0
    cache = found["prefix cache"].figures
    assert int(str(cache["warm_computed_tokens"])) < int(str(cache["cold_computed_tokens"])) / 4
    assert found["log-probs"].figures["exactness"] == "exact"
    assert report.cost is not None
    assert report.cost.minutes is not None
    assert report.cost.requests == (350, 3100)
