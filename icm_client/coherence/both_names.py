"""Last sweeps of a search whose words say little: each context is read under both names.

Where the words hardly say which class is which (`polarity`), what they say of a row is little more
than noise. It does not turn with the demos' names, and what the demos teach does. So a coherent
search of two labels has its last sweep, and further ones, read under the other names too:

    s_t(i, y) <- (s(i, y; C_f) + s(i, y'; C_f')) / 2        y' the other label, C_f' with names so

The noise cancels. The mean of these sweeps alone decides the labels.
"""

from dataclasses import replace

import numpy as np

from icm_client.coherence.assignment import JointAssignment
from icm_client.coherence.calibration import at_labels, coherence, label_counts
from icm_client.coherence.climb import Climb, mean_of_scored
from icm_client.coherence.constraints import Groups
from icm_client.coherence.fold_scores import fold_contexts, joined, score_folds
from icm_client.coherence.pins import held
from icm_client.coherence.polarity import RESPONSIVE, NameExchange, with_names
from icm_client.coherence.prior import estimate_prior
from icm_client.coherence.problem import FloatArray, IntArray, Score, Stop
from icm_client.coherence.search_result import Observer, SweepRecord
from icm_client.coherence.settings import SweepSettings


def needs_both_names(exchange: NameExchange) -> bool:
    """Whether the words say little beside what demos taught; of three labels they may tell some."""
    two = len(exchange.names) == 2  # noqa: PLR2004
    return two and exchange.response >= RESPONSIVE and exchange.weak


async def sweep_both_names(
    found: Climb,
    score: Score,
    *,
    sweep: int,
    rng: np.random.Generator,
    settings: SweepSettings,
    prior: FloatArray | None,
    groups: Groups,
    assign: JointAssignment,
    pinned: IntArray | None,
    note: Observer,
    stop: Stop,
) -> Climb:
    """Go on from where a search has settled: `settings.both_names` sweeps, the last one the first.

    Args:
        found: where it settled; two labels. Its last sweep is read under the other names too.
        score: the way out.
        sweep: the number of the next sweep.
        rng: draws folds and demos.
        settings: of the search.
        prior: shape `[2]`, the labels' shares where the user knows them.
        groups: of the rule.
        assign: gives labels by the rule.
        pinned: shape `[N]`, or None.
        note: told of each new sweep.
        stop: asked before each new sweep.

    Returns:
        Labels and scores of these sweeps alone; `utility` is the last one's, names as found.
    """
    names = np.array([1, 0])
    window: list[FloatArray] = []
    for number in range(settings.both_names):
        if number:
            if stop():
                return replace(found, stopped=True)
            contexts = fold_contexts(
                sweep, found.labels, found.averaged, rng, settings, groups=groups, pinned=pinned
            )
            found = replace(found, folds=await score_folds(contexts, score))
        renamed = [(with_names(fold.context, names.tolist()), fold.targets) for fold in found.folds]
        exchanged, _ = joined(await score_folds(renamed, score), found.averaged.shape)
        scores, mass = joined(found.folds, found.averaged.shape)
        window.append((scores + exchanged[:, names]) / 2)
        averaged = mean_of_scored(window)
        uneven = found.prior.source == "mixture"
        estimate = estimate_prior(averaged, prior, uneven_before=uneven)
        labels = assign(held(averaged + estimate.offsets, pinned)).labels
        moved = int((labels != found.labels).sum())
        found = replace(
            found,
            labels=labels,
            averaged=averaged,
            sweep_scores=np.stack(window),
            label_mass=mass,
            utility=float(at_labels(scores, labels).mean()),
            prior=estimate,
        )
        if number:
            counts = label_counts(labels, len(names))
            share = coherence(found.utility, counts)
            note(
                SweepRecord(
                    found.restart, sweep, found.utility, share, counts, moved, labels=labels
                )
            )
            sweep += 1
    return found
