"""Searches that train, through `label`, over a planted concept and a planted trainer."""

import random
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import numpy as np
import orjson
import pytest
from planted_reviews import TASK, planted, reviews

from icm_client import Labels, Progress, label
from icm_client.coherence.folds import FoldSettings
from icm_client.coherence.iterate import IterateSettings
from icm_client.coherence.problem import Demo, Query
from icm_client.coherence.result import PassRecord
from icm_client.coherence.settings import SweepSettings
from icm_client.coherence.trained import Training
from icm_client.data.job import Job
from icm_client.endpoints import Answer, Endpoint, Read
from icm_client.errors import EndpointFault, InputError, RunStopped, TrainingError
from icm_client.record.journal import read
from icm_client.runs.fold_training import FoldTraining
from icm_client.runs.presets import Preset, TrainedSettings, fit
from icm_client.runs.progress import Budget
from icm_client.runs.trainer import Example, OnTraining, Trained
from icm_client.scoring import Scorer, open_store, tokenize_pieces
from icm_client.testing import PlantedConcept, PlantedTrainer

N = 64
FOLDS = FoldSettings(passes=3)
BOTH = pytest.mark.parametrize(
    "settings", [FOLDS, IterateSettings(batch=32)], ids=lambda one: type(one).__name__
)
SURE = {"half": 5.0, "noise": 0.5}
"""Planted models that a few dozen right examples teach nearly all."""


class Remembering(PlantedTrainer):
    """Keeps the models that it opened."""

    models: list[Endpoint]

    @asynccontextmanager
    async def open(self, trained: Trained) -> AsyncIterator[Endpoint]:
        async with super().open(trained) as model:
            self.models.append(model)
            yield model


def trainer(folder: Path | None = None, n: int = N, **more: float) -> Remembering:
    rows = reviews(n)
    job = Job.prepare(rows, TASK)
    classes = [job.labels.index(row["label"]) for row in rows]
    concept = dict(zip(job.prompts, classes, strict=True))
    made = Remembering(concept, job.label_texts, folder=folder, **{**SURE, **more})  # type: ignore[arg-type]
    made.models = []
    return made


async def found_in(
    folder: Path, settings: TrainedSettings, **options: object
) -> tuple[Labels, PlantedConcept, Remembering]:
    endpoint, training = planted(N, meaning=2.0), trainer(folder / "trained")
    found = await label(
        reviews(N),
        task=TASK,
        endpoint=endpoint,
        gold="label",
        settings=settings,
        trainer=training,
        store=folder / "store",
        runs=folder / "runs",
        **options,  # type: ignore[arg-type]
    )
    return found, endpoint, training


@BOTH
async def test_labels_are_found_and_told(settings: TrainedSettings, tmp_path: Path) -> None:
    moments: list[Progress] = []
    found, endpoint, training = await found_in(tmp_path, settings, progress=moments.append)
    assert found.accuracy is not None
    assert found.accuracy > 0.95
    assert found.coherence > 0.25
    assert len(found.rows) == N
    assert all(row.exactness == "exact" for row in found.rows)
    passes = [record for record in found.history if isinstance(record, PassRecord)]
    assert passes
    # What the trained models were asked is part of the cost.
    of_models = sum(model.usage.requests for model in training.models)
    assert of_models >= (len(passes) * N if settings is FOLDS else N - 32)
    assert found.cost.requests == endpoint.usage.requests + of_models
    assert any(moment.training for moment in moments)
    assert moments[-1].training == ()
    assert moments[-1].of is None
    assert found.run is not None
    events = read(found.run / "journal.jsonl")
    told = [event for event in events if event["event"] == "pass"]
    assert [event["moved"] for event in told] == [record.moved for record in passes]
    assert told[0]["counts"].keys() == set(TASK.labels)
    assert told[0]["trained_on"] == passes[0].trained_on
    assert [e["name"] for e in events if e["event"] == "trained"] == training.trained
    assert found.summary()["preset"] == found.preset in ("folds", "iterate")


