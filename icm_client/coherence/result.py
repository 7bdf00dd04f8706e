"""What a search reports while it goes on, how a caller ends it, and what it finds."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from icm_client.coherence.consistency_fix import Change
from icm_client.coherence.label_names import NameExchange
from icm_client.coherence.label_prior import PriorEstimate
from icm_client.coherence.problem import FloatArray, IntArray, Query


@dataclass(frozen=True, slots=True)
class SweepRecord:
    """One sweep, as reported to the observer.

    Attributes:
        restart: from 0.
        sweep: from 0, within the restart.
        utility: calibrated `U(D)` of the labels after this sweep, nats an item.
        coherence: `utility` as a share of the labels' entropy.
        counts: items of each label, shape `[K]`.
        moved: items whose label changed, those labelled for the first time included.
        labels: shape `[N]`, after this sweep, with names as they were then, `UNLABELLED` where an
            item has none; kept in the smallest integers that hold them. None where nobody gave
            them. Records that differ in them alone are equal.
        renamed: whether names had been exchanged before this sweep.
    """

    restart: int
    sweep: int
    utility: float
    coherence: float
    counts: tuple[int, ...]
    moved: int
    labels: NDArray[np.signedinteger] | None = field(
        default=None, kw_only=True, compare=False, repr=False
    )
    renamed: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        """Keep the labels small: dozens of sweeps are remembered."""
        if self.labels is not None:
            small = np.min_scalar_type(-len(self.counts))
            object.__setattr__(self, "labels", self.labels.astype(small))

    def summary(self) -> dict[str, Any]:
        """Everything but the labels, of which there is one a row, as JSON values."""
        return {
            each.name: getattr(self, each.name) for each in fields(self) if each.name != "labels"
        }


@dataclass(frozen=True, slots=True)
class PassRecord(SweepRecord):
    r"""One pass over the folds, or one batch of iterative fine-tuning; `sweep` counts them from 0.

    `utility` and `coherence` of a pass are those of the labels before it: each item's label by a
    model that was trained on the others, which is `U(D)` with `P(y_i | x_i, D \ D_f)`. Those of a
    batch are the search's at its end: each item's label in context, given demos of the batch.
    `counts` are of all labels after it.

    Attributes:
        trained_on: labels that its models were trained on; of several the fewest.
    """

    trained_on: int


class Step(NamedTuple):
    """One iteration of Algorithm 1, as reported to the observer.

    Attributes:
        n: from 1.
        T: temperature.
        alpha: weight of `P` that `U` and `Delta` were computed with.
        item: `i`.
        proposal: `yhat`.
        fix: labels that consistencyfix then replaced, in order.
        U: `U(D)` after the step.
        Delta: `U(Dhat) - U(D)` before it was decided.
        accepted: whether `D` is now `Dhat`; true where `Dhat` is `D`.
        batch: which batch of the items, from 0.
    """

    n: int
    T: float
    alpha: float
    item: int
    proposal: int
    fix: tuple[Change, ...]
    U: float
    Delta: float
    accepted: bool
    batch: int = 0


Observed = SweepRecord | Step
"""What a search reports as it goes on: a sweep of `fast`, a step of Algorithm 1, or a pass or batch
of a search that trains (`PassRecord`, after the sweeps that it begins with)."""

Observer = Callable[[Observed], None]
Stop = Callable[[], bool]


def ignore(_: Observed) -> None:
    """Report to nobody."""


def never() -> bool:
    """Go on until the search ends by itself."""
    return False


@dataclass(frozen=True, slots=True)
class Watch:
    """How a caller follows a search, and ends it.

    Attributes:
        observe: called with each sweep, step, pass or batch as it ends.
        stop: asked between them; once it is true, the search ends with the labels it has.
    """

    observe: Observer = ignore
    stop: Stop = never


UNWATCHED = Watch()


@dataclass(frozen=True, slots=True)
class RestartEnd:
    """Where one restart ended.

    Attributes:
        labels: shape `[N]`, before names were exchanged; `UNLABELLED` where an item has no score.
        utility: calibrated `U(D)` of its last sweep, nats an item.
        coherence: `utility` as a share of the labels' entropy.
    """

    labels: IntArray
    utility: float
    coherence: float


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The labels found.

    Attributes:
        labels: shape `[N]`; where a rule binds items, not each one's likeliest by itself.
            `UNLABELLED` where an item could not be scored.
        log_probs: shape `[N, K]`, nats: what labels were decided by, with the prior's offsets;
            calibrated, but for Algorithm 1, which decides by the model's own. Rows sum to one in
            probability, and are NaN where an item could not be scored.
        utility: calibrated `U(D)` of the labels, nats an item.
        coherence: `utility` as a share of the labels' entropy.
        restart: which restart won.
        prior: what was assumed about the labels' shares.
        exchange: what became of `U` when label names were exchanged.
        history: all sweeps of all restarts, in order; none of Algorithm 1.
        by_confidence: groups too large to try all labellings of; the most confident item decided.
        exchanged: whether names that were clearly better have been taken.
        steps: all steps of Algorithm 1, in order; none of a search by sweeps.
        objective: Algorithm 1's own `U(D)` when it ended, summed over batches.
        settled: items that Algorithm 1 left without a label, or whose label contradicted others,
            and that have another label now.
        contradictions: pairs that contradicted each other when Algorithm 1 ended.
        stopped: whether `Watch.stop` ended the search before its time.
        restarts: where each restart ended, in order; none of Algorithm 1, which starts once.
        rival: where a search for labels independent of these ended, which is made where the words
            do not choose between concepts; None elsewhere.
        label_mass: shape `[N]`, the share of the next token's probability that is on any label, a
            mean over the averaged sweeps; NaN where an item could not be scored.
        sweep_scores: shape `[M, N, K]`, nats: calibrated scores of the averaged sweeps, one by
            one, without those whose demos had sampled labels (where labels were clear early,
            without the first). None of Algorithm 1, which reads once.
        last_asked: a few of the queries asked last, which are asked again to see by how much
            the server's answers vary.
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
    restarts: tuple[RestartEnd, ...] = ()
    rival: RestartEnd | None = None
    label_mass: FloatArray | None = None
    sweep_scores: FloatArray | None = None
    last_asked: tuple[Query, ...] = ()
