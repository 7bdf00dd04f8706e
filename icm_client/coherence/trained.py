r"""What the searches that train models share: their second I/O interface, and how they decide.

Algorithm 3 asks a fine-tuned model without demos: `P(y | x_i, D \ D_f)` of the paper's Appendix G,
in the place of which a search in context has a prompt full of demos. Iterative fine-tuning searches
with the fine-tuned model as with the base model, demos and all.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

import numpy as np

from icm_client.coherence.calibration import certainty, pointwise_mutual_information
from icm_client.coherence.contexts import draw_demos, last_asked, score_folds, split_folds
from icm_client.coherence.label_names import NameExchange, exchange_names
from icm_client.coherence.label_prior import PriorEstimate, estimate_prior
from icm_client.coherence.problem import (
    UNLABELLED,
    Context,
    Demo,
    FloatArray,
    IntArray,
    Problem,
    Query,
    Score,
)
from icm_client.coherence.settings import SweepSettings

NAMED_ITEMS = 256
"""The most items whose names are tried by exchanging them."""


class Training(NamedTuple):
    """A model to be trained, and the items that it is then asked about.

    Attributes:
        name: for people; with the demos it says which training it is.
        demos: what it is trained on, rising by item.
        targets: items, none of them among the demos.
    """

    name: str
    demos: Context
    targets: IntArray


class TrainFolds(Protocol):
    """The second I/O interface: train models on labels, and ask them zero-shot."""

    async def __call__(self, trainings: Sequence[Training]) -> list[FloatArray]:
        """Train a model for each, several at once where there is room, and ask it without demos.

        Returns:
            For each training the log-probs of its targets in nats, shape `[n, K]`, aligned with
            them; a row of NaN is an item that could not be scored.

        Raises:
            TrainingError: a model cannot be trained: a label has no demo, for one.
            EndpointError, ScoreError: a trained model does not answer.
        """
        ...


class TrainModel(Protocol):
    """The same for a search with a trained model."""

    def model(self, training: Training) -> AbstractAsyncContextManager[Score]:
        """Train one model, and open it: asked about its targets, given demos that are targets too.

        Raises:
            TrainingError, EndpointError, ScoreError: as `TrainFolds`.
        """
        ...


class Train(TrainFolds, TrainModel, Protocol):
    """Both, over one trainer."""


def renumbered(queries: Sequence[Query], numbers: Mapping[int, int] | IntArray) -> list[Query]:
    """The same queries about other item numbers: `numbers[i]` in the place of `i`."""
    shown: dict[Context, Context] = {}  # a fold's queries share a context
    for query in queries:
        if query.context not in shown:
            shown[query.context] = tuple(Demo(int(numbers[i]), y) for i, y in query.context)
    return [Query(shown[context], int(numbers[i])) for context, i in queries]


class Decided(NamedTuple):
    """What trained models say of their items.

    Attributes:
        calibrated: shape `[N, K]`, nats: each model's mean probability of a label divided out; NaN
            where an item has no score.
        scores: shape `[N, K]`, nats: what labels are taken from.
        label_mass: shape `[N]`, the share of the next token's probability that is on any label.
        prior: what was assumed about the labels' shares.
    """

    calibrated: FloatArray
    scores: FloatArray
    label_mass: FloatArray
    prior: PriorEstimate


def decide(
    trainings: Sequence[Training],
    answers: Sequence[FloatArray],
    problem: Problem,
    *,
    calibrated: bool,
    grouped_before: bool = False,
) -> Decided:
    """Join what models say about their own items, on one scale.

    Args:
        trainings: whose targets do not overlap.
        answers: each one's log-probs, nats, shape `[n, K]`.
        problem: its items, and the labels' shares where the user knows them.
        calibrated: labels are taken from calibrated scores, with offsets for uneven shares
            (`label_prior`); otherwise from the models' own log-probs, as the paper prints it.
        grouped_before: whether the scores before these had two uneven modes.
    """
    shape, prior = (problem.n_items, problem.n_labels), problem.prior
    divided, own = np.full(shape, np.nan), np.full(shape, np.nan)
    for training, log_probs in zip(trainings, answers, strict=True):
        divided[training.targets] = pointwise_mutual_information(log_probs)
        own[training.targets] = log_probs
    mass = np.exp(own).sum(axis=1)
    if calibrated:
        estimate = estimate_prior(divided, prior, grouped_before=grouped_before)
        return Decided(divided, divided + estimate.offsets, mass, estimate)
    if prior is None:
        return Decided(divided, own, mass, PriorEstimate.even(problem.n_labels))
    estimate = estimate_prior(own, prior)
    return Decided(divided, own + estimate.offsets, mass, estimate)


def fold_trainings(
    number: int, labels: IntArray, problem: Problem, *, folds: int, rng: np.random.Generator
) -> list[Training]:
    """One pass's trainings: for each fold the labels of all others, and the fold's own items."""
    searched = np.sort(problem.searched)
    trainings = []
    for f, fold in enumerate(split_folds(len(labels), folds, rng, problem.constraint.groups)):
        targets = np.intersect1d(fold, searched)
        if len(targets):
            demos = demos_of(labels, np.setdiff1d(searched, fold))
            trainings.append(Training(f"pass-{number + 1}-fold-{f + 1}", demos, targets))
    return trainings


def teaches_all(training: Training, n_labels: int) -> bool:
    """Whether each label has a demo."""
    return len({demo.label for demo in training.demos}) == n_labels


def demos_of(labels: IntArray, items: IntArray) -> Context:
    """Those of `items` that have a label, rising, as demos."""
    return tuple(
        Demo(item, int(labels[item]))
        for item in sorted(items.tolist())
        if labels[item] != UNLABELLED
    )


async def names_in_context(
    problem: Problem,
    labels: IntArray,
    log_probs: FloatArray,
    score: Score,
    *,
    settings: SweepSettings,
    rng: np.random.Generator,
) -> tuple[NameExchange, tuple[Query, ...]]:
    """Ask the base model whether the labels found have the right names.

    A model that was trained on labels takes their words as it was taught them: trained on exchanged
    ones it would be as coherent. So the model that nobody has trained is asked, as a search in
    context asks it: some items given demos of others, as they were labelled and with the names
    exchanged.

    Args:
        problem: its groups stand on one side, as in folds; its pinned items are the most certain.
        labels: shape `[N]`, the labels found.
        log_probs: shape `[N, K]`, nats; demos are drawn from the most certain items.
        score: the base model; asked about at most `NAMED_ITEMS` items, once and once an exchange.
        settings: how large a context may be, and what it is drawn from.
        rng: decides which items.

    Returns:
        What became of `U`, and a few of the queries with the names as they are.
    """
    n_items, n_labels = log_probs.shape
    one_side = split_folds(n_items, 2, rng, problem.constraint.groups)[0]
    targets = rng.permutation(one_side[labels[one_side] != UNLABELLED])[:NAMED_ITEMS]
    context = draw_demos(
        labels,
        np.setdiff1d(np.arange(n_items), one_side),
        certainty(log_probs, problem.pinned),
        size=settings.demos,
        keep=settings.keep,
        n_labels=n_labels,
        rng=rng,
    )
    folds = await score_folds([(context, targets)], score)
    return await exchange_names(folds, labels, score), last_asked(context, targets)