@BOTH
async def test_the_same_call_again_trains_and_asks_nothing(
    settings: TrainedSettings, tmp_path: Path
) -> None:
    first, _, training = await found_in(tmp_path, settings)
    assert training.trained
    again, endpoint, idle = await found_in(tmp_path, settings)
    assert idle.trained == []
    assert endpoint.usage.requests == again.cost.requests == 0
    assert again.rows == first.rows
    assert again.history == first.history


@BOTH
async def test_labels_are_the_same_whatever_gold_says(
    settings: TrainedSettings, tmp_path: Path
) -> None:
    written = []
    for number in range(2):
        rows = reviews(N)
        if number:
            words = [row["label"] for row in rows]
            random.Random(1).shuffle(words)
            rows = [{**row, "label": word} for row, word in zip(rows, words, strict=True)]
        found = await label(
            rows,
            task=TASK,
            endpoint=planted(N, meaning=2.0),
            gold="label",
            settings=settings,
            trainer=trainer(),
            store=tmp_path / f"{number}",
        )
        written.append([(row.label, row.log_probs) for row in found.rows])
    assert written[0] == written[1]


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import anyio
import test_fold_runs as here
from icm_client.testing import PlantedTrainer

left = [int(sys.argv[3])]
keep = PlantedTrainer._keep

def killing(self, model, tastes):
    if left[0] == 0 and sys.argv[4] == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    keep(self, model, tastes)
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)

