"""Where labelling breaks on a user's own rows: runs on rows with trouble in them.

    run the search on the rows as they are
    for each trouble (`icm_client.experiments.stress_rows`):
        run the same search on its rows
        are the labels wrong now, and does the verdict say so?

Labels are compared with gold, or without any with the undisturbed run's. They are `wrong` where

    they agree more with a planted feature than with the right ones (they have `turned`);
    fewer are right than of the undisturbed run's labels of the same rows, by over 10 points;
    there is no right label, as in impossible rows;
    the undisturbed run is at chance already, and they are not better by over 10 points.

A wrong run is a false trust where its verdict is `trust`.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Final

import numpy as np

from icm_client.data.job import Job
from icm_client.endpoints import Endpoint
from icm_client.errors import IcmError, InputError
from icm_client.experiments.comparison import FATAL, Record, csv_of, rounded
from icm_client.experiments.stress_rows import (
    KINDS,
    SHARES,
    Kind,
    Trouble,
    imbalance,
    impossible,
    salient,
    undisturbed,
)
from icm_client.runs.label import label
from icm_client.runs.presets import Settings, TrainedSettings, preset_of
from icm_client.runs.progress import OnProgress
from icm_client.runs.result import Labels
from icm_client.scoring import ScoreStore
from icm_client.stats.agreement import Labelling, agreement
from icm_client.verdict.findings import Verdict

FALL: Final = 0.1
"""A share of right labels that is lower by more than this is no chance of which rows were drawn."""

AT_CHANCE: Final = 0.2
"""Cohen's kappa with gold, below which labels are little better than chance."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one run ended.

    Attributes:
        kind: of trouble; None for the undisturbed rows, as in `Trouble`.
        name: the trouble's, and `strength` likewise.
        seed: of the search, and of the rows that were disturbed.
        rows: that got a label.
        right: share of them that is labelled as in gold, or without gold as in the undisturbed run;
            None where no label is right.
        before: the same of the undisturbed run's labels of the same rows.
        auroc: how well the log-odds of two labels order the rows, 0.5 for chance; None where there
            are more labels, no right ones, or one label alone is right.
        follows: share that is labelled as the planted feature says, or under exchanged names where
            that is more; 0.5 for chance. None where none is planted.
        turned: whether the labels follow the feature rather than what is right.
        wrong: whether they should not be trusted.
        verdict: the run's; None where it failed.
        findings: the diagnosis's codes.
        coherence: of the labels.
        reads: log-probs that the search needed, from the server or from the store.
        computed_tokens: prompt tokens that the server prefilled for this run.
        seconds: wall clock of this run.
        error: why the run failed, or None.
    """

    kind: Kind | None
    name: str
    strength: str
    seed: int
    rows: int = 0
    right: float | None = None
    before: float | None = None
    auroc: float | None = None
    follows: float | None = None
    turned: bool = False
    wrong: bool = False
    verdict: Verdict | None = None
    findings: tuple[str, ...] = ()
    coherence: float | None = None
    reads: int = 0
    computed_tokens: int = 0
    seconds: float = 0.0
    error: str | None = None

    @property
    def trusted(self) -> bool:
        """Whether the verdict is `trust`."""
        return self.verdict == "trust"

    @property
    def full_name(self) -> str:
        """Name and strength."""
        return f"{self.name} {self.strength}".rstrip()


@dataclass(frozen=True, slots=True)
class Stressed:
    """All runs.

    Attributes:
        outcomes: seed by seed, the undisturbed run first.
        gold: whether labels were compared with gold; else with the undisturbed run's.
        notices: sentences on what was left out.
    """

    outcomes: tuple[Outcome, ...]
    gold: bool
    notices: tuple[str, ...]

    @property
    def wrong(self) -> tuple[Outcome, ...]:
        """The runs whose labels are wrong."""
        return tuple(outcome for outcome in self.outcomes if outcome.wrong)

    @property
    def trusted_wrongly(self) -> tuple[Outcome, ...]:
        """Those of them whose verdict is `trust`."""
        return tuple(outcome for outcome in self.wrong if outcome.trusted)

    @property
    def false_trust(self) -> float | None:
        """Share of the wrong runs that were trusted; None where none was wrong."""
        return len(self.trusted_wrongly) / len(self.wrong) if self.wrong else None


Planned = tuple[Kind | None, str, str, int | None]
"""Kind, name, strength and number of rows; None where the undisturbed run's labels decide."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be run with a seed.

    Attributes:
        runs: the undisturbed one first.
        notices: sentences on what is left out.
    """

    runs: tuple[Planned, ...]
    notices: tuple[str, ...]


def plan_stress(job: Job, kinds: Sequence[Kind] = KINDS) -> Plan:
    """Return what would be run; nothing is sent."""
    made, notices = _troubles(job, kinds, 0, undisturbed_labels=None)
    runs: list[Planned] = [
        (one.kind, one.name, one.strength, len(one.dataset.rows)) for one in made
    ]
    if "imbalance" in kinds and _gold(job) is None and not job.constraint.groups:
        runs += [("imbalance", "imbalance", f"{share:.0%}", None) for share in SHARES]
    return Plan(tuple(runs), notices)


async def run_stress(
    job: Job,
    settings: Settings,
    *,
    kinds: Sequence[Kind] = KINDS,
    seeds: int = 1,
    start: str | None = None,
    endpoint: Endpoint,
    store: ScoreStore | str | os.PathLike[str] | None = None,
    ended: Callable[[Outcome], None] = lambda _: None,
    progress: OnProgress | None = None,
) -> Stressed:
    """Run the search on the rows as they are, and on those with trouble in them.

    The failure of one run is recorded, and the next one runs; not that of an undisturbed run.

    Args:
        job: rows and task. Gold judges the labels, and no run sees it.
        settings: of the search.
        kinds: which troubles to make.
        seeds: `0..seeds-1`, each with a search and disturbed rows of its own.
        start: first labels of each search, as in `icm_client.label`: a kind, not a file.
        endpoint: an open endpoint; it stays open.
        store: the score store's file, or an open store; None stands for the user's own.
        ended: called with each run that has ended.
        progress: called as a run advances.

    Raises:
        InputError: the settings train models, or the rows cannot be used.
        EndpointError, ScoreError: the undisturbed run failed.
        StoreError: scores cannot be kept.
        ModelChanged: another model answers.
    """
    if isinstance(settings, TrainedSettings):
        raise InputError(
            f"stress runs many searches in context, and {preset_of(settings)} trains models: take "
            "a preset that trains none, such as fast or bootstrap"
        )
    run = partial(
        label, endpoint=endpoint, settings=settings, start=start, store=store, progress=progress
    )
    outcomes: list[Outcome] = []
    notices: dict[str, None] = {}
    for seed in range(seeds):
        own = undisturbed(job)
        before = await run(own.dataset, task=own.task, seed=seed)
        judge = _Judge(_gold(job), before)
        outcomes.append(judge(own, seed, before))
        ended(outcomes[-1])
        made, left_out = _troubles(job, kinds, seed, undisturbed_labels=before)
        notices.update(dict.fromkeys(left_out))
        for trouble in made[1:]:
            try:
                found = await run(trouble.dataset, task=trouble.task, seed=seed)
                outcome = judge(trouble, seed, found)
            except FATAL:
                raise
            except IcmError as error:
                about = trouble.kind, trouble.name, trouble.strength
                outcome = Outcome(*about, seed, error=str(error))
            outcomes.append(outcome)
            ended(outcome)
    return Stressed(tuple(outcomes), _gold(job) is not None, tuple(notices))


def _troubles(
    job: Job, kinds: Sequence[Kind], seed: int, *, undisturbed_labels: Labels | None
) -> tuple[list[Trouble], tuple[str, ...]]:
    """All sets of rows, the undisturbed one first; imbalance only where its rows can be known."""
    found = [undisturbed(job)]
    notices: list[str] = []
    known: Labelling | None = _gold(job)
    order = np.random.default_rng((seed, 3)).permutation(len(job.dataset.rows)).tolist()
    if known is None and undisturbed_labels is not None:
        known = undisturbed_labels.by_id
        sure = {f"{row.row.id}": max(row.log_probs.values()) for row in undisturbed_labels.rows}
        ids = [f"{row.id}" for row in job.dataset.rows]
        order = sorted(order, key=lambda row: -sure.get(ids[row], -np.inf))
    for kind in kinds:
        if kind == "imbalance" and known is None:
            continue
        if kind == "salient":
            made, left_out = salient(job, seed)
        elif kind == "impossible":
            made, left_out = impossible(job, seed)
        else:
            labels = [known.get(f"{row.id}") for row in job.dataset.rows]  # type: ignore[union-attr]  # known above
            made, left_out = imbalance(job, labels, order)
        found += made
        notices += left_out
    return found, tuple(notices)


def _gold(job: Job) -> Labelling | None:
    """Row id -> gold label; None where no row has any."""
    pairs = zip(job.dataset.rows, job.dataset.gold or (), strict=False)
    return {f"{row.id}": gold for row, gold in pairs if gold is not None} or None


class _Judge:
    """Says of labels how many are right, and whether they should be trusted."""

    def __init__(self, gold: Labelling | None, before: Labels) -> None:
        self._before = before.by_id
        self._right = self._before if gold is None else gold
        kappa = agreement(self._right, self._before).kappa
        self._at_chance = gold is not None and (kappa is None or kappa < AT_CHANCE)

    def __call__(self, trouble: Trouble, seed: int, found: Labels) -> Outcome:
        labels = found.by_id
        outcome = Outcome(
            kind=trouble.kind,
            name=trouble.name,
            strength=trouble.strength,
            seed=seed,
            rows=len(labels),
            verdict=found.verdict,
            findings=tuple(finding.code for finding in found.findings),
            coherence=found.coherence,
            reads=found.cost.from_server + found.cost.from_store,
            computed_tokens=found.cost.computed_tokens,
            seconds=round(found.cost.seconds, 3),
        )
        if trouble.kind == "impossible":
            return replace(outcome, wrong=True)
        right = agreement(self._right, labels).share
        same_rows = {row: word for row, word in self._before.items() if row in labels}
        before = agreement(self._right, same_rows).share
        follows = None
        if trouble.feature is not None:
            ids = (f"{row.id}" for row in trouble.dataset.rows)
            planted = dict(zip(ids, trouble.feature, strict=True))
            follows = agreement(labels, planted).exchanged_share
        turned = follows is not None and follows > right
        fell = before - right > FALL
        lost = self._at_chance and right - before <= FALL
        return replace(
            outcome,
            right=right,
            before=before,
            auroc=_auroc(found, self._right),
            follows=follows,
            turned=turned,
            wrong=turned or fell or lost,
        )


def _auroc(found: Labels, right: Labelling) -> float | None:
    """The area under the ROC curve of two labels' log-odds: Mann and Whitney's statistic."""
    if len(found.labels) != 2:  # noqa: PLR2004
        return None
    first, second = found.labels
    odds: dict[bool, list[float]] = {True: [], False: []}
    for row in found.rows:
        if (known := right.get(f"{row.row.id}")) is not None:
            odds[known == first].append(row.log_probs[first] - row.log_probs[second])
    above = np.subtract.outer(odds[True], odds[False])
    return float((above > 0).mean() + (above == 0).mean() / 2) if above.size else None


def table(stressed: Stressed) -> list[Record]:
    """One record a run."""
    return [
        {
            **asdict(outcome),
            "kind": outcome.kind or "",
            **{
                name: rounded(getattr(outcome, name))
                for name in ("right", "before", "auroc", "follows", "coherence")
            },
            "findings": " ".join(outcome.findings),
        }
        for outcome in stressed.outcomes
    ]


def csv_text(stressed: Stressed) -> str:
    """The table as CSV."""
    return csv_of(table(stressed))


def document(stressed: Stressed) -> Mapping[str, object]:
    """All runs and what they come to, for JSON; figures are not rounded."""
    return {
        "compared_with": "gold" if stressed.gold else "undisturbed",
        "runs": [asdict(outcome) for outcome in stressed.outcomes],
        "wrong": len(stressed.wrong),
        "trusted_wrongly": [outcome.full_name for outcome in stressed.trusted_wrongly],
        "false_trust": stressed.false_trust,
        "summary": summary(stressed),
        "notices": list(stressed.notices),
    }


def summary(stressed: Stressed) -> list[str]:
    """What all runs come to, in sentences."""
    said = []
    first, disturbed = stressed.outcomes[0], [one for one in stressed.outcomes if one.kind]
    if first.wrong:
        said.append(
            f"The labels of the rows as they are ({first.right:.1%} right) are little better than "
            "chance, before any trouble is made."
        )
    wrong, ended = stressed.wrong, [one for one in stressed.outcomes if one.verdict is not None]
    runs = f"{len(wrong)} of {len(ended)} runs"
    if not wrong:
        said.append(f"The labels were wrong in {runs}.")
    elif not stressed.trusted_wrongly:
        said.append(f"The labels were wrong in {runs}, and the verdict trusts none of these.")
    else:
        believed = stressed.trusted_wrongly
        said.append(
            f"The labels were wrong in {runs}, and the verdict trusts {len(believed)} of these "
            f"({stressed.false_trust:.0%}): {_names(believed)}."
        )
    spoilt = [one for one in disturbed if one.kind == "salient" and one.wrong]
    if spoilt and not first.wrong:
        said.append(f"A planted feature spoils them: {_names(spoilt)}.")
    turned = [one for one in disturbed if one.turned]
    if turned:
        said.append(f"They follow it rather than what is right: {_names(turned)}.")
    sound = [one for one in ended if not one.wrong]
    if sound:
        trusted = sum(one.trusted for one in sound)
        said.append(f"The verdict trusts {trusted} of the {len(sound)} others.")
    return said


def _names(outcomes: Sequence[Outcome]) -> str:
    """The troubles' names, each once."""
    return ", ".join(dict.fromkeys(outcome.full_name for outcome in outcomes))
