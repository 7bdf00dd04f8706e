"""Ablations: run a base search, and again with one thing changed at a time, over several seeds.

The base is a preset with its settings, the task's rule and the search's own start. Each finished
run is one line of `results.jsonl`: the same command again takes the runs that are there, repeats
those that failed or are missing, and asks the server nothing that any run has asked.
"""

import os
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
import orjson

from icm_client.coherence.anneal import AnnealSettings
from icm_client.coherence.anneal_official import OfficialSettings
from icm_client.coherence.initial_labels import Start
from icm_client.coherence.settings import SweepSettings
from icm_client.coherence.simple import SimpleSettings, ZeroShotSettings
from icm_client.data.constraint_spec import ConstraintSpec
from icm_client.data.job import Job
from icm_client.data.values import write_json
from icm_client.data.whole_files import replace_file
from icm_client.endpoints import Endpoint
from icm_client.errors import IcmError, InputError, RunError
from icm_client.experiments.comparison import FATAL, Record, counted, csv_of, rounded
from icm_client.record.description import RunDescription
from icm_client.record.folder import owned
from icm_client.record.journal import Journal, read
from icm_client.runs.label import label
from icm_client.runs.labels_file import read_start
from icm_client.runs.presets import (
    InContextPreset,
    InContextSettings,
    Settings,
    TrainedSettings,
    preset_of,
    preset_settings,
    run_settings,
)
from icm_client.runs.progress import OnProgress
from icm_client.scoring import ScoreStore

Ablation = Literal["constraint", "initial", "alpha", "init", "preset"]
"""Named after the option of `icm-client label` that it varies."""

ABLATIONS: Final[tuple[Ablation, ...]] = get_args(Ablation)

MadeStart = Literal["golden", "all-wrong", "random-labels"]
"""Starts that are written to a file. `golden`, `all-wrong`: `K` rows with their gold label, or with
another one. `random-labels`: every row, labelled at random."""

INITIAL: Final = (0, 2, 8, 32)
ALPHAS: Final = (10.0, 20.0, 30.0, 50.0, 100.0)
RESULTS: Final = "results.jsonl"
_RAN: Final = "ran"
_OF_STEPS: Final = ("iterations", "layout", "max_demos", "batch")


@dataclass(frozen=True, slots=True)
class Variant:
    """One search to run with every seed.

    Attributes:
        ablation: what it varies.
        name: unique within the ablation.
        settings: of the search.
        start: first labels, as in `label`; None leaves them to the search.
        made: first labels to make and write to a file instead.
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
        """What determines a run: variants that agree in it share one run a seed."""
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
        """Runs a seed; equal variants are run once."""
        return len({variant.runs_as for variant in self.variants})


def plan_ablations(
    job: Job,
    base: Settings,
    *,
    start: str | None = None,
    only: Iterable[Ablation] = ABLATIONS,
) -> Plan:
    """List the variants to run.

    Args:
        job: rows and task. How many items there are, and whether there are gold labels and a rule,
            decides which variants there are.
        base: the settings that every variant has, except for the one thing that it changes.
        start: the base's first labels.
        only: the ablations wanted.

    Raises:
        InputError: the base trains models; ablations are of searches in context only.
    """
    if isinstance(base, TrainedSettings):
        raise InputError(
            f"ablations compare searches in context, and {preset_of(base)} trains models: take "
            "a preset that trains none, such as fast or paper"
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
        return [], "the ablation 'constraint' is left out: no rule joins these rows"
    return [
        Variant("constraint", " + ".join(rule.kind for rule in job.task.rules), base, start),
        Variant("constraint", "none", base, start, rule=False),
    ], None


def _initial(job: Job, base: InContextSettings, start: str | None) -> _Listed:
    if isinstance(base, SimpleSettings):
        return [], f"the ablation 'initial' is left out: the preset {preset_of(base)} has no K"
    if start not in (None, "random", "balanced"):
        return [], ("the ablation 'initial' is left out: the base's start labels more than K items")
    fewest, most = 0, len(job.prompts)
    if isinstance(base, SweepSettings):  # the first sweep needs a demo, and items left to score
        fewest, most = 1, most // 2
    numbers = sorted({K for K in (*INITIAL, base.initial, most) if fewest <= K <= most})
    return [Variant("initial", str(K), replace(base, initial=K), start) for K in numbers], None


def _alpha(_: Job, base: InContextSettings, start: str | None) -> _Listed:
    if not isinstance(base, AnnealSettings | OfficialSettings):
        return [], f"the ablation 'alpha' is left out: the preset {preset_of(base)} has no alpha"
    own = [] if base.alpha in ALPHAS else [base.alpha]
    return [
        Variant(
            "alpha",
            "falling" if alpha is None else f"{alpha:g}",
            replace(base, alpha=alpha),  # type: ignore[arg-type]  # None can only be the base's own
            start,
        )
        for alpha in (*own, *ALPHAS)
    ], None


def _init(job: Job, base: InContextSettings, start: str | None) -> _Listed:
    if isinstance(base, ZeroShotSettings):
        return [], f"the ablation 'init' is left out: the preset {preset_of(base)} has no start"
    # The paper's own start is the random one.
    own = "random" if preset_of(base) == "paper" else "own"
    variants = [Variant("init", own, base)]
    if start is not None:
        variants.append(Variant("init", "given", base, start))
    variants += [Variant("init", kind, base, kind) for kind in get_args(Start) if kind != own]
    made: tuple[MadeStart, ...] = get_args(MadeStart)
    notice = None
    if not any(gold is not None for gold in job.dataset.gold or ()):
        made = ("random-labels",)
        notice = "the starts 'golden' and 'all-wrong' are left out: no row has a gold label"
    return [*variants, *(Variant("init", kind, base, made=kind) for kind in made)], notice


def _preset(_: Job, base: InContextSettings, start: str | None) -> _Listed:
    every = {preset: _settings_like(base, preset) for preset in get_args(InContextPreset)}
    return [
        Variant("preset", preset, own, None if isinstance(own, ZeroShotSettings) else start)
        for preset, own in every.items()
    ], None


def _settings_like(base: InContextSettings, preset: InContextPreset) -> InContextSettings:
    """The preset's settings, with steps and contexts as in `base` where both have them."""
    if preset_of(base) == preset:
        return base
    own, annealed = preset_settings(preset), AnnealSettings | OfficialSettings
    if isinstance(own, annealed) and isinstance(base, annealed):
        return replace(own, **{name: getattr(base, name) for name in _OF_STEPS})
    return own


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one run ended.

    Attributes:
        seed: of the run.
        accuracy: the share of rows with gold whose label is gold; None where no row has gold, or
            the run failed.
        coherence: of the labels found; None where the run failed.
        findings: the diagnosis's codes.
        steps: of Algorithm 1, or sweeps.
        accepted: the steps that were accepted; 0 for sweeps.
        reads: log-probs that the search needed, from the server or from the store: the same
            whatever ran before it.
        computed_tokens: prompt tokens that the server prefilled for this run; none for what an
            earlier run has read.
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
class Ended:
    """One run of the plan that has ended.

    Attributes:
        number: from 1.
        of: how many there are.
        variant: what was run.
        outcome: how it ended.
        kept: whether the outcome is that of an earlier run.
    """

    number: int
    of: int
    variant: Variant
    outcome: Outcome
    kept: bool


