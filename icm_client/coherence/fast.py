r"""The `fast` search: every item relabelled at once, sweep after sweep, from fold contexts.

Algorithm 1 of the paper (arXiv 2506.10139) moves one label a step and reads the whole objective
again. Here one sweep scores all `N` items in `F` shared contexts, `F * C + N` prompts' worth of
tokens, and relabels them all:

    for restart in 1..R:
        D <- K0 random items, labels balanced (+ pins; whole groups)
        for t = 1, 2, ..:
            contexts: t = 1: one of all K0, which are not scored and lose their labels
                      else F folds, groups kept whole, C balanced demos from the 70% of
                      largest margin (t = 2: 16)
            s_t(i, y) <- log P(y | x_i, C_f) - log mean_j P(y | x_j, C_f);  S <- mean of the last M
            b <- given prior | K = 2: offset where the scores form two groups | 0
            D <- argmax under the rule of S + b, pins fixed;   U <- mean_i s_t(i, y_i)
            stop at max, or t >= min, K = 2, clear in all sweeps but the first, shares told, and
                    another sweep would change < 4%: S <- mean of all sweeps but the first
                or t >= M (K > 2: M + 3) and (moved < 1% or coherent) and U no longer climbs
                    (and no averaged sweep is much less coherent than the last)
            t <= 2: D <- labels sampled at T / 2^(t-1)
        keep the restart of highest U; no further one if coherent
    read part of a fold under all rotations of the label names -> in-context effect, word effect
    coherent, and little word effect under any names: the last sweep and up to 4 more, averaged
        over the rotations
    names the wrong way round (or the pins say so): permute; where coherent and not averaged over
        rotations, two more sweeps; K > 2: test again
    coherent, and the words do not choose: one more start, for labels independent of these
    K > 2: b <- offsets of the groups in S
    return the joint assignment of S + b

The objective is the calibrated one (`calibration`): the paper's `P(D)` as a mean, with the
context's label bias removed, so that labelling everything alike scores 0. As fold contexts stand
for leave-one-out contexts, this is Algorithm 3 of the paper's Appendix G with in-context learning
in the place of fine-tuning.

Where a rule binds items, argmax gives a group the best labels that the rule allows (`assignment`),
for sampled labels over the perturbed scores. First items are drawn in whole groups, and a group
stands in one fold: no target reads the label of an item that gives its own away.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from icm_client.coherence.assignment import JointAssignment, prepared
from icm_client.coherence.calibration import (
    coherence,
    expected_changes,
    label_counts,
    log_softmax,
    pointwise_mutual_information,
    utility_of,
)
from icm_client.coherence.contexts import (
    REPEATED,
    ScoredFold,
    fold_contexts,
    joined,
    mean_of_scored,
    score_folds,
)
from icm_client.coherence.initial_labels import balanced_start
from icm_client.coherence.label_names import (
    NameExchange,
    by_class,
    exchange_names_in_folds,
    rotations,
    with_names,
)
from icm_client.coherence.label_prior import PriorEstimate, estimate_prior
from icm_client.coherence.problem import (
    UNLABELLED,
    FloatArray,
    IntArray,
    Problem,
    Query,
    Score,
)
from icm_client.coherence.result import (
    UNWATCHED,
    RestartEnd,
    SearchResult,
    SweepRecord,
    Watch,
    ignore,
)
from icm_client.coherence.settings import SweepSettings
from icm_client.coherence.unlike import WithinClasses, classes_of

MOST_ROTATIONS = 6
"""Ways to name the demos that a context is read under at the end, whatever the number of labels."""

ROTATED_MOVING = 0.05
"""Share of the labels that may still move when the sweeps over all rotations end."""

ROTATED_AVERAGED = 2
"""Sweeps over all rotations whose scores are averaged; earlier labels followed the words more."""


async def search(
    problem: Problem,
    score: Score,
    *,
    settings: SweepSettings,
    rng: np.random.Generator,
    watch: Watch = UNWATCHED,
) -> SearchResult:
    """Find the labels of highest calibrated `U`.

    Args:
        problem: at least 2 items. First labels make it one start, from them.
        score: the only I/O.
        settings: the search's own numbers.
        rng: the only source of chance; the result is a function of it, the settings and the scores.
        watch: follows each sweep. Its `stop` is asked after each sweep but the first, which scores
            no item that it starts from; the search then ends as it does when it settles: names are
            still exchanged, which takes a fold's scores.

    Raises:
        InputError: the rule allows a group no labels, or forbids the pins. Nothing was asked yet.
        EndpointError, ScoreError: whatever `score` raises.
    """
    problem, assign = prepared(problem)
    if problem.unlike is not None:
        score = WithinClasses(score, problem.unlike)
    given = problem.pinned if problem.start is None else problem.start
    if given is not None and (given != UNLABELLED).sum() > settings.initial:
        settings = replace(settings, second_demos=settings.demos)  # worth a sweep like any other
    return await _Search(problem, score, settings, watch, assign).run(rng)


@dataclass(frozen=True, slots=True)
class _Restart:
    """Where a restart stands after its last sweep.

    Attributes:
        number: of the restart, from 0.
        labels: shape `[N]`.
        averaged: shape `[N, K]`, nats: `S`, the mean of the last sweeps' scores.
        sweep_scores: shape `[M, N, K]`, nats: those of them whose demos' labels were not sampled;
            of clear labels all but the first sweep's.
        label_mass: shape `[N]`, a mean over those whose demos' labels were not sampled.
        utility: `U`, nats an item.
        prior: what was added to `S` as `b`.
        folds: of the last sweep.
        stopped: whether `Watch.stop` ended it.
    """

    number: int
    labels: IntArray
    averaged: FloatArray
    sweep_scores: FloatArray
    label_mass: FloatArray
    utility: float
    prior: PriorEstimate
    folds: list[ScoredFold]
    stopped: bool


class _Search:
    def __init__(
        self,
        problem: Problem,
        score: Score,
        settings: SweepSettings,
        watch: Watch,
        assign: JointAssignment,
    ) -> None:
        self._problem, self._settings = problem, settings
        self._watch, self._assign, self._ask = watch, assign, score
        self._contexts = partial(fold_contexts, problem=problem, settings=settings)
        self._history: list[SweepRecord] = []
        self._last_asked: tuple[Query, ...] = ()

    async def run(self, rng: np.random.Generator) -> SearchResult:
        """All restarts, the naming of the classes, and the labels."""
        problem, settings = self._problem, self._settings
        best: _Restart | None = None
        ends: list[RestartEnd] = []
        starts = settings.restarts if problem.start is None else 1
        for number, chance in enumerate(rng.spawn(starts)):
            found = await self._sweeps(self._begun(number, chance), chance)
            ends.append(RestartEnd(found.labels, found.utility, self._coherence(found)))
            if best is None or found.utility > best.utility:
                best = found
            coherent = ends[best.number].coherence >= settings.coherent
            stopped = found.stopped or (not coherent and number + 1 < starts and self._watch.stop())
            if coherent or stopped:
                break
        assert best is not None  # noqa: S101 - restarts >= 1
        best, exchange, exchanged = await self._named(best, rng, coherent and not stopped)
        rival = None
        if coherent and not (stopped or best.stopped) and exchange.ambiguous:
            rival = await self._rival(best.labels)
        prior = best.prior
        if problem.n_labels > 2:  # noqa: PLR2004
            prior = estimate_prior(best.averaged, problem.prior)
        decided = best.averaged + prior.offsets
        # Again, for the groups that are too large to be decided jointly.
        labels, by_confidence = self._assign(problem.hold_pins(decided))
        labels = problem.reported(labels, decided)
        return SearchResult(
            labels=labels,
            log_probs=log_softmax(decided),
            utility=best.utility,
            coherence=coherence(best.utility, label_counts(labels, problem.n_labels)),
            restart=best.number,
            prior=prior,
            exchange=exchange,
            history=tuple(self._history),
            by_confidence=by_confidence,
            exchanged=exchanged,
            stopped=stopped or best.stopped,
            restarts=tuple(ends),
            rival=rival,
            label_mass=best.label_mass,
            sweep_scores=best.sweep_scores,
            last_asked=self._last_asked,
        )

    async def _score(self, queries: Sequence[Query]) -> FloatArray:
        """Ask, and remember the last few queries: a server still has their context in its cache."""
        self._last_asked = tuple(queries[-REPEATED:])
        return await self._ask(queries)

    def _begun(self, number: int, rng: np.random.Generator) -> _Restart:
        """A restart before its first sweep."""
        problem = self._problem
        labels = problem.start
        if labels is None:  # at most half of the items, so that some are left to score
            few = max(1, min(self._settings.initial, problem.n_items // 2))
            labels = balanced_start(problem, few, rng)
        labels = np.where(np.isin(np.arange(problem.n_items), problem.left_out), UNLABELLED, labels)
        nothing = np.full((problem.n_items, problem.n_labels), np.nan)
        prior = PriorEstimate.even(problem.n_labels)
        return _Restart(number, labels, nothing, nothing[:0], nothing[:, 0], 0.0, prior, [], False)

    async def _sweeps(
        self, at: _Restart, rng: np.random.Generator, renamed_at: int | None = None
    ) -> _Restart:
        """Sweep until the labels are clear, or settle while `U` no longer climbs.

        With `renamed_at`, the number of the next sweep, it goes on from labels that have new names,
        by as many sweeps as `settings.renamed`.
        """
        settings, shape = self._settings, at.averaged.shape
        sweep = renamed_at or 0
        if renamed_at is not None:
            last = sweep + settings.renamed
            settings = replace(
                settings,
                averaged=settings.renamed,
                cold_after=0,
                min_sweeps=last,
                max_sweeps=last,
            )
        labels, averaged, prior = at.labels, at.averaged, at.prior
        least = settings.averaged + (settings.several if shape[1] > 2 else 0)  # noqa: PLR2004
        window: deque[FloatArray] = deque(maxlen=settings.averaged)
        # All but the first, whose demos had random labels.
        later: deque[FloatArray] = deque(maxlen=settings.averaged)
        # Those whose demos' labels were not sampled: what the scores themselves vary by.
        cold: deque[FloatArray] = deque(maxlen=settings.averaged)
        masses: deque[FloatArray] = deque(maxlen=settings.averaged)
        shares: deque[float] = deque(maxlen=settings.averaged)
        highest = -np.inf
        while True:
            contexts = self._contexts(sweep, labels, averaged, rng=rng)
            folds = await score_folds(contexts, self._score)
            scores, mass = joined(folds, shape)
            window.append(scores)
            if sweep:
                later.append(scores)
            averaged = mean_of_scored(window)
            before = labels
            labels, prior = self._relabelled(averaged, prior)
            clear = self._clear(labels, later, prior) if sweep + 1 >= settings.min_sweeps else None
            if clear is not None:
                averaged, labels, prior = clear
            utility = utility_of(scores, labels)
            record = self._record(
                at.number, sweep, utility, labels, before, renamed=renamed_at is not None
            )
            if sweep >= settings.cold_after:
                shares.append(record.coherence)
                cold.append(scores)
                masses.append(mass)
            coherent = record.coherence >= settings.coherent
            # What is averaged still holds scores from demos whose labels were worth much less.
            unripe = coherent and (
                min(shares, default=record.coherence) < settings.ripe * record.coherence
            )
            climbs = utility > highest + settings.climb or unripe
            highest = max(highest, utility)
            sweep += 1
            settled = record.moved < settings.moving * len(labels) or coherent
            steady = sweep >= least and settled and not climbs
            over = sweep >= settings.max_sweeps or (
                sweep >= settings.min_sweeps and (steady or clear is not None)
            )
            if over or (sweep > 1 and self._watch.stop()):
                kept = cold if clear is None else later
                return _Restart(
                    at.number,
                    labels,
                    averaged,
                    np.stack(kept) if kept else np.empty((0, *shape)),
                    mean_of_scored(masses or [mass]),
                    utility,
                    prior,
                    folds,
                    stopped=not over,
                )
            if sweep <= settings.cold_after:
                temperature = settings.temperature / 2 ** (sweep - 1)
                labels = self._sampled(averaged + prior.offsets, temperature, rng)

    def _clear(
        self, labels: IntArray, later: Sequence[FloatArray], prior: PriorEstimate
    ) -> tuple[FloatArray, IntArray, PriorEstimate] | None:
        """How two labels end that predict each other well, where another sweep would change few.

        They are clear in each sweep but the first, and the scores tell how common they are.
        Of several labels the demos of the second sweep show each a few times only: its scores are
        worth much less than those of the next sweeps, which change more than noise says.

        Args:
            labels: shape `[N]`, after the last sweep.
            later: scores of each sweep but the first, `[N, K]`, nats.
            prior: what was added to the mean of all.

        Returns:
            The mean of the later scores, the labels that it makes, and what was added to it.
        """
        counts = label_counts(labels, self._problem.n_labels)
        shares = [coherence(utility_of(scores, labels), counts) for scores in later]
        if len(counts) > 2 or min(shares) < self._settings.clear:  # noqa: PLR2004
            return None
        averaged = mean_of_scored(later)
        labels, prior = self._relabelled(averaged, prior)
        decided = self._problem.hold_pins(averaged + prior.offsets)
        changing = expected_changes(np.stack(later), decided)
        if not prior.told or changing >= self._settings.changing:
            return None
        return averaged, labels, prior

    def _relabelled(
        self, averaged: FloatArray, before: PriorEstimate
    ) -> tuple[IntArray, PriorEstimate]:
        """The best labels that the rule allows, pins kept."""
        grouped = before.source == "mixture"
        prior = estimate_prior(averaged, self._problem.prior, grouped_before=grouped, final=False)
        return self._assign(self._problem.hold_pins(averaged + prior.offsets)).labels, prior

    def _sampled(
        self, decided: FloatArray, temperature: float, rng: np.random.Generator
    ) -> IntArray:
        """Labels `[N]` drawn from `softmax(decided / temperature)`, by the rule, pins kept."""
        perturbed = decided / temperature + rng.gumbel(size=decided.shape)
        return self._assign(self._problem.hold_pins(perturbed)).labels

    async def _named(
        self, found: _Restart, rng: np.random.Generator, coherent: bool
    ) -> tuple[_Restart, NameExchange, bool]:
        """Ask which names are meant; sweep on where the words say little, or names are exchanged.

        Scores given the wrong names hold what the words say against them, so only sweeps with the
        right names decide.

        Args:
            found: the best restart.
            rng: draws folds and demos.
            coherent: whether the search has found what it looked for; otherwise it sweeps no more.

        Returns:
            1. The restart, with the names that it ends with.
            2. The comparison of names to report: that of the names first found; but the last one
               made, where the names that the search ends with are ambiguous.
            3. Whether names were exchanged.
        """
        problem, settings = self._problem, self._settings
        sweep = sum(record.restart == found.number for record in self._history)
        exchange = await exchange_names_in_folds(found.folds, found.labels, self._score)
        goes_on = coherent and not found.stopped
        rotated = goes_on and settings.all_names > 0 and exchange.all_weak
        if rotated:
            found = await self._rotated_sweeps(found, sweep, rng)
            exchange = await exchange_names_in_folds(found.folds, found.labels, self._score)
        reported, exchanged = exchange, False
        for _ in range(problem.n_labels):
            if not exchange.turns(found.averaged, problem):
                break
            exchanged = True
            averaged = exchange.renamed(found.averaged)
            labels, prior = self._relabelled(averaged, found.prior)
            found = replace(
                found,
                labels=labels,
                averaged=averaged,
                sweep_scores=exchange.renamed(found.sweep_scores),
                # Over all rotations classes are as coherent whatever they are called.
                utility=found.utility if rotated else exchange.exchanged_utility,
                prior=prior,
            )
            if goes_on and not rotated and settings.renamed:
                if self._watch.stop():
                    found = replace(found, stopped=True)
                else:
                    found = await self._sweeps(found, rng, renamed_at=sweep)
            if problem.n_labels == 2 or not goes_on or found.stopped:  # noqa: PLR2004
                break
            # Of several labels others may still have the wrong names, or names that are ambiguous.
            if self._watch.stop():
                found = replace(found, stopped=True)
                break
            folds = await score_folds(
                self._contexts(sweep, found.labels, found.averaged, rng=rng), self._score
            )
            found = replace(found, folds=folds)
            exchange = await exchange_names_in_folds(folds, found.labels, self._score)
            if exchange.ambiguous:
                reported = exchange
        return found, reported, exchanged

    async def _rival(self, labels: IntArray) -> RestartEnd | None:
        """Where one more start ends that is to find labels independent of these.

        Words that do not say what is meant do not choose between concepts either, and which one a
        start finds is chance.
        """
        if self._problem.unlike is not None or self._problem.pinned is not None:
            return None  # a person has chosen
        classes = classes_of([labels])
        other = _Search(
            replace(self._problem, unlike=classes, start=None),
            WithinClasses(self._score, classes),
            self._settings,
            replace(self._watch, observe=ignore),
            self._assign,
        )
        rng = np.random.default_rng(0)  # its own: what follows is as it would be without
        found = await other._sweeps(other._begun(0, rng), rng)
        return RestartEnd(found.labels, found.utility, other._coherence(found))

    async def _rotated_sweeps(
        self, found: _Restart, sweep: int, rng: np.random.Generator
    ) -> _Restart:
        """Sweep on with every context read under the rotations of its label names.

            s_t(i, y) <- mean_r s(i, y + r; C_f with label k renamed k + r)        modulo K

        Where the label words hardly say which class is which, their effect on a row is little more
        than noise, and labels may follow it more than the demos. It is then the same for all
        classes (of more labels than `MOST_ROTATIONS` little of it is left).

        Noise of the contexts that decided may look like an effect of the demos. So labels are
        judged by `U` in the next sweep's contexts, which had no say in them. The sweeps end when
        labels hardly move and `U` no longer climbs, or where it says that nothing is taught.

        Args:
            found: where the search has settled. Its last sweep is read under the rotations too.
            sweep: the number of the next sweep. There are at most `settings.all_names`, with the
                one that is read again.
            rng: draws folds and demos.

        Returns:
            Labels and scores of these sweeps alone. `folds` and `utility` are of a sweep that had
            no say in the labels, where there was one.
        """
        settings, shape = self._settings, found.averaged.shape
        taught = await self._taught(found.folds, shape)
        window = deque([taught], maxlen=ROTATED_AVERAGED)
        before = found.labels
        found = self._averaged(found, window)
        found = replace(found, utility=_utility_of_taught(taught, found.labels))
        highest, last = 0.0, sweep + settings.all_names - 2  # U is 0 where nothing is taught
        for number in range(sweep, last + 1):
            moved = (found.labels != before).sum()
            if self._watch.stop():
                return replace(found, stopped=True)
            folds = await score_folds(
                self._contexts(number, found.labels, found.averaged, rng=rng), self._score
            )
            taught = await self._taught(folds, shape)
            before, utility = found.labels, _utility_of_taught(taught, found.labels)
            found = replace(found, folds=folds, utility=utility)
            settled = moved < ROTATED_MOVING * len(before) and utility <= highest + settings.climb
            over = settled or utility <= settings.climb or number == last
            if not over:
                window.append(taught)
                found = self._averaged(found, window)
            self._record(found.number, number, utility, found.labels, before)
            if over:
                break
            highest = max(highest, utility)
        return found

    def _averaged(self, found: _Restart, window: Iterable[FloatArray]) -> _Restart:
        """The labels by the mean of these sweeps over all rotations."""
        scores = list(window)
        averaged = mean_of_scored(scores)
        labels, prior = self._relabelled(averaged, found.prior)
        return replace(
            found,
            labels=labels,
            averaged=averaged,
            sweep_scores=np.stack(scores),
            label_mass=joined(found.folds, averaged.shape)[1],
            prior=prior,
        )

    async def _taught(self, folds: list[ScoredFold], shape: tuple[int, int]) -> FloatArray:
        """The in-context effect of the folds' demos, by class: `[N, K]`, nats."""
        read = [joined(folds, shape)[0]]
        for names in rotations(shape[1])[: MOST_ROTATIONS - 1]:
            contexts = [(with_names(fold.context, names), fold.targets) for fold in folds]
            read.append(joined(await score_folds(contexts, self._score), shape)[0])
        return by_class(read)

    def _coherence(self, found: _Restart) -> float:
        return coherence(found.utility, label_counts(found.labels, self._problem.n_labels))

    def _record(
        self,
        restart: int,
        sweep: int,
        utility: float,
        labels: IntArray,
        before: IntArray,
        *,
        renamed: bool = False,
    ) -> SweepRecord:
        """Report a sweep that has made these labels of those before, both shape `[N]`."""
        counts = label_counts(labels, self._problem.n_labels)
        record = SweepRecord(
            restart,
            sweep,
            utility,
            coherence(utility, counts),
            counts,
            int((labels != before).sum()),
            labels=labels,
            renamed=renamed,
        )
        self._history.append(record)
        self._watch.observe(record)
        return record


def _utility_of_taught(taught: FloatArray, labels: IntArray) -> float:
    """Calibrated `U` of a model that says of an item what the demos teach, nats an item."""
    return utility_of(pointwise_mutual_information(log_softmax(taught)), labels)
