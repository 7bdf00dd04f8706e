"""One sweep's questions: contexts of other folds' demos, and calibrated scores behind them."""

from dataclasses import dataclass

import numpy as np

from icm_client.coherence.calibration import pointwise_mutual_information
from icm_client.coherence.contexts import UNLABELLED, draw_demos, split_folds
from icm_client.coherence.problem import Context, Demo, FloatArray, IntArray, Query, Score
from icm_client.coherence.settings import SweepSettings


@dataclass(frozen=True, slots=True)
class ScoredFold:
    """Targets and the context they were scored behind, with their calibrated scores `[n, K]`."""

    context: Context
    targets: IntArray
    calibrated: FloatArray


def fold_contexts(
    sweep: int,
    labels: IntArray,
    averaged: FloatArray,
    rng: np.random.Generator,
    settings: SweepSettings,
) -> list[tuple[Context, IntArray]]:
    """Each fold's context and targets; the first sweep has one context of all first labels."""
    n_items, n_labels = averaged.shape
    everything = np.arange(n_items)
    if sweep == 0:
        first = rng.permutation(np.flatnonzero(labels != UNLABELLED))
        context = tuple(Demo(int(i), int(labels[i])) for i in first)
        return [(context, np.setdiff1d(everything, first))]
    certainty = np.nan_to_num(_margin(averaged))
    return [
        (
            draw_demos(
                labels,
                np.setdiff1d(everything, targets),
                certainty,
                size=settings.second_demos if sweep == 1 else settings.demos,
                keep=settings.keep,
                n_labels=n_labels,
                rng=rng,
            ),
            targets,
        )
        for targets in split_folds(n_items, settings.folds, rng)
    ]


async def score_folds(contexts: list[tuple[Context, IntArray]], score: Score) -> list[ScoredFold]:
    """Score each fold's targets behind its context, in one call."""
    log_probs = await score([Query(context, int(i)) for context, ts in contexts for i in ts])
    ends = np.cumsum([len(targets) for _, targets in contexts])
    return [
        ScoredFold(context, targets, pointwise_mutual_information(part))
        for (context, targets), part in zip(contexts, np.split(log_probs, ends[:-1]), strict=True)
    ]


def _margin(scores: FloatArray) -> FloatArray:
    """Nats between the best label and the next, `[N]`."""
    ordered = np.sort(scores, axis=1)
    margin: FloatArray = ordered[:, -1] - ordered[:, -2]
    return margin
