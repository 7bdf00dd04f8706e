"""Last sweeps of a search whose words say little: each context is read under both names.

Where the words hardly say which class is which (`polarity`), what they say of a row is little more
than noise. It does not turn with the demos' names, and what the demos teach does. So a coherent
search of two labels has its last sweep, and further ones, read under the other names too:

    s_t(i, y) <- (s(i, y; C_f) + s(i, y'; C_f')) / 2        y' the other label, C_f' with names so

The noise cancels. The mean of these sweeps alone decides the labels.
"""

from dataclasses import replace

import numpy as np

from icm_client.coherence.calibration import utility_of
from icm_client.coherence.climb import Climb, mean_of_scored
from icm_client.coherence.fold_scores import joined, score_folds
from icm_client.coherence.polarity import RESPONSIVE, NameExchange, with_names
from icm_client.coherence.problem import FloatArray
from icm_client.coherence.sweeping import Sweeping


def needs_both_names(exchange: NameExchange) -> bool:
    """Whether the words say little beside what demos taught; of three labels they may tell some."""
    two = len(exchange.names) == 2  # noqa: PLR2004
    return two and exchange.response >= RESPONSIVE and exchange.weak


async def sweep_both_names(
    found: Climb, sweeping: Sweeping, *, sweep: int, rng: np.random.Generator
) -> Climb:
    """Go on from where a search has settled: `settings.both_names` sweeps, the last one the first.

    Args:
        found: where it settled; two labels. Its last sweep is read under the other names too.
        sweeping: the search's; its `stop` is asked before each new sweep.
        sweep: the number of the next sweep.
        rng: draws folds and demos.

    Returns:
        Labels and scores of these sweeps alone; `utility` is the last one's, names as found.
    """
    names = np.array([1, 0])
    window: list[FloatArray] = []
    for number in range(sweeping.settings.both_names):
        if number:
            if sweeping.stop():
                return replace(found, stopped=True)
            folds = await sweeping.read(sweep, found.labels, found.averaged, rng)
            found = replace(found, folds=folds)
        renamed = [(with_names(fold.context, names.tolist()), fold.targets) for fold in found.folds]
        exchanged, _ = joined(await score_folds(renamed, sweeping.score), found.averaged.shape)
        scores, mass = joined(found.folds, found.averaged.shape)
        window.append((scores + exchanged[:, names]) / 2)
        averaged = mean_of_scored(window)
        labels, _, prior = sweeping.relabel(averaged, found.prior)
        before = found.labels
        found = replace(
            found,
            labels=labels,
            averaged=averaged,
            sweep_scores=np.stack(window),
            label_mass=mass,
            utility=utility_of(scores, labels),
            prior=prior,
        )
        if number:
            sweeping.note(found.restart, sweep, found.utility, labels, before)
            sweep += 1
    return found
