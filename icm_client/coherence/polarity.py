"""Which name belongs to which class: the same labels, scored again with label names exchanged.

Mutual predictability alone cannot name classes. Where a label's word says what it means, the
labelling with the names exchanged is much less coherent; where it does not (` A` / ` B`), both
are equally coherent and a person must say which class is which.
"""

from dataclasses import dataclass

import numpy as np

from icm_client.coherence.calibration import pointwise_mutual_information
from icm_client.coherence.contexts import UNLABELLED
from icm_client.coherence.problem import Context, Demo, FloatArray, IntArray, Query, Score

CLEAR_STANDARD_ERRORS = 3.0


@dataclass(frozen=True, slots=True)
class NameExchange:
    """The closest of the exchanges tried.

    Attributes:
        names: the labelling with label `k` renamed `names[k]`, shape `[K]`.
        utility: calibrated `U` of the labels as found, over the targets scored, nats an item; NaN
            where none could be.
        exchanged_utility: the same with the names exchanged.
        standard_error: of the mean paired difference of the two, nats.
    """

    names: tuple[int, ...]
    utility: float
    exchanged_utility: float
    standard_error: float

    @property
    def ambiguous(self) -> bool:
        """Neither of the two labellings is clearly the more coherent."""
        margin = abs(self.utility - self.exchanged_utility)
        return not margin > CLEAR_STANDARD_ERRORS * self.standard_error

    @property
    def better(self) -> bool:
        """The exchanged labelling is clearly better: the labels found are the wrong way round."""
        margin = self.exchanged_utility - self.utility
        return margin > CLEAR_STANDARD_ERRORS * self.standard_error


def exchanges(n_labels: int) -> list[tuple[int, ...]]:
    """Neighbouring names exchanged: one way for two labels, `K` ways for more."""
    swaps = [(0, 1)] if n_labels == 2 else [(k, (k + 1) % n_labels) for k in range(n_labels)]  # noqa: PLR2004
    names = []
    for a, b in swaps:
        renamed = list(range(n_labels))
        renamed[a], renamed[b] = b, a
        names.append(tuple(renamed))
    return names


async def exchange_names(
    context: Context,
    targets: IntArray,
    calibrated: FloatArray,
    labels: IntArray,
    score: Score,
) -> NameExchange:
    """Score `targets` behind `context` with names exchanged, and compare.

    Args:
        context: demos of the last sweep, as they were labelled then.
        targets: items scored behind `context` in the last sweep.
        calibrated: shape `[len(targets), K]`, their calibrated scores then.
        labels: shape `[N]`, the labels found.
        score: the way out; `len(targets)` queries an exchange.

    Returns:
        The exchange whose labelling is the most coherent.
    """
    labelled = (labels[targets] != UNLABELLED) & ~np.isnan(calibrated).any(axis=1)
    targets, calibrated = targets[labelled], calibrated[labelled]
    held = labels[targets]
    rows = np.arange(len(targets))
    as_found = calibrated[rows, held]
    closest: NameExchange | None = None
    for names in exchanges(calibrated.shape[1]):
        renamed = tuple(Demo(demo.item, names[demo.label]) for demo in context)
        log_probs = await score([Query(renamed, int(target)) for target in targets])
        exchanged = pointwise_mutual_information(log_probs)[rows, np.asarray(names)[held]]
        scored = ~np.isnan(exchanged)
        tried = NameExchange(
            names=names,
            utility=_mean(as_found[scored]),
            exchanged_utility=_mean(exchanged[scored]),
            standard_error=_standard_error((as_found - exchanged)[scored]),
        )
        if closest is None or not tried.exchanged_utility <= closest.exchanged_utility:
            closest = tried
    assert closest is not None  # noqa: S101 - at least one exchange for K >= 2
    return closest


def _mean(values: FloatArray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _standard_error(differences: FloatArray) -> float:
    """Of the mean, nats; infinite for a single difference, which tells nothing."""
    if len(differences) < 2:  # noqa: PLR2004
        return float("inf")
    return float(differences.std(ddof=1) / np.sqrt(len(differences)))
