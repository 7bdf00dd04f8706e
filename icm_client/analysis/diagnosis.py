"""Whether to believe the labels: findings from the search itself, without gold.

The worst outcome is a wrong labelling that looks right, so each finding says what was seen, and
what to do about it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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
            the items as a whole are balanced whatever was found.
    """
    findings = []
    held = result.labels if items is None else result.labels[items]
    counts = np.bincount(held, minlength=len(labels))
    share = counts.max() / counts.sum()
    incoherent = result.coherence < INCOHERENT
    if incoherent:
        findings.append(
            Finding(
                "incoherent",
                "The labels are not to be trusted: they hardly predict each other (coherence "
                f"{result.coherence:.0%}, under {INCOHERENT:.0%}), so they follow no concept that "
                "this model sees in these rows.",
                "Try a larger base model, label words that say what is meant, or a template that "
                "asks the question more plainly.",
                fatal=True,
            )
        )
    if share >= DEGENERATE_SHARE and result.prior.source != "given":
        findings.append(
            Finding(
                "one-label",
                f"{labels[int(counts.argmax())]!r} was given to {share:.0%} of the rows.",
                "If the other labels are really that rare, say so with --prior; else the template "
                "or the label words do not fit the rows.",
                fatal=True,
            )
        )
    a, b = (k for k, name in enumerate(result.exchange.names) if name != k)
    if result.exchange.better and not incoherent:
        findings.append(
            Finding(
                "names-exchanged",
                f"{labels[a]!r} and {labels[b]!r} were found the wrong way round and have been "
                f"exchanged (U = {result.exchange.exchanged_utility:+.3f} against "
                f"{result.exchange.utility:+.3f} nats).",
                "Look at a few rows of each label.",
                fatal=False,
            )
        )
    if result.exchange.ambiguous and not incoherent:
        findings.append(
            Finding(
                "ambiguous-names",
                f"The labels are not to be trusted as they are named: with {labels[a]!r} and "
                f"{labels[b]!r} exchanged they are about as coherent (U = "
                f"{result.exchange.exchanged_utility:+.3f} against {result.exchange.utility:+.3f} "
                "nats), so what was found may be the wrong way round, or something else than "
                "these words mean.",
                "Look at a few rows of each label: exchange the names if that is all. If the rows "
                "are split by something else, use words that say what is meant, or a larger model.",
                fatal=True,
            )
        )
    return tuple(sorted(findings, key=lambda finding: not finding.fatal))
