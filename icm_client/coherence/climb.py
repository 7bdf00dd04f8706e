"""One restart of the `fast` search: sweep after sweep from its first labels until they settle."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from icm_client.coherence.calibration import utility_of
from icm_client.coherence.fold_scores import ScoredFold, joined
from icm_client.coherence.prior import PriorEstimate
from icm_client.coherence.problem import FloatArray, IntArray
from icm_client.coherence.sweeping import Sweeping


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
    labels: IntArray, sweeping: Sweeping, *, restart: int, rng: np.random.Generator
) -> Climb:
    """Sweep from the first `labels` until they settle and `U` no longer climbs."""
    settings = sweeping.settings
    shape = (len(labels), sweeping.n_labels)
    window: deque[FloatArray] = deque(maxlen=settings.averaged)
    averaged = np.full(shape, np.nan)
    # The same, those behind sampled labels left out: what the scores themselves waver by.
    cold: deque[FloatArray] = deque(maxlen=settings.averaged)
    masses: deque[FloatArray] = deque(maxlen=settings.averaged)
    settled_shares: deque[float] = deque(maxlen=settings.averaged)
    highest = -np.inf
    prior: PriorEstimate | None = None
    sweep = 0
    while True:
        folds = await sweeping.read(sweep, labels, averaged, rng)
        scores, mass = joined(folds, shape)
        window.append(scores)
        averaged = mean_of_scored(window)
        before = labels
        labels, decided, prior = sweeping.relabel(averaged, prior)
        utility = utility_of(scores, labels)
        record = sweeping.note(restart, sweep, utility, labels, before)
        if sweep >= settings.cold_after:
            settled_shares.append(record.coherence)
            cold.append(scores)
            masses.append(mass)
        coherent = record.coherence >= settings.coherent
        # What is averaged still holds scores behind labels that knew much less.
        unripe = coherent and (
            min(settled_shares, default=record.coherence) < settings.ripe * record.coherence
        )
        climbs = utility > highest + settings.climb or unripe
        highest = max(highest, utility)
        sweep += 1
        settled = record.moved < settings.moving * len(labels) or coherent
        over = sweep >= settings.max_sweeps or (
            sweep >= settings.min_sweeps and settled and not climbs
        )
        if over or (sweep > 1 and sweeping.stop()):
            return Climb(
                restart,
                labels,
                averaged,
                np.stack(cold) if cold else np.empty((0, *shape)),
                mean_of_scored(masses or [mass]),
                utility,
                prior,
                folds,
                not over,
            )
        if sweep <= settings.cold_after:
            labels = sweeping.drawn(decided, settings.temperature / 2 ** (sweep - 1), rng)


def mean_of_scored(window: Iterable[FloatArray]) -> FloatArray:
    """Mean over sweeps, `[N, K]` or `[N]`; NaN where no sweep scored the item."""
    stacked = np.stack(list(window))
    times = (~np.isnan(stacked)).sum(axis=0)
    total = np.nansum(stacked, axis=0)
    mean: FloatArray = np.where(times > 0, total / np.maximum(times, 1), np.nan)
    return mean
