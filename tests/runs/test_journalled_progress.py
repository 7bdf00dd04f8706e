"""What the journal says of a run under way, for those who watch it from another process."""

from pathlib import Path
from typing import Any

import pytest
from planted_reviews import TASK, data, planted, reviews

from icm_client import SweepSettings, label
from icm_client.record.journal import read
from icm_client.runs import progress

SETTINGS = SweepSettings(min_sweeps=3, max_sweeps=5, restarts=1)


async def events_of(folder: Path, **options: Any) -> list[dict[str, Any]]:
    found = await label(
        data(reviews(64)),
        task=TASK,
        endpoint=planted(64),
        store=folder / "store",
        runs=folder / "runs",
        settings=SETTINGS,
        **options,
    )
    assert found.run is not None
    return read(found.run / "journal.jsonl")


async def test_a_sweep_s_event_has_the_cost_so_far(tmp_path: Path) -> None:
    events = await events_of(tmp_path)
    costs = [event["cost"] for event in events if event["event"] == "sweep"]
    requests = [cost["requests"] for cost in costs]
    assert len(requests) >= 3
    assert requests == sorted(requests)
    assert requests[0] > 0
    assert costs[-1]["computed_tokens"] > costs[0]["computed_tokens"]
    assert not [event for event in events if event["event"] == "progress"], "it took no 2 seconds"


@pytest.mark.parametrize("options", [{}, {"search_rows": 16}])
async def test_between_sweeps_it_says_how_far_the_run_is_and_in_the_prediction_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(progress, "_PROGRESS_INTERVAL_S", 0.0)
    events = await events_of(tmp_path, **options)
    told = [event for event in events if event["event"] == "progress"]
    assert told
    assert all(0 <= one["done"] <= one["total"] for one in told)
    assert max(one["done"] for one in told) > 1
    assert any(one["left_s"] for one in told)
    requests = [one["cost"]["requests"] for one in told]
    assert requests == sorted(requests)
    assert events[-1]["event"] == "finished"
    if options:
        last_sweep = max(n for n, event in enumerate(events) if event["event"] == "sweep")
        assert len([one for one in events[last_sweep:] if one["event"] == "progress"]) > 1
    again = await events_of(tmp_path, **options)
    sweeps = [[one["sweep"] for one in its if one["event"] == "sweep"] for its in (events, again)]
    assert sweeps[0] == sweeps[1], "a replay writes no sweep twice"
