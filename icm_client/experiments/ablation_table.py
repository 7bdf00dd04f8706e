"""What became of an ablation's variants: their runs, and the table of them."""

import csv
import io
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from icm_client.experiments.ablation import Plan, Variant


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one run ended.

    Attributes:
        seed: of the run.
        accuracy: share of the rows with gold that have their label; None where no row has gold,
            or the run failed.
        coherence: of the labels found; None where the run failed.
        findings: codes of what the diagnosis says.
        steps: of Algorithm 1, or sweeps.
        accepted: steps that were; 0 for sweeps.
        reads: log-probs that the search asked for, from the server or from the store. Equal for
            the same run whatever ran before it.
        computed_tokens: prompt tokens that the server prefilled for this run: what an earlier run
            has asked comes from the store and takes none.
        seconds: wall clock of this run; as above.
        error: why the run failed, or None.
    """

    seed: int
    accuracy: float | None = None
    coherence: float | None = None
    findings: tuple[str, ...] = ()
    steps: int = 0
    accepted: int = 0
    reads: int = 0
    computed_tokens: int = 0
    seconds: float = 0.0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Compared:
    """A variant and its runs.

    Attributes:
        variant: what was run.
        outcomes: one a seed that was run, failed ones included.
    """

    variant: Variant
    outcomes: tuple[Outcome, ...]

    @property
    def ended(self) -> tuple[Outcome, ...]:
        """The runs that found labels."""
        return tuple(outcome for outcome in self.outcomes if outcome.error is None)

    def values(self, figure: Literal["accuracy", "coherence"]) -> list[float]:
        """One number a run that has it."""
        values: list[float | None] = [getattr(outcome, figure) for outcome in self.ended]
        return [value for value in values if value is not None]


def compare(plan: Plan, outcomes: Mapping[tuple[Variant, int], Outcome]) -> tuple[Compared, ...]:
    """Gather the outcomes of each variant, its seeds in their order."""
    return tuple(
        Compared(
            variant,
            tuple(
                outcome
                for (ran, _), outcome in sorted(outcomes.items(), key=lambda pair: pair[0][1])
                if ran == variant
            ),
        )
        for variant in plan.variants
    )


COLUMNS = (
    "ablation",
    "variant",
    "runs",
    "failed",
    "accuracy_mean",
    "accuracy_least",
    "accuracy_most",
    "coherence_mean",
    "coherence_least",
    "coherence_most",
    "steps_mean",
    "accepted_mean",
    "reads_mean",
    "computed_tokens_sum",
    "seconds_sum",
    "findings",
)


def table(compared: Sequence[Compared]) -> list[dict[str, str | int | float | None]]:
    """One record a variant, by `COLUMNS`; None where there is nothing to average."""
    return [_record(one) for one in compared]


def csv_text(compared: Sequence[Compared]) -> str:
    """The table as CSV; an empty cell where there is nothing to average."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table(compared))
    return text.getvalue()


def _record(one: Compared) -> dict[str, str | int | float | None]:
    ended = one.ended
    codes = Counter(code for outcome in ended for code in outcome.findings)
    spread: dict[str, float | None] = {}
    for figure in ("accuracy", "coherence"):
        values = one.values(figure)
        spread[f"{figure}_mean"] = round(statistics.mean(values), 4) if values else None
        spread[f"{figure}_least"] = round(min(values), 4) if values else None
        spread[f"{figure}_most"] = round(max(values), 4) if values else None
    return {
        "ablation": one.variant.ablation,
        "variant": one.variant.name,
        "runs": len(ended),
        "failed": len(one.outcomes) - len(ended),
        **spread,
        "steps_mean": _mean([outcome.steps for outcome in ended]),
        "accepted_mean": _mean([outcome.accepted for outcome in ended]),
        "reads_mean": _mean([outcome.reads for outcome in ended]),
        "computed_tokens_sum": sum(outcome.computed_tokens for outcome in ended),
        "seconds_sum": round(sum(outcome.seconds for outcome in ended), 1),
        "findings": ", ".join(f"{code} ({times})" for code, times in sorted(codes.items())),
    }


def _mean(values: Sequence[int]) -> float | None:
    return round(statistics.mean(values), 1) if values else None
