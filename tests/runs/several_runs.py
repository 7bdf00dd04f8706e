"""Runs of several planted models over the same rows: honest ones, and one that deceives."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from planted_reviews import TASK, reviews

from icm_client import Labels, Task, label
from icm_client.record.archive import Run, read_folder
from icm_client.testing import PlantedConcept

ROWS = 64


def rows(n: int = ROWS, task: Task = TASK) -> list[dict[str, Any]]:
    """Rows with gold labels, and with ids that do not say their place."""
    return [{"id": f"r{n}", **row} for n, row in enumerate(reviews(n, task))]


def gold(n: int = ROWS, task: Task = TASK) -> list[int]:
    """The gold class of each row."""
    return [task.labels.index(row["label"]) for row in rows(n, task)]


def model(classes: Sequence[int], task: Task = TASK, **formula: Any) -> PlantedConcept:
    """A model that takes each row to be of its class."""
    data = [row["text"] for row in rows(len(classes), task)]
    prompts = [task.template.replace("{text}", text) for text in data]
    formula = {"strength": 4.0, "meaning": 1.5, "noise": 1.0, **formula}
    return PlantedConcept(dict(zip(prompts, classes, strict=True)), task.label_texts, **formula)


def mistaken(share: float, seed: int, n: int = ROWS, task: Task = TASK) -> list[int]:
    """The gold classes, but for a share of the rows, drawn by the seed."""
    chance = np.random.default_rng(seed)
    classes = gold(n, task)
    for row in chance.permutation(n)[: round(share * n)].tolist():
        classes[row] = (classes[row] + int(chance.integers(1, len(task.labels)))) % len(task.labels)
    return classes


async def run_of(
    folder: Path, endpoint: PlantedConcept, *, name: str, n: int = ROWS, **options: Any
) -> Run:
    """A run with a record, in a folder of runs of its own: names do not say which model it was."""
    task = options.pop("task", TASK)
    options = {"gold": "label", **options}
    found: Labels = await label(
        options.pop("rows", rows(n, task)),
        task=task,
        endpoint=endpoint,
        store=folder / "store",
        runs=folder / name,
        **options,
    )
    assert found.run is not None
    return read_folder(found.run)