async def run_ablations(
    job: Job,
    plan: Plan,
    *,
    seeds: int,
    endpoint: Endpoint,
    folder: Path,
    store: ScoreStore | str | os.PathLike[str] | None = None,
    ended: Callable[[Ended], None] = lambda _: None,
    progress: OnProgress | None = None,
) -> dict[tuple[Variant, int], Outcome]:
    """Run every variant with every seed; the failure of one is recorded, and the next one runs.

    Args:
        job: rows and task.
        plan: the variants.
        seeds: `0..seeds-1`.
        endpoint: an open endpoint; it stays open.
        folder: for results and first labels; created if it does not exist.
        store: the score store's file, or an open store, for all runs; None stands for the user's
            own.
        ended: called with each run that has ended.
        progress: called as a run advances.

    Raises:
        RunError: the folder cannot be used, or another process works in it.
        StoreError: scores cannot be kept.
        ModelChanged: another model answers.
    """
    outcomes: dict[tuple[Variant, int], Outcome] = {}
    of = len(plan.variants) * seeds
    with owned(folder), Journal.open(folder / RESULTS) as journal:
        known = _read_outcomes(folder)
        for variant in plan.variants:
            ruled = job if variant.rule else _without_rule(job)
            for seed in range(seeds):
                start = _start(variant, job, seed, folder)
                name = _run_name(variant, ruled, start, seed, endpoint)
                kept = name in known
                if not kept:
                    known[name] = outcome = await _outcome(
                        variant,
                        ruled,
                        start,
                        seed,
                        endpoint=endpoint,
                        store=store,
                        progress=progress,
                    )
                    journal.append(_RAN, run=name, **_line(variant, outcome))
                outcomes[variant, seed] = known[name]
                ended(Ended(len(outcomes), of, variant, known[name], kept))
    return outcomes


def _read_outcomes(folder: Path) -> dict[str, Outcome]:
    """The outcomes of runs that did not fail, by the run's name."""
    names = {field.name for field in fields(Outcome)}
    found = {}
    for event in read(folder / RESULTS):
        if event["event"] != _RAN or event.get("error") is not None:
            continue
        try:
            figures = {name: event[name] for name in names}
            found[event["run"]] = Outcome(**{**figures, "findings": tuple(figures["findings"])})
        except (KeyError, TypeError):
            raise RunError(
                f"{folder / RESULTS}: a line lacks figures of its run: the file is damaged, or was "
                "written by another version. Name another folder."
            ) from None
    return found


