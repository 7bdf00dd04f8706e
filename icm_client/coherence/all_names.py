"""Last sweeps of a search whose words say little: each context is read under all its names.

Where the words hardly say which class is which (`polarity`), what they say of a row is little more
than noise, and labels may follow it more than the demos. It does not turn with the demos' names;
what the demos teach does. So a coherent search goes on from its last sweep, with each context read
under every rotation of the names (`renaming`):

    s_t(i, y) <- mean_r s(i, y + r; C_f with label k renamed k + r)        modulo K
    S <- mean of the last 2 sweeps' s

For two labels these are both names. What the words say is then the same for all classes, and of
more labels than `MOST_NAMES` little is left of it.

Noise of the contexts that decided may be taken for taught. So labels are judged by `U` behind the
next sweep's contexts, which had no say in them. The sweeps end when labels hardly move and `U` no
longer climbs, or where it says that nothing is taught.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from icm_client.coherence.calibration import (
    log_softmax,
    pointwise_mutual_information,
    utility_of,
)
from icm_client.coherence.climb import Climb, mean_of_scored
from icm_client.coherence.fold_scores import joined, score_folds
from icm_client.coherence.polarity import with_names
from icm_client.coherence.problem import FloatArray, IntArray
from icm_client.coherence.renaming import by_class, rotations
from icm_client.coherence.sweeping import Sweeping

MOST_NAMES = 6
"""Under which a context is read, whatever the number of labels."""

MOVING = 0.05
"""Share of the labels that may still move when the sweeps end."""

AVERAGED = 2
"""Sweeps whose scores are averaged; those before had labels that followed the words more."""


async def sweep_all_names(
    found: Climb, sweeping: Sweeping, *, sweep: int, rng: np.random.Generator
) -> Climb:
    """Go on from where a search has settled, by at most `settings.all_names` readings.

    Args:
        found: where it settled. Its last sweep is read under the other names too.
        sweeping: the search's; its `stop` is asked before each new sweep.
        sweep: the number of the next sweep.
        rng: draws folds and demos.

    Returns:
        Labels and scores of these sweeps alone. `folds` and `utility` are of a reading that had no
        say in the labels, where there was one.
    """
    before = found.labels
    window: deque[FloatArray] = deque([await _taught(found, sweeping)], maxlen=AVERAGED)
    found = _relabelled(found, window, sweeping)
    found = replace(found, utility=_utility(window[-1], found.labels))
    moved = (found.labels != before).sum()
    climb, highest = sweeping.settings.climb, 0.0  # 0 where nothing is taught
    last = sweep + sweeping.settings.all_names - 2
    for number in range(sweep, last + 1):
        if sweeping.stop():
            return replace(found, stopped=True)
        folds = await sweeping.read(number, found.labels, found.averaged, rng)
        found = replace(found, folds=folds)
        taught = await _taught(found, sweeping)
        before, utility = found.labels, _utility(taught, found.labels)
        settled = moved < MOVING * len(before) and utility <= highest + climb
        over = settled or utility <= climb or number == last
        if not over:
            window.append(taught)
            found = _relabelled(found, window, sweeping)
        found = replace(found, utility=utility)
        sweeping.note(found.restart, number, utility, found.labels, before)
        if over:
            break
        moved, highest = (found.labels != before).sum(), max(highest, utility)
    return found


def _relabelled(found: Climb, window: Sequence[FloatArray], sweeping: Sweeping) -> Climb:
    averaged = mean_of_scored(window)
    labels, _, prior = sweeping.relabel(averaged, found.prior)
    return replace(
        found,
        labels=labels,
        averaged=averaged,
        sweep_scores=np.stack(window),
        label_mass=joined(found.folds, averaged.shape)[1],
        prior=prior,
    )


async def _taught(found: Climb, sweeping: Sweeping) -> FloatArray:
    """What the demos of `found.folds` teach, under all names: `[N, K]`, nats, by class."""
    shape = found.averaged.shape
    behind = [joined(found.folds, shape)[0]]
    for names in rotations(sweeping.n_labels)[: MOST_NAMES - 1]:
        contexts = [(with_names(fold.context, names), fold.targets) for fold in found.folds]
        behind.append(joined(await score_folds(contexts, sweeping.score), shape)[0])
    return by_class(behind)


def _utility(taught: FloatArray, labels: IntArray) -> float:
    """Calibrated `U` of a model that says of an item what the demos teach, nats an item."""
    return utility_of(pointwise_mutual_information(log_softmax(taught)), labels)
