"""Whether to believe the labels: findings from the search itself, without gold.

The worst outcome is a wrong labelling that looks right, so each finding says what was seen, in
figures, and what to do about it. docs/diagnosis.md has the thresholds with what decided them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from icm_client.coherence.label_names import (
    CLEAR_PULL,
    CLEAR_STANDARD_ERRORS,
    FEWEST_OF_A_LABEL,
    RESPONSIVE,
)
from icm_client.coherence.label_prior import PriorEstimate
from icm_client.coherence.problem import NO_CONSTRAINT, UNLABELLED, Constraint, FloatArray, IntArray
from icm_client.coherence.result import SearchResult
from icm_client.verdict.findings import Finding, Verdict, verdict_of, worst_first
from icm_client.verdict.search_findings import search_findings
from icm_client.verdict.shortcuts import surface_findings
from icm_client.verdict.stability import (
    context_effects,
    groups_of,
    label_words,
    no_groups,
    rule_conflicts,
    server_noise,
    unsure,
)

__all__ = ["Evidence", "Finding", "Verdict", "diagnose", "verdict_of"]

INCOHERENT = 0.15
"""Share of the labels' entropy under which labels are not to be trusted."""

DEGENERATE_SHARE = 0.97
"""Share of the rows under one label from which on it is said that one label took nearly all."""

WIDE_INTERVAL = 0.2
"""Width of the 90% interval of a label's share over which the rows are too few to tell it: on 64
reviews and fewer, labels lost 6 points and more where it was wider, and 2 to 3 where it was not."""

MOST_STANDARD_ERRORS = 100
"""Standard errors beyond which a note gives no figure: there is next to no noise."""

MOST_PULL = 10
"""The same of how far the words pull: the demos then teach next to nothing."""

ANNOUNCED_SHARE = 0.9
"""Share that a given prior must promise a label for it to take nearly all rows unremarked."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a diagnosis looks at besides the search's result; none of it is gold.

    Attributes:
        items: those whose labels are the rows'; None for all. Where pairs are shown in both orders
            the items as a whole are balanced whatever was found.
        texts: a row's text, or the two of a pair, in the order of `items`; None leaves surface
            features out.
        constraint: the rule that the labels keep.
        prior: shape `[K]`, the labels' shares where the user gave them.
        repeated: shape `[R, K]`, nats: reads asked twice, the second log-probs less the first.
        pinned: shape `[N]`, labels that a person has said, `UNLABELLED` where an item is free.
        interrupted: the search was broken off after its last whole sweep or step: what it ends
            with has not been read, if it is not there.
    """

    items: IntArray | None = None
    texts: Sequence[tuple[str, ...]] | None = None
    constraint: Constraint = field(default=NO_CONSTRAINT)
    prior: FloatArray | None = None
    repeated: FloatArray | None = None
    pinned: IntArray | None = None
    interrupted: bool = False


def diagnose(
    result: SearchResult, labels: Sequence[str], evidence: Evidence | None = None
) -> tuple[Finding, ...]:
    """Return what is to be known of a result, the worst first.

    Args:
        result: of any search.
        labels: the words, shape `[K]`.
        evidence: what else there is. Items without a label have no part in what is said.
    """
    evidence = evidence or Evidence()
    items = np.arange(len(result.labels)) if evidence.items is None else evidence.items
    there = result.labels[items] != UNLABELLED
    held = result.labels[items][there]
    counts = np.bincount(held, minlength=len(labels))
    share = counts.max() / max(counts.sum(), 1)
    one_label = bool(share >= DEGENERATE_SHARE)
    doubts = _salience(result, one_label=one_label)
    groups = groups_of(result, items)
    if not (one_label or any(finding.fatal for finding in doubts)):
        doubts += no_groups(result, items, groups)
    findings = list(doubts)
    if one_label and not _announced(int(counts.argmax()), evidence.prior):
        findings.append(_one_label(labels[int(counts.argmax())], share, steps=bool(result.steps)))
    if evidence.interrupted:
        findings.append(_interrupted(result))
    elif result.stopped:
        findings.append(_ended_early())
    unasked = evidence.interrupted and np.isnan(result.exchange.utility)
    if not unasked and not any(finding.fatal for finding in doubts):
        # Of labels that follow no concept, the names are the least trouble.
        findings += _names(result, labels, evidence.pinned)
    findings += _shares(result.prior, labels, counts)
    findings += label_words(result, items)
    findings += context_effects(result, items)
    findings += rule_conflicts(result, evidence.constraint)
    if evidence.repeated is not None:
        findings += server_noise(result, items, evidence.repeated)
    if evidence.texts is not None and not one_label:
        texts = [text for text, kept in zip(evidence.texts, there, strict=True) if kept]
        findings += surface_findings(texts, held, labels)
    clear = groups is not None and groups.clear
    findings += search_findings(result, len(labels), clear=clear)
    if not any(finding.fatal for finding in findings):
        findings += unsure(result, items)
    return worst_first([*findings, *_unsettled(findings)])


