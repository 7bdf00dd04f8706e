"""The reward model in three steps, as in the production run of arXiv 2506.10139.

1. ICM labels a few pairs, and a first reward model is trained on them.
2. The first reward model scores the responses of many pairs: the higher score is the better one.
3. The final reward model is trained on what the first one preferred.

Every step's result is kept and found again: labels by the score store, models by the trainer,
scores in files. Gold has no part in any of it but the figures at the end.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal, NamedTuple, Protocol

from icm_client.data import Dataset
from icm_client.data.rows import only
from icm_client.errors import RunStopped, TrainingError
from icm_client.record.folder import owned
from icm_client.runs.result import Labels
from icm_client.runs.trainer import OnTraining, Trained, TrainingProgress
from icm_client.training.local import LocalTrainer
from icm_client.training.reward_model import RewardModel, train_reward_model
from icm_client.training.reward_plan import FEWEST_PAIRS, RewardPlan
from icm_client.training.reward_result import RewardSteps, agreeing, measured
from icm_client.training.reward_scores import Judge, ScoreFile, Scores
from icm_client.training.run_labels import Pair, task_pairs

Step = Literal["first", "scores", "final", "test"]
"""Training the first model, scoring with it, training the final one, testing both."""

LabelFew = Callable[[Dataset], Awaitable[Labels]]
"""Labels a few rows, which come without gold; `icm_client.label` for one."""


_LOCK_TIMEOUT_S: Final = 1.0


class Scored(NamedTuple):
    """How many pairs have scores, of how many."""

    done: int
    total: int


OnStep = Callable[[Step, TrainingProgress | Scored], None]


class RewardTrainer(Protocol):
    """Trains reward models; `LocalRewardTrainer` does."""

    async def train(
        self,
        pairs: Sequence[Pair],
        *,
        name: str,
        seed: int,
        progress: OnTraining | None = None,
    ) -> Trained:
        """Train on pairs; the same call again finds what is there, or goes on where it was.

        Raises:
            TrainingError, InputError, SetupError: it cannot be done, or failed.
        """
        ...

    def open(self, trained: Trained) -> AbstractAsyncContextManager[Judge]:
        """Open what was trained."""
        ...


class LocalRewardTrainer:
    """Trains reward models with torch on this machine; a `RewardTrainer`.

    Args:
        trainer: base model, settings, and the folder for trained models.
    """

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
        """As `train_reward_model`."""
        return await train_reward_model(
            self._trainer, pairs, name=name, seed=seed, progress=progress
        )

    @asynccontextmanager
    async def open(self, trained: Trained) -> AsyncIterator[RewardModel]:
        """Load it into this process."""
        yield await RewardModel.open(await self._trainer.base(), trained)


async def reward_in_three_steps(
    plan: RewardPlan,
    *,
    label_few: LabelFew,
    trainer: RewardTrainer,
    folder: Path,
    progress: OnStep = lambda _step, _at: None,
    stopping: Callable[[], bool] = lambda: False,
) -> RewardSteps:
    """Label a few pairs, train on them, label many by that model, and train on those.

    Args:
        plan: which pairs.
        label_few: labels those of the first step.
        trainer: trains both models.
        folder: for scores; made where it is not there, and this process's meanwhile.
        progress: told of trainings and scores.
        stopping: asked before a training and before each batch of scores; a training that is under
            way is awaited.

    Raises:
        TrainingError: labels from which nothing can be learned, or a training that failed.
        RunError: the folder cannot be used, or another process works in it.
        RunStopped: `stopping` said so.
        IcmError: whatever `label_few` raises.
    """
    with owned(folder):
        return await _steps(_Run(plan, trainer, folder, progress, stopping), plan, label_few)


async def _steps(run: "_Run", plan: RewardPlan, label_few: LabelFew) -> RewardSteps:
    labels = await label_few(_without_gold(plan, plan.first))
    few = _labels_of(plan, labels)
    first = await run.trained("first", _pairs(plan, few))
    many, ties = _preferred(plan, await run.scored("scores", first, _as_rows(plan)))
    final = await run.trained("final", _pairs(plan, many))
    test = None
    if plan.test:
        by_first = await run.scored("test", first, plan.test)
        by_final = await run.scored("test", final, plan.test)
        test = measured(plan.test, by_first, by_final)
    return RewardSteps(
        first=first,
        final=final,
        few=few,
        many=many,
        ties=ties,
        verdict=labels.verdict,
        findings=tuple(finding.code for finding in labels.findings),
        agreement=agreeing(few, many),
        few_accuracy=agreeing(few, plan.gold),
        many_accuracy=agreeing(many, plan.gold),
        test=test,
    )


class _Run:
    """What the steps have in common."""

    def __init__(
        self,
        plan: RewardPlan,
        trainer: RewardTrainer,
        folder: Path,
        progress: OnStep,
        stopping: Callable[[], bool],
    ) -> None:
        self._plan, self._trainer, self._folder = plan, trainer, folder
        self._progress, self._stopping = progress, stopping

    async def trained(self, step: Literal["first", "final"], pairs: Sequence[Pair]) -> Trained:
        if self._stopping():
            raise RunStopped("stopped on request")
        return await self._trainer.train(
            pairs,
            name=f"reward-{step}",
            seed=self._plan.seed,
            progress=lambda at: self._progress(step, at),
        )

    async def scored(self, step: Step, trained: Trained, pairs: Sequence[Pair]) -> list[Scores]:
        """Return the model's scores of the pairs; it is loaded only for what no file holds."""
        file = ScoreFile(self._folder, trained, pairs)
        if not file.whole:
            async with self._trainer.open(trained) as judge:
                await file.finish(
                    judge,
                    lambda done: self._progress(step, Scored(done, len(pairs))),
                    self._stopping,
                )
        return file.found


