r"""Simpler methods, to judge a search by: zero-shot, random demos, and bootstrapping.

Demos with random labels, and then the model's own predictions as demos, recover most of what golden
demos are worth on the paper's tasks (Shrivastava et al. 2026, "Eliciting base models with simple
unsupervised techniques"). `C` is a context for each of `F` parts, of demos from the other parts.

    zero-shot               s_i <- log P(y | x_i)
    zero-shot-calibrated    s_i <- log P(y | x_i) - log mean_j P(y | x_j)

    random, bootstrap       D <- random labels that keep the rule
                            for round 0, 1, .., R:              (random: R = 0; bootstrap: 2)
                                C <- up to 64 demos of D, equally many of each label
                                s_i <- log P(y | x_i, C) - log mean_j P(y | x_j, C)
                                D <- argmax under the rule of s + b

    b <- given prior | where the scores show a group for each label: theirs | 0
    return argmax under the rule of s + b, pins fixed

Demos are drawn and scores calibrated as in the `fast` search, so that methods differ in their
labels alone. Plain `zero-shot` shifts scores by a given prior only.

A verdict needs labels read in the context of each other. So the labels of `zero-shot` and `random`,
which no such demos decided, are read once more, given the labels found; it changes none. Names are
left as they are: zero-shot scores, and those given random demos, follow what the label words say.
"""

from dataclasses import dataclass, field

import numpy as np

from icm_client.coherence.assignment import JointAssignment, prepared
from icm_client.coherence.calibration import (
    coherence,
    label_counts,
    log_softmax,
    pointwise_mutual_information,
    utility_of,
)
from icm_client.coherence.contexts import (
    ScoredFold,
    joined,
    last_asked,
    part_contexts,
    score_folds,
)
from icm_client.coherence.label_names import exchange_names_in_folds
from icm_client.coherence.label_prior import PriorEstimate, estimate_prior
from icm_client.coherence.problem import (
    UNLABELLED,
    FloatArray,
    IntArray,
    Problem,
    Query,
    Score,
)
from icm_client.coherence.result import UNWATCHED, SearchResult, SweepRecord, Watch
from icm_client.errors import InputError


@dataclass(frozen=True, slots=True)
class ZeroShotSettings:
    """Each row by itself, without demos.

    Attributes:
        calibrated: each label's mean probability over the rows is divided out.
        demos: the most in a context in which the labels found are judged.
        folds: `F`, parts that are judged given demos of the others.
    """

    calibrated: bool = False
    demos: int = 64
    folds: int = 2

    def __post_init__(self) -> None:
        """Refuse numbers that nothing can be done with; raises `InputError`."""
        _check(self)


@dataclass(frozen=True, slots=True)
class FewShotSettings:
    """Each row given demos: with random labels, then with the labels that were predicted.

    Attributes:
        rounds: `R`, how often the predictions become the next demos; 0 stops at random demos.
        demos: `C`, the most in a context.
        folds: `F`, parts that are scored given demos of the others.
    """

    rounds: int = 2
    demos: int = 64
    folds: int = 2

    def __post_init__(self) -> None:
        """Refuse numbers that nothing can be done with; raises `InputError`."""
        _check(self)
        if self.rounds < 0:
            raise InputError(f"rounds must be at least 0, not {self.rounds}")

    @property
    def initial(self) -> int:
        """Rows that a start of a given kind labels: as many as a context shows."""
        return self.demos


SimpleSettings = ZeroShotSettings | FewShotSettings


def _check(settings: SimpleSettings) -> None:
    for name in ("demos", "folds"):
        if getattr(settings, name) < 2:  # noqa: PLR2004
            raise InputError(f"{name} must be at least 2, not {getattr(settings, name)}")


