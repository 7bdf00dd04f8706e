"""Searches that train, over the wire: a planted service labels, trains, and serves the results."""

from pathlib import Path

import anyio
import pytest
from tuned_reviews import CLASSES, PROMPTS, TASK, learnt, trainer

from icm_client import Labels, Server, label
from icm_client.coherence.folds import FoldSettings
from icm_client.coherence.iterate import IterateSettings
from icm_client.runs.presets import TrainedSettings
from icm_client.testing import PlantedConcept
from icm_client.testing.finetuning import FineTuningServer

SETTINGS = pytest.mark.parametrize(
    ("settings", "jobs"), [(FoldSettings(folds=2, passes=2), 2), (IterateSettings(batch=20), 1)]
)


def service() -> FineTuningServer:
    classes = dict(zip(PROMPTS, CLASSES, strict=True))
    base = PlantedConcept(classes, TASK.label_texts, strength=4, meaning=2, noise=0.5)
    return FineTuningServer(base, learnt)


async def found_by(server: FineTuningServer, folder: Path, settings: TrainedSettings) -> Labels:
    rows = [
        {"text": f"words of row {n}", "label": TASK.labels[planted]}
        for n, planted in enumerate(CLASSES)
    ]
    with anyio.fail_after(60):
        return await label(
            rows,
            task=TASK,
            endpoint=Server(server.url, model=server.base),  # what it trained is served beside it
            gold="label",
            settings=settings,
            trainer=trainer(server.url, folder / "trainings"),
            store=folder / "store",
        )


@SETTINGS
async def test_a_service_trains_the_folds_and_the_same_call_again_submits_no_job(
    settings: TrainedSettings, jobs: int, tmp_path: Path
) -> None:
    async with service() as server:
        found = await found_by(server, tmp_path, settings)
        assert found.accuracy is not None
        assert found.accuracy > 0.95
        submitted = len(server.jobs)
        assert submitted in (jobs, 2 * jobs)
        again = await found_by(server, tmp_path, settings)
        assert len(server.jobs) == submitted
        assert again.rows == found.rows
        assert again.cost.from_server == 0
