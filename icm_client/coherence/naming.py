"""A search's last steps: which name each class has, and what is read again for it.

Names are exchanged where the words say that they are the wrong way round (`polarity`), or pinned
items do. Scores behind the wrong names hold what the words say against them. So the search then
sweeps on from the labels with their right names, and only these sweeps decide.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from icm_client.coherence.all_names import sweep_all_names
from icm_client.coherence.calibration import utility_of
from icm_client.coherence.climb import Climb, mean_of_scored
from icm_client.coherence.fold_scores import joined
from icm_client.coherence.pins import names_turn
from icm_client.coherence.polarity import NameExchange, exchange_names_in_folds
from icm_client.coherence.problem import FloatArray
from icm_client.coherence.sweeping import Sweeping


class Named(NamedTuple):
    """Where a search ends.

    Attributes:
        found: with the names that it ends with.
        exchange: what the words say of the names that it had found; where they leave open some of
            those that it ends with, of these.
        exchanged: whether those were exchanged.
    """

    found: Climb
    exchange: NameExchange
    exchanged: bool


async def name_classes(
    found: Climb, sweeping: Sweeping, *, sweep: int, rng: np.random.Generator, coherent: bool
) -> Named:
    """Ask which names are meant, and sweep on where words say little or names are exchanged.

    Args:
        found: the best restart.
        sweeping: the search's; `stop` is asked before each sweep. Exchanging names scores a fold.
        sweep: the number of the next sweep.
        rng: draws folds and demos.
        coherent: whether the search has found what it looked for; else it sweeps no further.
    """
    exchange = await exchange_names_in_folds(found.folds, found.labels, sweeping.score)
    goes_on = coherent and not found.stopped
    under_all = goes_on and sweeping.settings.all_names > 0 and exchange.all_weak
    if under_all:
        found = await sweep_all_names(found, sweeping, sweep=sweep, rng=rng)
        exchange = await exchange_names_in_folds(found.folds, found.labels, sweeping.score)
    told, turned = exchange, False
    for _ in range(sweeping.n_labels):
        if not names_turn(exchange, found.averaged, sweeping.pinned):
            break
        turned = True
        averaged = exchange.renamed(found.averaged)
        labels, _, prior = sweeping.relabel(averaged, found.prior)
        found = replace(
            found,
            labels=labels,
            averaged=averaged,
            sweep_scores=exchange.renamed(found.sweep_scores),
            # Under all names classes are as coherent whatever they are called.
            utility=found.utility if under_all else exchange.exchanged_utility,
            prior=prior,
        )
        if goes_on and not under_all:
            found = await _sweep_on(found, sweeping, sweep=sweep, rng=rng)
        if sweeping.n_labels == 2 or not goes_on or found.stopped:  # noqa: PLR2004
            break
        # Of several labels others may have the wrong names still, or names that words leave open.
        if sweeping.stop():
            found = replace(found, stopped=True)
            break
        folds = await sweeping.read(sweep, found.labels, found.averaged, rng)
        found = replace(found, folds=folds)
        exchange = await exchange_names_in_folds(found.folds, found.labels, sweeping.score)
        if exchange.ambiguous:
            told = exchange
    return Named(found, told, turned)


async def _sweep_on(
    found: Climb, sweeping: Sweeping, *, sweep: int, rng: np.random.Generator
) -> Climb:
    """`settings.renamed` sweeps from labels with new names."""
    window: list[FloatArray] = []
    masses: list[FloatArray] = []
    for number in range(sweep, sweep + sweeping.settings.renamed):
        if sweeping.stop():
            return replace(found, stopped=True)
        folds = await sweeping.read(number, found.labels, found.averaged, rng)
        scores, mass = joined(folds, found.averaged.shape)
        window.append(scores)
        masses.append(mass)
        averaged = mean_of_scored(window)
        labels, _, prior = sweeping.relabel(averaged, found.prior)
        utility = utility_of(scores, labels)
        sweeping.note(found.restart, number, utility, labels, found.labels, renamed=True)
        found = replace(
            found,
            labels=labels,
            averaged=averaged,
            sweep_scores=np.stack(window),
            label_mass=mean_of_scored(masses),
            utility=utility,
            prior=prior,
            folds=folds,
        )
    return found
