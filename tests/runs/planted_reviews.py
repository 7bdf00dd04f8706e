"""Rows with a planted concept, a task about them, and endpoints that fail or dawdle."""

from collections.abc import Sequence

import anyio

from icm_client import Dataset, Task, rows_from
from icm_client.endpoints import Answer, Read
from icm_client.errors import EndpointFault
from icm_client.testing import PlantedConcept

TASK = Task(template="Review: {text}\nSentiment:", labels=("positive", "negative"))
COLOURS = Task(template="Thing: {text}\nColour:", labels=("red", "green", "dark blue"))


def reviews(n: int, task: Task = TASK) -> list[dict[str, str]]:
    """`n` rows; row `i` is of class `i * 7 % 5 % K`, its gold label."""
    n_labels = len(task.labels)
    return [
        {"text": f"words of row {i}", "label": task.labels[i * 7 % 5 % n_labels]} for i in range(n)
    ]


def planted(n: int = 32, task: Task = TASK, **formula: float) -> PlantedConcept:
    return PlantedConcept(*_of(n, task), **formula)  # type: ignore[arg-type]


def _of(n: int, task: Task) -> tuple[dict[str, int], tuple[str, ...]]:
    rows = reviews(n, task)
    classes = [task.labels.index(row["label"]) for row in rows]
    return dict(zip(task.render_all(data(rows)), classes, strict=True)), task.label_texts


def data(rows: list[dict[str, str]]) -> Dataset:
    return rows_from(rows, gold="label")


class Failing(PlantedConcept):
    """Answers `allowed` reads, then none."""

    def __init__(self, allowed: int, n: int = 32, task: Task = TASK) -> None:
        super().__init__(*_of(n, task))
        self.allowed = allowed

    async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
        if self.usage.requests >= self.allowed:
            raise EndpointFault("500")
        return await super().read(reads, lane=lane)


class Dawdling(PlantedConcept):
    """Three lanes, whose answers overtake one another."""

    def __init__(self, n: int = 32, task: Task = TASK) -> None:
        super().__init__(*_of(n, task), lanes=3)

    async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
        await anyio.sleep(0.0005 * (self.usage.requests * 7 % 3))
        return await super().read(reads, lane=lane)
