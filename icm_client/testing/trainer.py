"""A trainer without training: a formula gives the log-probs of its models."""

import math
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import anyio.lowlevel
import orjson

from icm_client.data import JsonValue
from icm_client.endpoints.parsing import fingerprint
from icm_client.endpoints.protocol import Endpoint
from icm_client.errors import TrainingError
from icm_client.runs.trainer import Example, OnTraining, Trained, TrainingProgress
from icm_client.testing.planted import PlantedConcept, log_softmax, uniform

_STEPS = 3


class PlantedTrainer:
    """A `Trainer` whose models know one concept as well as their examples teach it.

    Of `n` examples, `n_k` have label `k`, and a share `r` has the label of its planted class. The
    zero-shot score of label `k` for a target of class `c` is, in nats,

        strength * n / (n + half) * (K * r - 1) / (K - 1) * [k = c] + log((n_k + 1) / (n + K))
            + noise * e(target, k) + wavering * f(target, k, model)

    where `e` and `f` are uniform in -1..1, hashes of their arguments and the seed: how hard an item
    is does not depend on the model, and each model deviates besides. A softmax over the labels
    gives the log-probs. So a model trained on random labels knows nothing, one trained on exchanged
    labels (`K = 2`) predicts the opposite, all prefer the labels that were more frequent in their
    examples, and wrong examples make a model less sure of everything.

    Args:
        planted: prompt -> class, as for `PlantedConcept`.
        labels: label texts as they follow a prompt, shape `[K]`; label `k` names class `k`.
        strength: the limit of the log-odds towards an item's class, for ever more right labels,
            nats.
        half: the number of right examples that teach half of it.
        noise: the largest deviation of an item, nats.
        wavering: the largest deviation of a model on an item, nats.
        seed: of the deviations.
        parallel: as in `Trainer`.
        folder: where finished trainings are recorded, so that another process finds them; None
            keeps them in this object.

    Attributes:
        trained: names of the trainings that were run rather than found, in the order they ended.
        most_at_a_time: the most trainings that have been under way at once.
    """

    def __init__(
        self,
        planted: Mapping[str, int],
        labels: Sequence[str],
        *,
        strength: float = 4.0,
        half: float = 50.0,
        noise: float = 2.0,
        wavering: float = 1.0,
        seed: int = 0,
        parallel: int = 1,
        folder: Path | None = None,
    ) -> None:
        self.trained: list[str] = []
        self.most_at_a_time = 0
        self._planted = dict(planted)
        self._labels = tuple(labels)
        self._strength, self._half = strength, half
        self._noise, self._wavering, self._seed = noise, wavering, seed
        self._parallel = parallel
        self._folder = folder
        self._taught: dict[str, list[float]] = {}
        self._now = 0

    @property
    def parallel(self) -> int:
        """As in `Trainer`."""
        return self._parallel

    def tastes(self, examples: Sequence[Example]) -> list[float]:
        """What the examples teach, in nats: the weight of an item's class, then each label's bias.

        Raises:
            TrainingError: a label has no example.
            KeyError: an example is not a planted prompt.
            ValueError: an example's label is not among the label texts.
        """
        n, n_labels = len(examples), len(self._labels)
        given = [self._labels.index(example.label) for example in examples]
        counts = Counter(given)
        if len(counts) < n_labels:
            raise TrainingError("a planted model needs an example of each label")
        right = sum(
            self._planted[example.prompt] == label
            for example, label in zip(examples, given, strict=True)
        )
        skill = n / (n + self._half) * (n_labels * right / n - 1) / (n_labels - 1)
        shares = [math.log((counts[k] + 1) / (n + n_labels)) for k in range(n_labels)]
        return [self._strength * skill, *shares]

    def model(self, tastes: Sequence[float], name: str) -> PlantedConcept:
        """A model of this name with these weights; it ignores demos."""
        return _Taught(
            self._planted,
            self._labels,
            tastes,
            noise=self._noise,
            wavering=self._wavering,
            seed=self._seed,
            name=name,
        )

    @property
    def described(self) -> Mapping[str, JsonValue]:
        """What determines its models, besides examples and seed."""
        return {
            "strength": self._strength,
            "half": self._half,
            "noise": self._noise,
            "wavering": self._wavering,
            "seed": self._seed,
        }

    async def train(
        self,
        examples: Sequence[Example],
        *,
        name: str,
        seed: int,
        progress: OnTraining | None = None,
    ) -> Trained:
        """As `Trainer.train`; takes three turns of the event loop."""
        described = orjson.dumps(
            [name, seed, self._strength, self._half, list(map(tuple, examples))]
        )
        model = f"{name}-{blake2b(described, digest_size=6).hexdigest()}"
        if self._found(model) is None:
            self._now += 1
            self.most_at_a_time = max(self.most_at_a_time, self._now)
            try:
                tastes = self.tastes(examples)
                for step in range(1, _STEPS + 1):
                    await anyio.lowlevel.checkpoint()
                    if progress is not None:
                        loss = math.exp(-abs(tastes[0])) / step
                        progress(TrainingProgress(name, step, _STEPS, loss, float(step)))
                self._keep(model, tastes)
            finally:
                self._now -= 1
            self.trained.append(name)
        return Trained(name, model, "planted-concept", len(examples), None, float(_STEPS))

    @asynccontextmanager
    async def open(self, trained: Trained) -> AsyncIterator[Endpoint]:
        """As `Trainer.open`.

        Raises:
            TrainingError: the model was not trained here.
        """
        tastes = self._found(trained.model)
        if tastes is None:
            raise TrainingError(f"no planted model {trained.model!r} was trained here")
        yield self.model(tastes, trained.model)

    def _found(self, model: str) -> list[float] | None:
        if self._folder is None:
            return self._taught.get(model)
        path = self._folder / f"{model}.json"
        return orjson.loads(path.read_bytes()) if path.exists() else None

    def _keep(self, model: str, tastes: list[float]) -> None:
        if self._folder is None:
            self._taught[model] = tastes
        else:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / f"{model}.json").write_bytes(orjson.dumps(tastes))


class _Taught(PlantedConcept):
    """A planted model that knows what it was trained on, and ignores demos."""

    def __init__(
        self,
        planted: Mapping[str, int],
        labels: Sequence[str],
        tastes: Sequence[float],
        *,
        noise: float,
        wavering: float,
        seed: int,
        name: str,
    ) -> None:
        weight, *shares = tastes
        super().__init__(
            planted, labels, strength=0.0, meaning=weight, bias=shares, noise=noise, seed=seed
        )
        self._wavering = wavering
        self._name = name
        before = self._identity
        fingerprinted = fingerprint(
            {"base": before.fingerprint, "wavering": wavering, "model": name}
        )
        self._identity = replace(before, model=name, fingerprint=fingerprinted)

    def label_log_probs(self, demos: Sequence[tuple[str, int]], target: str) -> list[float]:
        """As `PlantedConcept.label_log_probs`, whatever the demos."""
        del demos
        log_probs = super().label_log_probs([], target)
        return log_softmax(
            [
                log_prob + self._wavering * uniform(target, k, self._name, self._seed)
                for k, log_prob in enumerate(log_probs)
            ]
        )
