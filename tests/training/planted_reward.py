"""Pairs of which one response is better, and reward models that learn so without training."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from hashlib import blake2b
from pathlib import Path

import anyio
import numpy as np
import orjson

from icm_client.data import JsonValue, Task
from icm_client.data.job import Job
from icm_client.runs.trainer import OnTraining, Trained, TrainingProgress
from icm_client.testing import PlantedConcept
from icm_client.training.examples import Pair

TASK = Task(
    template="Prompt: {prompt}\nA: {one}\nB: {two}\nClaim: A is better.\nI think this claim is",
    labels=("True", "False"),
    exchange=("one", "two"),
    gold="better",
)


def quality(response: str) -> float:
    """Which of two responses is the better one: it says so itself."""
    return float(response.split()[1])


def rows_of(n: int, seed: int = 0, *, gold: bool = True) -> list[dict[str, JsonValue]]:
    """Return pairs whose better response is in either place, the longer one or not."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, JsonValue]] = []
    for number in range(n):
        one, two = rng.permutation(1000)[:2].tolist()
        texts = [f"quality {value}" + " and more" * int(rng.integers(3)) for value in (one, two)]
        row: dict[str, JsonValue] = {
            "prompt": f"question {seed}/{number}",
            "one": texts[0],
            "two": texts[1],
        }
        rows.append({**row, "better": "True" if one > two else "False"} if gold else row)
    return rows


def concept(job: Job, **options: float) -> PlantedConcept:
    """A base model to which the better response is salient."""
    true, false = job.labels.index("True"), job.labels.index("False")
    one, two = TASK.exchange or ("", "")
    planted = {}
    for prompt, item in zip(job.prompts, job.items, strict=True):
        fields = job.dataset.rows[item.row].fields
        first_better = quality(str(fields[one])) > quality(str(fields[two]))
        planted[prompt] = true if first_better != item.exchanged else false
    given = {"meaning": 1.0, "noise": 0.5} | options
    return PlantedConcept(planted, job.label_texts, **given)  # type: ignore[arg-type]


class PlantedRewardTrainer:
    """A `RewardTrainer` whose models prefer the better response as far as their pairs taught it.

    Of pairs with `m` more right than wrong ones, a model's score of a response is

        m / (|m| + half) * quality / 1000 + noise * e(response, model)

    with `e` in -1..1, a hash. What was trained lies in `folder`.

    Attributes:
        pairs: what was asked to be trained, by name.
        trained: names of the trainings that were done and not found.
        scored: responses that models have scored.
        batches: calls of them.
    """

    def __init__(self, folder: Path, *, half: float = 100.0, noise: float = 0.3) -> None:
        self.pairs: dict[str, list[Pair]] = {}
        self.trained: list[str] = []
        self.scored = self.batches = 0
        self._folder, self._half, self._noise = folder, half, noise

    async def train(
        self,
        pairs: Sequence[Pair],
        *,
        name: str,
        seed: int,
        progress: OnTraining | None = None,
    ) -> Trained:
        self.pairs[name] = list(pairs)
        packed = orjson.dumps([name, seed, list(map(list, pairs))])
        path = self._folder / f"{name}-{blake2b(packed, digest_size=6).hexdigest()}"
        if not path.exists():
            right = sum(quality(pair.chosen) > quality(pair.rejected) for pair in pairs)
            more = 2 * right - len(pairs)
            skill = more / (abs(more) + self._half)
            self._folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(orjson.dumps(skill))
            self.trained.append(name)
            if progress is not None:
                progress(TrainingProgress(name, 1, 1, 0.5, 1.0))
        return Trained(name, str(path), "planted", len(pairs), 0.5, 1.0)

    @asynccontextmanager
    async def open(self, trained: Trained) -> AsyncIterator["PlantedRewardTrainer._Model"]:
        skill = orjson.loads(await anyio.Path(trained.model).read_bytes())
        yield self._Model(self, skill, Path(trained.model).name)

    def score(self, response: str, skill: float, name: str) -> float:
        packed = blake2b(f"{name} {response}".encode(), digest_size=6).digest()
        whim = 2 * int.from_bytes(packed) / 2**48 - 1
        return skill * quality(response) / 1000 + self._noise * whim

    class _Model:
        def __init__(self, trainer: "PlantedRewardTrainer", skill: float, name: str) -> None:
            self._trainer, self._skill, self._name = trainer, skill, name

        async def scores(self, responses: Sequence[tuple[str, str]]) -> list[float]:
            self._trainer.scored += len(responses)
            self._trainer.batches += 1
            return [self._trainer.score(text, self._skill, self._name) for _, text in responses]
