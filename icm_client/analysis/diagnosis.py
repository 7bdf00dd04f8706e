"""Whether to believe the labels: findings from the search itself, without gold.

The worst outcome is a wrong labelling that looks right, so each finding says what was seen, and
what to do about it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from icm_client.coherence.anneal import STALL_RATE, STALL_WINDOW, Step
from icm_client.coherence.contexts import UNLABELLED
from icm_client.coherence.problem import IntArray
from icm_client.coherence.sweep import SearchResult

INCOHERENT = 0.15
"""Share of the labels' entropy under which labels are not to be trusted: docs/search.md."""

DEGENERATE_SHARE = 0.97
"""Share of the rows under one label from which on it is said that one label took nearly all."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something a person must know before the labels are used.

    Attributes:
        code: a stable name for programs.
        message: what was seen.
        advice: what to do.
        fatal: the labels are not to be trusted.
    """

    code: str
    message: str
    advice: str
    fatal: bool


def diagnose(
    result: SearchResult, labels: Sequence[str], items: IntArray | None = None
) -> tuple[Finding, ...]:
    """Return what is wrong with a result, the worst first.

    Args:
        result: of any search.
        labels: the words, shape `[K]`.
        items: those whose labels are the rows'; None for all. Where pairs are shown in both orders
            the items as a whole are balanced whatever was found. Those without a label have no
            part in what is said.
    """
    held = result.labels if items is None else result.labels[items]
    counts = np.bincount(held[held != UNLABELLED], minlength=len(labels))
    share = counts.max() / max(counts.sum(), 1)
    one_label = bool(share >= DEGENERATE_SHARE)
    incoherent = result.coherence < INCOHERENT
    findings = [_incoherent(result, one_label=one_label)] if incoherent else []
    if one_label and result.prior.source != "given":
        findings.append(_one_label(labels[int(counts.argmax())], share, steps=bool(result.steps)))
    if not incoherent:  # of labels that follow no concept, the names are the least trouble
        findings += _names(result, labels)
    if result.prior.suspected is not None:
        findings.append(_suspected(result.prior.suspected, labels))
    findings += _search(result)
    return tuple(sorted(findings, key=lambda finding: not finding.fatal))


def _incoherent(result: SearchResult, *, one_label: bool) -> Finding:
    why = (
        "one label for nearly all rows says nothing about any of them"
        if one_label
        else "so they follow no concept that this model sees in these rows"
    )
    return Finding(
        "incoherent",
        "The labels are not to be trusted: they hardly predict each other (coherence "
        f"{result.coherence:.0%}, under {INCOHERENT:.0%}){':' if one_label else ','} {why}.",
        "Try a larger base model, label words that say what is meant, or a template that asks the "
        "question more plainly.",
        fatal=True,
    )


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
    return Finding(
        "one-label", f"{word!r} was given to {share:.0%} of the rows.", advice, fatal=True
    )


def _suspected(first: float, labels: Sequence[str]) -> Finding:
    """`first`: the share of label 0 in two modes that are not sure enough to be relied on."""
    rare, share = (labels[0], first) if first < 0.5 else (labels[1], 1 - first)  # noqa: PLR2004
    return Finding(
        "uneven-shares",
        f"The labels may be uneven: the scores look a little as if {share:.0%} of the rows were "
        f"{rare!r}, but these rows are too few to tell. They were labelled as if both labels were "
        "equally common, which would give that label to too many.",
        f"If you know how common the labels are, say so with --prior {rare}={share:.2f}; more rows "
        "help too.",
        fatal=False,
    )


def _names(result: SearchResult, labels: Sequence[str]) -> list[Finding]:
    exchange = result.exchange
    a, b = (labels[k] for k, name in enumerate(exchange.names) if name != k)
    figures = f"(U = {exchange.exchanged_utility:+.3f} against {exchange.utility:+.3f} nats)"
    if exchange.better and result.exchanged:
        return [
            Finding(
                "names-exchanged",
                f"{a!r} and {b!r} were found the wrong way round and have been exchanged "
                f"{figures}.",
                "Look at a few rows of each label.",
                fatal=False,
            )
        ]
    if exchange.better:
        return [
            Finding(
                "names-reversed",
                f"The labels are not to be trusted as they are named: {a!r} and {b!r} look the "
                f"wrong way round, exchanged they are more coherent {figures}. They are left as "
                "this search found them.",
                "Look at a few rows of each label, and exchange the names if they are wrong; "
                "--preset fast does it by itself.",
                fatal=True,
            )
        ]
    if not exchange.ambiguous:
        return []
    return [
        Finding(
            "ambiguous-names",
            f"The labels are not to be trusted as they are named: with {a!r} and {b!r} exchanged "
            f"they are not clearly less coherent {figures}, so what was found may be the wrong way "
            "round, or something else than these words mean.",
            "Look at a few rows of each label: exchange the names if that is all. If the rows are "
            "split by something else, use words that say what is meant, or a larger model.",
            fatal=True,
        )
    ]


def _search(result: SearchResult) -> list[Finding]:
    """What the search left, and how; none of it condemns labels that are coherent."""
    findings = []
    if result.contradictions:
        findings.append(
            Finding(
                "contradictions",
                f"{_many(result.contradictions, 'pair')} of labels contradicted each other when "
                "the search ended; their groups were labelled again, as the rule allows.",
                "More --steps, or a lower --alpha, leave fewer.",
                fatal=False,
            )
        )
    if result.settled:
        findings.append(
            Finding(
                "settled",
                f"{_many(result.settled, 'label')} of {len(result.labels):,} were decided after "
                "the search, which had left them open or in contradiction: by one reading behind "
                "the labels that it had found.",
                "More --steps leave fewer, unless the search has stalled.",
                fatal=False,
            )
        )
    if result.by_confidence:
        findings.append(
            Finding(
                "by-confidence",
                f"{_many(result.by_confidence, 'group')} of related rows were too large to try all "
                "labellings of: the most confident row decided, and the others were set to agree.",
                "Narrower groups are labelled exactly.",
                fatal=False,
            )
        )
    stalled = [steps for steps in _batches(result.steps) if _stalls(steps)]
    if stalled:
        alpha = stalled[-1][-1].alpha
        where = "" if len(stalled) == 1 else f" in {len(stalled):,} batches"
        findings.append(
            Finding(
                "stalled",
                f"The search stalled{where}: fewer than {STALL_RATE:.0%} of the last "
                f"{STALL_WINDOW} labellings that it tried were accepted (alpha {alpha:g}).",
                "More --steps will change little; a lower --alpha lets more be accepted.",
                fatal=False,
            )
        )
    return findings


def _batches(steps: Sequence[Step]) -> list[list[Step]]:
    return [list(of_one) for _, of_one in groupby(steps, key=lambda step: step.batch)]


def _stalls(steps: Sequence[Step]) -> bool:
    """Whether the last labellings that differed from what was there were refused nearly all."""
    tried = [step for step in steps if step.Delta != 0 or not step.accepted][-STALL_WINDOW:]
    accepted = sum(step.accepted for step in tried)
    return len(tried) == STALL_WINDOW and accepted < STALL_RATE * STALL_WINDOW


def _many(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"
