"""Whether new rows are like those that labels were found on: the finding `shifted-rows`.

What a predictor says of new rows was fitted to the rows of a run. Where the new ones differ from
these in how sure the model is, in how likely it is to answer with a label at all, or in length,
thresholds and confidence may not fit them. Shares of labels that differ show in the first.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from icm_client.coherence.calibration import margin
from icm_client.coherence.problem import FloatArray
from icm_client.verdict.findings import Finding

LARGEST_DISTANCE: Final = 0.15
"""Two distributions this far apart, in Kolmogorov and Smirnov's statistic, label rows alike."""

_CHANCE: Final = 2.23
"""The statistic of equal distributions passes `2.23 sqrt((n + m) / (n m))` once in 10,000 times
(Smirnov 1948: `sqrt(-ln(alpha / 2) / 2)`)."""

_FEWEST: Final = 20
"""New rows of which something can be said."""

_KNOWN: Final[Mapping[str, str]] = {
    "log-odds": "how far the model prefers a label",
    "label-mass": "how probable it finds that any label follows",
    "length": "how long they are",
}


def signals(
    decided: FloatArray, label_mass: FloatArray, length: FloatArray
) -> dict[str, FloatArray]:
    """What rows are compared by, shape `[n]` each.

    Args:
        decided: shape `[n, K]`, nats. Of two labels their log-odds are taken, of more those of the
            likeliest over the next.
        label_mass: shape `[n]`, the share of the next token's probability that is on any label.
        length: shape `[n]`, tokens.
    """
    of_two = decided.shape[1] == 2  # noqa: PLR2004
    log_odds = decided[:, 0] - decided[:, 1] if of_two else margin(decided)
    mass = np.log(np.maximum(label_mass, np.finfo(float).tiny))
    return {"log-odds": log_odds, "label-mass": mass, "length": length.astype(float)}


@dataclass(slots=True)
class ShiftMeter:
    """Compares new rows with known ones, of which it keeps the values; of new ones, counts.

    Attributes:
        known: signal -> its values for the known rows, rising.
        counts: signal -> new rows at or below each known value, and in all; shape `[n + 1]`.
    """

    known: Mapping[str, FloatArray]
    counts: dict[str, list[int]] = field(default_factory=dict)

    def add(self, new: Mapping[str, FloatArray]) -> None:
        """Count some new rows."""
        for name, known in self.known.items():
            values = np.sort(new[name])
            below = np.searchsorted(values, known, side="right")
            counted = np.append(below, len(values))
            before = self.counts.get(name, [0] * len(counted))
            self.counts[name] = (np.array(before) + counted).tolist()

    def distances(self) -> dict[str, tuple[float, float]]:
        """Each signal's distance, 0 to 1, and the one that equal distributions hardly pass."""
        found = {}
        for name, counted in self.counts.items():
            *below, new = counted
            n = len(self.known[name])
            if new < _FEWEST or not n:
                continue
            at_or_below = np.searchsorted(self.known[name], self.known[name], side="right") / n
            distance = float(np.abs(np.array(below) / new - at_or_below).max())
            found[name] = distance, max(LARGEST_DISTANCE, _CHANCE * ((n + new) / (n * new)) ** 0.5)
        return found

    def finding(self) -> Finding | None:
        """`shifted-rows`, where new rows differ from the known ones."""
        far = {name: pair for name, pair in self.distances().items() if pair[0] > pair[1]}
        if not far:
            return None
        said = " and ".join(_KNOWN[name] for name in far)
        figures = "; ".join(
            f"{name}: distance {distance:.2f}, {most:.2f} is usual"
            for name, (distance, most) in far.items()
        )
        return Finding(
            "shifted-rows",
            f"The new rows differ from those that the labels were found on, in {said}.",
            "Look at some of them. Label a few hundred of the new rows with icm-client label, and "
            "predict the others with that run.",
            "check",
            f"Kolmogorov-Smirnov: {figures}",
        )
