"""One seed of an evaluation: labels for its train rows, and predictions for its test rows.

Gold reaches predictions in three methods only, and of train rows only: the majority class, golden
labels, and random labels of the same accuracy as ICM's.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from icm_client.coherence.contexts import UNLABELLED
from icm_client.coherence.problem import BoolArray, IntArray
from icm_client.coherence.settings import SweepSettings
from icm_client.data import Task
from icm_client.data.rows import only
from icm_client.endpoints import Endpoint
from icm_client.errors import IcmError, InputError, ModelChanged, RunError, RunStopped, StoreError
from icm_client.experiments.baselines import (
    behind_labels,
    best_labels,
    calibrated,
    confident_labels,
    item_labels,
    longer_wins,
    majority,
    one_rater_each,
    random_labels,
    spoilt,
    zero_shot,
)
from icm_client.experiments.evaluation import (
    LABEL_SETS,
    TAUGHT_BY,
    Evaluation,
    Kind,
    Method,
    Split,
)
from icm_client.experiments.evaluation_table import Outcome, Spent
from icm_client.runs.label import label
from icm_client.runs.presets import Settings
from icm_client.runs.progress import Progress
from icm_client.runs.trainer import TrainingProgress
from icm_client.scoring import Pieces, Scorer, ScorerStats, ScoreStore, ScoringProgress
from icm_client.scoring.drift import DriftCheck

_DRAWN: dict[Kind, int] = {"random": 11, "same-accuracy": 12, "human": 13, "longer": 14}
"""What is drawn for one method moves nothing that is drawn for another."""

_CONTEXTS = 20


@dataclass(frozen=True, slots=True, eq=False)
class LabelSet:
    """Labels for train rows.

    Attributes:
        labels: shape `[rows]`, label numbers as in `Job.labels`; `UNLABELLED` for rows that the
            method left out, and for all test rows.
        verdict: the diagnosis's, for ICM's.
        findings: its codes.
    """

    labels: IntArray
    verdict: str | None = None
    findings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """A moment of a method that goes on: of its search, of its reads, or of its training."""

    method: Method
    seed: int
    at: Progress | ScoringProgress | TrainingProgress


OnMoment = Callable[[Moment], None]


class Bench:
    """One seed's train and test rows over one server: label sets, and predictions from them.

    Args:
        evaluation: rows, methods and numbers.
        seed: of all that is random here.
        split: its rows.
        endpoint: open.
        store: open.
        pieces: the token ids of the job's items.
        fitted: how many demos a context holds, and how many contexts are averaged.
        progress: told as a method goes on.
        stopping: asked before a request is begun; once it says so, a method raises `RunStopped`.
    """

    def __init__(
        self,
        evaluation: Evaluation,
        *,
        seed: int,
        split: Split,
        endpoint: Endpoint,
        store: ScoreStore,
        pieces: Pieces,
        fitted: SweepSettings,
        progress: OnMoment | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._evaluation, self._job = evaluation, evaluation.job
        self._seed, self._split = seed, split
        self._endpoint, self._store, self._pieces, self._fitted = endpoint, store, pieces, fitted
        self._progress, self._stopping = progress, stopping
        self._method = evaluation.methods[0]
        self._items = self._job.row_items
        self._searched: dict[Settings, LabelSet] = {}
        self._stats: list[ScorerStats] = []
        self._drift = DriftCheck(endpoint)

    async def outcome(self, method: Method) -> Outcome:
        """Run one method; what it fails of is in the outcome.

        Raises:
            ModelChanged, RunStopped, RunError, StoreError: no other method would fare better.
        """
        return (await self._run(method, predicts=True))[1]

    async def lesson(self, method: Method) -> tuple[LabelSet | None, Outcome]:
        """Label the train rows that a model is to be trained on; the outcome has no predictions.

        Returns:
            The labels, and what they took; None for labels where the outcome has an error.

        Raises:
            ModelChanged, RunStopped, RunError, StoreError: as `outcome`.
        """
        return await self._run(method, predicts=False)

    async def _run(self, method: Method, *, predicts: bool) -> tuple[LabelSet | None, Outcome]:
        self._method, self._stats = method, []
        before, started = replace(self._endpoint.usage), time.monotonic()
        made: LabelSet | None = None
        correct: BoolArray | None = None
        error: str | None = None
        try:
            source = TAUGHT_BY.get(method.kind, method.kind)
            if source in LABEL_SETS:
                made = await self.label_set(Method(source, method.search))
            if predicts:
                behind = self.predict(method) if made is None else self.predict_behind(made)
                correct = await behind == self._evaluation.gold[self._split.test]
        except (StoreError, RunError, RunStopped, ModelChanged):
            raise
        except IcmError as failed:
            error = str(failed)
        usage = self._endpoint.usage
        spent = Spent(
            sum(stats.asked + stats.from_store for stats in self._stats),
            usage.requests - before.requests,
            usage.computed_tokens - before.computed_tokens,
            round(time.monotonic() - started, 3),
        )
        labelled, accuracy = (None, None) if made is None else self._held(made.labels)
        return made, Outcome(
            method,
            self._seed,
            correct=correct,
            labelled=labelled,
            label_accuracy=accuracy,
            verdict=None if made is None else made.verdict,
            findings=() if made is None else made.findings,
            spent=spent,
            error=error,
        )

    async def label_set(self, method: Method) -> LabelSet:
        """Label the train rows, as one of `LABEL_SETS` does.

        Raises:
            IcmError: whatever a search or a scorer raises.
        """
        train, n_labels = self._split.train, len(self._job.labels)
        match method.kind:
            case "icm":
                return await self._icm(method)
            case "golden":
                labels = self._evaluation.gold[train]
            case "same-accuracy":
                found = (await self._icm(method)).labels[train]
                gold = self._evaluation.gold[train]
                there = found != UNLABELLED
                wrong = round(float((found != gold)[there].mean()) * len(train))
                labels = spoilt(gold, wrong, n_labels, self._chance(method))
            case "random":
                labels = random_labels(len(train), n_labels, self._chance(method))
            case "human":
                labels = one_rater_each(self._evaluation.raters or (), self._chance(method))[train]
            case "pseudo-labels":
                log_probs = await zero_shot(self._items[train], self._scorer())
                labels = confident_labels(calibrated(log_probs, self._job.prior))
            case _:
                raise ValueError(method)
        return LabelSet(self._on_train(labels))

    async def predict_behind(self, made: LabelSet) -> IntArray:
        """Predict the test rows behind contexts of labelled train rows; label numbers, `[test]`.

        Raises:
            InputError: no train row has a label.
            EndpointError, ScoreError, StoreError: as `Scorer`.
        """
        if (made.labels == UNLABELLED).all():
            raise InputError("no train row has a label")
        scores = await behind_labels(
            item_labels(self._job, made.labels),
            self._items[self._split.test],
            self._scorer(),
            n_labels=len(self._job.labels),
            demos=self._fitted.demos,
            contexts=self._fitted.averaged,
            prior=self._job.prior,
            # The same for every method: contexts differ no more than the labels make them.
            rng=np.random.default_rng((self._seed, _CONTEXTS)),
        )
        return best_labels(scores)

    async def predict(self, method: Method) -> IntArray:
        """Predict the test rows as a method without a label set does; label numbers, `[test]`.

        Raises:
            EndpointError, ScoreError, StoreError: as `Scorer`.
        """
        test = self._split.test
        match method.kind:
            case "majority":
                gold = self._evaluation.gold[self._split.train]
                return np.full(len(test), majority(gold, len(self._job.labels)))
            case "longer":
                longer = longer_wins(self._job, test.tolist(), self._chance(method))
                assert longer is not None  # noqa: S101 - the plan has looked
                return longer
            case "zero-shot":
                return best_labels(await zero_shot(self._items[test], self._scorer()))
            case "zero-shot-calibrated":
                log_probs = await zero_shot(self._items[test], self._scorer())
                return best_labels(calibrated(log_probs, self._job.prior))
            case "zero-shot-chat":
                score = self._scorer(await self._preamble())
                return best_labels(await zero_shot(self._items[test], score))
            case _:
                raise ValueError(method)

    async def _icm(self, method: Method) -> LabelSet:
        """ICM's labels for the train rows, whose gold stays here."""
        settings = method.search
        if settings is None:
            raise ValueError(method)
        if settings not in self._searched:
            train = self._split.train
            task = self._job.task.model_dump()
            # As the rows of a user who has no gold: none for the search, none to be taken anew.
            rows = replace(only(self._job.dataset, train.tolist()), gold=None, gold_field=None)
            found = await label(
                rows,
                task=Task(**{**task, "gold": None, "loader": None}),
                endpoint=self._endpoint,
                settings=settings,
                seed=self._seed,
                store=self._store,
                progress=self._tell if self._progress else None,
                stopping=self._stopping,
            )
            self._stats.append(ScorerStats(found.cost.from_server, found.cost.from_store))
            numbers = {row.id: number for number, row in enumerate(rows.rows)}
            labels = np.full(len(train), UNLABELLED, dtype=np.int64)
            for row in found.rows:
                labels[numbers[row.row.id]] = self._job.labels.index(row.label)
            self._searched[settings] = LabelSet(
                self._on_train(labels),
                found.verdict,
                tuple(finding.code for finding in found.findings),
            )
        return self._searched[settings]

    async def _preamble(self) -> Pieces:
        """Pieces with the chat prompt in front of everything; its ids are kept in the store."""
        text = f"{self._evaluation.chat_prompt}{self._job.task.separator}"
        fingerprint = self._endpoint.identity.fingerprint
        (ids,) = self._store.get_tokens(fingerprint, [text], add_special=False)
        if ids is None:
            ids = await self._endpoint.tokenize(text, add_special=False)
            self._store.put_tokens(fingerprint, [text], [ids], add_special=False)
        return replace(self._pieces, bos=self._pieces.bos + ids)

    def _scorer(self, pieces: Pieces | None = None) -> Scorer:
        scorer = Scorer(
            self._endpoint,
            self._store,
            pieces or self._pieces,
            on_progress=self._tell,
            stopping=self._stopping,
            drift=self._drift,
        )
        self._stats.append(scorer.stats)
        return scorer

    def _tell(self, at: Progress | ScoringProgress) -> None:
        if self._progress is not None:
            self._progress(Moment(self._method, self._seed, at))

    def _chance(self, method: Method) -> np.random.Generator:
        return np.random.default_rng((self._seed, _DRAWN[method.kind]))

    def _on_train(self, labels: IntArray) -> IntArray:
        of_rows = np.full(len(self._job.dataset.rows), UNLABELLED, dtype=np.int64)
        of_rows[self._split.train] = labels
        return of_rows

    def _held(self, labels: IntArray) -> tuple[int, float | None]:
        """How many rows are labelled, and the share of them whose label is gold."""
        there = labels != UNLABELLED
        right = (labels == self._evaluation.gold)[there]
        return int(there.sum()), float(right.mean()) if len(right) else None
