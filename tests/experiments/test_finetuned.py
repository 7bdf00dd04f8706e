"""Figure 1 with planted models: what each is trained on, what comes of it, what a crash costs."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio.lowlevel
import numpy as np
import pytest

from icm_client import Task
from icm_client.data import JsonValue
from icm_client.data.job import Job
from icm_client.endpoints import Endpoint
from icm_client.errors import InputError, RunStopped, SetupError, TrainingError
from icm_client.experiments.evaluation import (
    FIGURE_1,
    Evaluation,
    Kind,
    fewest_and_most_reads,
    plan_evaluation,
)
from icm_client.experiments.evaluation_results import Moment, Outcome, document, results, table
from icm_client.experiments.evaluation_run import run_evaluation
from icm_client.experiments.figures import draw_evaluation
from icm_client.runs.trainer import Example, OnTraining, Trained, TrainingProgress
from icm_client.testing import PlantedConcept, PlantedTrainer

WORDS = ("negative", "positive")
TASK = Task(template="Review: {text}\nSentiment:", labels=WORDS)
N = 240
CLASSES = np.random.default_rng(7).integers(2, size=N).tolist()
SEEDS = (0, 1)
TRAINED: tuple[Kind, ...] = (
    "finetuned-random",
    "finetuned-bootstrap",
    "finetuned-icm",
    "finetuned-same-accuracy",
    "finetuned-human",
    "finetuned-golden",
)


def job_of(n: int = N) -> Job:
    rows: list[dict[str, JsonValue]] = [
        {"text": f"words of row {i}", "gold": WORDS[one], "who": [1, 2, 3] if one else [-1, -2, 3]}
        for i, one in enumerate(CLASSES[:n])
    ]
    return Job.prepare(rows, TASK, gold="gold")


def plan_of(job: Job, kinds: Sequence[Kind] = FIGURE_1, seeds: Sequence[int] = SEEDS) -> Evaluation:
    return plan_evaluation(job, kinds=kinds, seeds=seeds, human="who", human_positive="positive")


def base(job: Job) -> PlantedConcept:
    """It likes the first label better than the words say, until that is divided out."""
    planted = dict(zip(job.prompts, CLASSES, strict=False))
    return PlantedConcept(planted, job.label_texts, meaning=1.0, bias=(2.0, 0.0), noise=0.9)


class Listens(PlantedTrainer):
    """Remembers what it was asked to train on, by name and seed."""

    def __init__(self, job: Job, **options: object) -> None:
        planted = dict(zip(job.prompts, CLASSES, strict=False))
        super().__init__(planted, job.label_texts, **options)  # type: ignore[arg-type]
        self.examples: dict[tuple[str, int], list[Example]] = {}

    async def train(
        self,
        examples: Sequence[Example],
        *,
        name: str,
        seed: int,
        progress: OnTraining | None = None,
    ) -> Trained:
        self.examples[name, seed] = list(examples)
        return await super().train(examples, name=name, seed=seed, progress=progress)


Outcomes = Mapping[tuple[str, int], Outcome]


async def ran(
    plan: Evaluation, folder: Path, trainer: PlantedTrainer, endpoint: PlantedConcept | None = None
) -> Outcomes:
    outcomes, _ = await run_evaluation(
        plan,
        endpoint=endpoint or base(plan.job),
        trainer=trainer,
        store=str(folder / "scores.sqlite3"),
    )
    return {(one.method.name, one.seed): one for one in outcomes}


def accuracy(outcomes: Outcomes, name: str) -> float:
    return float(np.mean([outcomes[name, seed].accuracy for seed in SEEDS]))


async def test_models_are_as_good_as_the_labels_they_were_taught(tmp_path: Path) -> None:
    plan = plan_of(job_of())
    assert [method.name for method in plan.methods] == [
        *("majority", "zero-shot", "zero-shot-calibrated"),
        *("finetuned-random", "finetuned-bootstrap", "finetuned-icm-fast"),
        *("finetuned-same-accuracy-fast", "finetuned-human", "finetuned-golden"),
    ]
    outcomes = await ran(plan, tmp_path, Listens(plan.job))
    assert {one.error for one in outcomes.values()} == {None}
    golden = accuracy(outcomes, "finetuned-golden")
    assert golden > 0.9
    assert accuracy(outcomes, "zero-shot") < 0.7
    assert accuracy(outcomes, "finetuned-random") < 0.7
    assert accuracy(outcomes, "finetuned-icm-fast") > golden - 0.06
    assert 0.7 < accuracy(outcomes, "finetuned-human") <= golden
    human = outcomes["finetuned-human", 0].label_accuracy
    assert human is not None
    assert 0.7 < human < 0.95  # one in three of the negative rows is misread
    assert outcomes["finetuned-golden", 0].label_accuracy == 1.0
    assert outcomes["finetuned-icm-fast", 0].verdict == "trust"


async def test_a_model_sees_train_rows_with_those_labels_and_nothing_else(tmp_path: Path) -> None:
    job = job_of()
    plan, trainer = plan_of(job), Listens(job)
    await ran(plan, tmp_path, trainer)
    assert len(trainer.examples) == len(TRAINED) * len(SEEDS)
    for seed, split in zip(SEEDS, plan.splits, strict=True):
        prompts = [job.prompts[row] for row in split.train.tolist()]
        for name in {name for name, _ in trainer.examples}:
            assert [one.prompt for one in trainer.examples[name, seed]] == prompts, name
        golden = [one.label for one in trainer.examples["finetuned-golden", seed]]
        assert golden == [job.label_texts[k] for k in plan.gold[split.train]]
        icm, like = (
            [one.label for one in trainer.examples[f"finetuned-{name}-fast", seed]]
            for name in ("icm", "same-accuracy")
        )
        assert sum(map(str.__ne__, icm, golden)) == sum(map(str.__ne__, like, golden))


async def test_labels_are_those_of_the_methods_that_show_them_in_context(tmp_path: Path) -> None:
    job = job_of(60)
    plan = plan_of(job, [*TRAINED, "random", "icm", "same-accuracy", "human"], seeds=(0,))
    outcomes = await ran(plan, tmp_path, Listens(job))
    for name in ("random", "icm-fast", "same-accuracy-fast", "human"):
        trained, shown = outcomes[f"finetuned-{name}", 0], outcomes[name, 0]
        assert (trained.labelled, trained.label_accuracy) == (shown.labelled, shown.label_accuracy)
    # One search for both: whoever comes first pays for it.
    assert outcomes["icm-fast", 0].spent.reads > 30 * 5
    assert outcomes["finetuned-icm-fast", 0].spent.reads == 30


async def test_what_each_took_is_beside_it(tmp_path: Path) -> None:
    plan = plan_of(job_of(60), seeds=(0,))
    outcomes = await ran(plan, tmp_path, Listens(plan.job))
    reads = {method.name: fewest_and_most_reads(plan, method) for method in plan.methods}
    for (name, _), one in outcomes.items():
        low, high = reads[name] or (0, 0)
        assert low <= one.spent.reads <= high, name
    golden = outcomes["finetuned-golden", 0]
    assert golden.spent.requests > 0
    assert golden.spent.training_seconds == 3.0
    assert golden.model is not None
    assert golden.model.startswith("finetuned-golden-")
    found = results(plan, list(outcomes.values()))
    rows = {str(row["method"]): row for row in table(found)}
    assert rows["finetuned-golden"]["training_seconds"] == 3.0
    assert rows["zero-shot"]["training_seconds"] == 0.0
    assert rows["finetuned-golden"]["to_golden"] is None
    assert rows["zero-shot"]["to_golden"] < 0  # type: ignore[operator]  # held against the trained
    told = document(plan, found)["methods"][-1]["by_seed"][0]  # type: ignore[index]
    assert (told["model"], told["training_seconds"]) == (golden.model, 3.0)


async def test_trained_models_are_held_against_a_trained_one(tmp_path: Path) -> None:
    plan = plan_of(job_of(60), ["random", "golden", "finetuned-random", "finetuned-golden"])
    outcomes = await ran(plan, tmp_path, Listens(plan.job))
    for one in results(plan, list(outcomes.values())):
        name = one.method.name
        if "golden" in name:
            assert one.to_golden is None
            continue
        golden = "finetuned-golden" if name.startswith("finetuned") else "golden"
        assert one.to_golden is not None
        assert one.to_golden.difference == pytest.approx(
            accuracy(outcomes, name) - accuracy(outcomes, golden)
        )


async def test_the_picture_has_their_bars_in_the_colours_of_their_labels(tmp_path: Path) -> None:
    plan = plan_of(job_of(60), [*TRAINED, "golden"])
    outcomes = await ran(plan, tmp_path, Listens(plan.job))
    draw_evaluation(results(plan, list(outcomes.values())), [tmp_path / "a.svg"], "reviews")
    drawn = (tmp_path / "a.svg").read_text()
    for said in ("finetuned-icm-fast", "finetuned-golden", "ICM", "gold labels"):
        assert said in drawn
    for said in ("ICM's labels", "human labels"):
        assert said in drawn or said.replace("'", "&#x27;") in drawn


async def test_the_same_again_trains_nothing_and_asks_nothing(tmp_path: Path) -> None:
    plan = plan_of(job_of(60))
    trainer = Listens(plan.job, folder=tmp_path / "models")
    first = await ran(plan, tmp_path, trainer)
    assert len(trainer.trained) == len(TRAINED) * len(SEEDS)
    later, silent = Listens(plan.job, folder=tmp_path / "models"), base(plan.job)
    again = await ran(plan, tmp_path, later, silent)
    assert later.trained == []
    assert silent.usage.requests == 0
    for key, one in first.items():
        assert again[key].accuracy == one.accuracy
        assert again[key].spent.reads == one.spent.reads
        assert again[key].spent.training_seconds == one.spent.training_seconds
        assert again[key].spent.requests == 0


class FallsOver(Listens):
    """Cannot train one of the methods."""

    error: Exception = TrainingError("no GPU is free")

    async def train(
        self,
        examples: Sequence[Example],
        *,
        name: str,
        seed: int,
        progress: OnTraining | None = None,
    ) -> Trained:
        if (name, seed) == ("finetuned-human", 0):
            raise self.error
        return await super().train(examples, name=name, seed=seed, progress=progress)


async def test_a_training_that_fails_is_noted_and_tried_again_later(tmp_path: Path) -> None:
    plan = plan_of(job_of(60))
    models = tmp_path / "models"
    broken = await ran(plan, tmp_path, FallsOver(plan.job, folder=models))
    assert broken["finetuned-human", 0].error == "no GPU is free"
    assert broken["finetuned-human", 0].accuracy is None
    assert broken["finetuned-human", 0].label_accuracy is not None
    assert {key for key, one in broken.items() if one.error} == {("finetuned-human", 0)}
    later = Listens(plan.job, folder=models)
    mended = await ran(plan, tmp_path, later)
    assert later.trained == ["finetuned-human"]
    assert {one.error for one in mended.values()} == {None}


async def test_without_what_training_needs_all_ends_at_once(tmp_path: Path) -> None:
    plan = plan_of(job_of(60))
    trainer = FallsOver(plan.job)
    trainer.error = SetupError("training needs torch")
    with pytest.raises(SetupError, match="needs torch"):
        await ran(plan, tmp_path, trainer)


async def test_trainings_run_beside_each_other_where_there_is_room(tmp_path: Path) -> None:
    plan = plan_of(job_of(60))
    for parallel in (1, 3):
        trainer = Listens(plan.job, parallel=parallel)
        await ran(plan, tmp_path, trainer)
        assert trainer.most_at_a_time == parallel


class Opens(Listens):
    """Counts the models that are open, and the most that were at a time."""

    now = most = 0

    @asynccontextmanager
    async def open(self, trained: Trained) -> AsyncIterator[Endpoint]:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            async with super().open(trained) as model:
                await anyio.lowlevel.checkpoint()
                yield model
        finally:
            self.now -= 1


async def test_no_more_models_are_open_than_there_is_room_for(tmp_path: Path) -> None:
    plan = plan_of(job_of(60))
    trainer = Opens(plan.job, parallel=2)
    await ran(plan, tmp_path, trainer)
    assert trainer.now == 0
    assert 1 <= trainer.most <= 2


class Slow(Listens):
    """Takes its time to train on ICM's labels."""

    async def train(
        self,
        examples: Sequence[Example],
        *,
        name: str,
        seed: int,
        progress: OnTraining | None = None,
    ) -> Trained:
        self.examples[name, seed] = list(examples)
        for _ in range(100 if name == "finetuned-icm-fast" else 0):
            await anyio.lowlevel.checkpoint()
        return await super().train(examples, name=name, seed=seed, progress=progress)


