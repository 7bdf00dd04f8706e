"""What an evaluation reports: how a method stands, how it ended, and the table over all seeds."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Final

import numpy as np

from icm_client.coherence.problem import BoolArray, FloatArray, IntArray
from icm_client.experiments.comparison import Record, Spent, counted, csv_of, rounded
from icm_client.experiments.evaluation import TAUGHT_BY, Evaluation, Kind, Method
from icm_client.runs.progress import Progress
from icm_client.runs.trainer import TrainingProgress
from icm_client.scoring import ScoringProgress
from icm_client.stats.bootstrap import (
    GapRecovered,
    Interval,
    bootstrap_interval,
    gap_recovered,
    mean_over_seeds,
    paired_interval,
)


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """How a method stands: its search, its reads, or its training."""

    method: Method
    seed: int
    at: Progress | ScoringProgress | TrainingProgress


OnMoment = Callable[[Moment], None]


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """How a method ended with one seed.

    Attributes:
        method: which one.
        seed: which one.
        correct: shape `[test]`, whether each test row's prediction is gold; None where the method
            failed.
        labelled: train rows that the method labelled; None for one that labels none.
        label_accuracy: the share of them whose label is gold; None as above, or where it is 0 rows.
        verdict: the diagnosis's verdict on labels that a search found; None for other methods.
        findings: the diagnosis's codes.
        spent: what it cost.
        error: why it failed, or None.
        model: the model that was trained for it: its name on a server, or its folder.
    """

    method: Method
    seed: int
    correct: BoolArray | None = None
    labelled: int | None = None
    label_accuracy: float | None = None
    verdict: str | None = None
    findings: tuple[str, ...] = ()
    spent: Spent = field(default_factory=Spent)
    error: str | None = None
    model: str | None = None

    @property
    def accuracy(self) -> float | None:
        """The share of test rows that are predicted correctly."""
        return None if self.correct is None else float(self.correct.mean())


@dataclass(frozen=True, slots=True)
class ToGolden:
    """A method's mean accuracy minus that of golden labels, over the seeds that both finished.

    A trained model is compared with one trained on golden labels, and so are the others where no
    method uses golden labels in context.
    """

    difference: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class Result:
    """A method over all seeds.

    Attributes:
        method: which one.
        outcomes: one a seed, failed ones included.
        accuracy: mean over the seeds that did not fail; None where all did.
        interval: 95%, over test rows and seeds.
        to_golden: None for golden labels themselves, or where they were not run.
        gap: the share that it recovers of the gap between zero-shot and golden labels, over the
            seeds that all three finished; None where there is no such seed.
    """

    method: Method
    outcomes: tuple[Outcome, ...]
    accuracy: float | None = None
    interval: Interval | None = None
    to_golden: ToGolden | None = None
    gap: GapRecovered | None = None

    @property
    def ended(self) -> tuple[Outcome, ...]:
        """The outcomes that did not fail."""
        return tuple(outcome for outcome in self.outcomes if outcome.correct is not None)

    @property
    def label_accuracy(self) -> float | None:
        """Mean accuracy of the train rows' labels; None for a method that labels none."""
        found = [one.label_accuracy for one in self.ended if one.label_accuracy is not None]
        return statistics.mean(found) if found else None

    @property
    def findings(self) -> str:
        """What the diagnosis found in a search's labels, and with how many seeds."""
        return counted(code for outcome in self.ended for code in outcome.findings)

    @property
    def verdict(self) -> str:
        """The diagnosis's verdict on a search's labels, and with how many seeds."""
        return counted(outcome.verdict for outcome in self.ended if outcome.verdict is not None)

    @property
    def spent(self) -> Spent:
        """In all seeds together."""
        return sum((outcome.spent for outcome in self.outcomes), Spent())


_GOLDEN: Final[tuple[Kind, ...]] = ("golden", "finetuned-golden")


def results(evaluation: Evaluation, outcomes: Sequence[Outcome]) -> tuple[Result, ...]:
    """Gather the outcomes of each method, and compute the intervals.

    Args:
        evaluation: the plan.
        outcomes: of its methods and seeds, in any order.
    """
    ordered = sorted(outcomes, key=lambda outcome: outcome.seed)
    own = {
        method: tuple(outcome for outcome in ordered if outcome.method == method)
        for method in evaluation.methods
    }
    correct = {method: _matrix(evaluation, its) for method, its in own.items()}
    of_kind = {method.kind: found for method, found in correct.items()}
    not_run = _matrix(evaluation, ())
    zero_shot = of_kind.get("zero-shot", not_run)
    trained = of_kind.get("finetuned-golden", not_run)
    untrained = of_kind.get("golden", trained)
    return tuple(
        _result(
            Result(method, its),
            correct[method],
            zero_shot,
            trained if method.kind in TAUGHT_BY else untrained,
            evaluation.units,
        )
        for method, its in own.items()
    )


