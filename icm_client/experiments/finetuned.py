"""Models that are trained on labels of several origins, and tested zero-shot on held-out rows.

Figure 1 of arXiv 2506.10139: fine-tuned on ICM's labels, on gold ones, on people's, on random ones.
Who trains is the caller's business (`icm_client.runs.trainer`). Trainings that are finished are
found by the trainer, answers by the score store: what was broken off goes on where it was.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import anyio

from icm_client.coherence.problem import UNLABELLED, IntArray, Query
from icm_client.endpoints import Endpoint
from icm_client.errors import (
    IcmError,
    ModelChanged,
    RunError,
    RunStopped,
    SetupError,
    StoreError,
    TrainingError,
)
from icm_client.experiments.baselines import best_labels
from icm_client.experiments.evaluation import Evaluation, Split
from icm_client.experiments.evaluation_bench import LabelSet, Moment, OnMoment
from icm_client.experiments.evaluation_table import Outcome, Spent
from icm_client.runs.trainer import Example, Trained, Trainer, TrainingProgress
from icm_client.scoring import Scorer, ScoreStore, ScoringProgress, tokenize_pieces
from icm_client.task_groups import open_task_group
from icm_client.training.run_labels import task_examples


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """What a model is to be trained on.

    Attributes:
        split: the seed's rows.
        made: the train rows' labels; None where they could not be found.
        outcome: what the labels took, or why there are none; without predictions.
    """

    split: Split
    made: LabelSet | None
    outcome: Outcome


class FineTuning:
    """Trains a model on each lesson, and has it predict the lesson's test rows.

    Args:
        evaluation: the rows.
        trainer: trains, and opens what came out.
        store: open; the models' answers are kept in it, under their own fingerprints.
        ended: told of each outcome.
        progress: told of training and reads.
        stopping: asked before a training or a request is begun.
    """

    def __init__(
        self,
        evaluation: Evaluation,
        trainer: Trainer,
        store: ScoreStore,
        *,
        ended: Callable[[Outcome], None] = lambda _: None,
        progress: OnMoment | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._evaluation, self._trainer, self._store = evaluation, trainer, store
        self._ended, self._progress, self._stopping = ended, progress, stopping
        self._room = anyio.Semaphore(trainer.parallel)

    async def outcomes(self, lessons: Sequence[Lesson]) -> list[Outcome]:
        """Train on each lesson and test; a lesson that fails is noted, and the others go on.

        Raises:
            RunStopped: it was to stop; trainings that were under way have been awaited.
            SetupError, StoreError, RunError, ModelChanged: no other lesson would fare better.
        """
        found: dict[int, Outcome] = {}

        async def one(number: int, lesson: Lesson) -> None:
            async with self._room:
                if self._stopping():
                    return
                try:
                    found[number] = await self._outcome(lesson)
                except RunStopped:  # raised here, it would cancel the trainings beside this one
                    return
                self._ended(found[number])

        async with open_task_group() as tasks:
            for number, lesson in enumerate(lessons):
                tasks.start_soon(one, number, lesson)
        if len(found) < len(lessons):
            raise RunStopped("stopped on request")
        return [found[number] for number in range(len(lessons))]

    async def _outcome(self, lesson: Lesson) -> Outcome:
        if lesson.made is None or lesson.outcome.error is not None:
            return lesson.outcome
        started = time.monotonic()
        try:
            trained = await self._trained(lesson, lesson.made.labels)
            async with self._trainer.open(trained) as model:
                self._store.record_server(model.identity)
                predicted, asked = await self._predict(lesson, model)
        except (StoreError, RunError, RunStopped, ModelChanged, SetupError):
            raise
        except IcmError as failed:
            return replace(lesson.outcome, error=str(failed))
        labelled = lesson.outcome.spent
        return replace(
            lesson.outcome,
            correct=predicted == self._evaluation.gold[lesson.split.test],
            model=trained.model,
            spent=Spent(
                labelled.reads + asked.reads,
                labelled.requests + asked.requests,
                labelled.computed_tokens + asked.computed_tokens,
                round(labelled.seconds + time.monotonic() - started, 3),
                round(trained.seconds, 3),
            ),
        )

    async def _trained(self, lesson: Lesson, labels: IntArray) -> Trained:
        method, seed = lesson.outcome.method, lesson.outcome.seed
        return await self._trainer.train(
            self._examples(method.name, labels),
            name=method.name,
            seed=seed,
            progress=lambda at: self._tell(lesson, at),
        )

    def _examples(self, name: str, labels: IntArray) -> list[Example]:
        """The labelled rows; a pair in both orders."""
        job = self._evaluation.job
        words = tuple(None if k == UNLABELLED else job.labels[k] for k in labels.tolist())
        examples = task_examples(job.task, job.dataset, words)
        given = {example.label for example in examples}
        for word, text in zip(job.labels, job.label_texts, strict=True):
            if text not in given:
                raise TrainingError(
                    f"{name}: none of the train rows' labels is {word!r}, and a model learns no "
                    "label without examples: take more rows"
                )
        return examples

    async def _predict(self, lesson: Lesson, model: Endpoint) -> tuple[IntArray, Spent]:
        """The likelier label of each test row behind nothing, and what that took."""
        job, before = self._evaluation.job, replace(model.usage)
        items = job.row_items[lesson.split.test].tolist()
        pieces = await tokenize_pieces(
            [job.prompts[item] for item in items],
            job.label_texts,
            job.task.separator,
            model,
            self._store,
        )
        scorer = Scorer(
            model,
            self._store,
            pieces,
            on_progress=lambda at: self._tell(lesson, at),
            stopping=self._stopping,
        )
        log_probs = await scorer([Query((), number) for number in range(len(items))])
        return best_labels(log_probs), Spent(
            scorer.stats.asked + scorer.stats.from_store,
            model.usage.requests - before.requests,
            model.usage.computed_tokens - before.computed_tokens,
        )

    def _tell(self, lesson: Lesson, at: TrainingProgress | ScoringProgress) -> None:
        if self._progress is not None:
            self._progress(Moment(lesson.outcome.method, lesson.outcome.seed, at))
