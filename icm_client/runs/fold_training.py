"""The second way out of the method: examples to a trainer, its models' scores into the store."""

from collections.abc import Callable, Sequence

import anyio

from icm_client.coherence.problem import FloatArray, Query
from icm_client.coherence.trained import Training
from icm_client.endpoints import Endpoint, worst
from icm_client.errors import RunStopped, TrainingError
from icm_client.runs.job import Job
from icm_client.runs.presets import TrainingEvent
from icm_client.scoring import Scorer, ScoreStore, tokenize_pieces
from icm_client.scoring.scorer import OnFailed, ScoringProgress
from icm_client.task_groups import open_task_group
from icm_client.training.trainer import Example, Trainer


class FoldTraining:
    """The `icm_client.coherence.trained.Train` over one trainer and one store.

    A call that ended early can be made again: trainings that are finished are found by the trainer,
    answers by the store, where they stand under the trained model's own fingerprint.

    Args:
        job: prompts and label texts; examples are made of them, and of nothing else.
        trainer: trains, as many at once as it has room for, and opens what came out.
        store: where the models' answers are looked up and kept.
        base: the base model's scorer. The trained models' add to its totals and to its record of
            how exact an item's log-probs were.
        seed: of every training.
        observe: told of trainings.
        opened: told of each model that is opened, for its cost.
        on_progress: as of a `Scorer`.
        on_failed: as of a `Scorer`.
        stopping: as of a `Scorer`; asked before a training begins, too. One that is under way is
            awaited.
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
            RunStopped: it was to stop before all were trained and asked.
            EndpointError, ScoreError, StoreError: as `Scorer`.
        """
        found: dict[int, FloatArray] = {}

        async def one(number: int, training: Training) -> None:
            async with self._room:
                found[number] = await self._trained(training)

        async with open_task_group() as tasks:
            for number, training in enumerate(trainings):
                tasks.start_soon(one, number, training)
        return [found[number] for number in range(len(trainings))]

    async def _trained(self, training: Training) -> FloatArray:
        """Train one model, and ask it; what stands in the store already is not asked."""
        if self._stopping():
            raise RunStopped("stopped, as it was told to")
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
            return await self._scores(training, model)

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

    async def _scores(self, training: Training, model: Endpoint) -> FloatArray:
        """The targets' log-probs; only their prompts are tokenized, numbered from 0."""
        job, base = self._job, self._base
        items = training.targets.tolist()
        pieces = await tokenize_pieces(
            [job.prompts[item] for item in items],
            job.label_texts,
            job.task.separator,
            model,
            self._store,
        )
        hear = self._on_failed
        scorer = Scorer(
            model,
            self._store,
            pieces,
            on_progress=self._on_progress,
            on_failed=None
            if hear is None
            else lambda failed: hear({items[number]: why for number, why in failed.items()}),
            stopping=self._stopping,
        )
        scorer.stats = base.stats
        log_probs = await scorer([Query((), number) for number in range(len(items))])
        for number, exactness in scorer.exactness.items():
            item = items[number]
            base.exactness[item] = worst((exactness, base.exactness.get(item, exactness)))
        return log_probs
