"""The reward model in three steps, as in the production run of arXiv 2506.10139.

1. ICM labels a few pairs, and a first reward model is trained on them.
2. The first reward model scores the responses of many pairs: the one that scores higher is better.
3. The final reward model is trained on these preferences.

Each step's result is kept and found again: labels in the score store, models by the trainer, scores
in files. Gold is used only to measure accuracy at the end.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Protocol

import numpy as np

from icm_client.data import Dataset
from icm_client.data.job import Job
from icm_client.data.rows import only
from icm_client.errors import InputError, RunStopped, TrainingError
from icm_client.record.folder import owned
from icm_client.runs.result import Labels
from icm_client.runs.trainer import OnTraining, Trained, TrainingProgress
from icm_client.training.examples import Pair, gold_pairs, refuse_trained_on, task_pairs
from icm_client.training.reward_scores import HeldOutPairs, Judge, ScoreFile, Scores, measured
from icm_client.verdict.findings import Verdict

FEWEST_PAIRS: Final = 8
"""A reward model is trained on no fewer pairs."""

FIRST: Final = 256
"""Default number of pairs that ICM labels."""

_SAMPLE_STREAM: Final = 30
"""Separates the sample's random numbers from others of the same seed."""

Step = Literal["first", "scores", "final", "test"]
"""Training the first model, scoring with it, training the final one, testing both."""

LabelFew = Callable[[Dataset], Awaitable[Labels]]
"""Labels a few rows, which have no gold; for example `icm_client.label`."""


class Scored(NamedTuple):
    """How many pairs have scores, of how many."""

    done: int
    total: int


OnStep = Callable[[Step, TrainingProgress | Scored], None]


@dataclass(frozen=True, slots=True, eq=False)
class RewardPlan:
    """Which pairs the steps use.

    Attributes:
        job: all pairs, and the task.
        first: rows that ICM labels, in ascending order.
        many: rows that the first reward model labels, in ascending order; `first` among them.
        test: held-out pairs, the better response first.
        seed: of the sample and of both trainings.
        notices: what was left out, and why.
    """

    job: Job
    first: tuple[int, ...]
    many: tuple[int, ...]
    test: tuple[Pair, ...]
    seed: int
    notices: tuple[str, ...]

    @property
    def gold(self) -> Mapping[int, str]:
        """Row -> gold label, of the rows that have one."""
        words = enumerate(self.job.dataset.gold or ())
        return {row: word for row, word in words if word is not None}

    def summary(self) -> dict[str, Any]:
        """Return JSON values: how many pairs each step has."""
        return {
            "pairs": len(self.job.dataset.rows),
            "first": len(self.first),
            "many": len(self.many),
            "test": len(self.test),
            "seed": self.seed,
            "notices": list(self.notices),
        }


def plan_reward(
    job: Job, *, first: int = FIRST, many: int | None = None, test: Job | None = None, seed: int = 0
) -> RewardPlan:
    """Draw the pairs of each step from the seed; gold is not used.

    ICM labels the `first`, and the first reward model `many`, those among them; None takes all.

    Raises:
        InputError: the task compares no two fields; there are too few pairs for the steps; or test
            pairs have no gold or are among those that are trained on.
    """
    if job.task.exchange is None:
        raise InputError(
            "a reward model is trained on pairs, and this task does not say which two fields are "
            'compared: exchange = ["response_1", "response_2"] in the task file does; '
            "--task pairwise-preference asks about pairs"
        )
    one, other = job.task.exchange
    usable = [
        number
        for number, row in enumerate(job.dataset.rows)
        if str(row.fields[one]) != str(row.fields[other])
    ]
    notices = (*job.warnings, *job.notices)
    if same := len(job.dataset.rows) - len(usable):
        notices = (*notices, f"{same} pairs hold the same response twice and are left out")
    wanted = len(usable) if many is None else many
    _check_sizes(len(usable), first, wanted)
    drawn = np.random.default_rng((seed, _SAMPLE_STREAM)).permutation(usable).tolist()
    return RewardPlan(
        job,
        first=tuple(sorted(drawn[:first])),
        many=tuple(sorted(drawn[:wanted])),
        test=() if test is None else _held_out(job, test),
        seed=seed,
        notices=tuple(notices),
    )


def _check_sizes(usable: int, first: int, many: int) -> None:
    if first < FEWEST_PAIRS:
        raise InputError(f"--first {first}: a reward model needs at least {FEWEST_PAIRS} pairs")
    if many > usable:
        raise InputError(f"--many {many}: there are {usable} pairs that can be used")
    if many <= first:
        raise InputError(
            f"the first reward model would have {many} pairs to label, and ICM labels {first} of "
            f"them: take fewer for the first step (--first, at least {FEWEST_PAIRS}), or more "
            "pairs. For one reward model, trained on ICM's labels, there is "
            "icm-client finetune RUN --objective reward"
        )


def _held_out(job: Job, test: Job) -> tuple[Pair, ...]:
    pairs = gold_pairs(test)
    refuse_trained_on(test, job.prompts)
    distinct = tuple(pair for pair in pairs if pair.chosen != pair.rejected)
    if not distinct:
        raise InputError(f"{test.dataset.name}: every pair holds the same response twice")
    return distinct


