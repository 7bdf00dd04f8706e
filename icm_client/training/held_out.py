"""How a model classifies rows that it was not trained on: zero-shot, by the labels' log-probs."""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from icm_client.coherence.calibration import pointwise_mutual_information
from icm_client.coherence.problem import FloatArray, IntArray, Query
from icm_client.data.job import Job
from icm_client.endpoints import Endpoint
from icm_client.errors import InputError
from icm_client.scoring import Scorer, ScoreStore, open_store, tokenize_pieces


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What a model made of the rows whose gold label is known.

    Attributes:
        rows: their number.
        accuracy: share of rows whose most probable label is the gold one.
        calibrated: the same after each label's mean probability over the rows is divided out,
            which takes out a taste for one label, gold unseen; where the labels' shares are even.
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
    """Have the model label the job's rows without any demos, and compare with gold.

    Args:
        endpoint: the model.
        job: rows, task and gold.
        store: where scores are kept; None is the user's own.

    Raises:
        InputError: no row has a gold label.
        EndpointError, ScoreError, StoreError: as `Scorer`.
    """
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
