"""What an ablation changes, one thing at a time: the variants that `icm-client ablate` compares.

A base (a preset with its numbers, the task's rule, the search's own start) is run as it is and with
one thing changed.

What became of an ablation's variants: their runs, and the table of them.
"""

import csv
import io
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from icm_client.coherence.fast import SweepSettings
from icm_client.coherence.initial_labels import Start
from icm_client.data.job import Job
from icm_client.errors import InputError
from icm_client.runs.presets import (
    InContextPreset,
    InContextSettings,
    Settings,
    TrainedSettings,
    preset_of,
    preset_settings,
)

Ablation = Literal["constraint", "initial", "alpha", "init", "preset"]
"""Named for the option of `icm-client label` that it changes."""

ABLATIONS: tuple[Ablation, ...] = get_args(Ablation)

MadeStart = Literal["golden", "all-wrong", "random-labels"]
"""First labels that are written to a file. `golden`, `all-wrong`: `K` rows with their gold label,
or with another. `random-labels`: every row, labelled at random."""

INITIAL = (0, 2, 8, 32)
ALPHAS = (10.0, 20.0, 30.0, 50.0, 100.0)
_OF_STEPS = ("iterations", "layout", "max_demos", "batch")


@dataclass(frozen=True, slots=True)
class Variant:
    """One thing to run, over all seeds.

    Attributes:
        ablation: what it is compared in.
        name: within the ablation.
        settings: of the search.
        start: first labels, as of `label`; None leaves them to the search.
        made: first labels that are made for this, in their place.
        rule: whether the task's constraint holds.
    """

    ablation: Ablation
    name: str
    settings: InContextSettings
    start: str | None = None
    made: MadeStart | None = None
    rule: bool = True

    @property
    def runs_as(self) -> tuple[object, ...]:
        """What is run: variants that agree in it are one run a seed."""
        return self.settings, self.start, self.made, self.rule


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be run.

    Attributes:
        variants: ablation by ablation.
        notices: what was left out, and why.
    """

    variants: tuple[Variant, ...]
    notices: tuple[str, ...]

    @property
    def distinct(self) -> int:
        """Runs a seed: variants that say the same are run once."""
        return len({variant.runs_as for variant in self.variants})


def plan_ablations(
    job: Job,
    base: Settings,
    *,
    start: str | None = None,
    only: Iterable[Ablation] = ABLATIONS,
) -> Plan:
    """List what is to be run.

    Args:
        job: rows and task; says how many items there are, and whether there are gold and a rule.
        base: what every variant has but for the one thing that it changes.
        start: the base's first labels.
        only: the ablations wanted.

    Raises:
        InputError: the base trains models, of which no ablation is made.
    """
    if isinstance(base, TrainedSettings):
        raise InputError(
            f"ablations are of searches in context, not of {preset_of(base)}: take --preset fast, "
            "paper or official"
        )
    wanted = set(only)
    variants: list[Variant] = []
    notices: list[str] = []
    for ablation, list_variants in (
        ("constraint", _constraint),
        ("initial", _initial),
        ("alpha", _alpha),
        ("init", _init),
        ("preset", _preset),
    ):
        if ablation in wanted:
            found, notice = list_variants(job, base, start)
            variants += found
            notices += [notice] if notice else []
    return Plan(tuple(variants), tuple(notices))


_Listed = tuple[list[Variant], str | None]


def _constraint(job: Job, base: InContextSettings, start: str | None) -> _Listed:
    if not job.constraint.groups:
        return [], "no ablation 'constraint': no rule binds these rows"
    return [
        Variant("constraint", " + ".join(rule.kind for rule in job.task.rules), base, start),
        Variant("constraint", "none", base, start, rule=False),
    ], None


def _initial(job: Job, base: InContextSettings, start: str | None) -> _Listed:
    if start not in (None, "random", "balanced"):
        return [], "no ablation 'initial': the first labels are given for more than K items"
    fewest, most = 0, len(job.prompts)
    if isinstance(base, SweepSettings):  # the first sweep needs a demo, and items left to score
        fewest, most = 1, most // 2
    numbers = sorted({K for K in (*INITIAL, base.initial, most) if fewest <= K <= most})
    return [Variant("initial", str(K), replace(base, initial=K), start) for K in numbers], None


def _alpha(_: Job, base: InContextSettings, start: str | None) -> _Listed:
    if isinstance(base, SweepSettings):
        return [], "no ablation 'alpha': the preset fast has none"
    own = [] if base.alpha in ALPHAS else [base.alpha]
    return [
        Variant(
            "alpha",
            "falling" if alpha is None else f"{alpha:g}",
            replace(base, alpha=alpha),  # type: ignore[arg-type]  # None is a base's own
            start,
        )
        for alpha in (*own, *ALPHAS)
    ], None


def _init(job: Job, base: InContextSettings, start: str | None) -> _Listed:
    # The paper's own start is the random one.
    own = "random" if preset_of(base) == "paper" else "own"
    variants = [Variant("init", own, base)]
    if start is not None:
        variants.append(Variant("init", "given", base, start))
    variants += [Variant("init", kind, base, kind) for kind in get_args(Start) if kind != own]
    made: tuple[MadeStart, ...] = get_args(MadeStart)
    notice = None
    if not any(gold is not None for gold in job.dataset.gold or ()):
        made, notice = ("random-labels",), "no golden and all-wrong starts: no row has gold"
    return [*variants, *(Variant("init", kind, base, made=kind) for kind in made)], notice


def _preset(_: Job, base: InContextSettings, start: str | None) -> _Listed:
    return [
        Variant("preset", preset, settings_like(base, preset), start)
        for preset in get_args(InContextPreset)
    ], None


def settings_like(base: InContextSettings, preset: InContextPreset) -> InContextSettings:
    """The preset's numbers; steps and contexts as in `base`, where both have them."""
    if preset_of(base) == preset:
        return base
    own = preset_settings(preset)
    if isinstance(own, SweepSettings) or isinstance(base, SweepSettings):
        return own
    return replace(own, **{name: getattr(base, name) for name in _OF_STEPS})


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