async def search(
    problem: Problem,
    score: Score,
    *,
    settings: SimpleSettings,
    rng: np.random.Generator,
    watch: Watch = UNWATCHED,
) -> SearchResult:
    """Label all items by one of these methods.

    Args:
        problem: at least 2 items. First labels stand in the place of random ones.
        score: the only I/O.
        settings: which of them, and its numbers.
        rng: the only source of chance; the result is a function of it, the settings and the scores.
        watch: follows each round. Its `stop` is asked after each; the labels are then those of the
            last round.

    Raises:
        InputError: the rule allows a group no labels, or forbids the pins. Nothing was asked yet.
        EndpointError, ScoreError: whatever `score` raises.
    """
    problem, assign = prepared(problem)
    method = _Method(problem, score, settings, rng, watch, assign)
    found = await (
        method.zero_shot(calibrated=settings.calibrated)
        if isinstance(settings, ZeroShotSettings)
        else method.few_shot(settings.rounds)
    )
    folds = found.folds
    if not folds:
        folds = await method.read(found.labels)
        method.record(found.labels, joined(folds, found.scores.shape)[0])
    utility = method.history[-1].utility
    decided = found.scores + found.prior.offsets
    labels, by_confidence = assign(problem.hold_pins(decided))
    labels = problem.reported(labels, decided)
    return SearchResult(
        labels=labels,
        log_probs=log_softmax(decided),
        utility=utility,
        coherence=coherence(utility, label_counts(labels, problem.n_labels)),
        restart=0,
        prior=found.prior,
        exchange=await exchange_names_in_folds(folds, labels, score),
        history=tuple(method.history),
        by_confidence=by_confidence,
        stopped=found.stopped,
        label_mass=found.label_mass,
        last_asked=last_asked(folds[0].context, folds[0].targets),
    )


@dataclass(frozen=True, slots=True)
class _Found:
    """Labels, before they are judged.

    Attributes:
        labels: shape `[N]`.
        scores: shape `[N, K]`, nats.
        prior: what is added to them.
        label_mass: shape `[N]`.
        folds: what decided the labels, where their demos had labels that were predicted; else none.
        stopped: whether `Watch.stop` ended the rounds.
    """

    labels: IntArray
    scores: FloatArray
    prior: PriorEstimate
    label_mass: FloatArray
    folds: list[ScoredFold]
    stopped: bool = False


@dataclass(slots=True)
class _Method:
    problem: Problem
    score: Score
    settings: SimpleSettings
    rng: np.random.Generator
    watch: Watch
    assign: JointAssignment
    history: list[SweepRecord] = field(default_factory=list)

    async def zero_shot(self, *, calibrated: bool) -> _Found:
        problem = self.problem
        scores = await self.score([Query((), item) for item in range(problem.n_items)])
        mass = np.exp(scores).sum(axis=1)
        prior = PriorEstimate.even(problem.n_labels)
        if calibrated:
            scores = pointwise_mutual_information(scores)
        if calibrated or problem.prior is not None:
            prior = estimate_prior(scores, problem.prior)
        return _Found(self._labelled(scores, prior), scores, prior, mass, [])

    async def few_shot(self, rounds: int) -> _Found:
        problem, watch = self.problem, self.watch
        shape = problem.n_items, problem.n_labels
        labels = problem.start
        if labels is None:
            labels = self.assign(problem.hold_pins(self.rng.random(shape))).labels
        labels = np.where(np.isin(np.arange(shape[0]), problem.left_out), UNLABELLED, labels)
        for number in range(rounds + 1):
            folds = await self.read(labels)
            scores, mass = joined(folds, shape)
            prior = estimate_prior(scores, problem.prior, final=number == rounds)
            labels = self._labelled(scores, prior)
            self.record(labels, scores)
            if stopped := number < rounds and watch.stop():
                break
        return _Found(labels, scores, prior, mass, folds if number or stopped else [], stopped)

    async def read(self, labels: IntArray) -> list[ScoredFold]:
        """Score every item, given demos of the other parts with these labels."""
        problem, settings = self.problem, self.settings
        contexts = part_contexts(
            labels,
            problem.constraint.groups,
            folds=settings.folds,
            size=settings.demos,
            n_labels=problem.n_labels,
            rng=self.rng,
        )
        return await score_folds(contexts, self.score)

    def record(self, labels: IntArray, scores: FloatArray) -> None:
        """Report a round that ended with these labels, and with these scores in context."""
        utility = utility_of(scores, labels)
        counts = label_counts(labels, self.problem.n_labels)
        share = coherence(utility, counts)
        before = self.history[-1].labels if self.history else UNLABELLED
        moved = int((labels != before).sum())
        record = SweepRecord(0, len(self.history), utility, share, counts, moved, labels=labels)
        self.history.append(record)
        self.watch.observe(record)

    def _labelled(self, scores: FloatArray, prior: PriorEstimate) -> IntArray:
        """The best labels that the rule allows, pins kept."""
        return self.assign(self.problem.hold_pins(scores + prior.offsets)).labels
