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

Pinned items have their labels before and after every assignment, and are the first items (`pins`).
"""

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from icm_client.coherence.assignment import JointAssignment
from icm_client.coherence.calibration import coherence, label_counts, log_softmax
from icm_client.coherence.climb import Climb, climb
from icm_client.coherence.constraints import NO_CONSTRAINT, Constraint, check_groups
from icm_client.coherence.contexts import UNLABELLED
from icm_client.coherence.fold_scores import last_asked
from icm_client.coherence.naming import name_classes
from icm_client.coherence.pins import as_scored, checked_pins, held, with_pins
from icm_client.coherence.prior import estimate_prior
from icm_client.coherence.problem import FloatArray, IntArray, Score, Stop, never
from icm_client.coherence.search_result import Observer, RestartEnd, SearchResult, SweepRecord
from icm_client.coherence.settings import SweepSettings
from icm_client.coherence.starts import balanced_start, check_start
from icm_client.coherence.sweeping import Sweeping

__all__ = ["Observer", "SearchResult", "SweepRecord", "search"]


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
    pinned: IntArray | None = None,
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
        pinned: shape `[N]`, labels that stay as they are, `UNLABELLED` where an item is free. They
            are among the first labels, and decide the names where the words do not.
        left_out: items that are known not to be scored: they never stand in a context.
        observe: told of each sweep as it ends.
        stop: asked after each sweep but the first, which scores no item that it starts from; once
            it says so, the search ends as it does when it settles: names are still exchanged,
            which takes a fold's scores.

    Raises:
        InputError: the constraint names items that are not there, or allows a group no labels;
            the start or the pins are none of these items', or the rule forbids the pins. Nothing
            has been asked yet.
        EndpointError, ScoreError: whatever `score` raises.
    """
    check_groups(constraint.groups, n_items)
    assign = JointAssignment(constraint, n_labels)
    pinned = checked_pins(pinned, n_items, n_labels, assign, left_out)
    if start is not None:
        check_start(start, n_items, n_labels)
        start = with_pins(start, pinned)
    given = pinned if start is None else start
    if given is not None and (given != UNLABELLED).sum() > settings.initial:
        settings = replace(settings, second_demos=settings.demos)  # worth a sweep like any other
    history: list[SweepRecord] = []

    def note(record: SweepRecord) -> None:
        history.append(record)
        observe(record)

    sweeping = Sweeping(
        n_labels, score, settings, prior, constraint.groups, assign, pinned, note, stop
    )
    best: Climb | None = None
    ends: list[RestartEnd] = []
    starts = settings.restarts if start is None else 1
    for restart, chance in enumerate(rng.spawn(starts)):
        labels = start
        if labels is None:  # at most half of the items, so that some are left to score
            few = max(1, min(settings.initial, n_items // 2))
            labels = balanced_start(n_items, n_labels, few, chance, constraint, pinned=pinned)
        labels = np.where(np.isin(np.arange(n_items), list(left_out)), UNLABELLED, labels)
        found = await climb(labels, sweeping, restart=restart, rng=chance)
        share = coherence(found.utility, label_counts(found.labels, n_labels))
        ends.append(RestartEnd(found.labels, found.utility, share))
        if best is None or found.utility > best.utility:
            best = found
        enough = ends[best.restart].coherence >= settings.coherent
        stopped = found.stopped or (not enough and restart + 1 < starts and stop())
        if enough or stopped:
            break
    assert best is not None  # noqa: S101 - restarts >= 1
    best, exchange, exchanged = await name_classes(
        best,
        sweeping,
        sweep=sum(record.restart == best.restart for record in history),
        rng=rng,
        coherent=enough and not stopped,
    )
    shares = best.prior if n_labels == 2 else estimate_prior(best.averaged, prior)  # noqa: PLR2004
    decided = best.averaged + shares.offsets
    # Again, for the groups that are too large to be decided jointly.
    labels, by_confidence = assign(held(decided, pinned))
    labels = as_scored(labels, decided, pinned)
    return SearchResult(
        labels=labels,
        log_probs=log_softmax(decided),
        utility=best.utility,
        coherence=coherence(best.utility, label_counts(labels, n_labels)),
        restart=best.restart,
        prior=shares,
        exchange=exchange,
        history=tuple(history),
        by_confidence=by_confidence,
        exchanged=exchanged,
        stopped=stopped or best.stopped,
        restarts=tuple(ends),
        label_mass=best.label_mass,
        sweep_scores=best.sweep_scores,
        last_asked=last_asked(best.folds[0].context, best.folds[0].targets),
    )