async def _outcome(
    variant: Variant,
    job: Job,
    start: str | None,
    seed: int,
    *,
    endpoint: Endpoint,
    store: ScoreStore | str | os.PathLike[str] | None,
    progress: OnProgress | None,
) -> Outcome:
    try:
        found = await label(
            job.dataset,
            task=job.task,
            endpoint=endpoint,
            settings=variant.settings,
            start=start,
            seed=seed,
            store=store,
            progress=progress,
        )
    except FATAL:
        raise
    except IcmError as error:
        return Outcome(seed, error=str(error))
    return Outcome(
        seed=found.seed,
        accuracy=found.accuracy,
        coherence=found.coherence,
        findings=tuple(finding.code for finding in found.findings),
        steps=len(found.steps) or len(found.history),
        accepted=sum(step.accepted for step in found.steps),
        reads=found.cost.from_server + found.cost.from_store,
        computed_tokens=found.cost.computed_tokens,
        seconds=round(found.cost.seconds, 3),
    )


def _line(variant: Variant, outcome: Outcome) -> Mapping[str, object]:
    about = {"ablation": variant.ablation, "variant": variant.name}
    start = variant.made or variant.start
    how = {"settings": asdict(variant.settings), "start": start, "rule": variant.rule}
    return {**about, **asdict(outcome), **how}


def _run_name(variant: Variant, job: Job, start: str | None, seed: int, endpoint: Endpoint) -> str:
    first = None if start is None else read_start(start, job)
    settings = run_settings(variant.settings, first)
    return RunDescription.of(job, settings, seed, endpoint.identity).name


def _without_rule(job: Job) -> Job:
    return Job.prepare(job.dataset, job.task, constraint=ConstraintSpec(kind="none"))


def _start(variant: Variant, job: Job, seed: int, folder: Path) -> str | None:
    """The `start` to pass to `label`; one that is made is written to the folder first."""
    if variant.made is None:
        return variant.start
    assert not isinstance(variant.settings, ZeroShotSettings)  # noqa: S101 - none has a start
    labels = made_start(variant.made, job, seed, variant.settings.initial)
    path = folder / "starts" / f"{variant.made}-{variant.settings.initial}-{seed}.jsonl"
    lines = [
        write_json({"id": row.id, "label": labels[place]}, orjson.OPT_APPEND_NEWLINE)
        for place, row in enumerate(job.dataset.rows)
        if place in labels
    ]
    try:
        path.parent.mkdir(exist_ok=True)
        replace_file(path, b"".join(lines))
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}") from error
    return str(path)


def made_start(kind: MadeStart, job: Job, seed: int, initial: int) -> dict[int, str]:
    """Make first labels: from a row's number to its label word.

    Args:
        kind: `random-labels` labels every row; the others label `initial` random rows that have
            gold, the same rows for both. Only here does a gold label become a first label, because
            that is what is measured.
        job: the rows.
        seed: of the rows drawn, and of the labels drawn.
        initial: `K`.
    """
    rng = np.random.default_rng((seed, 2))
    words = np.array(job.labels)
    if kind == "random-labels":
        return dict(enumerate(rng.choice(words, size=len(job.dataset.rows)).tolist()))
    gold = job.dataset.gold or ()
    places = [place for place, word in enumerate(gold) if word is not None]
    labels = {}
    for place in rng.permutation(places)[:initial].tolist():
        others = [word for word in job.labels if word != gold[place]]
        wrong = str(rng.choice(others))
        labels[place] = str(gold[place]) if kind == "golden" else wrong
    return labels


@dataclass(frozen=True, slots=True)
class Compared:
    """A variant and its runs.

    Attributes:
        variant: what was run.
        outcomes: one a seed, failed ones included.
    """

    variant: Variant
    outcomes: tuple[Outcome, ...]

    @property
    def ended(self) -> tuple[Outcome, ...]:
        """The runs that did not fail."""
        return tuple(outcome for outcome in self.outcomes if outcome.error is None)

    def values(self, figure: Literal["accuracy", "coherence"]) -> list[float]:
        """The figure of each run that has it."""
        values: list[float | None] = [getattr(outcome, figure) for outcome in self.ended]
        return [value for value in values if value is not None]


def compare(plan: Plan, outcomes: Mapping[tuple[Variant, int], Outcome]) -> tuple[Compared, ...]:
    """Gather the outcomes of each variant, seed by seed."""
    ordered = sorted(outcomes.items(), key=lambda pair: pair[0][1])
    return tuple(
        Compared(variant, tuple(outcome for (ran, _), outcome in ordered if ran == variant))
        for variant in plan.variants
    )


def table(compared: Sequence[Compared]) -> list[Record]:
    """One record a variant; None where there is nothing to average."""
    return [_record(one) for one in compared]


def csv_text(compared: Sequence[Compared]) -> str:
    """The table as CSV."""
    return csv_of(table(compared))


def _record(one: Compared) -> Record:
    ended = one.ended
    spread: Record = {}
    for figure in ("accuracy", "coherence"):
        values = one.values(figure)
        spread[f"{figure}_mean"] = _mean(values, 4)
        spread[f"{figure}_least"] = rounded(min(values, default=None))
        spread[f"{figure}_most"] = rounded(max(values, default=None))
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
        "findings": counted(code for outcome in ended for code in outcome.findings),
    }


def _mean(values: Sequence[float], digits: int = 1) -> float | None:
    return round(statistics.mean(values), digits) if values else None