class RewardTrainer(Protocol):
    """Trains reward models; `reward_model.LocalRewardTrainer` does."""

    async def train(
        self,
        pairs: Sequence[Pair],
        *,
        name: str,
        seed: int,
        progress: OnTraining | None = None,
    ) -> Trained:
        """Train on pairs; the same call again finds the model, or continues its training.

        Raises:
            TrainingError, InputError, SetupError: it cannot be done, or failed.
        """
        ...

    def open(self, trained: Trained) -> AbstractAsyncContextManager[Judge]:
        """Open what was trained."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class RewardSteps:
    """Both models, and the labels that they were trained on.

    Attributes:
        first: the model trained on ICM's labels.
        final: the model trained on the first one's.
        few: row -> ICM's label.
        many: row -> label by the first model's scores.
        ties: how many pairs the first model scores alike; they have no label.
        verdict: the diagnosis's, on ICM's labels.
        findings: its codes.
        agreement: share of equal labels, of the rows that have both.
        few_accuracy: share of right labels, of the rows with gold; None where none has.
        many_accuracy: the same.
        test: None without test pairs.
    """

    first: Trained
    final: Trained
    few: Mapping[int, str]
    many: Mapping[int, str]
    ties: int
    verdict: Verdict
    findings: tuple[str, ...]
    agreement: float | None
    few_accuracy: float | None
    many_accuracy: float | None
    test: HeldOutPairs | None

    def summary(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "first": _model(self.first, self.few_accuracy),
            "final": _model(self.final, self.many_accuracy),
            "verdict": self.verdict,
            "findings": list(self.findings),
            "ties": self.ties,
            "agreement": _rounded(self.agreement),
            "test": None if self.test is None else self.test.summary(),
        }


def _model(trained: Trained, accuracy: float | None) -> dict[str, Any]:
    return {
        "model": trained.model,
        "base": trained.base,
        "pairs": trained.examples,
        "loss": trained.loss,
        "seconds": round(trained.seconds, 1),
        "label_accuracy": _rounded(accuracy),
    }


def _rounded(figure: float | None) -> float | None:
    return None if figure is None else round(figure, 4)


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

    The folder, for scores, is made if missing, and locked for this process meanwhile. `stopping` is
    asked before a training and before each batch of scores; a training under way is finished.

    Raises:
        TrainingError: nothing can be learned from the labels, or a training failed.
        RunError: the folder cannot be used, or another process works in it.
        RunStopped: `stopping` returned true.
        IcmError: whatever `label_few` raises.
    """

    async def trained(step: Literal["first", "final"], labels: Mapping[int, str]) -> Trained:
        if stopping():
            raise RunStopped("stopped on request")
        return await trainer.train(
            _pairs(plan, labels),
            name=f"reward-{step}",
            seed=plan.seed,
            progress=lambda at: progress(step, at),
        )

    async def scored(step: Step, model: Trained, pairs: Sequence[Pair]) -> list[Scores]:
        file = ScoreFile(folder, model, pairs)
        if not file.complete:  # only then the model is loaded
            async with trainer.open(model) as judge:
                await file.finish(
                    judge, lambda done: progress(step, Scored(done, len(pairs))), stopping
                )
        return file.found

    with owned(folder):
        labels = await label_few(_without_gold(plan, plan.first))
        few = _first_labels(plan, labels)
        first = await trained("first", few)

        holds, _ = plan.job.task.holds_words
        as_in_file = _pairs(plan, dict.fromkeys(plan.many, holds))
        many = _preferred(plan, await scored("scores", first, as_in_file))
        final = await trained("final", many)

        test = None
        if plan.test:
            by_first = await scored("test", first, plan.test)
            by_final = await scored("test", final, plan.test)
            test = measured(plan.test, by_first, by_final)
    return RewardSteps(
        first=first,
        final=final,
        few=few,
        many=many,
        ties=len(plan.many) - len(many),
        verdict=labels.verdict,
        findings=tuple(finding.code for finding in labels.findings),
        agreement=_agreement(few, many),
        few_accuracy=_agreement(few, plan.gold),
        many_accuracy=_agreement(many, plan.gold),
        test=test,
    )


def _without_gold(plan: RewardPlan, rows: Sequence[int]) -> Dataset:
    return replace(only(plan.job.dataset, rows), gold=None, gold_field=None)


def _pairs(plan: RewardPlan, labels: Mapping[int, str]) -> list[Pair]:
    rows = sorted(labels)
    words = tuple(labels[row] for row in rows)
    return task_pairs(plan.job.task, _without_gold(plan, rows), words)


def _first_labels(plan: RewardPlan, labels: Labels) -> dict[int, str]:
    """Row -> ICM's label, of the first step's rows; refuse labels that cannot be trained on."""
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


def _preferred(plan: RewardPlan, scores: Sequence[Scores]) -> dict[int, str]:
    """Row -> label by the first model's scores; a row whose responses score alike has none."""
    holds, holds_not = plan.job.task.holds_words
    many = {
        row: holds if one > other else holds_not
        for row, (one, other) in zip(plan.many, scores, strict=True)
        if one != other
    }
    if len(many) < FEWEST_PAIRS:
        raise TrainingError(
            f"the first reward model scores both responses alike in all but {len(many)} of "
            f"{len(plan.many)} pairs: it has learned nothing. Take more pairs for the first step "
            "(--first), or more epochs"
        )
    return many


def _agreement(labels: Mapping[int, str], others: Mapping[int, str]) -> float | None:
    """The share of equal labels, of the rows that have both; None where no row has both."""
    both = labels.keys() & others.keys()
    return sum(labels[row] == others[row] for row in both) / len(both) if both else None