def _unsettled(findings: Sequence[Finding]) -> list[Finding]:
    """Two signs that are worth a look each, and together say that nothing was found."""
    if not {"starts-disagree", "context-effects"} <= {finding.code for finding in findings}:
        return []
    return [
        Finding(
            "unsettled",
            "The labels are not to be trusted: another start found something else, and what this "
            "one found turns with the demos that stand before a row. The rows are split by no "
            "concept that this model is sure of.",
            "Try a larger base model, label words that say what is meant, or a template that asks "
            "the question more plainly.",
            "fatal",
        )
    ]


def _ended_early() -> Finding:
    return Finding(
        "ended-early",
        "A limit ended the search before its time: its labels may still change. Not asked: by how "
        "much the server's answers waver.",
        "Run the same command again, with more to spend: it goes on from here.",
        "note",
    )


def _interrupted(result: SearchResult) -> Finding:
    unasked = ["by how much the server's answers waver"]
    if np.isnan(result.exchange.words):
        unasked.insert(0, "whether the labels have the right names and follow the demos")
    return Finding(
        "interrupted",
        "The search was interrupted: these are the labels of its last whole sweep or step, and may "
        f"still change. Not asked: {', and '.join(unasked)}.",
        "Run the same command again: it goes on from here.",
        "check",
    )


def _salience(result: SearchResult, *, one_label: bool) -> list[Finding]:
    """Whether the labels follow a concept at all: from each other, not each by itself."""
    response = result.exchange.response
    figures = f"{response:.0%} of the rows that were asked again"
    if result.coherence >= INCOHERENT:
        if not response < RESPONSIVE:
            return []
        return [
            Finding(
                "unresponsive",
                "The labels are not to be trusted: they do not follow the demos. With the demos' "
                f"labels exchanged, {figures} turn the way their label says (balanced; a half is "
                f"chance, {RESPONSIVE:.0%} are needed), so each follows what the model says of it "
                "by itself.",
                "Try a larger base model, label words that say what is meant, or a template that "
                "asks the question more plainly.",
                "fatal",
            )
        ]
    why = (
        "one label for nearly all rows says nothing about any of them"
        if one_label
        else "so they follow no concept that this model sees in these rows"
    )
    return [
        Finding(
            "incoherent",
            "The labels are not to be trusted: they hardly predict each other (coherence "
            f"{result.coherence:.0%}, under {INCOHERENT:.0%}){':' if one_label else ','} {why}.",
            "Try a larger base model, label words that say what is meant, or a template that asks "
            "the question more plainly.",
            "fatal",
        )
    ]


def _announced(label: int, prior: FloatArray | None) -> bool:
    return prior is not None and bool(prior[label] >= ANNOUNCED_SHARE)


def _one_label(word: str, share: float, *, steps: bool) -> Finding:
    """`steps`: the search was Algorithm 1, whose printed objective has this end."""
    advice = (
        "If the other labels are really that rare, say so with --prior; else the template or the "
        "label words do not fit the rows."
    )
    if steps:
        advice = (
            "The objective of this preset can be highest where all rows have one label: give it a "
            "--constraint that forbids that, or take --preset fast, for which such labels score 0."
        )
    return Finding("one-label", f"{word!r} was given to {share:.0%} of the rows.", advice, "fatal")