async def test_told_to_stop_it_awaits_the_trainings_under_way(tmp_path: Path) -> None:
    plan = plan_of(job_of(60))
    models = tmp_path / "models"
    trainer = Slow(plan.job, parallel=2, folder=models)
    with pytest.raises(RunStopped):
        await run_evaluation(
            plan,
            endpoint=base(plan.job),
            trainer=trainer,
            store=str(tmp_path / "scores.sqlite3"),
            stopping=lambda: bool(trainer.trained),
        )
    begun = len(trainer.examples)
    assert begun == 2
    assert len(trainer.trained) == 2, "what was begun has been finished"
    later = Listens(plan.job, folder=models)
    await ran(plan, tmp_path, later)
    assert len(later.trained) == len(TRAINED) * len(SEEDS) - begun


async def test_progress_tells_of_training_and_of_reads(tmp_path: Path) -> None:
    plan = plan_of(job_of(60), ["finetuned-golden"], seeds=(0,))
    told: list[Moment] = []
    await run_evaluation(
        plan,
        endpoint=base(plan.job),
        trainer=Listens(plan.job),
        store=str(tmp_path / "scores.sqlite3"),
        progress=told.append,
    )
    kinds = [type(now.at) for now in told]
    assert kinds.count(TrainingProgress) == 3
    assert kinds[0] is TrainingProgress
    assert kinds[-1] is not TrainingProgress
    assert {now.method.name for now in told} == {"finetuned-golden"}


