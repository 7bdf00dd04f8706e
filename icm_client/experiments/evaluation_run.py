"""Run an evaluation over one open server and one score store.

The same call again asks the server nothing that it answered before, except a few reads that check
that the model is the same; a run that was interrupted resumes from there.

Gold labels reach the predictions of three methods only, and only those of train rows: the majority
class, golden labels, and random labels of the same accuracy as ICM's.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from icm_client.coherence.problem import UNLABELLED, BoolArray, IntArray
from icm_client.coherence.settings import SweepSettings
from icm_client.data import Task
from icm_client.data.rows import only
from icm_client.endpoints import Endpoint
from icm_client.errors import IcmError, InputError
from icm_client.experiments.baselines import (
    best_labels,
    calibrated,
    confident_labels,
    in_context,
    item_labels,
    longer_wins,
    majority,
    one_annotator_each,
    random_labels,
    with_errors,
    zero_shot,
)
from icm_client.experiments.comparison import FATAL, Meter
from icm_client.experiments.evaluation import (
    LABEL_SETS,
    TAUGHT_BY,
    Evaluation,
    Kind,
    Method,
    Split,
)
from icm_client.experiments.evaluation_results import Moment, OnMoment, Outcome
from icm_client.experiments.finetuned import Lesson, train_and_test
from icm_client.runs.label import label
from icm_client.runs.presets import Settings, fitted_job
from icm_client.runs.progress import Progress
from icm_client.runs.trainer import Trainer
from icm_client.scoring import (
    Pieces,
    Scorer,
    ScorerStats,
    ScoreStore,
    ScoringProgress,
    open_store,
)
from icm_client.scoring.drift import DriftCheck


async def run_evaluation(
    evaluation: Evaluation,
    *,
    endpoint: Endpoint,
    trainer: Trainer | None = None,
    store: ScoreStore | str | None = None,
    ended: Callable[[Outcome], None] = lambda _: None,
    progress: OnMoment | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> tuple[tuple[Outcome, ...], tuple[str, ...]]:
    """Run every method with every seed; the failure of one is recorded, and the next one runs.

    Models are trained last, those of all seeds together, as many at once as the trainer allows.

    Args:
        evaluation: the plan.
        endpoint: an open endpoint; it stays open.
        trainer: trains from the model that the endpoint serves; needed by methods that train.
        store: the score store's file, or an open store, which stays open; None stands for the
            user's own.
        ended: called with each outcome.
        progress: called as a method advances.
        stopping: asked before each request; once it returns True, requests under way are awaited
            and stored, and `RunStopped` is raised.

    Returns:
        The outcomes, seed by seed, those of trained models last; and notices for the user.

    Raises:
        InputError: the server's context does not hold two demos; or a method trains, and there is
            no trainer.
        SetupError: a package that training needs is missing.
        ModelChanged: another model answers.
        EndpointError: the server does not tokenize.
        StoreError: scores cannot be kept.
        RunStopped: `stopping` returned True.
    """
    if trainer is None and any(method.kind in TAUGHT_BY for method in evaluation.methods):
        raise InputError(
            "methods that fine-tune a model need a trainer: pass trainer=..., or --finetune on the "
            "command line"
        )
    with open_store(store) as kept:
        kept.record_server(endpoint.identity)
        wanted = SweepSettings(demos=evaluation.demos, averaged=evaluation.contexts)
        pieces, fitted, _, notice = await fitted_job(evaluation.job, wanted, endpoint, kept)
        assert isinstance(fitted, SweepSettings)  # noqa: S101 - `fit` keeps the kind
        if fitted.demos >= len(evaluation.splits[0].train):
            notice = None  # all rows that demos are drawn from fit
        outcomes: list[Outcome] = []
        lessons: list[Lesson] = []
        for seed, split in zip(evaluation.seeds, evaluation.splits, strict=True):
            bench = _Bench(
                evaluation, seed, split, endpoint, kept, pieces, fitted.demos, progress, stopping
            )
            for method in evaluation.methods:
                labels, outcome = await bench.run(method)
                if method.kind in TAUGHT_BY:
                    lessons.append(Lesson(split, labels, outcome))
                else:
                    outcomes.append(outcome)
                    ended(outcome)
        if trainer is not None and lessons:
            outcomes += await train_and_test(
                lessons,
                evaluation,
                trainer,
                kept,
                ended=ended,
                progress=progress,
                stopping=stopping,
            )
    return tuple(outcomes), (() if notice is None else (notice,))


_DRAWN: Final[dict[Kind, int]] = {"random": 11, "same-accuracy": 12, "human": 13, "longer": 14}
"""Each method has its own random numbers, so that adding one leaves the others as they are."""

_CONTEXTS: Final = 20


@dataclass(frozen=True, slots=True, eq=False)
class _LabelSet:
    """Label numbers, shape `[rows]`, `UNLABELLED` for rows without one; and what diagnosis says."""

    labels: IntArray
    verdict: str | None = None
    findings: tuple[str, ...] = ()


@dataclass(eq=False)
class _Bench:
    """One seed: label sets for its train rows, and predictions of its test rows."""

    evaluation: Evaluation
    seed: int
    split: Split
    endpoint: Endpoint
    store: ScoreStore
    pieces: Pieces
    demos: int
    progress: OnMoment | None
    stopping: Callable[[], bool]

    def __post_init__(self) -> None:
        self.job, self.items = self.evaluation.job, self.evaluation.job.row_items
        self.method = self.evaluation.methods[0]
        self.searched: dict[Settings, _LabelSet] = {}
        self.stats: list[ScorerStats] = []
        self.drift = DriftCheck(self.endpoint)

    async def run(self, method: Method) -> tuple[IntArray | None, Outcome]:
        """Label the train rows if the method does, and predict the test rows.

        A method that trains stops at the labels: its outcome has no predictions. An error is in the
        outcome, unless it is `FATAL`.

        Returns:
            The labels, shape `[rows]`, or None; and the outcome.
        """
        self.method, self.stats = method, []
        meter = Meter(self.endpoint)
        made: _LabelSet | None = None
        correct: BoolArray | None = None
        error: str | None = None
        try:
            source = TAUGHT_BY.get(method.kind, method.kind)
            if source in LABEL_SETS:
                made = await self._label_set(Method(source, method.search))
            if method.kind not in TAUGHT_BY:
                predicted = await (
                    self._predict(method) if made is None else self._predict_given(made)
                )
                correct = predicted == self.evaluation.gold[self.split.test]
        except FATAL:
            raise
        except IcmError as failed:
            error = str(failed)
        outcome = Outcome(method, self.seed, correct, error=error, spent=meter.spent(*self.stats))
        if made is None:
            return None, outcome
        labelled = made.labels != UNLABELLED
        right = (made.labels == self.evaluation.gold)[labelled]
        return made.labels, replace(
            outcome,
            labelled=int(labelled.sum()),
            label_accuracy=float(right.mean()) if len(right) else None,
            verdict=made.verdict,
            findings=made.findings,
        )

    async def _label_set(self, method: Method) -> _LabelSet:
        """Label the train rows by one of `LABEL_SETS`."""
        train, n_labels = self.split.train, len(self.job.labels)
        match method.kind:
            case "icm" | "bootstrap":
                return await self._found(method)
            case "golden":
                labels = self.evaluation.gold[train]
            case "same-accuracy":
                found = (await self._found(method)).labels[train]
                gold = self.evaluation.gold[train]
                there = found != UNLABELLED
                wrong = round(float((found != gold)[there].mean()) * len(train))
                labels = with_errors(gold, wrong, n_labels, self._rng(method))
            case "random":
                labels = random_labels(len(train), n_labels, self._rng(method))
            case "human":
                labels = one_annotator_each(self.evaluation.human or (), self._rng(method))[train]
            case "pseudo-labels":
                log_probs = await zero_shot(self.items[train], self._scorer())
                labels = confident_labels(calibrated(log_probs, self.job.prior))
            case _:
                raise ValueError(method)
        return _LabelSet(self._on_train(labels))

    async def _predict_given(self, made: _LabelSet) -> IntArray:
        """Predict the test rows in context, given labelled train rows; label numbers, `[test]`."""
        if (made.labels == UNLABELLED).all():
            raise InputError("no train row has a label")
        scores = await in_context(
            item_labels(self.job, made.labels),
            self.items[self.split.test],
            self._scorer(),
            n_labels=len(self.job.labels),
            demos=self.demos,
            contexts=self.evaluation.contexts,
            prior=self.job.prior,
            # The same for every method, so that contexts differ only as far as the labels do.
            rng=np.random.default_rng((self.seed, _CONTEXTS)),
        )
        return best_labels(scores)

    async def _predict(self, method: Method) -> IntArray:
        """Predict the test rows by a method without a label set; label numbers, `[test]`."""
        test = self.split.test
        match method.kind:
            case "majority":
                gold = self.evaluation.gold[self.split.train]
                return np.full(len(test), majority(gold, len(self.job.labels)))
            case "longer":
                longer = longer_wins(self.job, test.tolist(), self._rng(method))
                assert longer is not None  # noqa: S101 - the plan leaves it out otherwise
                return longer
            case "zero-shot":
                return best_labels(await zero_shot(self.items[test], self._scorer()))
            case "zero-shot-calibrated":
                log_probs = await zero_shot(self.items[test], self._scorer())
                return best_labels(calibrated(log_probs, self.job.prior))
            case "zero-shot-chat":
                score = self._scorer(await self._chat_pieces())
                return best_labels(await zero_shot(self.items[test], score))
            case _:
                raise ValueError(method)

    async def _found(self, method: Method) -> _LabelSet:
        """The labels that the method's search finds for the train rows; each search runs once."""
        settings = method.search
        if settings is None:
            raise ValueError(method)
        if settings not in self.searched:
            train = self.split.train
            task = self.job.task.model_dump()
            # The search gets the rows as from a user without gold labels.
            rows = replace(only(self.job.dataset, train.tolist()), gold=None, gold_field=None)
            found = await label(
                rows,
                task=Task(**{**task, "gold": None, "loader": None}),
                endpoint=self.endpoint,
                settings=settings,
                seed=self.seed,
                store=self.store,
                progress=self._report if self.progress else None,
                stopping=self.stopping,
            )
            self.stats.append(ScorerStats(found.cost.from_server, found.cost.from_store))
            numbers = {row.id: number for number, row in enumerate(rows.rows)}
            labels = np.full(len(train), UNLABELLED, dtype=np.int64)
            for row in found.rows:
                labels[numbers[row.row.id]] = self.job.labels.index(row.label)
            self.searched[settings] = _LabelSet(
                self._on_train(labels),
                found.verdict,
                tuple(finding.code for finding in found.findings),
            )
        return self.searched[settings]

    async def _chat_pieces(self) -> Pieces:
        """Pieces with the chat prompt before everything; the store keeps its token ids."""
        text = f"{self.evaluation.chat_prompt}{self.job.task.separator}"
        fingerprint = self.endpoint.identity.fingerprint
        (ids,) = self.store.get_tokens(fingerprint, [text], add_special=False)
        if ids is None:
            ids = await self.endpoint.tokenize(text, add_special=False)
            self.store.put_tokens(fingerprint, [text], [ids], add_special=False)
        return replace(self.pieces, bos=self.pieces.bos + ids)

    def _scorer(self, pieces: Pieces | None = None) -> Scorer:
        scorer = Scorer(
            self.endpoint,
            self.store,
            pieces or self.pieces,
            on_progress=self._report,
            stopping=self.stopping,
            drift=self.drift,
        )
        self.stats.append(scorer.stats)
        return scorer

    def _report(self, at: Progress | ScoringProgress) -> None:
        if self.progress is not None:
            self.progress(Moment(self.method, self.seed, at))

    def _rng(self, method: Method) -> np.random.Generator:
        return np.random.default_rng((self.seed, _DRAWN[method.kind]))

    def _on_train(self, labels: IntArray) -> IntArray:
        of_rows = np.full(len(self.job.dataset.rows), UNLABELLED, dtype=np.int64)
        of_rows[self.split.train] = labels
        return of_rows
