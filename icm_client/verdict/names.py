"""Does each label have the right name, or are two or more of them exchanged?

The search reads some rows again with the label names exchanged (`coherence/label_names.py`). What
follows the demos' names is the in-context effect, what does not is the label-word effect: names are
right where the two go together. Label words that split the rows by themselves, and otherwise than
the labels do, name something else than was found.
"""

from collections.abc import Sequence

import numpy as np

from icm_client.coherence.label_names import (
    CLEAR_PULL,
    CLEAR_STANDARD_ERRORS,
    FEWEST_OF_A_LABEL,
    NameExchange,
    WordSplit,
)
from icm_client.coherence.result import SearchResult
from icm_client.verdict.findings import Finding

MOST_STANDARD_ERRORS = 100
"""Beyond this, figures say "over": there is next to no noise."""

MOST_PULL = 10
"""The same for the label-word effect: there is next to no in-context effect then."""

SPLIT_DIFFERS = 0.15
"""`other-split` is found from this share of the labels on that differ from the words' groups."""

_LOOK = "Look at a few rows of each label."


def name_findings(result: SearchResult, labels: Sequence[str], *, pinned: bool) -> list[Finding]:
    """Do the words name what was found, or are they the wrong way round?

    `pinned`: a person gave some labels.
    """
    return [*_which_is_which(result, labels, pinned=pinned), *_other_split(result.exchange.split)]


def _other_split(split: WordSplit | None) -> list[Finding]:
    """Do the label words split the rows into other groups than the labels?"""
    if split is None or split.differing < SPLIT_DIFFERS or split.gain < split.needed:
        return []
    message = (
        "The label words split the rows by themselves, and otherwise than the labels do: something "
        "else that is common to many rows may have drawn the labels."
    )
    advice = (
        "Look at a few rows of each label for what they have in common, such as a phrase, a length "
        "or a source. Take it out of the rows or the template, or pin some rows."
    )
    figures = (
        f"{split.differing:.0%} of the {split.items:,} labels asked about differ from the words' "
        f"two groups, {SPLIT_DIFFERS:.0%} are too many; the groups explain what the words say "
        f"better than a single one by {split.gain:.1f} nats, {split.needed:.1f} are needed"
    )
    return [Finding("other-split", message, advice, "check", figures)]


def _which_is_which(result: SearchResult, labels: Sequence[str], *, pinned: bool) -> list[Finding]:
    """Are the names right, exchanged or unclear?"""
    exchange = result.exchange
    *others, last = (repr(labels[k]) for k, name in enumerate(exchange.names) if name != k)
    words = f"{', '.join(others)} and {last}"
    figures = _figures(exchange)
    needed = f"{CLEAR_STANDARD_ERRORS:g} standard errors and {CLEAR_PULL:.0%}"
    if exchange.ambiguous and pinned:
        message = (
            f"The label words do not clearly say which of {words} is which: the rows have the "
            "names that the pinned rows gave them."
        )
        advice = "Look at a few rows of each label that are not pinned."
        return [Finding("names-by-pins", message, advice, "check", figures)]
    if exchange.ambiguous:
        message = (
            "The labels are not to be trusted as they are named: the model cannot tell which of "
            f"{words} is which. The names may be the wrong way round, or something else than these "
            "words mean splits the rows."
        )
        advice = (
            f"{_LOOK} If only the names are wrong, exchange them. If something else splits the "
            "rows, use label words that say what is meant, or a larger base model."
        )
        figures += f"; {needed}, or a clear difference in U, are needed"
        return [Finding("ambiguous-names", message, advice, "fatal", figures)]
    doubts = []
    if np.isnan(exchange.words):
        message = (
            f"Too few rows have the labels {words} to check whether they follow each other and "
            "have the right names."
        )
        advice = "Look at some rows of each label, or label more rows."
        few = f"At least {FEWEST_OF_A_LABEL} of each are needed among the rows asked again"
        doubts.append(Finding("too-few-rows", message, advice, "check", few))
    if exchange.weak:
        message = (
            f"The label words say little about which of {words} is which: the names are likely, "
            "but not surely, right."
        )
        weak = f"{figures}; {needed} are needed to be sure"
        doubts.append(Finding("weak-names", message, _LOOK, "check", weak))
    if not exchange.better:
        return doubts
    if result.exchanged:
        message = f"The names {words} were the wrong way round and have been exchanged."
        return [*doubts, Finding("names-exchanged", message, _LOOK, "note", figures)]
    message = (
        f"The labels are not to be trusted as they are named: {words} seem to be the wrong way "
        "round, and this search leaves names as it finds them."
    )
    advice = (
        "The pinned rows have these names: look at them, and at a few others."
        if pinned
        else f"{_LOOK} Exchange the names if they are wrong; --preset fast does so by itself."
    )
    return [Finding("names-reversed", message, advice, "fatal", figures)]


def _figures(exchange: NameExchange) -> str:
    utility = (
        f"Exchanging them changes U from {exchange.utility:+.3f} to "
        f"{exchange.exchanged_utility:+.3f} nats"
    )
    if np.isnan(exchange.utility) or np.isnan(exchange.exchanged_utility):
        utility = "U with exchanged names is not known"
    if np.isnan(exchange.words):
        return utility
    errors = _capped(exchange.words, MOST_STANDARD_ERRORS, "+.1f")
    pull = _capped(exchange.pull, MOST_PULL, "+.0%")
    return f"{utility}; label-word effect: {errors} standard errors, {pull} of the in-context one"


def _capped(value: float, most: float, layout: str) -> str:
    if abs(value) <= most:
        return format(value, layout)
    return f"{'over' if value > 0 else 'under'} {format(np.copysign(most, value), layout)}"
