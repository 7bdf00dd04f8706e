"""One sweep's steps: read what others' labels say of every item, and label all of them anew."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from icm_client.coherence.assignment import JointAssignment
from icm_client.coherence.calibration import coherence, label_counts
from icm_client.coherence.constraints import Groups
from icm_client.coherence.fold_scores import ScoredFold, fold_contexts, score_folds
from icm_client.coherence.pins import held
from icm_client.coherence.prior import PriorEstimate, estimate_prior
from icm_client.coherence.problem import FloatArray, IntArray, Score, Stop
from icm_client.coherence.search_result import Observer, SweepRecord
from icm_client.coherence.settings import SweepSettings


class Relabelled(NamedTuple):
    """What scores make of the labels.

    Attributes:
        labels: shape `[N]`.
        decided: shape `[N, K]`, nats: the scores with the prior's offsets.
    """

    labels: IntArray
    decided: FloatArray
    prior: PriorEstimate


@dataclass(frozen=True, slots=True)
class Sweeping:
    """What all sweeps of a search share.

    Attributes:
        n_labels: `K`.
        score: the way out.
        settings: of the search.
        prior: shape `[K]`, the labels' shares where the user knows them.
        groups: of the rule.
        assign: gives labels by the rule.
        pinned: shape `[N]`, labels that stay, or None.
        observe: told of each sweep.
        stop: asked before each sweep that may be left out.
    """

    n_labels: int
    score: Score
    settings: SweepSettings
    prior: FloatArray | None
    groups: Groups
    assign: JointAssignment
    pinned: IntArray | None
    observe: Observer
    stop: Stop

    async def read(
        self, sweep: int, labels: IntArray, averaged: FloatArray, rng: np.random.Generator
    ) -> list[ScoredFold]:
        """Score every item behind demos of other folds; demos and folds are drawn by `rng`.

        Args:
            sweep: its number, from 0.
            labels: shape `[N]`, from which demos are drawn.
            averaged: shape `[N, K]`, nats: how certain they are.
            rng: the only source of chance.
        """
        contexts = fold_contexts(
            sweep, labels, averaged, rng, self.settings, groups=self.groups, pinned=self.pinned
        )
        return await score_folds(contexts, self.score)

    def relabel(self, averaged: FloatArray, before: PriorEstimate | None) -> Relabelled:
        """The best labels that the rule allows, pins kept.

        Args:
            averaged: shape `[N, K]`, nats, NaN where an item has no score.
            before: the prior estimated last.
        """
        grouped = before is not None and before.source == "mixture"
        prior = estimate_prior(averaged, self.prior, grouped_before=grouped, settled=False)
        decided = averaged + prior.offsets
        return Relabelled(self.assign(held(decided, self.pinned)).labels, decided, prior)

    def drawn(self, decided: FloatArray, temperature: float, rng: np.random.Generator) -> IntArray:
        """Labels `[N]` drawn from `softmax(decided / temperature)`, by the rule, pins kept."""
        perturbed = decided / temperature + rng.gumbel(size=decided.shape)
        return self.assign(held(perturbed, self.pinned)).labels

    def note(
        self,
        restart: int,
        sweep: int,
        utility: float,
        labels: IntArray,
        before: IntArray,
        *,
        renamed: bool = False,
    ) -> SweepRecord:
        """Tell of a sweep that has made these labels of those before, both shape `[N]`."""
        counts = label_counts(labels, self.n_labels)
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
        self.observe(record)
        return record
