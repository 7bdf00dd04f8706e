"""What became of an evaluation's methods: accuracy with its interval, and what each one took."""

import csv
import io
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from icm_client.coherence.problem import BoolArray, FloatArray
from icm_client.experiments.evaluation import TAUGHT_BY, Evaluation, Kind, Method
from icm_client.runs.progress import Progress
from icm_client.runs.trainer import TrainingProgress
from icm_client.scoring import ScoringProgress
from icm_client.stats.bootstrap import (
    Interval,
    bootstrap_interval,
    mean_over_seeds,
    paired_interval,
)


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """A moment of a method that goes on: of its search, of its reads, or of its training."""

    method: Method
    seed: int
    at: Progress | ScoringProgress | TrainingProgress


OnMoment = Callable[[Moment], None]


@dataclass(frozen=True, slots=True)
class Spent:
    """What a method took.

    Attributes:
        reads: log-probs that it asked for, from the server or from the store: the same whatever
            ran before it.
        requests: that the server got for it; none for what an earlier method has asked.
        computed_tokens: prompt tokens that the server prefilled for it; as above.
        seconds: wall clock; as above.
        training_seconds: of training a model, whenever that was; those of a process that was
            killed included.
    """

    reads: int = 0
    requests: int = 0
    computed_tokens: int = 0
    seconds: float = 0.0
    training_seconds: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """How one method fared with one seed.

    Attributes:
        method: which.
        seed: which.
        correct: for each of the seed's test rows whether its prediction is gold; None where the
            method failed.
        labelled: train rows that the method labelled; None for one that labels none.
        label_accuracy: the share of them whose label is gold; None as above, or with none labelled.
        verdict: what the diagnosis says of ICM's labels; None for other methods.
        findings: its codes.
        spent: what it took.
        error: why it failed, or None.
        model: the model that was trained for it; what a server calls it, or its folder.
    """

    method: Method
    seed: int
    correct: BoolArray | None = None
    labelled: int | None = None
    label_accuracy: float | None = None
    verdict: str | None = None
    findings: tuple[str, ...] = ()
    spent: Spent = Spent()
    error: str | None = None
    model: str | None = None

    @property
    def accuracy(self) -> float | None:
        """Share of the test rows that are predicted right."""
        return None if self.correct is None else float(self.correct.mean())


@dataclass(frozen=True, slots=True)
class Against:
    """A method's mean accuracy less golden labels', over the seeds with which both ended.

    A model that was trained is held against one trained on golden labels, and so are the others
    where no model was shown golden labels in context.
    """

    difference: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class Result:
    """A method over all seeds.

    Attributes:
        method: which.
        outcomes: one a seed, failed ones included.
        accuracy: mean over the seeds that ended; None where none did.
        interval: 95%, over test rows and seeds.
        to_golden: None for golden labels themselves, or where they were not tried.
    """

    method: Method
    outcomes: tuple[Outcome, ...]
    accuracy: float | None
    interval: Interval | None
    to_golden: Against | None

    @property
    def ended(self) -> tuple[Outcome, ...]:
        """Those that predicted test rows."""
        return tuple(outcome for outcome in self.outcomes if outcome.correct is not None)

    @property
    def label_accuracy(self) -> float | None:
        """Mean accuracy of the train rows' labels; None for a method that labels none."""
        found = [one.label_accuracy for one in self.ended if one.label_accuracy is not None]
        return statistics.mean(found) if found else None

    @property
    def findings(self) -> str:
        """What the diagnosis found in ICM's labels, and with how many seeds."""
        return _counted(code for outcome in self.ended for code in outcome.findings)

    @property
    def verdict(self) -> str:
        """The diagnosis's verdict on ICM's labels, and with how many seeds."""
        return _counted(outcome.verdict for outcome in self.ended if outcome.verdict is not None)

    @property
    def spent(self) -> Spent:
        """In all seeds together."""
        every = [outcome.spent for outcome in self.outcomes]
        return Spent(
            sum(one.reads for one in every),
            sum(one.requests for one in every),
            sum(one.computed_tokens for one in every),
            round(sum(one.seconds for one in every), 3),
            round(sum(one.training_seconds for one in every), 3),
        )


