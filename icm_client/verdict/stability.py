"""What the scores themselves say of the labels: whether they waver, and whether the words fit."""

import numpy as np

from icm_client.coherence.calibration import (
    coherence,
    label_counts,
    log_softmax,
    margin,
    pointwise_mutual_information,
    utility_of,
)
from icm_client.coherence.confidence import LabelGroups, confidences, fit_label_groups
from icm_client.coherence.constraints import Asymmetry
from icm_client.coherence.problem import UNLABELLED, BoolArray, Constraint, FloatArray, IntArray
from icm_client.coherence.result import SearchResult
from icm_client.verdict.findings import Finding, Severity, many

POOR_MASS, LOW_MASS = 0.1, 0.5
"""Mean share of the next token's probability on all labels together, under which a look is advised,
and under which it is noted: the model would rather say something else."""

WAVERING, UNSTEADY = 0.2, 0.1
"""Share of single sweeps' labels that differ from the averaged one, from which on a look is
advised, and from which on it is noted."""

CONFLICTING, CONFLICTS = 0.25, 0.15
"""Share of groups whose labels break the rule where each row is labelled by itself, from which on a
look is advised, and from which on it is noted."""

DROWNED, TOUCHED = 0.1, 0.02
"""Share of rows whose margin is within the server's noise, from which on a look is advised, and
from which on it is noted."""

UNSURE = 0.7
"""Mean confidence of the labels under which a look is advised."""

FEWEST_FOR_GROUPS = 32
"""Rows without which groups would not show: coherent labels are not doubted for want of them then,
and others not condemned that are not faint."""

COHERENT, FAINT = 0.5, 0.3
"""Coherence from which on labels without groups are to be looked at, and not condemned, and under
which groups must be clear: a search among noise ends at 10 to 38%."""

_NOTHING = 20_000  # rows of no group, drawn to see how coherent their labels look
_NOISE_WIDTH = 2.0  # standard deviations: a margin beyond is not turned by noise
_FEWEST_GROUPS = 10


def label_words(result: SearchResult, items: IntArray) -> list[Finding]:
    """How much of the model's probability is on the label words at all.

    Args:
        result: of any search.
        items: those whose labels are the rows'.
    """
    if result.label_mass is None or np.isnan(result.label_mass[items]).all():
        return []
    mass = float(np.nanmean(result.label_mass[items]))
    if mass >= LOW_MASS:
        return []
    return [
        Finding(
            "label-words",
            f"The label words do not fit what the model would say: behind the demos they have "
            f"{mass:.1%} of the next token's probability together (usual: over {LOW_MASS:.0%}).",
            "See which tokens the words are read as (the line that a run begins with), and take "
            "words that follow the template naturally.",
            "check" if mass < POOR_MASS else "note",
        )
    ]


def unsure(result: SearchResult, items: IntArray) -> list[Finding]:
    """Whether the labels found are likely to be right in the mean.

    Args:
        result: of any search, with nothing known against its labels.
        items: those whose labels are the rows'.
    """
    found = confidences(result.log_probs[items], result.labels[items])
    found = found[~np.isnan(found)]
    if not len(found) or found.mean() >= UNSURE:
        return []
    low = int((found < UNSURE).sum())
    return [
        Finding(
            "unsure",
            f"The labels are estimated to be right for {found.mean():.0%} of the rows; "
            f"{low:,} of {len(found):,} have a confidence under {UNSURE:.0%}.",
            "Look at the least certain rows of each label, and pin some. Fewer labels, or words "
            "that lie further apart, may be told apart better.",
            "check",
        )
    ]


def groups_of(result: SearchResult, items: IntArray) -> LabelGroups | None:
    """One group of scores for each label; None where there are too few items to tell.

    Args:
        result: of any search.
        items: those whose labels are the rows'.
    """
    return fit_label_groups(*_scored(result, items))


