"""What an ablation changes, one thing at a time: the variants that `icm-client ablate` compares.

A base (a preset with its numbers, the task's rule, the search's own start) is run as it is and with
one thing changed.

What became of an ablation's variants: their runs, and the table of them.
"""

import csv
import io
import os
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import orjson

from icm_client.coherence.settings import SweepSettings
from icm_client.coherence.starts import Start
from icm_client.data.constraint_spec import ConstraintSpec
from icm_client.data.job import Job
from icm_client.data.json_text import write_json
from icm_client.endpoints import Endpoint
from icm_client.errors import IcmError, InputError, RunError, StoreError
from icm_client.record.description import RunDescription
from icm_client.record.folder import owned, replace_file
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
from icm_client.runs.result import Labels
from icm_client.scoring import ScoreStore

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


RESULTS = "results.jsonl"
_RAN = "ran"


@dataclass(frozen=True, slots=True)
class Ended:
    """One run of the plan, as told when it has ended.

    Attributes:
        number: from 1.
        of: how many there are.
        variant: what was run.
        outcome: how it ended.
        kept: whether an earlier run's outcome was taken.
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
    """Run every variant with every seed; one that fails is noted, and the next one runs.

    Args:
        job: rows and task.
        plan: the variants.
        seeds: `0..seeds-1`.
        endpoint: open, and left so.
        folder: results and first labels are kept here; made if it is not there.
        store: the score store's file, one for all runs; None takes the user's own.
        ended: told of each run.
        progress: told as a run goes on.

    Raises:
        RunError: the folder cannot be used, or another process works in it.
        StoreError: scores cannot be kept.
    """
    outcomes: dict[tuple[Variant, int], Outcome] = {}
    of = len(plan.variants) * seeds
    with owned(folder), Journal.open(folder / RESULTS) as journal:
        known = read_outcomes(folder)
        for variant in plan.variants:
            ruled = job if variant.rule else _without_rule(job)
            for seed in range(seeds):
                start = _start(variant, job, seed, folder)
                name = _run_name(variant, ruled, start, seed, endpoint)
                kept = name in known
                if not kept:
                    outcome = await _outcome(
                        variant, ruled, start, seed, endpoint=endpoint, store=store, told=progress
                    )
                    journal.append(_RAN, run=name, **_line(variant, outcome))
                    known[name] = outcome
                else:
                    outcome = known[name]
                outcomes[variant, seed] = outcome
                ended(Ended(len(outcomes), of, variant, outcome, kept))
    return outcomes


def read_outcomes(folder: Path) -> dict[str, Outcome]:
    """The outcomes of runs that found labels, by the run's name.

    Raises:
        RunError: the file cannot be read, or holds something else.
    """
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
                f"{folder / RESULTS}: a line lacks figures of its run: the file was damaged, or "
                "comes from another version. Name another folder."
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
    told: OnProgress | None,
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
            progress=told,
        )
    except (StoreError, RunError):
        raise  # no other run would fare better
    except IcmError as error:
        return Outcome(seed, error=str(error))
    return outcome_of(found)


def outcome_of(found: Labels) -> Outcome:
    """The figures of a run."""
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
    """What `label` is given as `start`; a start that is made is written to the folder."""
    if variant.made is None:
        return variant.start
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
    """First labels: a row's place -> its label word.

    Args:
        kind: `random-labels` labels every row; the others `initial` random rows that have gold,
            the same rows for both. This is the only place where gold becomes a first label, and
            it does so because that is what is measured.
        job: the rows.
        seed: decides which rows, and labels that are drawn.
        initial: `K`.
    """
    chance = np.random.default_rng((seed, 2))
    words = np.array(job.labels)
    if kind == "random-labels":
        return dict(enumerate(chance.choice(words, size=len(job.dataset.rows)).tolist()))
    gold = job.dataset.gold or ()
    places = [place for place, word in enumerate(gold) if word is not None]
    labels = {}
    for place in chance.permutation(places)[:initial].tolist():
        others = [word for word in job.labels if word != gold[place]]
        wrong = str(chance.choice(others))
        labels[place] = str(gold[place]) if kind == "golden" else wrong
    return labels
