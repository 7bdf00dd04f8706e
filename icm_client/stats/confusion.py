"""Which labels are taken for which, where gold is known: counts, precision, recall and F1."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class LabelQuality:
    """How well one label was found, over the rows with gold.

    Attributes:
        label: its word.
        gold: rows whose gold label it is.
        found: rows that were given it.
        right: rows of both.
    """

    label: str
    gold: int
    found: int
    right: int

    @property
    def precision(self) -> float | None:
        """Share of the rows given the label whose gold label it is; None where none was given."""
        return self.right / self.found if self.found else None

    @property
    def recall(self) -> float | None:
        """Share of the rows with this gold label that were given it; None where none has it."""
        return self.right / self.gold if self.gold else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of the two, `2 right / (gold + found)`; None where both are unknown."""
        either = self.gold + self.found
        return 2 * self.right / either if either else None

    def summary(self) -> dict[str, Any]:
        """Return the same as JSON values."""
        return {
            "precision": self.precision,
            "recall": self.recall,
            "f1": self.f1,
            "gold": self.gold,
            "found": self.found,
            "right": self.right,
        }


@dataclass(frozen=True, slots=True)
class Confusion:
    """Gold labels against the labels found.

    Attributes:
        labels: the label words, shape `[K]`.
        counts: rows with gold label `i` that were given label `j`, shape `[K, K]`.
    """

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, counts: Mapping[tuple[str, str], int], labels: Sequence[str]) -> Self:
        """Return the same from rows by gold label and label found; what is missing is 0."""
        return cls(
            tuple(labels),
            tuple(tuple(counts.get((gold, found), 0) for found in labels) for gold in labels),
        )

    @property
    def by_label(self) -> tuple[LabelQuality, ...]:
        """Each label's precision, recall and F1, in the order of `labels`."""
        found = [sum(column) for column in zip(*self.counts, strict=True)]
        return tuple(
            LabelQuality(word, sum(row), found[number], row[number])
            for number, (word, row) in enumerate(zip(self.labels, self.counts, strict=True))
        )

    def summary(self) -> dict[str, Any]:
        """Return labels, counts (a line a gold label), and each label's figures as JSON values."""
        return {
            "labels": list(self.labels),
            "counts": [list(row) for row in self.counts],
            "by_label": {one.label: one.summary() for one in self.by_label},
        }


def confusion(pairs: Iterable[tuple[str | None, str]], labels: Sequence[str]) -> Confusion | None:
    """Return how gold labels and the labels found go together; None where no row has gold.

    Args:
        pairs: of each row the gold label, None where it has none, and the label found.
        labels: the label words, each once, shape `[K]`.
    """
    counts = Counter((gold, found) for gold, found in pairs if gold is not None)
    return Confusion.of(counts, labels) if counts else None