def _shares(prior: PriorEstimate, labels: Sequence[str], counts: IntArray) -> list[Finding]:
    """Where the rows do not tell how common the labels are; nothing of searches that never ask."""
    if prior.source == "given" or prior.separation is None:
        return []
    shares = counts / max(counts.sum(), 1)
    # Thresholds at even shares pull towards them: what is uneven all the same is more so in truth.
    several = len(labels) > 2  # noqa: PLR2004
    even = several and 2 * shares.min() >= 1 / len(labels) >= shares.max() / 2
    interval = ""
    if prior.interval is not None:
        low, high = prior.interval
        interval = f" (90% interval of the share of {labels[0]!r}: {low:.0%} to {high:.0%})"
    if prior.source == "even":
        message = (
            "The scores do not show how common each label is, so the rows were labelled as if all "
            f"were equally common{interval}."
        )
    elif prior.interval is not None and high - low > WIDE_INTERVAL:
        message = f"These rows are too few to tell how common each label is{interval}."
    else:
        return []
    advice = (
        f"If you know how common the labels are, say so with --prior {labels[0]}=SHARE; more rows "
        "help too."
    )
    return [Finding("uneven-shares", message, advice, "note" if even else "check")]


def _shown(value: float, most: float, layout: str) -> str:
    """`value` in `layout`; beyond `most` more of it says no more."""
    if abs(value) <= most:
        return format(value, layout)
    return f"{'over' if value > 0 else 'under'} {format(np.copysign(most, value), layout)}"


def _names(result: SearchResult, labels: Sequence[str], pinned: IntArray | None) -> list[Finding]:
    exchange = result.exchange
    *others, last = (repr(labels[k]) for k, name in enumerate(exchange.names) if name != k)
    words = f"{', '.join(others)} and {last}"
    figures = f"(U = {exchange.exchanged_utility:+.3f} against {exchange.utility:+.3f} nats{{}})"
    unknown = np.isnan(exchange.words)
    errors = _shown(exchange.words, MOST_STANDARD_ERRORS, "+.1f")
    words_say = f"{errors} std. errors, {_shown(exchange.pull, MOST_PULL, '+.0%')} of the demos'"
    figures = figures.format("" if unknown else f"; the words' say: {words_say}")
    if exchange.ambiguous and pinned is not None:
        return [
            Finding(
                "names-by-pins",
                f"The words do not clearly say which of {words} is meant {figures}: the "
                "rows have the names that the pinned ones among them have.",
                "Look at a few rows of each label that are not pinned.",
                "check",
            )
        ]
    if exchange.ambiguous:
        return [
            Finding(
                "ambiguous-names",
                f"The labels are not to be trusted as they are named: with {words} "
                f"exchanged they are not clearly less coherent {figures}, or the words do not "
                f"clearly go with what was found ({CLEAR_STANDARD_ERRORS:g} std. errors, and "
                f"{CLEAR_PULL:.0%} of what the demos say or a clear difference in U, are needed). "
                "It may be the wrong way round, or something else than these words mean.",
                "Look at a few rows of each label: exchange the names if that is all. If the rows "
                "are split by something else, use words that say what is meant, or a larger model.",
                "fatal",
            )
        ]
    doubts = []
    if unknown:
        doubts.append(
            Finding(
                "too-few-rows",
                f"Too few rows have the labels {words} for a look at whether they follow each "
                f"other, and have the right names: {FEWEST_OF_A_LABEL} of each are needed among "
                "those that were asked again.",
                "Look at some rows of each label, or label more rows.",
                "check",
            )
        )
    if exchange.weak:
        doubts.append(
            Finding(
                "weak-names",
                f"The words {words} say little of which is which {figures}: the names are "
                f"likely, not sure, under {CLEAR_PULL:.0%} of what the demos say.",
                "Look at a few rows of each label.",
                "check",
            )
        )
    if not exchange.better:
        return doubts
    if result.exchanged:
        return [
            *doubts,
            Finding(
                "names-exchanged",
                f"{words} were found the wrong way round and have been exchanged {figures}.",
                "Look at a few rows of each label.",
                "note",
            ),
        ]
    return [
        Finding(
            "names-reversed",
            f"The labels are not to be trusted as they are named: {words} look the "
            f"wrong way round, exchanged they are more coherent {figures}. They are left as "
            "this search found them.",
            "Look at a few rows of each label, and exchange the names if they are wrong; "
            "--preset fast does it by itself."
            if pinned is None
            else "The pinned rows have these names: look at them, and at a few others.",
            "fatal",
        )
    ]