def _without_gold(plan: RewardPlan, rows: Sequence[int]) -> Dataset:
    return replace(only(plan.job.dataset, rows), gold=None, gold_field=None)


def _labels_of(plan: RewardPlan, labels: Labels) -> dict[int, str]:
    """Return row -> label of the first step's rows.

    Raises:
        TrainingError: too few of them have a label, or all have the same.
    """
    numbers = {plan.job.dataset.rows[row].id: row for row in plan.first}
    few = {numbers[one.row.id]: one.label for one in labels.rows}
    if len(few) < FEWEST_PAIRS:
        raise TrainingError(
            f"of the {len(plan.first)} pairs of the first step {len(few)} have a label: a reward "
            f"model needs at least {FEWEST_PAIRS}"
        )
    if len(set(few.values())) == 1:
        raise TrainingError(
            f"all {len(few)} pairs of the first step got the label {next(iter(few.values()))!r}: "
            "either ICM's labels have collapsed, or the file always has the better response in the "
            "same place. Look at the labels; if it is the file, exchange the two responses of a "
            "random half of its pairs"
        )
    return few


def _pairs(plan: RewardPlan, labels: dict[int, str]) -> list[Pair]:
    rows = sorted(labels)
    chosen = _without_gold(plan, rows)
    return task_pairs(plan.job.task, chosen, tuple(labels[row] for row in rows))


def _as_rows(plan: RewardPlan) -> list[Pair]:
    """Return the second step's pairs, the first response of each in the place of the chosen one."""
    holds, _ = plan.words
    rows = _without_gold(plan, plan.many)
    return task_pairs(plan.job.task, rows, (holds,) * len(rows.rows))


def _preferred(plan: RewardPlan, scores: Sequence[Scores]) -> tuple[dict[int, str], int]:
    """Return row -> label by the first model's scores, and how many rows it cannot decide.

    Raises:
        TrainingError: it decides too few.
    """
    holds, holds_not = plan.words
    many: dict[int, str] = {}
    for row, (one, other) in zip(plan.many, scores, strict=True):
        if one != other:
            many[row] = holds if one > other else holds_not
    if len(many) < FEWEST_PAIRS:
        raise TrainingError(
            f"the first reward model scores both responses alike in all but {len(many)} of "
            f"{len(plan.many)} pairs: it has learned nothing. Take more pairs for the first step "
            "(--first), or more epochs"
        )
    return many, len(plan.many) - len(many)
