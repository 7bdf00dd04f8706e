"""One labelling out of several, without gold: whose votes count how much, and who is contradicted.

How often each labelling is right shows in how they agree (Dawid and Skene, "Maximum likelihood
estimation of observer error-rates using the EM algorithm", 1979). `v[i, r]` is the label that
labelling `r` gives to row `i`:

    q[i, k] <- share of row i's votes that are for k
    until q stands still:
        p[k] <- mean_i q[i, k]
        pi[r, k, l] <- (sum_i q[i, k] [v[i, r] = l] + S / K) / (sum_i q[i, k] + S)
        q[i, k] <- p[k] prod_r pi[r, k, v[i, r]], normalised over k

`pi[r]` is a confusion matrix: how often `r` gives `l` where `k` is right. `S` rows of even votes
for each label keep what the few rows of a label say from being certain.

That takes three labellings and many rows. Else `q` is a weighted majority. The vote of a labelling
that is right with probability `a`, and else gives any other label, counts
`log(a (K - 1) / (1 - a))` nats: `a` is what its coherence implies, or the confidence that it has in
the row's label where that is lower.

All of it takes the labellings to err independently. Two that make the same mistakes are believed.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from icm_client.coherence.calibration import log_softmax
from icm_client.coherence.problem import FloatArray, IntArray
from icm_client.stats.agreement import Agreement, Labelling, agreement, agreements

FEWEST_LABELLINGS = 3
"""From so many on, their agreement shows how often each is right."""

ROWS_OF_A_LABEL = 50
"""Rows for each label from which on confusion matrices are estimated: with fewer a majority is
as good (docs/second_opinions.md)."""

SMOOTHING = 8.0
"""`S`: with 1, three labellings of two labels end a point under their majority."""

HARDLY, SOME, CLEARLY = 0.2, 0.4, 0.5
"""Kappas: who hardly agrees with others that have some agreement is contradicted by them; who
clearly agrees under other names has exchanged them. Of 64 rows that two labellings have alike by
chance, the standard error is 0.125."""

SUREST = 0.999
"""The highest accuracy that a coherence implies."""

_ITERATIONS = 1000
_SETTLED = 1e-8  # of a row's probability
_HALVINGS = 60
_SHORT_OF_ALL = 0.9
_TINY = np.finfo(np.float64).tiny


def dawid_skene(
    votes: IntArray, n_labels: int, *, smoothing: float = SMOOTHING, iterations: int = _ITERATIONS
) -> FloatArray:
    """Return the probability of each row's labels, `[N, K]`, by expectation maximisation.

    Args:
        votes: shape `[N, R]`.
        n_labels: `K`.
        smoothing: rows of even votes for each label that are added to the votes.
        iterations: the most.
    """
    given = np.eye(n_labels)[votes]  # [N, R, K]
    posterior: FloatArray = given.mean(axis=1)
    for _ in range(iterations):
        counts = np.einsum("ik,irl->rkl", posterior, given) + smoothing / n_labels
        confusion = counts / np.maximum(counts.sum(axis=2, keepdims=True), _TINY)
        said = np.einsum("irl,rkl->ik", given, _log(confusion))
        before, posterior = posterior, np.exp(log_softmax(_log(posterior.mean(axis=0)) + said))
        if np.abs(posterior - before).max() < _SETTLED:
            break
    return posterior


def _log(values: FloatArray) -> FloatArray:
    logs: FloatArray = np.log(np.maximum(values, _TINY))
    return logs


def weighted_majority(votes: IntArray, weights: FloatArray, n_labels: int) -> FloatArray:
    """Return the probability of each row's labels, `[N, K]`, all being equally likely before.

    Args:
        votes: shape `[N, R]`.
        weights: shape `[N, R]`, nats.
        n_labels: `K`.
    """
    posterior: FloatArray = np.exp(
        log_softmax(np.einsum("irk,ir->ik", np.eye(n_labels)[votes], weights))
    )
    return posterior


def bounded(weights: FloatArray) -> FloatArray:
    """Return weights `[R]` of which none is as large as all others together; of two, as they are.

    A labelling that is sure of itself and wrong, as a deceiver's is, does not decide then.
    """
    if len(weights) < FEWEST_LABELLINGS:
        return weights
    smaller: FloatArray = np.minimum(weights, _SHORT_OF_ALL * (weights.sum() - weights))
    return smaller


def weight(accuracy: float, n_labels: int) -> float:
    """Return what a vote counts in a weighted majority, nats: 0 at chance and below."""
    right = min(max(accuracy, 1 / n_labels), SUREST)
    return math.log(right * (n_labels - 1) / (1 - right))


def implied_accuracy(coherence: float, n_labels: int) -> float:
    """Return how often labels are right that tell so much about their rows, if they tell the truth.

    Coherence is the share of the labels' entropy that the rows tell. Of `K` equally common labels
    that are right with probability `a`, and else any other, it is

        1 - (h(a) + (1 - a) log(K - 1)) / log K,    h(a) = -a log a - (1 - a) log(1 - a)

    This is solved for `a`, between chance (a coherence of 0 and less) and `SUREST`.
    """
    low, high = 1 / n_labels, SUREST
    if coherence <= 0:
        return low
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _told(middle, n_labels) < coherence else (low, middle)
    return high


def _told(accuracy: float, n_labels: int) -> float:
    wrong = 1 - accuracy
    unknown = -accuracy * math.log(accuracy) - wrong * math.log(wrong / (n_labels - 1))
    return 1 - unknown / math.log(n_labels)


class Standing(NamedTuple):
    """How a labelling stands to what most of the others say.

    Attributes:
        with_others: its agreement with the label that more than half of the others give, over the
            rows that have one.
        among_others: the highest kappa of two of the others.
    """

    with_others: Agreement
    among_others: float

    @property
    def exchanged(self) -> bool:
        """Whether it has the others' classes under other names (`with_others.names`)."""
        return self.among_others >= SOME and exchanged(self.with_others)

    @property
    def contradicted(self) -> bool:
        """Whether others agree with each other, and it hardly agrees with them."""
        hardly = (self.with_others.kappa or 0.0) < HARDLY
        return self.among_others >= SOME and hardly and not self.exchanged


