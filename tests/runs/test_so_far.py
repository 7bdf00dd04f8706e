"""What `label` has when it is stopped, wherever that is."""

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from planted_reviews import COLOURS, TASK, data, planted, reviews

from icm_client import Labels, Task, label
from icm_client.errors import RunStopped
from icm_client.record.archive import list_runs
from icm_client.testing import PlantedConcept

pytestmark = pytest.mark.slow

N = 24


async def stopped_after(
    requests: int, folder: Path, task: Task, concept: PlantedConcept, **options: Any
) -> Labels | None:
    """The labels of a run that is to stop after so many requests; None where it has none.

    Raises:
        AssertionError: it was not stopped.
    """
    with pytest.raises(RunStopped) as stopped:
        await label(
            data(reviews(N, task)),
            task=task,
            endpoint=concept,
            store=folder / "store",
            runs=folder / "runs",
            stopping=lambda: concept.usage.requests >= requests,
            **options,
        )
    return stopped.value.labels


@pytest.mark.parametrize(
    ("task", "formula", "options"),
    [
        (TASK, {}, {}),
        (TASK, {}, {"pins": {1: "positive", 2: "negative"}}),
        (TASK, {"meaning": 0.0}, {}),  # last sweeps under all names
        (COLOURS, {}, {}),
        (TASK, {}, {"preset": "paper"}),
        (TASK, {}, {"preset": "official"}),
    ],
    ids=["fast", "pins", "names", "three labels", "paper", "official"],
)
async def test_wherever_it_is_stopped_its_labels_are_those_of_a_whole_sweep(
    tmp_path: Path, task: Task, formula: dict[str, float], options: dict[str, Any]
) -> None:
    whole = planted(N, task, **formula)
    found = await label(
        data(reviews(N, task)), task=task, endpoint=whole, store=tmp_path / "whole", **options
    )
    total = whole.usage.requests
    had = 0
    for number in range(12):
        folder = tmp_path / str(number)
        folder.mkdir()
        concept = planted(N, task, **formula)
        part = await stopped_after(number * total // 12, folder, task, concept, **options)
        (run,) = list_runs(folder / "runs").runs
        assert run.state == "stopped"
        if part is None:
            assert run.result is None
            assert not had, "what it had before, it has later"
            continue
        had += 1
        assert np.isfinite(part.utility)
        assert part.stopped == "an interruption"
        assert part.verdict != "trust"
        assert "interrupted" in {finding.code for finding in part.findings}
        assert len(part.rows) + len(part.failed) == N
        lines = (run.path / "labels.jsonl").read_bytes().splitlines()
        written = {line["id"]: line["label"] for line in map(orjson.loads, lines)}
        assert written == {row.row.id: row.label for row in part.rows}
        if "preset" not in options:
            assert len(part.rows) == N
            assert part.history == found.history[: len(part.history)]
    assert had >= 3
