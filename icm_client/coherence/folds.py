r"""Algorithms 3 and 4 (Appendix G): leave-one-out contexts replaced by fine-tuned folds.

    D <- first labels
    for pass 1, 2, ...:
        split D at random into F folds D_1 .. D_F
        for each fold f, all in parallel:
            train a model on D \ D_f
            relabel D_f with it, zero-shot
        fix: in each group that a rule binds, the most confident prediction stands and the others
             are set to agree with it                                               (Algorithm 4)
    until fewer than 1% of the labels move, or after 5 passes

The paper gives neither F, nor the number of passes, nor the first labels, nor when to stop. Here
they are 4, at most 5, those of the `fast` search behind the base model, and as above. Folds are
drawn anew for each pass, so that no item is twice judged by a model that was taught by the same
others; a group that a rule binds stands whole in one fold, or a model would read off what it was
taught of the related item.

Printed, an item takes its model's most probable label. Here each model's mean probability of a
label is divided out first (`calibration`), and uneven shares are looked for (`prior`): a model that
is taught too many labels of one kind, as by a base model that favours a word, passes that on, and
the next pass adds to it. `FoldSettings.calibrated` false is the printed form.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np

from icm_client.coherence.assignment import JointAssignment
from icm_client.coherence.calibration import coherence, label_counts, log_softmax, utility_of
from icm_client.coherence.constraints import NO_CONSTRAINT, Constraint, check_groups
from icm_client.coherence.contexts import UNLABELLED
from icm_client.coherence.pins import as_scored, checked_pins, held, names_turn, with_pins
from icm_client.coherence.problem import FloatArray, IntArray, Score, Stop, never
from icm_client.coherence.search_result import Observer, SearchResult, SweepRecord
from icm_client.coherence.settings import SweepSettings
from icm_client.coherence.starts import check_start
from icm_client.coherence.sweep import search
from icm_client.coherence.trained import (
    Decided,
    PassRecord,
    TrainFolds,
    decide,
    fold_trainings,
    names_in_context,
    teaches_all,
)
from icm_client.errors import InputError


@dataclass(frozen=True, slots=True)
class FoldSettings:
    """The numbers of Algorithm 3.

    Attributes:
        folds: `F`; a model each, in each pass.
        passes: the most passes.
        moving: the share of labels under which a pass is the last.
        calibrated: labels are taken from calibrated scores; False is the printed form, the models'
            own most probable labels.
        sweeps: of the search that finds the first labels, and of the contexts in which names are
            tried at the end.

    Raises:
        InputError: fewer than two folds, or no pass.
    """

    folds: int = 4
    passes: int = 5
    moving: float = 0.01
    calibrated: bool = True
    sweeps: SweepSettings = field(default_factory=SweepSettings)

    def __post_init__(self) -> None:
        """Refuse numbers that nothing could be done with."""
        for name, least in (("folds", 2), ("passes", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, not {getattr(self, name)}")

    @property
    def initial(self) -> int:
        """`K`: items labelled at random, where first labels are to be random."""
        return self.sweeps.initial


class MostConfident(JointAssignment):
    """Algorithm 4: in each group the most confident prediction stands and the others agree with it.

    Other searches give a small group the best labels as a whole. The two differ where one confident
    prediction stands against several that are less so.
    """

    def _enumerable(self, _: object) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class _Ends:
    """Where the passes ended.

    Attributes:
        labels: shape `[N]`, after the last pass.
        decided: what its models said.
        utility: calibrated `U` of the labels that they were trained on, nats an item.
        stopped: whether `stop` ended them.
    """

    labels: IntArray
    decided: Decided
    utility: float
    stopped: bool


async def fold_search(
    n_items: int,
    n_labels: int,
    score: Score,
    train: TrainFolds,
    *,
    rng: np.random.Generator,
    settings: FoldSettings,
    prior: FloatArray | None = None,
    constraint: Constraint = NO_CONSTRAINT,
    start: IntArray | None = None,
    pinned: IntArray | None = None,
    left_out: Collection[int] = (),
    observe: Observer = lambda _: None,
    stop: Stop = never,
) -> SearchResult:
    """Label all items by Algorithm 3.

    Args:
        n_items: `N`, at least 2.
        n_labels: `K`, at least 2.
        score: the base model; finds first labels, and tries names at the end.
        train: trains the folds' models, and asks them.
        rng: the only source of chance; the result is a function of it, the settings and what the
            two doors answer. First labels are those that `search` finds with it.
        settings: its numbers.
        prior: shape `[K]`, the labels' shares where the user knows them.
        constraint: the rule that labels keep.
        start: shape `[N]`, first labels in the place of those that `search` finds, `UNLABELLED`
            where an item has none.
        pinned: shape `[N]`, labels that stay as they are, `UNLABELLED` where an item is free.
            Models are taught them, and Algorithm 4 takes them for the most confident.
        left_out: items that are known not to be scored.
        observe: told of each sweep of the first search, and then of each pass (`PassRecord`).
        stop: asked after each sweep, and after each pass; once it says so, the search ends with the
            labels it has.

    Returns:
        `log_probs` and `label_mass` are of the last pass's models. `utility` is the lower of two:
        how well they predict the labels that they were taught, each item's by a model that was
        taught the others (`PassRecord`), and how well the base model predicts the labels found, in
        context. Models that were taught too little agree with each other on something else.
        `exchange` is the base model's word on the labels found, in context (`names_in_context`);
        names that are clearly better exchanged have been; where items are pinned, as the pins say.

    Raises:
        InputError: as `search`. Nothing has been asked yet.
        TrainingError: the first labels leave a fold's model without an example of a label.
        EndpointError, ScoreError: whatever `score` and `train` raise.
    """
    check_groups(constraint.groups, n_items)
    assign = JointAssignment(constraint, n_labels)  # refuses a rule that allows a group nothing
    pinned = checked_pins(pinned, n_items, n_labels, assign, left_out)
    history: list[SweepRecord] = []

    def note(record: SweepRecord) -> None:
        history.append(record)
        observe(record)

    first: SearchResult | None = None
    if start is None:
        first = await search(
            n_items,
            n_labels,
            score,
            rng=rng,
            settings=settings.sweeps,
            prior=prior,
            constraint=constraint,
            pinned=pinned,
            left_out=left_out,
            observe=note,
            stop=stop,
        )
        if first.stopped:
            return first
        labels = first.labels
    else:
        check_start(start, n_items, n_labels)
        labels = with_pins(start.copy(), pinned)
    labels[list(left_out)] = UNLABELLED
    ends = await _passes(
        labels,
        n_labels,
        train,
        rng=rng,
        settings=settings,
        prior=prior,
        constraint=constraint,
        pinned=pinned,
        left_out=left_out,
        note=note,
        stop=stop,
    )
    exchange, asked = await names_in_context(
        ends.labels,
        ends.decided.scores,
        score,
        rng=rng,
        settings=settings.sweeps,
        groups=constraint.groups,
        pinned=pinned,
    )
    labels, scores = ends.labels, ends.decided.scores
    if turned := names_turn(exchange, scores, pinned):
        # Models trained on exchanged labels would say the same, exchanged.
        scores = exchange.renamed(scores)
        labels = MostConfident(constraint, n_labels)(held(scores, pinned)).labels
    labels = as_scored(labels, scores, pinned)
    in_context = exchange.exchanged_utility if turned else exchange.utility
    utility = float(np.fmin(ends.utility, in_context))  # NaN where no item could be asked
    return SearchResult(
        labels=labels,
        log_probs=log_softmax(scores),
        utility=utility,
        coherence=coherence(utility, label_counts(labels, n_labels)),
        restart=0 if first is None else first.restart,
        prior=ends.decided.prior,
        exchange=exchange,
        history=tuple(history),
        exchanged=turned,
        stopped=ends.stopped,
        restarts=() if first is None else first.restarts,
        label_mass=ends.decided.label_mass,
        last_asked=asked,
    )


async def _passes(
    labels: IntArray,
    n_labels: int,
    train: TrainFolds,
    *,
    rng: np.random.Generator,
    settings: FoldSettings,
    prior: FloatArray | None,
    constraint: Constraint,
    pinned: IntArray | None,
    left_out: Collection[int],
    note: Observer,
    stop: Stop,
) -> _Ends:
    """Train and relabel until the labels stand still."""
    fix = MostConfident(constraint, n_labels)
    decided: Decided | None = None
    for number in range(settings.passes):
        trainings = fold_trainings(
            number,
            labels,
            rng=rng,
            folds=settings.folds,
            groups=constraint.groups,
            left_out=left_out,
        )
        if decided is not None and not all(teaches_all(t, n_labels) for t in trainings):
            break  # one label is about to take all: nothing more can be learnt from these
        decided = decide(
            trainings,
            await train(trainings),
            len(labels),
            calibrated=settings.calibrated,
            prior=prior,
            grouped_before=decided is not None and decided.prior.source == "mixture",
        )
        utility = utility_of(decided.calibrated, labels)
        share = coherence(utility, label_counts(labels, n_labels))
        before, labels = labels, fix(held(decided.scores, pinned)).labels
        moved = int((labels != before).sum())
        counts = label_counts(labels, n_labels)
        trained_on = min(len(training.demos) for training in trainings)
        note(PassRecord(0, number, utility, share, counts, moved, trained_on, labels=labels))
        if moved < settings.moving * len(labels):
            break
        if number + 1 < settings.passes and stop():
            return _Ends(labels, decided, utility, stopped=True)
    assert decided is not None  # noqa: S101 - at least one pass
    return _Ends(labels, decided, utility, stopped=False)
