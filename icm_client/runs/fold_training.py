"""The I/O of searches that train: examples go to a trainer, its models' scores into the store."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import anyio

from icm_client.coherence.problem import FloatArray, Query, Score
from icm_client.coherence.trained import Training, renumbered
from icm_client.data.job import Job
from icm_client.endpoints import Endpoint, worst
from icm_client.errors import RunStopped, TrainingError
from icm_client.runs.presets import TrainingEvent
from icm_client.runs.trainer import Example, Trainer
from icm_client.scoring import Scorer, ScoreStore, tokenize_pieces
from icm_client.scoring.scorer import OnFailed, ScoringProgress
from icm_client.task_groups import open_task_group


class FoldTraining:
    """The `icm_client.coherence.trained.Train` over one trainer and one store.

    A call that ended early can be made again: the trainer finds the models that it has finished,
    and the store has their answers, under the trained model's own fingerprint. Examples are made of
    the job's prompts and label texts, and of nothing else. The trained models' reads add to the
    totals of `base`, the base model's scorer, and to its record of how exact log-probs were.
    `stopping` is asked before a training begins, too; those that are under way are awaited.
    """

    def __init__(
        self,
        job: Job,
        trainer: Trainer,
        store: ScoreStore,
        base: Scorer,
        *,
        seed: int,
        observe: Callable[[TrainingEvent], None] = lambda _: None,
        opened: Callable[[Endpoint], None] = lambda _: None,
        on_progress: Callable[[ScoringProgress], None] | None = None,
        on_failed: OnFailed | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._job, self._trainer, self._store, self._base = job, trainer, store, base
        self._seed, self._observe, self._opened = seed, observe, opened
        self._on_progress, self._on_failed, self._stopping = on_progress, on_failed, stopping
        self._room = anyio.Semaphore(trainer.parallel)

    async def __call__(self, trainings: Sequence[Training]) -> list[FloatArray]:
        """Train, and return each one's log-probs of its targets in nats, shape `[n, K]`.

        The first training that fails ends the others.

        Raises:
            TrainingError: a model cannot be trained: a label has no example, for one.
            RunStopped: it was to stop before all were trained and asked; trainings that were under
                way have been awaited.
            EndpointError, ScoreError, StoreError: as `Scorer`.
        """
        found: dict[int, FloatArray] = {}

        async def one(number: int, training: Training) -> None:
            async with self._room:
                if self._stopping():
                    return
                # Raised in here, a stop would cancel the trainings beside this one.
                with suppress(RunStopped):
                    async with self._opened_model(training) as score:
                        asked = [Query((), item) for item in training.targets.tolist()]
                        found[number] = await score(asked)

        async with open_task_group() as tasks:
            for number, training in enumerate(trainings):
                tasks.start_soon(one, number, training)
        if len(found) < len(trainings):
            raise RunStopped("stopped on request")
        return [found[number] for number in range(len(trainings))]

    @asynccontextmanager
    async def model(self, training: Training) -> AsyncIterator[Score]:
        """Train one model, and open it to be asked about its targets in context, given demos.

        What the store has already is not asked.
        """
        async with self._room:
            if self._stopping():
                raise RunStopped("stopped on request")
            async with self._opened_model(training) as score:
                yield score

    @asynccontextmanager
    async def _opened_model(self, training: Training) -> AsyncIterator[Score]:
        trained = await self._trainer.train(
            self._examples(training),
            name=training.name,
            seed=self._seed,
            progress=self._observe,
        )
        self._observe(trained)
        async with self._trainer.open(trained) as model:
            self._opened(model)
            self._store.record_server(model.identity)
            yield await self._asking(training, model)

    def _examples(self, training: Training) -> list[Example]:
        job = self._job
        given = {demo.label for demo in training.demos}
        for k, word in enumerate(job.labels):
            if k not in given:
                raise TrainingError(
                    f"{training.name}: none of the {len(training.demos)} labels to train on is "
                    f"{word!r}, and a model learns no label without examples. Start from more "
                    "labels (--initial, or --init with a file), or take --preset fast."
                )
        return [Example(job.prompts[item], job.label_texts[k]) for item, k in training.demos]

    async def _asking(self, training: Training, model: Endpoint) -> Score:
        """The `Score` of a trained model; only its targets' prompts are tokenized."""
        job, base = self._job, self._base
        items = training.targets.tolist()
        pieces = await tokenize_pieces(
            [job.prompts[item] for item in items],
            job.label_texts,
            job.task.separator,
            model,
            self._store,
        )
        failed = self._on_failed
        scorer = Scorer(
            model,
            self._store,
            pieces,
            on_progress=self._on_progress,
            on_failed=None
            if failed is None
            else lambda gone: failed({items[number]: why for number, why in gone.items()}),
            stopping=self._stopping,
        )
        scorer.stats = base.stats
        numbers = {item: number for number, item in enumerate(items)}

        async def score(queries: Sequence[Query]) -> FloatArray:
            log_probs = await scorer(renumbered(queries, numbers))
            for number, exactness in scorer.exactness.items():
                item = items[number]
                base.exactness[item] = worst((exactness, base.exactness.get(item, exactness)))
            return log_probs

        return score
