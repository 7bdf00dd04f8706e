"""What another model says of a run's labels: `second_opinion`. Its search is not repeated.

    split the run's rows in two halves, groups kept whole
    C_f <- balanced demos from the other half, with the run's labels
    s_i <- log P(y | x_i, C_f) - log mean_j P(y | x_j, C_f)     each row is read once
    U   <- mean_i s_i(y_i)                                      of the run's labels y
    b   <- where s shows a group for each label: theirs | else those of the run's shares
    log-odds of a label <- s_i(y_i) + b(y_i) - max over other labels of s_i(y) + b(y)

Labels that were found with one model and follow what another sees, too, come from the rows. A row's
log-odds under 0 say that the other model, given the run's labels of other rows, disputes its label.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from icm_client.coherence.calibration import (
    coherence,
    label_counts,
    log_softmax,
    utility_of,
)
from icm_client.coherence.given import read_given
from icm_client.coherence.label_prior import estimate_prior, offsets_for_prior
from icm_client.coherence.problem import UNLABELLED, FloatArray, IntArray
from icm_client.coherence.simple import FewShotSettings
from icm_client.data import FileFormat, Row
from icm_client.data.job import Job
from icm_client.data.outputs import explained, output_target
from icm_client.data.record_files import write_records
from icm_client.data.whole_files import replaced
from icm_client.endpoints import Endpoint, ServerIdentity
from icm_client.errors import InputError, TooManyFailed
from icm_client.record.archive import find_run
from icm_client.record.layout import DEFAULT_BASE
from icm_client.runs.frozen import Found
from icm_client.runs.predictor import Predictor
from icm_client.runs.presets import fitted_job
from icm_client.runs.row_lengths import within_limit
from icm_client.runs.search import DEFAULT_FAIL_ON_ERROR
from icm_client.runs.server import Server, open_endpoint
from icm_client.scoring import Scorer, ScorerStats, ScoreStore, ScoringProgress, open_store
from icm_client.stats.agreement import Agreement, agreement
from icm_client.stats.votes import HARDLY, SOME, exchanged

_SEED = 21  # with the run's seed, of halves and demos: the search drew its own from the seed alone
_OWN = ("utility", "coherence")
_TWO = 2


@dataclass(frozen=True, slots=True)
class JudgedRow:
    """A row's label, as the other model sees it.

    Attributes:
        row: the user's row.
        label: that the run gave it.
        other: the likeliest of the other labels.
        log_odds: of `label` against `other`, nats; under 0 the model disputes it.
        probability: of `label`, 0 to 1.
    """

    row: Row
    label: str
    other: str
    log_odds: float
    probability: float

    @property
    def agrees(self) -> bool:
        """Whether the model would give the row the run's label."""
        return self.log_odds >= 0

    def record(self) -> dict[str, Any]:
        """Return what is written of the row, without its own fields."""
        return {
            "id": self.row.id,
            "label": self.label,
            "agrees": self.agrees,
            "log_odds": self.log_odds,
            "probability": self.probability,
            "other": self.other,
        }