def _matrix(evaluation: Evaluation, outcomes: Sequence[Outcome]) -> FloatArray:
    """Which test rows are correct, `[seeds, rows]`; NaN elsewhere, and for seeds that failed."""
    correct = np.full((len(evaluation.seeds), len(evaluation.job.dataset.rows)), np.nan)
    for outcome in outcomes:
        if outcome.correct is not None:
            place = evaluation.seeds.index(outcome.seed)
            correct[place, evaluation.splits[place].test] = outcome.correct
    return correct


def _result(
    failed: Result,
    correct: FloatArray,
    zero_shot: FloatArray,
    golden: FloatArray,
    units: IntArray,
) -> Result:
    ended, ended_zero_shot, ended_golden = (
        np.isfinite(one).any(axis=1) for one in (correct, zero_shot, golden)
    )
    if not ended.any():
        return failed
    against, gap = None, None
    both = ended & ended_golden
    if both.any() and failed.method.kind not in _GOLDEN:
        against = ToGolden(
            mean_over_seeds(correct[both]) - mean_over_seeds(golden[both]),
            paired_interval(correct[both], golden[both], units),
        )
    all_three = both & ended_zero_shot
    if all_three.any():
        gap = gap_recovered(correct[all_three], zero_shot[all_three], golden[all_three], units)
    return replace(
        failed,
        accuracy=mean_over_seeds(correct[ended]),
        interval=bootstrap_interval(correct[ended], units),
        to_golden=against,
        gap=gap,
    )


def table(found: Sequence[Result]) -> list[Record]:
    """One record a method."""
    return [_record(one) for one in found]


def csv_text(found: Sequence[Result]) -> str:
    """The table as CSV."""
    return csv_of(table(found))


def document(evaluation: Evaluation, found: Sequence[Result]) -> dict[str, object]:
    """Everything, for JSON: the plan, and each method's figures over all seeds and by seed."""
    return {
        "rows": len(evaluation.job.dataset.rows),
        "train": [len(split.train) for split in evaluation.splits],
        "test": [len(split.test) for split in evaluation.splits],
        "seeds": list(evaluation.seeds),
        "labels": list(evaluation.job.task.labels),
        "demos": evaluation.demos,
        "contexts": evaluation.contexts,
        "methods": [
            {**record, "by_seed": [_by_seed(outcome) for outcome in one.outcomes]}
            for record, one in zip(table(found), found, strict=True)
        ],
        "notices": list(evaluation.notices),
    }


def _record(one: Result) -> Record:
    low, high = one.interval or (None, None)
    against = one.to_golden
    golden_low, golden_high = against.interval if against else (None, None)
    share, interval = one.gap or (None, None)
    gap_low, gap_high = interval or (None, None)
    return {
        "method": one.method.name,
        "seeds": len(one.ended),
        "failed": len(one.outcomes) - len(one.ended),
        "accuracy": rounded(one.accuracy),
        "accuracy_low": rounded(low),
        "accuracy_high": rounded(high),
        "gap": None if one.gap is None else one.gap.gap,
        "gap_recovered": rounded(share),
        "gap_recovered_low": rounded(gap_low),
        "gap_recovered_high": rounded(gap_high),
        "to_golden": rounded(against.difference if against else None),
        "to_golden_low": rounded(golden_low),
        "to_golden_high": rounded(golden_high),
        "label_accuracy": rounded(one.label_accuracy),
        **{name: round(figure, 1) for name, figure in asdict(one.spent).items()},
        "verdict": one.verdict,
        "findings": one.findings,
    }


def _by_seed(outcome: Outcome) -> dict[str, object]:
    return {
        "seed": outcome.seed,
        "accuracy": rounded(outcome.accuracy),
        "labelled": outcome.labelled,
        "label_accuracy": rounded(outcome.label_accuracy),
        "verdict": outcome.verdict,
        "findings": list(outcome.findings),
        "training_seconds": round(outcome.spent.training_seconds, 1),
        "model": outcome.model,
        "error": outcome.error,
    }
