"""One restart of the `fast` search: sweep after sweep from its first labels until they settle."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from icm_client.coherence.assignment import JointAssignment
from icm_client.coherence.calibration import at_labels, coherence, label_counts
from icm_client.coherence.constraints import Groups
from icm_client.coherence.fold_scores import ScoredFold, fold_contexts, joined, score_folds
from icm_client.coherence.pins import held
from icm_client.coherence.prior import PriorEstimate, estimate_prior
from icm_client.coherence.problem import FloatArray, IntArray, Score, Stop
from icm_client.coherence.search_result import Observer, SweepRecord
from icm_client.coherence.settings import SweepSettings


@dataclass(frozen=True, slots=True)
class Climb:
    """Where one restart ended.

    Attributes:
        labels: shape `[N]`.
        averaged: shape `[N, K]`, nats: mean of the last sweeps' scores.
        sweep_scores: shape `[M, N, K]`, nats: those of them behind labels that were not sampled.
        label_mass: shape `[N]`, a mean over the same sweeps.
        folds: of the last sweep.
        stopped: whether `stop` ended it.
    """

    restart: int
    labels: IntArray
    averaged: FloatArray
    sweep_scores: FloatArray
    label_mass: FloatArray
    utility: float
    prior: PriorEstimate
    folds: list[ScoredFold]
    stopped: bool


async def climb(
    labels: IntArray,
    n_labels: int,
    score: Score,
    *,
    restart: int,
    rng: np.random.Generator,
    settings: SweepSettings,
    prior: FloatArray | None,
    groups: Groups,
    assign: JointAssignment,
    pinned: IntArray | None,
    note: Observer,
    stop: Stop,
) -> Climb:
    """Sweep from the first `labels` until they settle and `U` no longer climbs."""
    shape = (len(labels), n_labels)
    window: deque[FloatArray] = deque(maxlen=settings.averaged)
    averaged = np.full(shape, np.nan)
    # The same, those behind sampled labels left out: what the scores themselves waver by.
    cold: deque[FloatArray] = deque(maxlen=settings.averaged)
    masses: deque[FloatArray] = deque(maxlen=settings.averaged)
    settled_shares: deque[float] = deque(maxlen=settings.averaged)
    highest = -np.inf
    estimate: PriorEstimate | None = None
    sweep = 0
    while True:
        contexts = fold_contexts(
            sweep, labels, averaged, rng, settings, groups=groups, pinned=pinned
        )
        folds = await score_folds(contexts, score)
        scores, mass = joined(folds, shape)
        window.append(scores)
        averaged = mean_of_scored(window)
        uneven = estimate is not None and estimate.source == "mixture"
        estimate = estimate_prior(averaged, prior, uneven_before=uneven)
        decided = averaged + estimate.offsets
        before, labels = labels, assign(held(decided, pinned)).labels
        moved = int((labels != before).sum())
        utility = float(at_labels(scores, labels).mean())
        counts = label_counts(labels, n_labels)
        share = coherence(utility, counts)
        note(SweepRecord(restart, sweep, utility, share, counts, moved, labels=labels))
        if sweep >= settings.cold_after:
            settled_shares.append(share)
            cold.append(scores)
            masses.append(mass)
        # What is averaged still holds scores behind labels that knew much less.
        unripe = (
            share >= settings.coherent
            and min(settled_shares, default=share) < settings.ripe * share
        )
        climbs = utility > highest + settings.climb or unripe
        highest = max(highest, utility)
        sweep += 1
        settled = moved < settings.moving * len(labels) or share >= settings.coherent
        over = sweep >= settings.max_sweeps or (
            sweep >= settings.min_sweeps and settled and not climbs
        )
        if over or (sweep > 1 and stop()):
            return Climb(
                restart,
                labels,
                averaged,
                np.stack(cold) if cold else np.empty((0, *shape)),
                mean_of_scored(masses or [mass]),
                utility,
                estimate,
                folds,
                not over,
            )
        if sweep <= settings.cold_after:
            temperature = settings.temperature / 2 ** (sweep - 1)
            drawn = decided / temperature + rng.gumbel(size=shape)
            labels = assign(held(drawn, pinned)).labels


def mean_of_scored(window: Iterable[FloatArray]) -> FloatArray:
    """Mean over sweeps, `[N, K]` or `[N]`; NaN where no sweep scored the item."""
    stacked = np.stack(list(window))
    times = (~np.isnan(stacked)).sum(axis=0)
    total = np.nansum(stacked, axis=0)
    mean: FloatArray = np.where(times > 0, total / np.maximum(times, 1), np.nan)
    return mean
