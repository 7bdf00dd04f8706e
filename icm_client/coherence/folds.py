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
they are 4, at most 5, those that the `fast` search finds with the base model, and as above. Folds
are drawn anew for each pass, so that no item is twice judged by a model that was taught by the same
others; a group that a rule binds stands whole in one fold, or a model would read off what it was
taught of the related item.

Printed, an item takes its model's most probable label. Here each model's mean probability of a
label is divided out first (`calibration`), and uneven shares are looked for (`prior`): a model that
is taught too many labels of one kind, as by a base model that favours a word, passes that on, and
the next pass adds to it. `FoldSettings.calibrated` false is the printed form.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from icm_client.coherence.assignment import JointAssignment, prepared
from icm_client.coherence.calibration import coherence, label_counts, log_softmax, utility_of
from icm_client.coherence.fast import search
from icm_client.coherence.problem import UNLABELLED, IntArray, Problem, Score
from icm_client.coherence.result import (
    UNWATCHED,
    Observed,
    PassRecord,
    SearchResult,
    SweepRecord,
    Watch,
)
from icm_client.coherence.settings import SweepSettings
from icm_client.coherence.trained import (
    Decided,
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
    problem: Problem,
    score: Score,
    train: TrainFolds,
    *,
    settings: FoldSettings,
    rng: np.random.Generator,
    watch: Watch = UNWATCHED,
) -> SearchResult:
    """Label all items by Algorithm 3.

    Args:
        problem: at least 2 items. Its first labels take the place of those that `search` finds.
            Models are trained on the pins too, and Algorithm 4 takes them for the most confident.
        score: the base model; finds first labels, and tries names at the end.
        train: trains the folds' models, and asks them.
        settings: its numbers.
        rng: the only source of chance; the result is a function of it, the settings and what
            `score` and `train` answer. First labels are those that `search` finds with it.
        watch: follows each sweep of the first search, and then each pass (`PassRecord`); its `stop`
            is asked after each.

    Returns:
        `log_probs` and `label_mass` are of the last pass's models. `utility` is the lower of two:
        how well they predict the labels that they were trained on, each item's by a model that was
        trained on the others (`PassRecord`), and how well the base model predicts the labels found,
        in context. Models that were taught too little agree with each other on something else.
        `exchange` is the base model's word on the labels found, in context (`names_in_context`);
        names that are clearly better exchanged have been; where items are pinned, as the pins say.

    Raises:
        InputError: as `search`. Nothing has been asked yet.
        TrainingError: the first labels leave a fold's model without an example of a label.
        EndpointError, ScoreError: whatever `score` and `train` raise.
    """
    problem, _ = prepared(problem)
    history: list[SweepRecord] = []

    def note(record: Observed) -> None:
        assert isinstance(record, SweepRecord)  # noqa: S101 - what sweeps and passes report
        history.append(record)
        watch.observe(record)

    first: SearchResult | None = None
    if problem.start is None:
        noted = replace(watch, observe=note)
        first = await search(problem, score, settings=settings.sweeps, rng=rng, watch=noted)
        if first.stopped:
            return first
        labels = first.labels
    else:
        labels = problem.start.copy()
    labels[problem.left_out] = UNLABELLED
    ends = await _passes(
        problem, labels, train, settings=settings, rng=rng, watch=replace(watch, observe=note)
    )
    labels, scores = ends.labels, ends.decided.scores
    exchange, asked = await names_in_context(
        problem, labels, scores, score, settings=settings.sweeps, rng=rng
    )
    if exchanged := exchange.turns(scores, problem):
        # Models trained on exchanged labels would say the same, exchanged.
        scores = exchange.renamed(scores)
        fix = MostConfident(problem.constraint, problem.n_labels)
        labels = fix(problem.hold_pins(scores)).labels
    labels = problem.reported(labels, scores)
    in_context = exchange.exchanged_utility if exchanged else exchange.utility
    utility = float(np.fmin(ends.utility, in_context))  # NaN where no item could be asked
    return SearchResult(
        labels=labels,
        log_probs=log_softmax(scores),
        utility=utility,
        coherence=coherence(utility, label_counts(labels, problem.n_labels)),
        restart=0 if first is None else first.restart,
        prior=ends.decided.prior,
        exchange=exchange,
        history=tuple(history),
        exchanged=exchanged,
        stopped=ends.stopped,
        restarts=() if first is None else first.restarts,
        label_mass=ends.decided.label_mass,
        last_asked=asked,
    )


async def _passes(
    problem: Problem,
    labels: IntArray,
    train: TrainFolds,
    *,
    settings: FoldSettings,
    rng: np.random.Generator,
    watch: Watch,
) -> _Ends:
    """Train and relabel until the labels stand still."""
    fix = MostConfident(problem.constraint, problem.n_labels)
    decided: Decided | None = None
    for number in range(settings.passes):
        trainings = fold_trainings(number, labels, problem, folds=settings.folds, rng=rng)
        if decided is not None and not all(teaches_all(t, problem.n_labels) for t in trainings):
            break  # one label is about to take all: nothing more can be learnt from these
        decided = decide(
            trainings,
            await train(trainings),
            problem,
            calibrated=settings.calibrated,
            grouped_before=decided is not None and decided.prior.source == "mixture",
        )
        utility = utility_of(decided.calibrated, labels)
        share = coherence(utility, label_counts(labels, problem.n_labels))
        before, labels = labels, fix(problem.hold_pins(decided.scores)).labels
        moved = int((labels != before).sum())
        counts = label_counts(labels, problem.n_labels)
        trained_on = min(len(training.demos) for training in trainings)
        watch.observe(
            PassRecord(0, number, utility, share, counts, moved, trained_on, labels=labels)
        )
        if moved < settings.moving * len(labels):
            break
        if number + 1 < settings.passes and watch.stop():
            return _Ends(labels, decided, utility, stopped=True)
    assert decided is not None  # noqa: S101 - at least one pass
    return _Ends(labels, decided, utility, stopped=False)