PlantedTrainer._keep = killing
settings = here.FOLDS if sys.argv[5] == "folds" else here.IterateSettings(batch=16)
anyio.run(here.found_in, Path(sys.argv[2]), settings)
"""


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["folds", "iterate"])
@pytest.mark.parametrize(("trainings", "moment"), [(0, "before"), (1, "after"), (2, "before")])
async def test_a_killed_run_goes_on_to_the_labels_of_one_that_was_left_alone(
    tmp_path: Path, trainings: int, moment: str, preset: str
) -> None:
    settings: TrainedSettings = FOLDS if preset == "folds" else IterateSettings(batch=16)
    alone, _, whole = await found_in(tmp_path / "alone", settings)
    folder = tmp_path / "killed"
    arguments = [str(Path(__file__).parent), str(folder), str(trainings), moment, preset]
    done = await anyio.run_process([sys.executable, "-c", KILLED, *arguments], check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    found, _, rest = await found_in(folder, settings)
    kept = trainings + (moment == "after")
    assert len(rest.trained) == len(whole.trained) - kept
    assert found.rows == alone.rows
    assert found.history == alone.history
    assert found.run is not None
    events = [event["event"] for event in read(found.run / "journal.jsonl")]
    assert events.count("sweep") + events.count("pass") == len(alone.history)
    assert events.count("trained") == len(whole.trained)
    assert events.count("resumed") == 1


@pytest.mark.parametrize("parallel", [1, 2, 4])
async def test_folds_are_trained_at_once_where_there_is_room(parallel: int, tmp_path: Path) -> None:
    training = trainer(parallel=parallel)
    found = await label(
        reviews(N),
        task=TASK,
        endpoint=planted(N, meaning=2.0),
        gold="label",
        settings=FOLDS,
        trainer=training,
        store=tmp_path / "store",
    )
    assert training.most_at_a_time == parallel
    assert found.accuracy is not None
    assert found.accuracy > 0.95


async def test_how_many_train_at_once_changes_no_label(tmp_path: Path) -> None:
    rows = []
    for parallel in (1, 4):
        found = await label(
            reviews(N),
            task=TASK,
            endpoint=planted(N, meaning=2.0),
            settings=FOLDS,
            trainer=trainer(parallel=parallel),
            store=tmp_path / f"{parallel}",
        )
        rows.append(found.rows)
    assert rows[0] == rows[1]


@pytest.mark.parametrize("preset", ["folds", "iterate"])
async def test_without_a_trainer_nothing_is_begun(preset: Preset) -> None:
    endpoint = planted(8)
    with pytest.raises(InputError, match="there is no trainer"):
        await label(reviews(8), task=TASK, endpoint=endpoint, preset=preset)
    assert endpoint.usage.requests == 0


async def test_a_trainer_for_a_search_that_trains_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="trains no models"):
        await label(reviews(8), task=TASK, endpoint=planted(8), trainer=trainer())


async def test_first_labels_for_a_search_of_batches_are_refused() -> None:
    with pytest.raises(InputError, match="first batch"):
        await label(
            reviews(8),
            task=TASK,
            endpoint=planted(8),
            preset="iterate",
            trainer=trainer(),
            start="random",
        )


async def test_first_labels_may_be_a_few_random_ones(tmp_path: Path) -> None:
    settings = FoldSettings(sweeps=SweepSettings(initial=32))
    found, endpoint, training = await found_in(tmp_path, settings, start="balanced")
    assert training.trained
    assert len(found.rows) == N
    assert {row.exactness for row in found.rows} == {"exact"}
    first = found.history[0]
    assert isinstance(first, PassRecord)
    assert first.trained_on < 32
    # Of the base model only names are asked: half of the items as found and exchanged, some twice.
    assert endpoint.usage.requests < 2 * N


async def test_a_label_that_no_model_would_be_taught_is_named(tmp_path: Path) -> None:
    start = tmp_path / "start.jsonl"
    rows = [{"id": f"r{n}", **row} for n, row in enumerate(reviews(N))]
    start.write_bytes(
        b"\n".join(orjson.dumps({"id": row["id"], "label": "positive"}) for row in rows)
    )
    training = trainer()
    with pytest.raises(TrainingError, match=r"none of the 48 labels .* 'negative'"):
        await label(
            rows,
            task=TASK,
            endpoint=planted(N),
            settings=FOLDS,
            start=start,
            trainer=training,
            store=tmp_path / "store",
        )
    assert training.trained == []


async def stop_in_a_training(training: PlantedTrainer, tmp_path: Path) -> None:
    told: list[Progress] = []
    with pytest.raises(RunStopped):
        await label(
            reviews(N),
            task=TASK,
            endpoint=planted(N, meaning=2.0),
            settings=FOLDS,
            trainer=training,
            store=tmp_path / "store",
            progress=told.append,
            stopping=lambda: any(moment.training for moment in told),
        )


async def test_a_run_that_is_to_stop_begins_no_further_training(tmp_path: Path) -> None:
    training = trainer()
    await stop_in_a_training(training, tmp_path)
    assert len(training.trained) == 1  # the one that was under way


class SecondTakesLonger(Remembering):
    """The second training goes on for a while after the first one's end."""

    async def train(
        self,
        examples: Sequence[Example],
        *,
        name: str,
        seed: int,
        progress: OnTraining | None = None,
    ) -> Trained:
        if name == "pass-1-fold-2":
            while not self.trained:
                await anyio.lowlevel.checkpoint()
            await anyio.sleep(0.2)
        return await super().train(examples, name=name, seed=seed, progress=progress)


async def test_a_stop_leaves_trainings_that_are_under_way_to_their_end(tmp_path: Path) -> None:
    training = trainer(parallel=2)
    training.__class__ = SecondTakesLonger
    await stop_in_a_training(training, tmp_path)
    assert training.trained == ["pass-1-fold-1", "pass-1-fold-2"]


async def test_a_limit_ends_it_after_a_pass(tmp_path: Path) -> None:
    settings = FoldSettings(moving=0.0)
    whole, _, _ = await found_in(tmp_path / "whole", settings)
    found, _, training = await found_in(
        tmp_path / "limited", settings, budget=Budget(max_requests=whole.cost.requests - 3 * N)
    )
    assert found.stopped is not None
    assert len(found.rows) == N
    assert len(training.trained) < 20


async def test_another_trainer_is_another_run(tmp_path: Path) -> None:
    for half in (5.0, 6.0):
        await label(
            reviews(N),
            task=TASK,
            endpoint=planted(N, meaning=2.0),
            settings=FOLDS,
            trainer=trainer(half=half),
            store=tmp_path / "store",
            runs=tmp_path / "runs",
        )
    assert len(list((tmp_path / "runs").iterdir())) == 2


