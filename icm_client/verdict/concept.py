"""Do the labels follow a concept at all, or are they each row's own guess, or chance?

`items` are the items whose labels are the rows', throughout.
"""

import numpy as np

from icm_client.coherence.calibration import (
    coherence,
    label_counts,
    log_softmax,
    pointwise_mutual_information,
    utility_of,
)
from icm_client.coherence.confidence import LabelGroups, confidences, fit_label_groups
from icm_client.coherence.label_names import RESPONSIVE, WordSplit
from icm_client.coherence.problem import UNLABELLED, FloatArray, IntArray
from icm_client.coherence.result import SearchResult
from icm_client.verdict.findings import TRY_ANOTHER_QUESTION, Finding, Severity

INCOHERENT = 0.15
"""`incoherent` is found under this coherence."""

COHERENT, FAINT = 0.5, 0.3
"""Coherence from which on labels without groups are to be checked, and not condemned, and under
which groups must be clear: a search among noise ends at 10 to 38%."""

FEWEST_FOR_GROUPS = 32
"""Groups of fewer rows would not show: coherent labels are not doubted for want of them then, and
others are condemned only under `FAINT`."""

UNSURE = 0.7
"""`unsure` is found where the mean confidence of the labels is lower."""

SAME_SPLIT = 0.1
"""`by-words` takes the place of `unresponsive` where the label words split the rows in two groups,
and up to this share of the labels differ from these."""

_SAMPLED = 20_000  # rows of no group, drawn to see how coherent their labels look


def salience(result: SearchResult, *, one_label: bool) -> list[Finding]:
    """Do labels follow from each other, or each from its row? `one_label`: nearly all are one."""
    if result.coherence < INCOHERENT:
        why = (
            "and one label for nearly all rows says nothing about any of them"
            if one_label
            else "so they follow no concept that this model sees in these rows"
        )
        message = f"The labels are not to be trusted: they hardly predict each other, {why}."
        figures = f"Coherence {result.coherence:.0%}; {INCOHERENT:.0%} is needed"
        return [Finding("incoherent", message, TRY_ANOTHER_QUESTION, "fatal", figures)]
    response = result.exchange.response
    if not response < RESPONSIVE:  # or NaN
        return []
    figures = (
        f"With the demos' labels exchanged, {response:.0%} of the rows that were asked again turn "
        f"the way their label says, balanced over the labels; 50% is chance, {RESPONSIVE:.0%} is "
        "needed"
    )
    split = result.exchange.split
    if split is not None and _of_words(split) and not one_label:
        message = (
            "The labels follow what the label words say of each row by itself, which makes two "
            "groups of the rows, and not the demos."
        )
        advice = "Look at a few rows of each label: in demos the model may see something else."
        figures += (
            f". Of {split.items:,} labels {split.differing:.0%} differ from the words' groups"
        )
        return [Finding("by-words", message, advice, "check", figures)]
    message = (
        "The labels are not to be trusted: they do not follow the demos, but what the model says "
        "about each row by itself."
    )
    return [Finding("unresponsive", message, TRY_ANOTHER_QUESTION, "fatal", figures)]


def _of_words(split: WordSplit) -> bool:
    """Whether the label words split the rows, and the labels are their two groups."""
    return split.differing <= SAME_SPLIT and split.gain >= split.needed


def groups_of(result: SearchResult, items: IntArray) -> LabelGroups | None:
    """Fit one group of scores for each label; None where there are too few items to tell."""
    return fit_label_groups(*_scored(result, items))


def no_groups(result: SearchResult, items: IntArray, groups: LabelGroups | None) -> list[Finding]:
    """Do the labels cut rows of one kind in two? `U` alone cannot tell.

    A search labels rows by the scores that `U` is the mean of. Rows that belong to nothing, whose
    scores just spread, get labels as coherent as their spread is wide.
    """
    if groups is None:
        return []
    coherent, some = result.coherence >= COHERENT, groups.gain >= groups.needed
    if some and (groups.clear or result.coherence >= FAINT):
        return []
    scores, labels = _scored(result, items)
    few = len(labels) < FEWEST_FOR_GROUPS
    if coherent and few:
        return []
    figures = (
        f"The averaged scores have a coherence of {_coherence_of(scores, labels):.0%}; rows of no "
        f"group whose scores spread as these do would have {_coherence_of_no_group(scores):.0%}. "
        "One group for each label explains the scores better than a single one by "
        f"{groups.gain:.1f} nats; "
        f"{groups.needed:.1f} are needed"
    )
    advice = f"Label more rows, so that groups show if there are any. {TRY_ANOTHER_QUESTION}"
    message = "The scores do not clearly fall into one group for each label."
    severity: Severity = "check"
    if not (coherent or some or (few and result.coherence >= FAINT)):
        severity = "fatal"
        message = (
            "The labels are not to be trusted: the scores fall into no groups, so nothing shows "
            "that the labels are more than chance."
        )
    return [Finding("no-groups", message, advice, severity, figures)]


def unsure(result: SearchResult, items: IntArray) -> list[Finding]:
    """Are the labels of a search without a fatal finding likely to be right, on average?"""
    found = confidences(result.log_probs[items], result.labels[items])
    found = found[~np.isnan(found)]
    if not len(found) or found.mean() >= UNSURE:
        return []
    message = f"Only {found.mean():.0%} of the labels are estimated to be right."
    advice = (
        "Look at the least certain rows of each label, and pin some. Fewer labels, or label words "
        "that lie further apart, may be told apart better."
    )
    low = int((found < UNSURE).sum())
    figures = f"{low:,} of {len(found):,} rows have a confidence under {UNSURE:.0%}"
    return [Finding("unsure", message, advice, "check", figures)]


def _scored(result: SearchResult, items: IntArray) -> tuple[FloatArray, IntArray]:
    """Scores `[n, K]` and labels `[n]` of the items that have both."""
    scores, labels = result.log_probs[items], result.labels[items]
    both = (labels != UNLABELLED) & ~np.isnan(scores).any(axis=1)
    return scores[both], labels[both]


def _coherence_of(scores: FloatArray, labels: IntArray) -> float:
    """Coherence of labels that the scores themselves have decided."""
    calibrated = pointwise_mutual_information(log_softmax(scores))
    return coherence(utility_of(calibrated, labels), label_counts(labels, scores.shape[1]))


def _coherence_of_no_group(scores: FloatArray) -> float:
    """The same for rows drawn from one normal distribution with the scores' mean and covariance."""
    chance = np.random.default_rng(0)
    drawn = chance.multivariate_normal(
        scores.mean(axis=0), np.cov(scores.T, bias=True), size=_SAMPLED, method="eigh"
    )
    return _coherence_of(drawn, drawn.argmax(axis=1))