async def test_labels_that_are_all_the_same_teach_nothing(tmp_path: Path) -> None:
    job = job_of(60)
    plan = plan_of(job, ["finetuned-human", "finetuned-golden"], seeds=(0,))
    one_sided = replace(plan, human=tuple((1,) for _ in job.dataset.rows))
    outcomes = await ran(one_sided, tmp_path, Listens(job))
    human = outcomes["finetuned-human", 0]
    assert human.error is not None
    assert "no train row has the label 'negative'" in human.error
    assert outcomes["finetuned-golden", 0].error is None


async def test_pairs_are_learned_in_both_orders(tmp_path: Path) -> None:
    task = Task(
        template="{one}\n{other}\nThe first is better:",
        labels=("True", "False"),
        exchange=("one", "other"),
    )
    rows: list[dict[str, JsonValue]] = [
        {"one": f"text {n}", "other": f"text {n + 100}", "gold": "True" if n % 2 else "False"}
        for n in range(60)
    ]
    job = Job.prepare(rows, task, gold="gold")
    planted = {
        prompt: job.labels.index("True" if (item.row % 2 == 1) != item.exchanged else "False")
        for prompt, item in zip(job.prompts, job.items, strict=True)
    }
    plan = plan_evaluation(job, kinds=["longer", "finetuned-icm", "finetuned-golden"])
    trainer = PlantedTrainer(planted, job.label_texts, strength=8.0)
    outcomes = await ran(plan, tmp_path, trainer, PlantedConcept(planted, job.label_texts))
    assert outcomes["finetuned-icm-fast", 0].error is None
    assert (outcomes["finetuned-golden", 0].accuracy or 0) > 0.9
    assert trainer.trained == ["finetuned-icm-fast", "finetuned-golden"]


async def test_methods_that_train_need_a_trainer(tmp_path: Path) -> None:
    plan = plan_of(job_of(60), ["finetuned-golden"])
    endpoint = base(plan.job)
    with pytest.raises(InputError, match="need a trainer"):
        await run_evaluation(plan, endpoint=endpoint, store=str(tmp_path / "scores.sqlite3"))
    assert endpoint.usage.requests == 0
