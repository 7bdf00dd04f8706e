"""Train models on labels of several origins, and test them zero-shot on held-out rows.

Figure 1 of arXiv 2506.10139: models fine-tuned on ICM's labels, on gold, human and random ones. The
caller brings the trainer (`icm_client.runs.trainer`). The trainer finds models that it has trained
before, and the score store answers, so that an interrupted comparison resumes where it was.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import anyio
import numpy as np

from icm_client.coherence.problem import UNLABELLED, IntArray
from icm_client.data.job import Job
from icm_client.errors import IcmError, RunStopped, TrainingError
from icm_client.experiments.baselines import best_labels, zero_shot
from icm_client.experiments.comparison import FATAL, Meter
from icm_client.experiments.evaluation import Evaluation, Split
from icm_client.experiments.evaluation_results import Moment, OnMoment, Outcome
from icm_client.runs.trainer import Example, Trainer, TrainingProgress
from icm_client.scoring import Scorer, ScoreStore, ScoringProgress, tokenize_pieces
from icm_client.task_groups import open_task_group
from icm_client.training.examples import task_examples


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """What a model is to be trained on.

    Attributes:
        split: the seed's rows.
        labels: of the train rows, shape `[rows]`; None where they could not be found.
        outcome: what the labels cost, or why there are none; without predictions.
    """

    split: Split
    labels: IntArray | None
    outcome: Outcome


async def train_and_test(
    lessons: Sequence[Lesson],
    evaluation: Evaluation,
    trainer: Trainer,
    store: ScoreStore,
    *,
    ended: Callable[[Outcome], None] = lambda _: None,
    progress: OnMoment | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> list[Outcome]:
    """Train a model on each lesson, and have it predict the lesson's test rows.

    The failure of a lesson is recorded in its outcome, and the others go on.

    Args:
        lessons: any number; as many at once as the trainer allows.
        evaluation: the rows.
        trainer: trains the models, and opens them as endpoints.
        store: open; keeps the models' answers, under their own fingerprints.
        ended: called with each outcome.
        progress: called during training and reading.
        stopping: asked before each training and each request.

    Raises:
        RunStopped: `stopping` returned True; trainings that were under way have been awaited.
        SetupError, StoreError, RunError, ModelChanged: no other lesson would fare better.
    """
    found: dict[int, Outcome] = {}
    places = anyio.Semaphore(trainer.parallel)

    async def one(number: int, lesson: Lesson) -> None:
        async with places:
            if stopping():
                return
            try:
                outcome = await _outcome(
                    lesson, evaluation, trainer, store, progress=progress, stopping=stopping
                )
            except RunStopped:  # raised here, it would cancel the trainings beside this one
                return
            found[number] = outcome
            ended(outcome)

    async with open_task_group() as tasks:
        for number, lesson in enumerate(lessons):
            tasks.start_soon(one, number, lesson)
    if len(found) < len(lessons):
        raise RunStopped("stopped on request")
    return [found[number] for number in range(len(lessons))]


async def _outcome(
    lesson: Lesson,
    evaluation: Evaluation,
    trainer: Trainer,
    store: ScoreStore,
    *,
    progress: OnMoment | None,
    stopping: Callable[[], bool],
) -> Outcome:
    labelled, labels, job = lesson.outcome, lesson.labels, evaluation.job
    if labels is None or labelled.error is not None:
        return labelled
    started = time.monotonic()

    def report(at: TrainingProgress | ScoringProgress) -> None:
        if progress is not None:
            progress(Moment(labelled.method, labelled.seed, at))

    try:
        trained = await trainer.train(
            _examples(job, labelled.method.name, labels),
            name=labelled.method.name,
            seed=labelled.seed,
            progress=report,
        )
        async with trainer.open(trained) as model:
            store.record_server(model.identity)
            meter = Meter(model)
            pieces = await tokenize_pieces(
                [job.prompts[item] for item in job.row_items[lesson.split.test]],
                job.label_texts,
                job.task.separator,
                model,
                store,
            )
            score = Scorer(model, store, pieces, on_progress=report, stopping=stopping)
            predicted = best_labels(await zero_shot(np.arange(len(lesson.split.test)), score))
            spent = meter.spent(score.stats)
    except FATAL:
        raise
    except IcmError as failed:
        return replace(labelled, error=str(failed))
    seconds = time.monotonic() - started
    return replace(
        labelled,
        correct=predicted == evaluation.gold[lesson.split.test],
        model=trained.model,
        spent=labelled.spent + replace(spent, seconds=seconds, training_seconds=trained.seconds),
    )


def _examples(job: Job, name: str, labels: IntArray) -> list[Example]:
    """The labelled rows; a pair in both orders."""
    words = tuple(None if k == UNLABELLED else job.labels[k] for k in labels.tolist())
    examples = task_examples(job.task, job.dataset, words)
    given = {example.label for example in examples}
    for word, text in zip(job.labels, job.label_texts, strict=True):
        if text not in given:
            raise TrainingError(
                f"{name}: no train row has the label {word!r}, and a model learns no label without "
                "examples: take more rows"
            )
    return examples
