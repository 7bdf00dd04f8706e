"""A reward model: one score for a response, such that the preferred one of two scores higher.

`LocalRewardTrainer` trains it on pairs and opens it: so labels on a few pairs label many.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Self

import anyio

from icm_client.errors import TrainingError
from icm_client.runs.trainer import OnTraining, Trained
from icm_client.training.base_model import BaseModel
from icm_client.training.examples import Pair
from icm_client.training.local import LocalTrainer

_BATCH: Final = 16


class LocalRewardTrainer:
    """Trains reward models with torch on this machine; a `RewardTrainer`."""

    def __init__(self, trainer: LocalTrainer) -> None:
        self._trainer = trainer

    async def train(
        self,
        pairs: Sequence[Pair],
        *,
        name: str,
        seed: int,
        progress: OnTraining | None = None,
    ) -> Trained:
        """Train with trl's RewardTrainer on `-log sigmoid(r(chosen) - r(rejected))`.

        `Trained.loss` is in nats a pair; `log 2` is chance. The same call again finds the model.
        """
        if not pairs:
            raise TrainingError(f"{name}: there are no pairs to learn from")
        for number, pair in enumerate(pairs):
            if pair.chosen == pair.rejected:
                raise TrainingError(
                    f"{name}: pair {number} (counting from 0) holds the same response twice"
                )
        return await self._trainer.fit("reward", pairs, name=name, seed=seed, progress=progress)

    @asynccontextmanager
    async def open(self, trained: Trained) -> AsyncIterator["RewardModel"]:
        """Load it into this process."""
        yield await RewardModel.open(await self._trainer.base(), trained)


class RewardModel:
    """A trained reward model in this process; opened by `LocalRewardTrainer.open`."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._turn = anyio.CapacityLimiter(1)

    @classmethod
    async def open(cls, base: BaseModel, trained: Trained) -> Self:
        """Load it: float32 on a CPU, bfloat16 on a GPU."""
        return await anyio.to_thread.run_sync(cls._opened, base, Path(trained.model))

    @classmethod
    def _opened(cls, base: BaseModel, trained: Path) -> Self:
        from transformers import AutoModelForSequenceClassification  # noqa: PLC0415 - slow to load

        from icm_client.training.torch_endpoint import load, tokenizer_of  # noqa: PLC0415

        model = load(AutoModelForSequenceClassification, base, trained, num_labels=1)
        tokenizer = tokenizer_of(base)
        # The model finds a padded text's end by the id of the padding.
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
        return cls(model, tokenizer)

    async def scores(self, responses: Sequence[tuple[str, str]]) -> list[float]:
        """Return the score of each (prompt, response); only differences have a meaning."""
        found: list[float] = []
        for start in range(0, len(responses), _BATCH):
            batch = responses[start : start + _BATCH]
            found += await anyio.to_thread.run_sync(self._scores, batch, limiter=self._turn)
        return found

    async def prefers_first(self, pairs: Sequence[tuple[str, str, str]]) -> list[bool]:
        """Return for each (prompt, one, other) whether `one` scores higher."""
        ones = await self.scores([(prompt, one) for prompt, one, _ in pairs])
        others = await self.scores([(prompt, other) for prompt, _, other in pairs])
        return [one > other for one, other in zip(ones, others, strict=True)]

    async def accuracy(self, pairs: Sequence[Pair]) -> float:
        """Return the share of pairs whose chosen response scores higher; a tie is wrong."""
        return sum(await self.prefers_first(pairs)) / len(pairs)

    def _scores(self, batch: Sequence[tuple[str, str]]) -> list[float]:
        import torch  # noqa: PLC0415 - slow to load

        from icm_client.training.label_loss import reward_ids  # noqa: PLC0415

        rows = [reward_ids(prompt, response, self._tokenizer) for prompt, response in batch]
        longest = max(map(len, rows))
        ids = torch.full((len(rows), longest), self._tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = torch.tensor(row)
            mask[number, : len(row)] = 1
        device = self._model.device
        with torch.inference_mode():
            output = self._model(
                input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False
            )
        scores: list[float] = output.logits[:, 0].float().tolist()
        return scores