@dataclass(frozen=True, slots=True)
class SecondOpinion:
    """What a model says of a run's labels.

    Attributes:
        run: its name.
        rows: those that were read, the most disputed first.
        server: who was asked.
        utility: calibrated `U` of the run's labels, nats an item.
        standard_error: of `utility`.
        coherence: `utility` as a share of the labels' entropy.
        agreement: of the labels that the model would give, first, with the run's.
        own: the run's own server, `utility` and `coherence`, for which its labels were chosen.
        unread: ids of rows that the server could not score.
        stats: what was asked.
    """

    run: str
    rows: tuple[JudgedRow, ...]
    server: ServerIdentity
    utility: float
    standard_error: float
    coherence: float
    agreement: Agreement
    own: Mapping[str, Any]
    unread: tuple[str | int, ...]
    stats: ScorerStats

    @property
    def finds(self) -> Literal["coherent", "faintly coherent", "incoherent"]:
        """Whether the model's labels agree with the run's beyond chance, by the kappas of a vote.

        `utility` alone does not say so: a model that is 5 nats sure of each row has a coherence of
        14% for labels of which it disputes a tenth.
        """
        kappa = self.agreement.kappa or 0.0
        return (
            "incoherent" if kappa < HARDLY else "faintly coherent" if kappa < SOME else "coherent"
        )

    @property
    def disputed(self) -> tuple[JudgedRow, ...]:
        """The rows whose label the model disputes, the most disputed first."""
        return tuple(row for row in self.rows if not row.agrees)

    def sentence(self) -> str:
        """Return in a sentence what the model finds."""
        alike = self.agreement
        kappa = "-" if alike.kappa is None else f"{alike.kappa:.2f}"
        figures = f"{len(self.disputed):,} of {alike.rows:,} labels, kappa {kappa}"
        if exchanged(alike):
            renamed = ", ".join(f"{theirs} as {ours}" for theirs, ours in alike.names.items())
            return (
                f"{self.server.model} has these classes under exchanged names ({renamed}): it "
                f"disputes {figures}"
            )
        if self.finds == "incoherent":
            return (
                f"{self.server.model} finds these labels incoherent: given the others, it disputes "
                f"{figures}; they follow nothing that it sees in the rows"
            )
        return f"{self.server.model} finds these labels {self.finds}, and disputes {figures}"

    def write(self, path: str | os.PathLike[str], *, format: FileFormat | None = None) -> None:  # noqa: A002 - the word that users know
        """Write a line a row: id, label, agrees, log_odds, probability, other, then its fields.

        Rows that the model disputes stand first. A field with one of these names is left to us.

        Raises:
            InputError: the file cannot be written.
            SetupError: a Parquet or Arrow file, but pyarrow is not installed.
        """
        records = [{**one.record(), **one.row.fields, **one.record()} for one in self.rows]
        columns = list(dict.fromkeys(column for record in records for column in record))
        name = os.fspath(path)
        with explained(name), replaced(output_target(name)) as file:
            write_records(file, name, format, columns, records)

    def summary(self) -> dict[str, Any]:
        """Return everything as JSON values, of the rows without their fields."""
        return {
            "run": self.run,
            "server": asdict(self.server),
            "finds": self.finds,
            "utility": self.utility,
            "standard_error": self.standard_error,
            "coherence": self.coherence,
            "agreement": asdict(self.agreement),
            "own": dict(self.own),
            "disputed": len(self.disputed),
            "rows": [row.record() for row in self.rows],
            "unread": list(self.unread),
            "cost": asdict(self.stats),
        }