def no_groups(result: SearchResult, items: IntArray, groups: LabelGroups | None) -> list[Finding]:
    """Whether the labels cut rows of one kind in two: `U` alone cannot tell.

    A search labels rows by the scores that `U` is the mean of. Rows that belong to nothing, whose
    scores just spread, get labels as coherent as their spread is wide.

    Args:
        result: of any search.
        items: those whose labels are the rows'.
        groups: `groups_of` these.
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
    here, nothing = _coherence_of(scores, labels), _coherence_of_nothing(scores)
    figures = (
        f"(coherence {here:.0%}; rows that belong to no group, with scores that spread as these "
        f"do, would be labelled with a coherence of {nothing:.0%}. One group a label explains the "
        f"scores better than none by {groups.gain:.1f} nats; {groups.needed:.1f} are needed)"
    )
    advice = (
        "Label more rows, which shows groups that are there. Else try a larger base model, label "
        "words that say what is meant, or a template that asks the question more plainly."
    )
    if coherent or some or (few and result.coherence >= FAINT):
        message = f"The scores do not clearly fall into one group a label {figures}."
        return [Finding("no-groups", message, advice, "check")]
    message = (
        "The labels are not to be trusted: nothing shows that they are more than chance. The "
        f"scores fall into no groups {figures}."
    )
    return [Finding("no-groups", message, advice, "fatal")]


def _scored(result: SearchResult, items: IntArray) -> tuple[FloatArray, IntArray]:
    """Scores `[n, K]` and labels `[n]` of the items that have both."""
    scores, labels = result.log_probs[items], result.labels[items]
    there = (labels != UNLABELLED) & ~np.isnan(scores).any(axis=1)
    return scores[there], labels[there]


def _coherence_of(scores: FloatArray, labels: IntArray) -> float:
    """Of labels that the scores themselves have decided."""
    calibrated = pointwise_mutual_information(log_softmax(scores))
    return coherence(utility_of(calibrated, labels), label_counts(labels, scores.shape[1]))


def _coherence_of_nothing(scores: FloatArray) -> float:
    """Of rows drawn from one normal distribution with the scores' means and covariances."""
    chance = np.random.default_rng(0)
    drawn = chance.multivariate_normal(
        scores.mean(axis=0), np.cov(scores.T, bias=True), size=_NOTHING, method="eigh"
    )
    return _coherence_of(drawn, drawn.argmax(axis=1))


def context_effects(result: SearchResult, items: IntArray) -> list[Finding]:
    """How much a row's label depends on which demos stand before it, and in which order.

    Args:
        result: of any search; only one that sweeps reads a row more than once.
        items: those whose labels are the rows'.
    """
    if result.sweep_scores is None or len(result.sweep_scores) < 2:  # noqa: PLR2004
        return []
    towards = _towards_free_label(result, items)  # [M, rows], nats; negative: another label
    if not towards.shape[1]:
        return []
    other = towards < 0
    share, changing = float(other.mean()), int(other.any(axis=0).sum())
    if share < UNSTEADY:
        return []
    spread = float(np.median(towards.std(axis=0, ddof=1)))
    usual = float(np.median(np.abs(towards.mean(axis=0))))
    return [
        Finding(
            "context-effects",
            f"Labels depend on which demos stand before a row, and in which order: over "
            f"{len(towards)} sweeps {many(changing, 'row')} of {towards.shape[1]:,} changed sides "
            f"(in one sweep {share:.0%}); a row's log-odds spread by {spread:.2f} nats, its margin "
            f"is {usual:.2f} (medians).",
            "More demos in a context steady them (--demos). Rows of little confidence are the ones "
            "to look at.",
            "check" if share >= WAVERING else "note",
        )
    ]


def _towards_free_label(result: SearchResult, items: IntArray) -> FloatArray:
    """Log-odds of each row's own best label over its best rival, sweep by sweep, `[M, rows]`."""
    assert result.sweep_scores is not None  # noqa: S101 - asked before
    decided = result.sweep_scores[:, items] + result.prior.offsets
    scored = ~np.isnan(decided).any(axis=(0, 2))
    decided = decided[:, scored]
    best = decided.mean(axis=0).argmax(axis=1)
    at = np.take_along_axis(decided, best[np.newaxis, :, np.newaxis], axis=2)[..., 0]
    rivals = decided.copy()
    np.put_along_axis(rivals, best[np.newaxis, :, np.newaxis], -np.inf, axis=2)
    towards: FloatArray = at - rivals.max(axis=2)
    return towards