def exchanged(alike: Agreement) -> bool:
    """Return whether two labellings have the same classes under other names."""
    kappa = alike.exchanged_kappa or 0.0
    return kappa >= CLEARLY and kappa >= (alike.kappa or 0.0) + HARDLY


def standings(labellings: Sequence[Labelling]) -> tuple[Standing | None, ...]:
    """Compare each labelling with what most of the others say; None where that cannot be."""
    return tuple(_standing(labellings, number) for number in range(len(labellings)))


def _standing(labellings: Sequence[Labelling], number: int) -> Standing | None:
    others = [one for other, one in enumerate(labellings) if other != number]
    most = majority(others)
    if len(labellings) < FEWEST_LABELLINGS or not most:
        return None
    kappas = [pair.kappa or 0.0 for pair in agreements(others).values()]
    return Standing(agreement(most, labellings[number]), max(kappas))


def majority(labellings: Sequence[Labelling]) -> dict[str, str]:
    """Return the label that more than half of the labellings give, for the rows that have one.

    Args:
        labellings: of the same rows, one at least.
    """
    found = {}
    for row in labellings[0]:
        label, votes = Counter(one[row] for one in labellings).most_common(1)[0]
        if 2 * votes > len(labellings):
            found[row] = label
    return found


class PairedTest(NamedTuple):
    """McNemar's exact test of two labellings on the same rows.

    Attributes:
        first: rows that the first one alone has right.
        second: rows that the second one alone has right.
        p: how often two that are equally good would differ by so much or more, two-sided.
    """

    first: int
    second: int
    p: float


def paired_test(first: Labelling, second: Labelling, right: Labelling) -> PairedTest:
    """Test whether one of two labellings is right more often, over the rows of `right`.

    McNemar, "Note on the sampling error of the difference between correlated proportions or
    percentages" (1947), exactly: where neither is better, each row that one alone has right is
    either one's with probability 1/2.
    """
    ours = sum(first[row] == label != second[row] for row, label in right.items())
    theirs = sum(second[row] == label != first[row] for row, label in right.items())
    rows = ours + theirs
    tail = math.fsum(
        math.exp(
            math.lgamma(rows + 1)
            - math.lgamma(fewer + 1)
            - math.lgamma(rows - fewer + 1)
            - rows * math.log(2)
        )
        for fewer in range(min(ours, theirs) + 1)
    )
    return PairedTest(ours, theirs, min(1.0, 2 * tail))