async def second_opinion(
    run: str | os.PathLike[str],
    *,
    endpoint: Endpoint | Server | str | None = None,
    store: ScoreStore | str | os.PathLike[str] | None = None,
    runs: str | os.PathLike[str] = DEFAULT_BASE,
    on_progress: Callable[[ScoringProgress], None] | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> SecondOpinion:
    """Have a model read every row of a run once, given the run's labels of others.

    Args:
        run: its folder, name, or the beginning of its name. The rows are in its folder.
        endpoint: as for `icm_client.label`.
        store: as for `icm_client.label`.
        runs: the folder of all runs.
        on_progress: called as rows are scored.
        stopping: as for `icm_client.label`.

    Raises:
        InputError: there is no such run, it has no labels yet, or all rows have one label.
        TooManyFailed: over a twentieth of the rows cannot be scored.
        RunError, EndpointError, ScoreError, StoreError, RunStopped: as `icm_client.label`.
    """
    kept = find_run(os.fspath(run), Path(runs))
    found = Predictor.load(kept.path).found
    job = found.job()
    labels = found.of_items(job)[0]
    if len(np.unique(labels)) < _TWO:
        raise InputError(
            f"the run {found.run} gives all rows one label: there is nothing to be coherent"
        )
    stats = ScorerStats()
    with open_store(store) as scores_kept:
        async with open_endpoint(endpoint, stopping=stopping) as server:
            scores = await _read(
                found,
                job,
                labels,
                server,
                scores_kept,
                stats=stats,
                on_progress=on_progress,
                stopping=stopping,
            )
            identity = server.identity
    scored = np.isfinite(scores).all(axis=1).reshape(-1)
    unread = [
        row.row.id for row, item in zip(found.rows, job.row_items, strict=True) if not scored[item]
    ]
    if len(unread) > DEFAULT_FAIL_ON_ERROR * len(found.rows):
        raise TooManyFailed(
            f"{identity.model} could not score {len(unread):,} of the {len(found.rows):,} rows of "
            f"the run {found.run}, of which the first is {unread[0]!r}: ask another server"
        )
    decided = scores + _offsets(scores[scored], labels[scored], job.prior)
    rows = [
        _judged(one.row, labels[item], decided[item], job.labels)
        for one, item in zip(found.rows, job.row_items, strict=True)
        if scored[item]
    ]
    labels = np.where(scored, labels, UNLABELLED)
    told = scores[scored, labels[scored]]
    utility, own = utility_of(scores, labels), kept.result or {}
    return SecondOpinion(
        run=found.run,
        rows=tuple(sorted(rows, key=lambda row: row.log_odds)),
        server=identity,
        utility=utility,
        standard_error=float(told.std(ddof=1) / np.sqrt(len(told))),
        coherence=coherence(utility, label_counts(labels, len(job.labels))),
        agreement=agreement(
            {str(row.row.id): row.label if row.agrees else row.other for row in rows},
            {str(row.row.id): row.label for row in rows},
        ),
        own={"server": asdict(found.server), **{name: own.get(name) for name in _OWN}},
        unread=tuple(unread),
        stats=stats,
    )


async def _read(
    found: Found,
    job: Job,
    labels: IntArray,
    server: Endpoint,
    store: ScoreStore,
    *,
    stats: ScorerStats,
    on_progress: Callable[[ScoringProgress], None] | None,
    stopping: Callable[[], bool],
) -> FloatArray:
    """Calibrated scores `[N, K]` of all items, nats; NaN of those that the server cannot score."""
    store.record_server(server.identity)
    within = await within_limit(job, found.row_limit, server, store)
    pieces, settings, unusable, _ = await fitted_job(
        within.job,
        FewShotSettings(rounds=0),
        server,
        store,
        skip_bad_rows=True,
        too_long=within.too_long,
    )
    assert isinstance(settings, FewShotSettings)  # noqa: S101 - `fit` keeps the kind
    spoilt = set(unusable)  # not to be shown
    scorer = Scorer(
        server,
        store,
        pieces,
        on_progress=on_progress,
        on_failed=lambda failed: spoilt.update(item for item in failed if failed[item].as_demo),
        stopping=stopping,
        unusable=unusable,
    )
    scorer.stats = stats
    while True:
        known, usable = len(spoilt), labels.copy()
        usable[list(spoilt)] = UNLABELLED
        read = await read_given(
            usable,
            len(job.labels),
            job.constraint.groups,
            scorer,
            demos=settings.demos,
            contexts=1,
            rng=np.random.default_rng((found.seed, _SEED)),
        )
        if len(spoilt) == known:
            return read.scores


def _offsets(scores: FloatArray, labels: IntArray, prior: FloatArray | None) -> FloatArray:
    """What is added to scores `[n, K]` before labels are chosen, `[K]`."""
    found = estimate_prior(scores, prior)
    if found.source != "even":
        return found.offsets
    counts = np.array(label_counts(labels, scores.shape[1]))
    return offsets_for_prior(scores, np.maximum(counts, 1) / np.maximum(counts, 1).sum())


def _judged(row: Row, label: int, decided: FloatArray, words: tuple[str, ...]) -> JudgedRow:
    rest = np.where(np.arange(len(words)) == label, -np.inf, decided)
    other = int(rest.argmax())
    return JudgedRow(
        row,
        words[label],
        words[other],
        float(decided[label] - decided[other]),
        float(np.exp(log_softmax(decided)[label])),
    )
