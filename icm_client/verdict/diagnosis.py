"""Whether to believe the labels: the findings that every verdict is made of, without gold.

`diagnose` collects them from the result of the search and from `Evidence` (texts, rule, prior,
pins, repeated reads). `findings.verdict_of` lets the worst of them decide: one fatal finding makes
"do not trust", one to check "check", notes alone "trust". Each question has a file:

    concept.py          do the labels follow a concept at all?
    names.py            does each label have the right name?
    stability.py        would another context, order or answer of the server give other labels?
    shortcuts.py        do length or single words explain the labels?
    groups.py           does one value of a field, one question or source, explain a label?
    search_findings.py  how did the search go, and how did it end?

The worst outcome is a wrong labelling that looks right. docs/diagnosis.md lists the findings and
their thresholds, with what decided them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from icm_client.coherence.label_prior import PriorEstimate
from icm_client.coherence.problem import NO_CONSTRAINT, UNLABELLED, Constraint, FloatArray, IntArray
from icm_client.coherence.result import SearchResult
from icm_client.verdict.concept import groups_of, no_groups, salience, unsure
from icm_client.verdict.findings import (
    TRY_ANOTHER_QUESTION,
    Finding,
    Verdict,
    verdict_of,
    worst_first,
)
from icm_client.verdict.groups import group_findings
from icm_client.verdict.names import name_findings
from icm_client.verdict.search_findings import ended_early, interrupted, search_findings
from icm_client.verdict.shortcuts import shortcut_findings
from icm_client.verdict.stability import (
    context_effects,
    label_words,
    rule_conflicts,
    server_noise,
)

__all__ = ["Evidence", "Finding", "Verdict", "diagnose", "verdict_of"]

DEGENERATE_SHARE = 0.97
"""`one-label` is found from this share of the rows under one label on."""

ANNOUNCED_SHARE = 0.9
"""`one-label` is not found where a given prior promised the label at least this share."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a diagnosis looks at besides the search's result; none of it is gold.

    Attributes:
        items: the items whose labels are the rows'; None for all. Where pairs are shown in both
            orders, the items as a whole are balanced whatever was found.
        texts: a row's text, or the two of a pair, in the order of `items`; None to leave shortcut
            features out.
        fields: the rows' fields that may explain a label, in the order of `items`: what each row
            holds there, None for nothing.
        constraint: the rule that the labels keep.
        prior: shape `[K]`, the labels' shares if the user gave them.
        repeated: shape `[R, K]`, nats: reads asked twice, the second log-probs less the first.
        pinned: shape `[N]`, labels that a person gave, `UNLABELLED` where an item is free.
        interrupted: the search was broken off after its last whole sweep or step, and skipped what
            it measures at its end.
    """

    items: IntArray | None = None
    texts: Sequence[tuple[str, ...]] | None = None
    fields: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    constraint: Constraint = field(default=NO_CONSTRAINT)
    prior: FloatArray | None = None
    repeated: FloatArray | None = None
    pinned: IntArray | None = None
    interrupted: bool = False


def diagnose(
    result: SearchResult, labels: Sequence[str], evidence: Evidence | None = None
) -> tuple[Finding, ...]:
    """Return the findings about a result, the worst first; items without a label do not count.

    Args:
        result: of any search.
        labels: the label words, shape `[K]`.
        evidence: what else is known.
    """
    evidence = evidence or Evidence()
    items = np.arange(len(result.labels)) if evidence.items is None else evidence.items
    labelled = result.labels[items] != UNLABELLED
    held = result.labels[items][labelled]
    counts = np.bincount(held, minlength=len(labels))
    common = int(counts.argmax())
    share = counts[common] / max(counts.sum(), 1)
    one_label = bool(share >= DEGENERATE_SHARE)
    announced = evidence.prior is not None and bool(evidence.prior[common] >= ANNOUNCED_SHARE)

    findings = salience(result, one_label=one_label)
    groups = groups_of(result, items)
    if not one_label and not _fatal(findings):
        findings += no_groups(result, items, groups)
    no_concept = _fatal(findings)
    if one_label and not announced:
        findings.append(_one_label(labels[common], share, annealed=bool(result.steps)))
    if evidence.interrupted:
        findings.append(interrupted(result))
    elif result.stopped:
        findings.append(ended_early())
    unnamed = evidence.interrupted and np.isnan(result.exchange.utility)
    if not no_concept and not unnamed:  # where there is no concept, names matter least
        findings += name_findings(result, labels, pinned=evidence.pinned is not None)
    findings += _shares(result.prior, labels, counts)
    findings += label_words(result, items)
    findings += context_effects(result, items)
    findings += rule_conflicts(result, evidence.constraint)
    if evidence.repeated is not None:
        findings += server_noise(result, items, evidence.repeated)
    if evidence.texts is not None and not one_label:
        texts = [text for text, kept in zip(evidence.texts, labelled, strict=True) if kept]
        findings += shortcut_findings(texts, held, labels)
    if evidence.fields and not one_label:
        fields = {
            name: [value for value, kept in zip(values, labelled, strict=True) if kept]
            for name, values in evidence.fields.items()
        }
        findings += group_findings(fields, held, labels)
    clear = groups is not None and groups.clear
    findings += search_findings(result, len(labels), clear=clear)
    if not _fatal(findings):
        findings += unsure(result, items)
    findings += _unsettled(findings)
    return worst_first(findings)


def _fatal(findings: Sequence[Finding]) -> bool:
    return any(finding.fatal for finding in findings)


def _one_label(word: str, share: float, *, annealed: bool) -> Finding:
    """`annealed`: the search was Algorithm 1, whose printed objective has this end."""
    advice = (
        "The objective of this preset can be highest where all rows have one label: give it a "
        "--constraint that forbids that, or take --preset fast, for which such labels score 0."
        if annealed
        else "If the other labels are really that rare, say so with --prior. Otherwise the "
        "template or the label words do not fit the rows."
    )
    return Finding("one-label", f"{word!r} was given to {share:.0%} of the rows.", advice, "fatal")


def _shares(prior: PriorEstimate, labels: Sequence[str], counts: IntArray) -> list[Finding]:
    """`uneven-shares`: the rows do not show how common the labels are."""
    if prior.told or prior.separation is None:  # this search estimates none
        return []
    figures = ""
    if prior.interval is not None:
        low, high = prior.interval
        figures = f"90% interval of the share of {labels[0]!r}: {low:.0%} to {high:.0%}"
    if prior.source == "even":
        message = (
            "The scores do not show how common each label is, so the rows were labelled as if all "
            "labels were equally common."
        )
    else:
        message = "These rows are too few to tell how common each label is."
    advice = (
        f"If you know how common the labels are, say so with --prior {labels[0]}=SHARE; more rows "
        "help too."
    )
    shares = counts / max(counts.sum(), 1)
    # Assuming even shares pulls towards them: labels that came out uneven all the same are more so.
    several = len(labels) > 2  # noqa: PLR2004
    even = several and 2 * shares.min() >= 1 / len(labels) >= shares.max() / 2
    return [Finding("uneven-shares", message, advice, "note" if even else "check", figures)]


def _unsettled(findings: Sequence[Finding]) -> list[Finding]:
    """Two findings that are worth a look each, and together say that nothing was found."""
    if not {"starts-disagree", "context-effects"} <= {finding.code for finding in findings}:
        return []
    message = (
        "The labels are not to be trusted: another start found something else, and these labels "
        "change with the demos in the context. No concept that this model is sure of splits the "
        "rows."
    )
    return [Finding("unsettled", message, TRY_ANOTHER_QUESTION, "fatal")]
