"""From where Algorithm 1 ends to labels for all items, and to what every search reports.

Algorithm 1 can end with items that have no label and with labels that contradict each other. One
more leave-one-out pass scores all items given the labels found, in the contexts that the search
had. Items that have a label keep it; the others take their most probable one; a group that is not
labelled whole, or not as its rule allows, is labelled anew, jointly. So both orders of a comparison
end opposite, whatever the search has left.

`U` and coherence are the calibrated ones, so that all searches are judged alike, and a search that
ended in one label for all shows a coherence of 0. A label's mean probability is here taken over all
targets of a batch, not over one context. Their leave-one-out contexts are nearly alike; laid out by
folds, up to a quarter of the demos differs.
"""

from dataclasses import replace

import numpy as np

from icm_client.coherence.anneal import AnnealSettings, anneal
from icm_client.coherence.anneal_official import OfficialSettings
from icm_client.coherence.assignment import prepared
from icm_client.coherence.batches import split_batches, within
from icm_client.coherence.calibration import (
    certainty,
    coherence,
    label_counts,
    log_softmax,
    pointwise_mutual_information,
    utility_of,
)
from icm_client.coherence.constraints import inconsistent_pairs
from icm_client.coherence.contexts import draw_demos, last_asked, score_folds, split_folds
from icm_client.coherence.label_names import NameExchange, exchange_names
from icm_client.coherence.label_prior import PriorEstimate, estimate_prior
from icm_client.coherence.leave_one_out import queries
from icm_client.coherence.problem import (
    UNLABELLED,
    BoolArray,
    Constraint,
    FloatArray,
    IntArray,
    Problem,
    Query,
    Score,
)
from icm_client.coherence.result import UNWATCHED, Observed, SearchResult, Step, Watch
from icm_client.coherence.settings import SweepSettings


async def anneal_search(
    problem: Problem,
    score: Score,
    *,
    settings: AnnealSettings | OfficialSettings,
    rng: np.random.Generator,
    watch: Watch = UNWATCHED,
) -> SearchResult:
    """Label all items by Algorithm 1, as printed or as released.

    Args:
        problem: at least 1 item. The printed algorithms know no prior: it only weighs where labels
            are decided after them.
        score: the only I/O.
        settings: which of the two, and its numbers.
        rng: the only source of chance; the result is a function of it, the settings and the scores.
        watch: follows each step. Its `stop` is asked before each step; once it is true, the labels
            so far are decoded, which takes a score or two an item.

    Raises:
        InputError: the rule allows a group no labels, or forbids the pins. Nothing was asked yet.
        EndpointError, ScoreError: whatever `score` raises.
    """
    problem = replace(problem, constraint=within(problem.constraint, problem.searched))
    problem, assign = prepared(problem)
    labels = np.full(problem.n_items, UNLABELLED, dtype=np.int64)
    log_probs = np.full((problem.n_items, problem.n_labels), np.nan)
    calibrated = np.full_like(log_probs, np.nan)
    objective = 0.0
    steps: list[Step] = []
    stopped = False
    for number, batch in enumerate(split_batches(problem, settings.batch, rng)):

        def note(step: Observed, number: int = number) -> None:
            assert isinstance(step, Step)  # noqa: S101 - what Algorithm 1 reports
            steps.append(step._replace(batch=number))
            watch.observe(steps[-1])

        found = await anneal(
            batch, score, settings=settings, rng=rng, watch=replace(watch, observe=note)
        )
        stopped |= found.stopped
        asked = queries(
            found.labels, found.order, settings.layout, settings.max_demos, unlabelled=True
        )
        targets = np.array([query.target for query in asked])
        labels[batch.searched] = found.labels[batch.searched]
        log_probs[targets] = await score(asked)
        calibrated[targets] = pointwise_mutual_information(log_probs[targets])
        objective += found.utility
    prior = PriorEstimate.even(problem.n_labels)
    if problem.prior is not None:
        prior = estimate_prior(log_probs, problem.prior)
    decided = log_probs + prior.offsets
    undecided = open_items(labels, problem.constraint)
    anew, by_confidence = assign(
        np.where(undecided[:, np.newaxis], problem.hold_pins(decided), np.nan)
    )
    decoded = np.where(undecided, anew, labels)
    utility = utility_of(calibrated, decoded)
    exchange, last = await _exchange(
        problem,
        decoded,
        certainty(log_probs, problem.pinned),
        score,
        rng=rng,
        max_demos=settings.max_demos,
    )
    return SearchResult(
        labels=decoded,
        log_probs=log_softmax(decided),
        utility=utility,
        coherence=coherence(utility, label_counts(decoded, problem.n_labels)),
        restart=0,
        prior=prior,
        exchange=exchange,
        history=(),
        by_confidence=by_confidence,
        steps=tuple(steps),
        objective=objective,
        settled=int((decoded != labels).sum()),
        contradictions=len(inconsistent_pairs(labels, problem.constraint)),
        stopped=stopped,
        label_mass=np.exp(log_probs).sum(axis=1),
        last_asked=last,
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
    problem: Problem,
    labels: IntArray,
    certain: FloatArray,
    score: Score,
    *,
    rng: np.random.Generator,
    max_demos: int | None,
) -> tuple[NameExchange, tuple[Query, ...]]:
    """Exchange names as a search by sweeps does: half of the items, given demos of the other half.

    Returns:
        What became of `U`, and a few of the queries with the names as they are.
    """
    usual = SweepSettings()
    targets = split_folds(len(labels), 2, rng, problem.constraint.groups)[0]
    targets = targets[labels[targets] != UNLABELLED]
    context = draw_demos(
        labels,
        np.setdiff1d(np.arange(len(labels)), targets),
        certain,
        size=usual.demos if max_demos is None else min(usual.demos, max_demos),
        keep=usual.keep,
        n_labels=problem.n_labels,
        rng=rng,
    )
    folds = await score_folds([(context, targets)], score)
    return await exchange_names(folds, labels, score), last_asked(context, targets)
