"""Would another context, another order or another answer of the server give other labels?

And do the label words fit what the model would say? `items` are the items whose labels are the
rows', throughout.
"""

import numpy as np

from icm_client.coherence.calibration import margin
from icm_client.coherence.constraints import Asymmetry
from icm_client.coherence.problem import UNLABELLED, BoolArray, Constraint, FloatArray, IntArray
from icm_client.coherence.result import SearchResult
from icm_client.verdict.findings import Finding, Severity, many

POOR_MASS, LOW_MASS = 0.1, 0.5
"""`label-words` is to be checked, and is a note, where all labels together have less of the next
token's probability on average: the model would rather say something else."""

WAVERING, UNSTEADY = 0.2, 0.1
"""`context-effects` is to be checked, and is a note, from this share of labels on that differ
between a single sweep and the average."""

CONFLICTING, CONFLICTS = 0.25, 0.15
"""`order-effects` and `rule-conflicts` are to be checked, and are notes, from this share of groups
on that break the rule where each row is labelled by itself."""

DROWNED, TOUCHED = 0.1, 0.02
"""`server-noise` is to be checked, and is a note, from this share of rows on whose margin is within
the server's noise."""

_NOISE_WIDTH = 2.0  # standard deviations: noise turns no larger margin
_FEWEST_GROUPS = 10


def label_words(result: SearchResult, items: IntArray) -> list[Finding]:
    """Is the model's probability on the label words at all?"""
    if result.label_mass is None or np.isnan(result.label_mass[items]).all():
        return []
    mass = float(np.nanmean(result.label_mass[items]))
    if mass >= LOW_MASS:
        return []
    message = "The label words do not fit what the model would say."
    advice = (
        "See which tokens the words are read as (the first line of a run shows them), and use "
        "label words that follow the template naturally."
    )
    figures = (
        f"In context they have {mass:.1%} of the next token's probability together; over "
        f"{LOW_MASS:.0%} is usual"
    )
    severity: Severity = "check" if mass < POOR_MASS else "note"
    return [Finding("label-words", message, advice, severity, figures)]


def context_effects(result: SearchResult, items: IntArray) -> list[Finding]:
    """How much do labels depend on which demos are in the context, and in which order?

    Only a search that sweeps reads a row more than once.
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
    message = "Labels depend on which demos are in the context, and in which order."
    advice = "More demos in a context (--demos) make labels stable. Look at rows of low confidence."
    figures = (
        f"Over {len(towards)} sweeps {many(changing, 'row')} of {towards.shape[1]:,} changed "
        f"sides, {share:.0%} in one sweep; a row's log-odds vary by {spread:.2f} nats (standard "
        f"deviation), its margin is {usual:.2f} (medians)"
    )
    severity: Severity = "check" if share >= WAVERING else "note"
    return [Finding("context-effects", message, advice, severity, figures)]


def _towards_free_label(result: SearchResult, items: IntArray) -> FloatArray:
    """Log-odds of each row's own best label over its best rival, sweep by sweep, `[M, rows]`."""
    assert result.sweep_scores is not None  # noqa: S101 - the caller has looked
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
    """How often did the rule decide, in groups whose rows, each by itself, would break it?

    Both orders of a pair are such a group, and what shows there is the effect of the order.
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
    chance = f"{by_chance:.0%} for labels drawn at random"
    if not isinstance(constraint, Asymmetry):
        message = (
            "The rule often decided: labels chosen row by row would break it. The rows were "
            "labelled jointly."
        )
        advice = (
            "Check that the rule holds for your rows (icm-client label --dry-run shows how it was "
            "read). If it does, a larger model needs it less."
        )
        figures = f"It would be broken in {share:.0%} of {len(groups):,} groups, {chance}"
        return [Finding("rule-conflicts", message, advice, severity, figures)]
    alike = zip(groups, broken, strict=True)
    first = [free[i] == constraint.true for (i, _), is_broken in alike if is_broken]
    message = (
        "The order of a pair matters: by themselves many pairs would get the same label in both "
        "orders. They were labelled jointly."
    )
    advice = (
        "A larger model, or a template that shows more plainly which is which, needs the rule less."
    )
    figures = (
        f"The same label in {share:.0%} of {len(groups):,} pairs, {chance}; it is the affirmative "
        f"one in {np.mean(first):.0%} of them"
    )
    return [Finding("order-effects", message, advice, severity, figures)]


def server_noise(result: SearchResult, items: IntArray, differences: FloatArray) -> list[Finding]:
    """Does the same question asked again get another answer, and does that matter?

    `differences`, `[R, K]` in nats, are log-probs of reads asked twice, the second less the first;
    NaN where one had no score.
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
    message = (
        "The server answers the same question differently, by enough to change some rows' labels."
    )
    advice = "Run the server in higher precision or batch-invariantly, or average over more sweeps."
    figures = (
        f"{len(moved)} reads asked twice differ by {noise:.3f} nats (root mean square, of "
        f"log-odds), {averaged:.3f} after averaging; {many(int(within.sum()), 'row')} of "
        f"{len(margins):,} have a smaller margin than {_NOISE_WIDTH:g} times that"
    )
    severity: Severity = "check" if share >= DROWNED else "note"
    return [Finding("server-noise", message, advice, severity, figures)]