def rule_conflicts(result: SearchResult, constraint: Constraint) -> list[Finding]:
    """How often the rule was needed: groups whose rows, each by itself, would have broken it.

    Both orders of a pair are such a group; what is seen there is the effect of their order.

    Args:
        result: of any search.
        constraint: the rule.
    """
    unscored: BoolArray = np.isnan(result.log_probs.min(axis=1))
    free: IntArray = np.where(unscored, UNLABELLED, np.nan_to_num(result.log_probs).argmax(axis=1))
    groups = [group for group in constraint.groups if not unscored[list(group)].any()]
    if len(groups) < _FEWEST_GROUPS:
        return []
    broken = [not constraint.allows(group, free[list(group)].tolist()) for group in groups]
    share = float(np.mean(broken))
    bound = np.concatenate([list(group) for group in groups])
    shuffled = free.copy()
    shuffled[bound] = np.random.default_rng(0).permutation(free[bound])
    by_chance = float(
        np.mean([not constraint.allows(group, shuffled[list(group)].tolist()) for group in groups])
    )
    if share < CONFLICTS:
        return []
    severity: Severity = "check" if share >= CONFLICTING and share >= by_chance / 2 else "note"
    figures = f"{share:.0%} of {len(groups):,} (labels drawn by lot: {by_chance:.0%})"
    if isinstance(constraint, Asymmetry):
        first = [
            free[i] == constraint.true
            for (i, _), is_broken in zip(groups, broken, strict=True)
            if is_broken
        ]
        return [
            Finding(
                "order-effects",
                f"The order of a pair matters: by themselves both orders have the same label in "
                f"{figures}; that label is the affirmative one in {np.mean(first):.0%} of them. "
                "They were labelled jointly.",
                "A larger model, or a template that shows more plainly which is which, needs the "
                "rule less.",
                severity,
            )
        ]
    return [
        Finding(
            "rule-conflicts",
            f"The rule was often needed: by themselves the labels of a group break it in {figures}."
            " They were labelled jointly.",
            "See whether the rule holds for your rows (icm-client label --dry-run says how it was "
            "read); else a larger model needs it less.",
            severity,
        )
    ]


def server_noise(result: SearchResult, items: IntArray, differences: FloatArray) -> list[Finding]:
    """Whether the same question asked again gives another answer, and how much that matters.

    Args:
        result: of any search.
        items: those whose labels are the rows'.
        differences: shape `[R, K]`, nats: log-probs of the same reads asked twice, the second
            less the first; NaN where one had no score.
    """
    moved = differences - differences.mean(axis=1, keepdims=True)
    moved = moved[~np.isnan(moved).any(axis=1)]
    if not len(moved):
        return []
    # A difference of two reads has twice the variance of one; log-odds, twice that of a log-prob.
    noise = float(np.sqrt((moved**2).sum(axis=1).mean() / (moved.shape[1] - 1)))
    reads = 1 if result.sweep_scores is None else max(len(result.sweep_scores), 1)
    averaged = noise / np.sqrt(reads)
    margins = margin(result.log_probs[items])
    margins = margins[~np.isnan(margins)]
    within: BoolArray = margins < _NOISE_WIDTH * averaged
    share = float(within.mean()) if len(within) else 0.0
    if share < TOUCHED:
        return []
    return [
        Finding(
            "server-noise",
            f"The server answers the same question differently: {len(moved)} reads asked twice "
            f"differ by {noise:.3f} nats (root mean square, of log-odds), {averaged:.3f} after "
            f"averaging; {many(int(within.sum()), 'row')} of {len(margins):,} have a smaller "
            f"margin than {_NOISE_WIDTH:g} of that.",
            "Have the server compute in higher precision or batch-invariantly, or average over "
            "more sweeps.",
            "check" if share >= DROWNED else "note",
        )
    ]
