"""From a run's labels to a trained model, and its accuracy on rows that it was not trained on.

The model classifies zero-shot, by the labels' log-probs.
"""

import os
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from icm_client.coherence.calibration import pointwise_mutual_information
from icm_client.coherence.problem import FloatArray, IntArray, Query
from icm_client.data.job import Job
from icm_client.endpoints import Endpoint
from icm_client.errors import InputError
from icm_client.record.run_labels import RunLabels
from icm_client.runs.trainer import OnTraining, Trained, Trainer
from icm_client.scoring import Scorer, ScoreStore, open_store, tokenize_pieces
from icm_client.training.examples import examples_of, gold_pairs, pairs_of, refuse_trained_on
from icm_client.training.local import LocalTrainer
from icm_client.training.local_settings import Objective
from icm_client.training.reward_model import LocalRewardTrainer


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A model's accuracy on the rows whose gold label is known.

    Attributes:
        rows: their number.
        accuracy: share of rows whose most probable label is the gold one.
        calibrated: the same after each label's mean probability over the rows is divided out. This
            removes label bias without gold (as in Batch Calibration, arXiv 2309.17249), and assumes
            that the labels are about equally frequent.
        log_prob: of the gold label, mean over rows, in nats.
    """

    rows: int
    accuracy: float
    calibrated: float
    log_prob: float

    def summary(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "rows": self.rows,
            "accuracy": self.accuracy,
            "accuracy_calibrated": self.calibrated,
            "gold_log_prob": self.log_prob,
        }


async def measure(
    endpoint: Endpoint, job: Job, *, store: ScoreStore | str | os.PathLike[str] | None = None
) -> HeldOut:
    """Have the model label the job's rows zero-shot, and compare with gold."""
    words = job.dataset.gold or ()
    known = [row for row, word in enumerate(words) if word is not None]
    if not known:
        raise InputError(f"{job.dataset.name}: no row has a gold label: name the field that has it")
    gold = np.array([job.labels.index(str(words[row])) for row in known])
    items: IntArray = job.row_items[known]
    with open_store(store) as kept:
        pieces = await tokenize_pieces(
            job.prompts, job.label_texts, job.task.separator, endpoint, kept
        )
        scorer = Scorer(endpoint, kept, pieces)
        log_probs: FloatArray = await scorer([Query((), int(item)) for item in items])
    calibrated = pointwise_mutual_information(log_probs)
    return HeldOut(
        rows=len(known),
        accuracy=float((log_probs.argmax(axis=1) == gold).mean()),
        calibrated=float((calibrated.argmax(axis=1) == gold).mean()),
        log_prob=float(log_probs[np.arange(len(gold)), gold].mean()),
    )


@dataclass(frozen=True, slots=True)
class FineTuned:
    """A model trained on a run's labels.

    Attributes:
        trained: the model.
        objective: what it was trained to do.
        before: the base model on the test rows; None without test rows, or if trained by a service.
        after: the trained model on the test rows.
        pairs: number of a reward model's test pairs.
        pair_accuracy: share of them whose preferred response scores higher.
    """

    trained: Trained
    objective: Objective
    before: HeldOut | None = None
    after: HeldOut | None = None
    pairs: int = 0
    pair_accuracy: float | None = None

    def summary(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            **asdict(self.trained),
            "objective": self.objective,
            "before": None if self.before is None else self.before.summary(),
            "after": None if self.after is None else self.after.summary(),
            "pairs": self.pairs,
            "pair_accuracy": self.pair_accuracy,
        }


async def fine_tune(
    found: RunLabels,
    trainer: Trainer,
    *,
    seed: int = 0,
    objective: Objective = "sft",
    test: Job | None = None,
    store: ScoreStore | str | os.PathLike[str] | None = None,
    progress: OnTraining | None = None,
) -> FineTuned:
    """Train on a run's labels; with test rows, measure the model's accuracy on them.

    The `test` rows have gold, and the run has not labelled them.

    Raises:
        InputError: a reward model was requested for a task without pairs or of a service; test
            rows have no gold, or the model was trained on some.
        TrainingError, SetupError, EndpointError: as `Trainer.train`.
    """
    if test is not None:
        refuse_trained_on(test, [example.prompt for example in examples_of(found)])
    if objective == "reward":
        return await _reward(found, trainer, seed, test, progress)
    trained = await trainer.train(examples_of(found), name=found.name, seed=seed, progress=progress)
    if test is None:
        return FineTuned(trained, objective)
    async with trainer.open(trained) as endpoint:
        after = await measure(endpoint, test, store=store)
    before = None
    if isinstance(trainer, LocalTrainer):
        async with trainer.open_base() as endpoint:
            before = await measure(endpoint, test, store=store)
    return FineTuned(trained, objective, before, after)


async def _reward(
    found: RunLabels, trainer: Trainer, seed: int, test: Job | None, progress: OnTraining | None
) -> FineTuned:
    if not isinstance(trainer, LocalTrainer):
        raise InputError("a reward model is trained on this machine only: use --backend local")
    pairs = pairs_of(found)
    held_out = [] if test is None else gold_pairs(test)
    by = LocalRewardTrainer(trainer)
    trained = await by.train(pairs, name=found.name, seed=seed, progress=progress)
    if not held_out:
        return FineTuned(trained, "reward")
    async with by.open(trained) as model:
        accuracy = await model.accuracy(held_out)
    return FineTuned(trained, "reward", pairs=len(held_out), pair_accuracy=accuracy)
