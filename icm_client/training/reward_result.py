"""What came of a reward model's three steps, and how good it is on held-out pairs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from icm_client.coherence.problem import FloatArray
from icm_client.runs.trainer import Trained
from icm_client.stats.bootstrap import Interval, bootstrap_interval, paired_interval
from icm_client.training.reward_scores import Scores
from icm_client.training.run_labels import Pair
from icm_client.verdict.findings import Verdict


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The share of held-out pairs whose better response is preferred; a tie is half right.

    Attributes:
        share: in 0..1.
        interval: 95%, over the pairs.
    """

    share: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class HeldOutPairs:
    """What is made of pairs that no model was trained on.

    Attributes:
        pairs: their number.
        first: of the first reward model.
        final: of the final one.
        longer: of "the longer response is the better one", which a reward model has to beat.
        gained: the final model's share less the first one's, and its 95% interval.
    """

    pairs: int
    first: Accuracy
    final: Accuracy
    longer: Accuracy
    gained: Accuracy

    def summary(self) -> dict[str, Any]:
        """Return JSON values."""
        named = {
            "first": self.first,
            "final": self.final,
            "longer": self.longer,
            "gained": self.gained,
        }
        return {
            "pairs": self.pairs,
            **{name: round(one.share, 4) for name, one in named.items()},
            **{
                f"{name}_interval": [round(end, 4) for end in one.interval]
                for name, one in named.items()
            },
        }


@dataclass(frozen=True, slots=True, eq=False)
class RewardSteps:
    """Both models, and the labels that they were trained on.

    Attributes:
        first: the model trained on ICM's labels.
        final: the model trained on the first one's.
        few: row -> ICM's label.
        many: row -> label by the first model's scores.
        ties: rows of the second step whose responses the first model scores alike; they have no
            label.
        verdict: the diagnosis's, on ICM's labels.
        findings: its codes.
        agreement: share of the rows with both labels that have the same one.
        few_accuracy: share of right labels, of the rows with gold; None where none has.
        many_accuracy: the same.
        test: None without test pairs.
    """

    first: Trained
    final: Trained
    few: Mapping[int, str]
    many: Mapping[int, str]
    ties: int
    verdict: Verdict
    findings: tuple[str, ...]
    agreement: float | None
    few_accuracy: float | None
    many_accuracy: float | None
    test: HeldOutPairs | None

    def summary(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "first": _model(self.first, self.few_accuracy),
            "final": _model(self.final, self.many_accuracy),
            "verdict": self.verdict,
            "findings": list(self.findings),
            "ties": self.ties,
            "agreement": _rounded(self.agreement),
            "test": None if self.test is None else self.test.summary(),
        }


def measured(
    pairs: Sequence[Pair], by_first: Sequence[Scores], by_final: Sequence[Scores]
) -> HeldOutPairs:
    """Return how often each model, and the longer response, is right.

    Args:
        pairs: the better response first.
        by_first: the first model's scores of them.
        by_final: the final model's.
    """
    first, final = _right(by_first), _right(by_final)
    longer = _right([Scores(len(pair.chosen), len(pair.rejected)) for pair in pairs])
    units = np.arange(len(pairs))
    gained = Accuracy(float(final.mean() - first.mean()), paired_interval(final, first, units))

    def accuracy(right: FloatArray) -> Accuracy:
        return Accuracy(float(right.mean()), bootstrap_interval(right, units))

    return HeldOutPairs(
        len(pairs),
        first=accuracy(first),
        final=accuracy(final),
        longer=accuracy(longer),
        gained=gained,
    )


def agreeing(labels: Mapping[int, str], others: Mapping[int, str]) -> float | None:
    """Return the share of the rows with both that have the same; None where no row has both."""
    both = labels.keys() & others.keys()
    return sum(labels[row] == others[row] for row in both) / len(both) if both else None


def _right(scores: Sequence[Scores]) -> FloatArray:
    """1 where the chosen response scores higher, one half for a tie; shape `[1, pairs]`."""
    return np.array([[(np.sign(one - other) + 1) / 2 for one, other in scores]])


def _model(trained: Trained, accuracy: float | None) -> dict[str, Any]:
    return {
        "model": trained.model,
        "base": trained.base,
        "pairs": trained.examples,
        "loss": trained.loss,
        "seconds": round(trained.seconds, 1),
        "label_accuracy": _rounded(accuracy),
    }


def _rounded(figure: float | None) -> float | None:
    return None if figure is None else round(figure, 4)
