"""The method's one door out, over a planted concept or a script, remembering what was asked."""

from collections.abc import Callable, Sequence
from itertools import permutations

import numpy as np

from icm_client.coherence.calibration import log_softmax
from icm_client.coherence.problem import FloatArray, IntArray, Query
from icm_client.testing import PlantedConcept


def planted_classes(n_items: int, n_labels: int) -> IntArray:
    """Classes in an order without a pattern, each as often as the others (+-1)."""
    classes: IntArray = np.random.default_rng(1000 + n_items).permutation(n_items) % n_labels
    return classes


class ConceptScore:
    """A `PlantedConcept` asked without tokens."""

    def __init__(
        self,
        classes: IntArray,
        n_labels: int,
        *,
        strength: float = 4.0,
        meaning: float = 0.0,
        noise: float = 0.5,
    ) -> None:
        self.prompts = [f"item {i}:" for i in range(len(classes))]
        self.concept = PlantedConcept(
            dict(zip(self.prompts, classes.tolist(), strict=True)),
            [f" {k}" for k in range(n_labels)],
            strength=strength,
            meaning=meaning,
            noise=noise,
        )
        self.calls: list[list[Query]] = []

    async def __call__(self, queries: Sequence[Query]) -> FloatArray:
        self.calls.append(list(queries))
        return np.array(
            [
                self.concept.label_log_probs(
                    [(self.prompts[item], label) for item, label in query.context],
                    self.prompts[query.target],
                )
                for query in queries
            ]
        )


class ScriptedScore:
    """Call `n` gives item `i` the scores `script(n)[i]`, whatever its context."""

    def __init__(self, script: Callable[[int], FloatArray]) -> None:
        self.script = script
        self.calls: list[list[Query]] = []

    async def __call__(self, queries: Sequence[Query]) -> FloatArray:
        scores = self.script(len(self.calls))
        self.calls.append(list(queries))
        return log_softmax(scores[[query.target for query in queries]])


def towards(classes: IntArray, n_labels: int, sharpness: float) -> FloatArray:
    """Scores that favour each item's class by about `sharpness` nats, no two items alike."""
    spread = np.random.default_rng(5).uniform(0.8, 1.2, size=(len(classes), 1))
    favoured: FloatArray = sharpness * spread * np.eye(n_labels)[classes]
    return favoured


def agreement(labels: IntArray, classes: IntArray, n_labels: int) -> float:
    """Share of the items whose label is their class, under the best choice of names."""
    return max(
        float((np.asarray(names)[labels] == classes).mean())
        for names in permutations(range(n_labels))
    )
