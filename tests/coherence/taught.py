"""Algorithm 3's second door over a `PlantedTrainer`, without prompts, tokens or a server."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import numpy as np

from icm_client.coherence.problem import FloatArray, IntArray, Query, Score
from icm_client.coherence.trained import Training
from icm_client.runs.trainer import Example
from icm_client.testing import PlantedTrainer


class Taught:
    """Trains and asks planted models; remembers what it was asked to train."""

    def __init__(self, classes: IntArray, n_labels: int, **formula: float) -> None:
        self.prompts = [f"item {i}:" for i in range(len(classes))]
        self.texts = [f" {k}" for k in range(n_labels)]
        planted = dict(zip(self.prompts, classes.tolist(), strict=True))
        self.trainer = PlantedTrainer(planted, self.texts, **formula)  # type: ignore[arg-type]
        self.calls: list[list[Training]] = []

    async def __call__(self, trainings: Sequence[Training]) -> list[FloatArray]:
        self.calls.append(list(trainings))
        return [
            await self._asked(training)([Query((), i) for i in training.targets.tolist()])
            for training in trainings
        ]

    @asynccontextmanager
    async def model(self, training: Training) -> AsyncIterator[Score]:
        self.calls.append([training])
        yield self._asked(training)

    def _asked(self, training: Training) -> Score:
        examples = [Example(self.prompts[i], self.texts[y]) for i, y in training.demos]
        model = self.trainer.model(
            self.trainer.tastes(examples), f"{len(self.calls)} {training.name}"
        )
        targets = set(training.targets.tolist())

        async def score(queries: Sequence[Query]) -> FloatArray:
            for context, target in queries:
                assert targets.issuperset({target, *(item for item, _ in context)})
            return np.array([model.label_log_probs([], self.prompts[i]) for _, i in queries])

        return score


def noisy(classes: IntArray, share: float, n_labels: int = 2, seed: int = 3) -> IntArray:
    """The classes with a share of them exchanged for another one."""
    rng = np.random.default_rng(seed)
    wrong = rng.permutation(len(classes))[: round(share * len(classes))]
    labels = classes.copy()
    labels[wrong] = (labels[wrong] + rng.integers(1, n_labels, size=len(wrong))) % n_labels
    return labels
