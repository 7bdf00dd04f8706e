"""From where Algorithm 1 ends to labels for all items, and to what every search reports.

Algorithm 1 can end with items that have no label and with labels that contradict each other. One
more leave-one-out pass scores all items behind the labels found, with the contexts that the search
had. Items that have a label keep it; the others take their most probable one; a group that is not
labelled whole, or not as its rule allows, is labelled anew, jointly. So both orders of a comparison
end opposite, whatever the search has left.

`U` and coherence are the calibrated ones, so that all searches are judged alike, and a search that
ended in one label for all shows a coherence of 0. A label's mean probability is here taken over all
targets of a batch, whose leave-one-out contexts differ by a demo or so, not over one context.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

import numpy as np

from icm_client.coherence.anneal import AnnealResult, AnnealSettings, Step, anneal
from icm_client.coherence.assignment import JointAssignment
from icm_client.coherence.batches import Batch, among_others, split_batches, without
from icm_client.coherence.calibration import (
    coherence,
    label_counts,
    log_softmax,
    pointwise_mutual_information,
    utility_of,
)
from icm_client.coherence.constraints import Constraint, check_groups, inconsistent_pairs
from icm_client.coherence.contexts import UNLABELLED, draw_demos, split_folds
from icm_client.coherence.fold_scores import certainty, last_asked, score_folds
from icm_client.coherence.leave_one_out import queries
from icm_client.coherence.official import OfficialSettings, anneal_official
from icm_client.coherence.pins import checked_pins, held, pins_among, with_pins
from icm_client.coherence.polarity import NameExchange, exchange_names
from icm_client.coherence.prior import PriorEstimate, estimate_prior
from icm_client.coherence.problem import (
    BoolArray,
    FloatArray,
    IntArray,
    Query,
    Score,
    Stop,
    never,
)
from icm_client.coherence.search_result import SearchResult
from icm_client.coherence.settings import SweepSettings
from icm_client.coherence.starts import check_start


@dataclass(frozen=True, slots=True)
class _Ends:
    """Where the batches ended, joined.

    Attributes:
        labels: shape `[N]`, `UNLABELLED` where an item was left without one.
        log_probs: shape `[N, K]`, nats, each item behind the labels of its batch but its own; NaN
            where an item is left out.
        calibrated: shape `[N, K]`, nats, the same with each batch's mean divided out.
        objective: the printed `U(D)`, summed over batches.
        steps: of all batches.
        stopped: whether `stop` ended any.
    """

    labels: IntArray
    log_probs: FloatArray
    calibrated: FloatArray
    objective: float
    steps: tuple[Step, ...]
    stopped: bool


async def anneal_search(
    n_items: int,
    n_labels: int,
    score: Score,
    *,
    rng: np.random.Generator,
    settings: AnnealSettings | OfficialSettings,
    constraint: Constraint,
    start: IntArray | None = None,
    prior: FloatArray | None = None,
    pinned: IntArray | None = None,
    left_out: Collection[int] = (),
    observe: Callable[[Step], None] = lambda _: None,
    stop: Stop = never,
) -> SearchResult:
    """Label all items by Algorithm 1, as printed or as released; `score` is the only way out.

    Args:
        n_items: `N`, at least 1.
        n_labels: `K`, at least 2.
        score: answers queries about items `0..N-1`.
        rng: the only source of chance; the result is a function of it, the settings and the scores.
        settings: which of the two, and its numbers.
        constraint: `c`.
        start: shape `[N]`, first labels, `UNLABELLED` where an item has none.
        prior: shape `[K]`, the labels' shares where the user knows them. The printed algorithms
            know of none: it only weighs where labels are decided after them.
        pinned: shape `[N]`, labels that stay as they are, `UNLABELLED` where an item is free.
        left_out: items that are known not to be scored: they are not searched and get no label.
        observe: told of each step as it ends.
        stop: asked before each step; once it says so, there are no more: the labels so far are
            settled, which takes a score or two an item.

    Raises:
        InputError: the constraint names items that are not there, or allows a group no labels;
            the start or the pins are none of these items', or the rule forbids the pins. Nothing
            has been asked yet.
        EndpointError, ScoreError: whatever `score` raises.
    """
    check_groups(constraint.groups, n_items)
    constraint = among_others(left_out, constraint)
    assign = JointAssignment(constraint, n_labels)
    pinned = checked_pins(pinned, n_items, n_labels, assign, left_out)
    if start is not None:
        check_start(start, n_items, n_labels)
        start = with_pins(start, pinned)
    labels = np.full(n_items, UNLABELLED, dtype=np.int64)
    log_probs = np.full((n_items, n_labels), np.nan)
    calibrated = np.full((n_items, n_labels), np.nan)
    objective = 0.0
    steps: list[Step] = []
    stopped = False
    batches = split_batches(n_items, settings.batch, constraint, rng)
    for number, batch in enumerate(without(left_out, batches) if left_out else batches):

        def note(step: Step, number: int = number) -> None:
            steps.append(step._replace(batch=number))
            observe(steps[-1])

        found = await _annealed(
            batch,
            n_items,
            n_labels,
            score,
            rng=rng,
            settings=settings,
            start=start,
            pinned=pins_among(batch.items, pinned),
            observe=note,
            stop=stop,
        )
        stopped |= found.stopped
        asked = queries(
            found.labels, found.order, settings.layout, settings.max_demos, unlabelled=True
        )
        targets = np.array([query.target for query in asked])
        labels[batch.items] = found.labels[batch.items]
        log_probs[targets] = await score(asked)
        calibrated[targets] = pointwise_mutual_information(log_probs[targets])
        objective += found.utility
    ends = _Ends(labels, log_probs, calibrated, objective, tuple(steps), stopped)
    return await _settled(
        ends,
        score,
        assign=assign,
        constraint=constraint,
        rng=rng,
        max_demos=settings.max_demos,
        prior=prior,
        pinned=pinned,
    )


async def _annealed(
    batch: Batch,
    n_items: int,
    n_labels: int,
    score: Score,
    *,
    rng: np.random.Generator,
    settings: AnnealSettings | OfficialSettings,
    start: IntArray | None,
    pinned: IntArray | None,
    observe: Callable[[Step], None],
    stop: Stop,
) -> AnnealResult:
    """Anneal one batch in the way that the settings are for."""
    search = (
        partial(anneal, settings=settings)
        if isinstance(settings, AnnealSettings)
        else partial(anneal_official, settings=settings)
    )
    return await search(
        n_items,
        n_labels,
        score,
        rng=rng,
        constraint=batch.constraint,
        start=start,
        items=batch.items,
        pinned=pinned,
        observe=observe,
        stop=stop,
    )


async def _settled(
    ends: _Ends,
    score: Score,
    *,
    assign: JointAssignment,
    constraint: Constraint,
    rng: np.random.Generator,
    max_demos: int | None,
    prior: FloatArray | None,
    pinned: IntArray | None,
) -> SearchResult:
    """Decide what is open, and report as every search does."""
    n_labels = ends.log_probs.shape[1]
    shares = (
        PriorEstimate(np.zeros(n_labels), "even")
        if prior is None
        else estimate_prior(ends.log_probs, prior)
    )
    decided = ends.log_probs + shares.offsets
    undecided = open_items(ends.labels, constraint)
    anew, by_confidence = assign(np.where(undecided[:, np.newaxis], held(decided, pinned), np.nan))
    labels = np.where(undecided, anew, ends.labels)
    utility = utility_of(ends.calibrated, labels)
    exchange, asked = await _exchange(
        labels,
        certainty(ends.log_probs, pinned),
        score,
        constraint=constraint,
        rng=rng,
        max_demos=max_demos,
        n_labels=n_labels,
    )
    return SearchResult(
        labels=labels,
        log_probs=log_softmax(decided),
        utility=utility,
        coherence=coherence(utility, label_counts(labels, n_labels)),
        restart=0,
        prior=shares,
        exchange=exchange,
        history=(),
        by_confidence=by_confidence,
        steps=ends.steps,
        objective=ends.objective,
        settled=int((labels != ends.labels).sum()),
        contradictions=len(inconsistent_pairs(ends.labels, constraint)),
        stopped=ends.stopped,
        label_mass=np.exp(ends.log_probs).sum(axis=1),
        last_asked=asked,
    )


def open_items(labels: IntArray, constraint: Constraint) -> BoolArray:
    """Whether an item has no label, or a group that is not labelled whole or as its rule allows.

    Args:
        labels: shape `[N]`, `UNLABELLED` where an item has none.
        constraint: the rule.

    Returns:
        Shape `[N]`.
    """
    undecided: BoolArray = labels == UNLABELLED
    for group in constraint.groups:
        items = list(group)
        if undecided[items].any() or not constraint.allows(items, labels[items].tolist()):
            undecided[items] = True
    return undecided


async def _exchange(
    labels: IntArray,
    certain: FloatArray,
    score: Score,
    *,
    constraint: Constraint,
    rng: np.random.Generator,
    max_demos: int | None,
    n_labels: int,
) -> tuple[NameExchange, tuple[Query, ...]]:
    """Exchange names as the sweeps do: half of the items behind demos of the other half.

    Returns:
        What became of `U`, and a few of the queries with the names as they are.
    """
    usual = SweepSettings()
    targets = split_folds(len(labels), 2, rng, constraint.groups)[0]
    targets = targets[labels[targets] != UNLABELLED]
    context = draw_demos(
        labels,
        np.setdiff1d(np.arange(len(labels)), targets),
        certain,
        size=usual.demos if max_demos is None else min(usual.demos, max_demos),
        keep=usual.keep,
        n_labels=n_labels,
        rng=rng,
    )
    (fold,) = await score_folds([(context, targets)], score)
    exchange = await exchange_names(context, targets, fold.calibrated, labels, score)
    return exchange, last_asked(context, targets)