class Breaking(Remembering):
    """One of its models fails on one prompt, for good, or on all."""

    prompt: str | None = None

    @asynccontextmanager
    async def open(self, trained: Trained) -> AsyncIterator[Endpoint]:
        async with super().open(trained) as model:
            assert isinstance(model, PlantedConcept)
            wanted = (
                None
                if self.prompt is None
                else await model.tokenize(self.prompt, add_special=False)
            )
            answer = model.read

            async def read(reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
                if wanted is None or any(one.prompt[-len(wanted) :] == wanted for one in reads):
                    raise EndpointFault("500")
                return await answer(reads, lane=lane)

            model.read = read  # type: ignore[method-assign]
            yield model


@BOTH
async def test_a_row_that_a_trained_model_fails_on_has_no_label_and_the_others_do(
    settings: TrainedSettings, tmp_path: Path
) -> None:
    job = Job.prepare(reviews(N), TASK)
    training = trainer()
    training.__class__ = Breaking
    Breaking.prompt = job.prompts[9]
    found = await label(
        reviews(N),
        task=TASK,
        endpoint=planted(N, meaning=2.0),
        gold="label",
        settings=settings,
        trainer=training,
        store=tmp_path / "store",
    )
    assert [row.line for row in found.failed] == [10]
    assert "500" in found.failed[0].reason
    assert len(found.rows) == N - 1
    assert found.accuracy is not None
    assert found.accuracy > 0.95


async def test_a_trained_model_that_answers_nothing_ends_the_run_with_its_error(
    tmp_path: Path,
) -> None:
    training = trainer()
    training.__class__ = Breaking
    Breaking.prompt = None
    with pytest.raises(EndpointFault):
        await label(
            reviews(N),
            task=TASK,
            endpoint=planted(N, meaning=2.0),
            settings=FOLDS,
            trainer=training,
            store=tmp_path / "store",
        )


class Noting(Remembering):
    """Keeps the examples that it was given."""

    given: list[Sequence[Example]]

    async def train(
        self,
        examples: Sequence[Example],
        *,
        name: str,
        seed: int,
        progress: OnTraining | None = None,
    ) -> Trained:
        self.given.append(examples)
        return await super().train(examples, name=name, seed=seed, progress=progress)


async def test_examples_are_prompts_and_label_texts_and_answers_stand_under_the_models_name(
    tmp_path: Path,
) -> None:
    job = Job.prepare(reviews(8), TASK)
    base, training = planted(8), trainer(n=8)
    training.__class__ = Noting
    assert isinstance(training, Noting)
    training.given = []
    with open_store(tmp_path / "store") as store:
        pieces = await tokenize_pieces(
            job.prompts, job.label_texts, job.task.separator, base, store
        )
        scorer = Scorer(base, store, pieces)
        models: list[Endpoint] = []
        train = FoldTraining(job, training, store, scorer, seed=0, opened=models.append)
        demos = tuple(Demo(item, item % 2) for item in range(6))
        asked = Training("one", demos, np.array([6, 7]))
        (first,) = await train([asked])
        assert first.shape == (2, 2)
        assert training.given == [
            [Example(job.prompts[item], f" {job.labels[k]}") for item, k in demos]
        ]
        assert scorer.stats.asked == 2
        assert scorer.exactness.keys() == {6, 7}
        (again,) = await train([asked])
        assert (again == first).all()
        assert models[1].usage.requests == 0
        of_base = await scorer([Query((), 6)])
        assert not (of_base == first[:1]).any()


async def test_demos_of_the_search_before_training_are_lowered_to_what_fits(
    tmp_path: Path,
) -> None:
    job = Job.prepare(reviews(N), TASK)
    small = planted(N, context_length=100)
    with open_store(tmp_path / "store") as store:
        pieces = await tokenize_pieces(
            job.prompts, job.label_texts, job.task.separator, small, store
        )
    settings = FoldSettings()
    fitted, notice = fit(settings, pieces, small)
    assert isinstance(fitted, FoldSettings)
    assert fitted.sweeps.demos < settings.sweeps.demos
    assert "instead of 64" in (notice or "")
