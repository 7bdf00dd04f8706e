"""Run the variants of an ablation, one after the other, and keep what each one ended with.

A run's figures are one line of `results.jsonl`, appended when it ends. The same command again takes
what is there, runs what is missing or failed, and asks the server nothing that any run has asked.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import orjson

from icm_client.coherence.contexts import in_units
from icm_client.data import Dataset
from icm_client.data.constraint_spec import ConstraintSpec
from icm_client.data.job import Job
from icm_client.data.values import write_json
from icm_client.endpoints import Endpoint
from icm_client.errors import IcmError, InputError, RunError, StoreError
from icm_client.experiments.ablation import MadeStart, Outcome, Plan, Variant
from icm_client.record.description import RunDescription
from icm_client.record.folder import owned, replace_file
from icm_client.record.journal import Journal, read
from icm_client.runs.label import label
from icm_client.runs.labels_file import read_start
from icm_client.runs.presets import run_settings
from icm_client.runs.progress import OnProgress
from icm_client.runs.result import Labels
from icm_client.scoring import ScoreStore

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


def some_rows(job: Job, count: int) -> Dataset:
    """A seeded sample of at most `count` rows, in their order; a rule's groups come whole.

    Raises:
        InputError: fewer than two rows would be left.
    """
    units = in_units(np.random.default_rng(0).permutation(len(job.items)), job.constraint.groups)
    chosen: set[int] = set()
    for unit in units:
        rows = {job.items[item].row for item in unit} - chosen
        if len(chosen) + len(rows) <= count:
            chosen |= rows
    if len(chosen) < 2:  # noqa: PLR2004
        raise InputError(
            f"{len(chosen)} of the rows, in whole groups, fit into {count}: ask for more"
        )
    data = job.dataset
    kept = sorted(chosen)
    return replace(
        data,
        rows=tuple(data.rows[row] for row in kept),
        gold=None if data.gold is None else tuple(data.gold[row] for row in kept),
    )