def results(evaluation: Evaluation, outcomes: Sequence[Outcome]) -> tuple[Result, ...]:
    """Gather the outcomes of each method, and reckon the intervals.

    Args:
        evaluation: what was run.
        outcomes: of its methods and seeds, in any order.
    """
    found = []
    for method in evaluation.methods:
        own = sorted((one for one in outcomes if one.method == method), key=lambda one: one.seed)
        found.append((method, tuple(own), _matrix(evaluation, own)))
    golden = {method.kind: correct for method, _, correct in found if method.kind in _GOLDEN}

    def reference(kind: Kind) -> FloatArray | None:
        if kind in _GOLDEN:
            return None
        trained = golden.get("finetuned-golden")
        return trained if kind in TAUGHT_BY else golden.get("golden", trained)

    return tuple(
        _result(evaluation, method, own, correct, reference(method.kind))
        for method, own, correct in found
    )


_GOLDEN: Final[tuple[Kind, ...]] = ("golden", "finetuned-golden")

COLUMNS = (
    "method",
    "seeds",
    "failed",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "to_golden",
    "to_golden_low",
    "to_golden_high",
    "label_accuracy",
    "reads",
    "requests",
    "computed_tokens",
    "seconds",
    "training_seconds",
    "verdict",
    "findings",
)


def table(found: Sequence[Result]) -> list[dict[str, str | int | float | None]]:
    """One record a method, by `COLUMNS`; None where there is no figure."""
    return [_record(one) for one in found]


def csv_text(found: Sequence[Result]) -> str:
    """The table as CSV; an empty cell where there is no figure."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table(found))
    return text.getvalue()


def document(evaluation: Evaluation, found: Sequence[Result]) -> dict[str, object]:
    """Everything as JSON has it: what was run, and of each method the table's figures by seed."""
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


def _matrix(evaluation: Evaluation, outcomes: Sequence[Outcome]) -> FloatArray:
    """Which test rows are right, `[seeds, rows]`; NaN elsewhere, and for seeds that failed."""
    correct = np.full((len(evaluation.seeds), len(evaluation.job.dataset.rows)), np.nan)
    for outcome in outcomes:
        if outcome.correct is not None:
            place = evaluation.seeds.index(outcome.seed)
            correct[place, evaluation.splits[place].test] = outcome.correct
    return correct


def _result(
    evaluation: Evaluation,
    method: Method,
    outcomes: tuple[Outcome, ...],
    correct: FloatArray,
    golden: FloatArray | None,
) -> Result:
    ended = _ended(correct)
    if not ended.any():
        return Result(method, outcomes, None, None, None)
    against = None
    if golden is not None and (both := ended & _ended(golden)).any():
        difference = mean_over_seeds(correct[both]) - mean_over_seeds(golden[both])
        against = Against(
            difference, paired_interval(correct[both], golden[both], evaluation.units)
        )
    return Result(
        method,
        outcomes,
        mean_over_seeds(correct[ended]),
        bootstrap_interval(correct[ended], evaluation.units),
        against,
    )


def _ended(correct: FloatArray) -> BoolArray:
    return np.array(np.isfinite(correct).any(axis=1))


def _record(one: Result) -> dict[str, str | int | float | None]:
    low, high = one.interval or (None, None)
    against = one.to_golden
    golden_low, golden_high = against.interval if against else (None, None)
    return {
        "method": one.method.name,
        "seeds": len(one.ended),
        "failed": len(one.outcomes) - len(one.ended),
        "accuracy": _rounded(one.accuracy),
        "accuracy_low": _rounded(low),
        "accuracy_high": _rounded(high),
        "to_golden": _rounded(against.difference if against else None),
        "to_golden_low": _rounded(golden_low),
        "to_golden_high": _rounded(golden_high),
        "label_accuracy": _rounded(one.label_accuracy),
        "reads": one.spent.reads,
        "requests": one.spent.requests,
        "computed_tokens": one.spent.computed_tokens,
        "seconds": round(one.spent.seconds, 1),
        "training_seconds": round(one.spent.training_seconds, 1),
        "verdict": one.verdict,
        "findings": one.findings,
    }


def _by_seed(outcome: Outcome) -> dict[str, object]:
    return {
        "seed": outcome.seed,
        "accuracy": _rounded(outcome.accuracy),
        "labelled": outcome.labelled,
        "label_accuracy": _rounded(outcome.label_accuracy),
        "verdict": outcome.verdict,
        "findings": list(outcome.findings),
        "training_seconds": round(outcome.spent.training_seconds, 1),
        "model": outcome.model,
        "error": outcome.error,
    }


def _counted(said: Iterable[str]) -> str:
    return ", ".join(f"{one} ({times})" for one, times in sorted(Counter(said).items()))


def _rounded(figure: float | None) -> float | None:
    return None if figure is None else round(figure, 4)
