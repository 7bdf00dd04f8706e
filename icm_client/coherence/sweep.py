r"""The `fast` search: every item relabelled at once, sweep after sweep, from fold contexts.

Algorithm 1 of the paper (arXiv 2506.10139) moves one label a step and reads the whole objective
again. Here one sweep scores all `N` items behind `F` shared contexts, `F * C + N` prompts' worth
of tokens, and relabels them all:

    D <- K0 random items with random labels
    for t = 1, 2, ...:
        split the items into F folds
        for each fold f:   C_f <- balanced demos from D \ D_f
                           s_t(i, y) <- log P(y | x_i, C_f) - log mean_j P(y | x_j, C_f)
        S <- mean of the last M sweeps' s
        D <- {(x_i, argmax_y S(i, y))},  U(D) <- mean_i s_t(i, y_i)
        (in the first sweeps the next contexts' labels are drawn from softmax(S(i, .) / T_t))
    until fewer than 1% of the labels move and U no longer climbs

The objective is the calibrated one (`calibration`): the paper's `P(D)` as a mean, with each
context's own preference divided out, so that labelling everything alike scores 0. As fold contexts
stand for leave-one-out contexts, this is Algorithm 3 of the paper's Appendix G with in-context
learning in the place of fine-tuning.

Where a rule binds items, argmax gives a group the best labels that the rule allows (`assignment`),
for sampled labels over the perturbed scores. First items are drawn in whole groups, and a group
stands in one fold: no target reads the label of an item that gives its own away.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace

import numpy as np

from icm_client.coherence.anneal import Step
from icm_client.coherence.assignment import JointAssignment
from icm_client.coherence.calibration import coherence, log_softmax
from icm_client.coherence.constraints import NO_CONSTRAINT, Constraint, Groups, check_groups
from icm_client.coherence.contexts import UNLABELLED
from icm_client.coherence.fold_scores import ScoredFold, fold_contexts, score_folds
from icm_client.coherence.polarity import NameExchange, exchange_names
from icm_client.coherence.prior import PriorEstimate, estimate_prior
from icm_client.coherence.problem import FloatArray, IntArray, Score, Stop, never
from icm_client.coherence.settings import SweepSettings
from icm_client.coherence.starts import balanced_start, check_start


@dataclass(frozen=True, slots=True)
class SweepRecord:
    """One sweep, as told to the observer.

    Attributes:
        restart: from 0.
        sweep: from 0, within the restart.
        utility: calibrated `U(D)` of the labels after this sweep, nats an item.
        coherence: `utility` as a share of the labels' entropy.
        counts: items of each label, shape `[K]`.
        moved: items whose label changed, those labelled for the first time included.
    """

    restart: int
    sweep: int
    utility: float
    coherence: float
    counts: tuple[int, ...]
    moved: int


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The labels found.

    Attributes:
        labels: shape `[N]`; where a rule binds items, not each one's likeliest by itself.
            `UNLABELLED` where an item could not be scored.
        log_probs: shape `[N, K]`, nats; rows sum to one in probability, and are NaN where an item
            could not be scored.
        utility: calibrated `U(D)` of the labels, nats an item.
        coherence: `utility` as a share of the labels' entropy.
        restart: which restart won.
        prior: what was assumed about the labels' shares.
        exchange: what became of `U` when label names were exchanged.
        history: all sweeps of all restarts, in order; none of Algorithm 1.
        by_confidence: groups too large to try all labellings of; the most confident item decided.
        exchanged: whether names that were clearly better have been taken.
        steps: all steps of Algorithm 1, in order; none of this search.
        objective: Algorithm 1's own `U(D)` when it ended, summed over batches.
        settled: items that Algorithm 1 left without a label, or whose label contradicted others,
            and that have another label now.
        contradictions: pairs that contradicted each other when Algorithm 1 ended.
        stopped: whether `stop` ended the search before its time.
    """

    labels: IntArray
    log_probs: FloatArray
    utility: float
    coherence: float
    restart: int
    prior: PriorEstimate
    exchange: NameExchange
    history: tuple[SweepRecord, ...]
    by_confidence: int = 0
    exchanged: bool = False
    steps: tuple[Step, ...] = ()
    objective: float | None = None
    settled: int = 0
    contradictions: int = 0
    stopped: bool = False


