"""Endpoints, rows and waits for the tests of jobs in a client."""

from collections.abc import Callable, Sequence

import anyio
from planted_reviews import TASK, planted, reviews

from icm_client import Cost, LabelJob, SweepSettings
from icm_client.endpoints import Answer, Read
from icm_client.testing import PlantedConcept

SHORT = SweepSettings(min_sweeps=3, max_sweeps=3, restarts=1)


def part(number: int, n: int = 16) -> list[dict[str, str]]:
    """Rows of the planted concept that no other part has."""
    return reviews(n * (number + 1))[n * number :]


class Slow(PlantedConcept):
    """One lane; each request takes `seconds`."""

    def __init__(self, n: int, seconds: float = 0.001) -> None:
        model = planted(n)
        super().__init__(model._planted, TASK.label_texts)
        self.seconds = seconds
        self.most_at_a_time = self._now = 0

    async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
        self._now += 1
        self.most_at_a_time = max(self.most_at_a_time, self._now)
        try:
            await anyio.sleep(self.seconds)
            return await super().read(reads, lane=lane)
        finally:
            self._now -= 1


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(20):
        while not condition():  # noqa: ASYNC110 - what is looked at tells nobody
            await anyio.sleep(0.001)


async def begun(job: LabelJob, reads: int = 10) -> Cost:
    """Wait until the server has answered a few of the job's reads."""
    with anyio.fail_after(20):
        async for moment in job.progress():
            if moment.cost.from_server >= reads:
                return moment.cost
    raise AssertionError("it ended before")


class Wide(Slow):
    """Without lanes."""

    @property
    def lanes(self) -> int:
        return 0