Observer = Callable[[SweepRecord], None]


@dataclass(frozen=True, slots=True)
class _Climb:
    """Where one restart ended."""

    restart: int
    labels: IntArray
    averaged: FloatArray
    utility: float
    prior: PriorEstimate
    fold: ScoredFold
    stopped: bool


async def search(
    n_items: int,
    n_labels: int,
    score: Score,
    *,
    rng: np.random.Generator,
    settings: SweepSettings,
    prior: FloatArray | None = None,
    constraint: Constraint = NO_CONSTRAINT,
    start: IntArray | None = None,
    left_out: Collection[int] = (),
    observe: Observer = lambda _: None,
    stop: Stop = never,
) -> SearchResult:
    """Find the labels of highest calibrated `U`; `score` is the only way out.

    Args:
        n_items: `N`, at least 2.
        n_labels: `K`, at least 2.
        score: answers queries about items `0..N-1`.
        rng: the only source of chance; the result is a function of it, the settings and the scores.
        settings: the search's own numbers.
        prior: shape `[K]`, the labels' shares where the user knows them.
        constraint: the rule that labels keep.
        start: shape `[N]`, first labels in the place of random ones, `UNLABELLED` where an item
            has none; taken as they are, even where they break the rule. There is then one start.
        left_out: items that are known not to be scored: they never stand in a context.
        observe: told of each sweep as it ends.
        stop: asked after each sweep but the first, which scores no item that it starts from; once
            it says so, the search ends as it does when it settles: names are still exchanged,
            which takes a fold's scores.

    Raises:
        InputError: the constraint names items that are not there, or allows a group no labels;
            the start is none of these items. Nothing has been asked yet.
        EndpointError, ScoreError: whatever `score` raises.
    """
    check_groups(constraint.groups, n_items)
    assign = JointAssignment(constraint, n_labels)
    if start is not None:
        check_start(start, n_items, n_labels)
        if (start != UNLABELLED).sum() > settings.initial:  # worth a second sweep like any other
            settings = replace(settings, second_demos=settings.demos)
    history: list[SweepRecord] = []

    def note(record: SweepRecord) -> None:
        history.append(record)
        observe(record)

    best: _Climb | None = None
    starts = settings.restarts if start is None else 1
    for restart, chance in enumerate(rng.spawn(starts)):
        labels = start
        if labels is None:  # at most half of the items, so that some are left to score
            few = max(1, min(settings.initial, n_items // 2))
            labels = balanced_start(n_items, n_labels, few, chance, constraint)
        if left_out:
            labels = labels.copy()
            labels[list(left_out)] = UNLABELLED
        found = await _climb(
            labels,
            n_labels,
            score,
            restart=restart,
            rng=chance,
            settings=settings,
            prior=prior,
            groups=constraint.groups,
            assign=assign,
            note=note,
            stop=stop,
        )
        if best is None or found.utility > best.utility:
            best = found
        enough = coherence(best.utility, _counts(best.labels, n_labels)) >= settings.coherent
        stopped = found.stopped or (not enough and restart + 1 < starts and stop())
        if enough or stopped:
            break
    assert best is not None  # noqa: S101 - restarts >= 1
    exchange = await exchange_names(
        best.fold.context, best.fold.targets, best.fold.calibrated, best.labels, score
    )
    averaged, shares, utility = best.averaged, best.prior, best.utility
    if exchange.better:
        averaged = averaged[:, np.asarray(exchange.names)]  # an exchange is its own inverse
        shares = estimate_prior(averaged, prior, uneven_before=shares.source == "mixture")
        utility = exchange.exchanged_utility
    decided = averaged + shares.offsets
    labels, by_confidence = assign(decided)  # again: exchanged labels may break the rule
    return SearchResult(
        labels=labels,
        log_probs=log_softmax(decided),
        utility=utility,
        coherence=coherence(utility, _counts(labels, n_labels)),
        restart=best.restart,
        prior=shares,
        exchange=exchange,
        history=tuple(history),
        by_confidence=by_confidence,
        exchanged=exchange.better,
        stopped=stopped,
    )


async def _climb(
    labels: IntArray,
    n_labels: int,
    score: Score,
    *,
    restart: int,
    rng: np.random.Generator,
    settings: SweepSettings,
    prior: FloatArray | None,
    groups: Groups,
    assign: JointAssignment,
    note: Observer,
    stop: Stop,
) -> _Climb:
    """Sweep from the first `labels` until they settle and `U` no longer climbs."""
    shape = (len(labels), n_labels)
    window: deque[FloatArray] = deque(maxlen=settings.averaged)
    averaged = np.full(shape, np.nan)
    settled_shares: deque[float] = deque(maxlen=settings.averaged)
    highest = -np.inf
    estimate: PriorEstimate | None = None
    sweep = 0
    while True:
        contexts = fold_contexts(sweep, labels, averaged, rng, settings, groups=groups)
        folds = await score_folds(contexts, score)
        scores = np.full(shape, np.nan)
        for fold in folds:
            scores[fold.targets] = fold.calibrated
        window.append(scores)
        averaged = _mean_of_scored(window)
        uneven = estimate is not None and estimate.source == "mixture"
        estimate = estimate_prior(averaged, prior, uneven_before=uneven)
        decided = averaged + estimate.offsets
        before, labels = labels, assign(decided).labels
        moved = int((labels != before).sum())
        utility = float(_at_labels(scores, labels).mean())
        counts = _counts(labels, n_labels)
        share = coherence(utility, counts)
        note(SweepRecord(restart, sweep, utility, share, counts, moved))
        if sweep >= settings.cold_after:
            settled_shares.append(share)
        # What is averaged still holds scores behind labels that knew much less.
        unripe = (
            share >= settings.coherent
            and min(settled_shares, default=share) < settings.ripe * share
        )
        climbs = utility > highest + settings.climb or unripe
        highest = max(highest, utility)
        sweep += 1
        settled = moved < settings.moving * len(labels) or share >= settings.coherent
        over = sweep >= settings.max_sweeps or (
            sweep >= settings.min_sweeps and settled and not climbs
        )
        if over or (sweep > 1 and stop()):
            return _Climb(restart, labels, averaged, utility, estimate, folds[0], not over)
        if sweep <= settings.cold_after:
            temperature = settings.temperature / 2 ** (sweep - 1)
            labels = assign(decided / temperature + rng.gumbel(size=shape)).labels


def _mean_of_scored(window: Iterable[FloatArray]) -> FloatArray:
    """Mean over sweeps, `[N, K]`; NaN where no sweep scored the item."""
    stacked = np.stack(list(window))
    times = (~np.isnan(stacked)).sum(axis=0)
    total = np.nansum(stacked, axis=0)
    mean: FloatArray = np.where(times > 0, total / np.maximum(times, 1), np.nan)
    return mean


def _counts(labels: IntArray, n_labels: int) -> tuple[int, ...]:
    """Items of each label, `[K]`."""
    counts = np.bincount(labels[labels != UNLABELLED], minlength=n_labels)
    return tuple(int(count) for count in counts)


def _at_labels(scores: FloatArray, labels: IntArray) -> FloatArray:
    """Each item's score at its own label; items without either are left out."""
    there = (labels != UNLABELLED) & ~np.isnan(scores).any(axis=1)
    at: FloatArray = scores[there, labels[there]]
    return at
