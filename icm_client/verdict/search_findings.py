"""How did the search go, and how did it end?"""

from collections.abc import Sequence
from itertools import combinations, groupby, pairwise

import numpy as np

from icm_client.coherence.anneal import STALL_RATE, STALL_WINDOW
from icm_client.coherence.matching import best_permutation, pair_counts
from icm_client.coherence.problem import UNLABELLED, FloatArray, IntArray
from icm_client.coherence.result import SearchResult, Step, SweepRecord
from icm_client.verdict.findings import Finding, Severity, many

AGREE = 0.8
"""`starts-disagree` is found where two starts label a smaller share of the rows alike."""

RIVAL, RIVALS = 0.5, 0.6
"""`several-concepts` is found where independent labels are so coherent, as such and as a share of
the coherence of those found: noise gives up to 0.4."""

LATE = 4
"""From this sweep on, counted from 0, a start's labels are expected to stand still."""

JUMP = 0.2
"""`late-jump` is found from this share of the labels on that one late sweep changes."""

LEFT = 0.1
"""`settled` and `contradictions` are to be checked from this share of the rows on."""


def search_findings(result: SearchResult, n_labels: int, *, clear: bool = False) -> list[Finding]:
    """What did the search leave behind? None of it alone condemns coherent labels.

    `clear`: the scores clearly fall into one group for each label (`LabelGroups.clear`).
    """
    return [
        *_disagreeing(result, n_labels),
        *_several_concepts(result),
        *_jumped(result, clear=clear),
        *_decided_afterwards(result),
        *_stalled(result.steps),
    ]


def ended_early() -> Finding:
    """Return the finding about a search that met a limit."""
    return Finding(
        "ended-early",
        "A limit ended the search before its time, so its labels may still change. How much the "
        "server's answers vary was not checked.",
        "Run the same command again with a higher limit: it goes on from here.",
        "note",
    )


def interrupted(result: SearchResult) -> Finding:
    """Return the finding about a search that a signal ended."""
    names = "whether the labels have the right names and follow the demos, and "
    return Finding(
        "interrupted",
        "The search was interrupted: these are the labels of its last whole sweep or step, and "
        f"they may still change. Not checked: {names if np.isnan(result.exchange.words) else ''}"
        "how much the server's answers vary.",
        "Run the same command again: it goes on from here.",
        "check",
    )


def agreement_matrix(labellings: Sequence[IntArray], n_labels: int) -> FloatArray:
    """Return the share of items that two labellings label alike, `[R, R]`.

    Names of one are exchanged so that the most are alike. Items that either leaves without a label
    are not counted.
    """
    matrix = np.eye(len(labellings))
    for (i, one), (j, other) in combinations(enumerate(labellings), 2):
        both = (one != UNLABELLED) & (other != UNLABELLED)
        counts = pair_counts(one[both], other[both], n_labels)
        alike = counts[np.arange(n_labels), best_permutation(counts)].sum()
        matrix[i, j] = matrix[j, i] = alike / max(both.sum(), 1)
    return matrix


def _disagreeing(result: SearchResult, n_labels: int) -> list[Finding]:
    """Other starts that found something else, whatever their `U`: at chance it measures nothing."""
    if len(result.restarts) < 2:  # noqa: PLR2004
        return []
    alike = agreement_matrix([end.labels for end in result.restarts], n_labels)[result.restart]
    best = result.restarts[result.restart]
    rivals = [
        number
        for number, end in enumerate(result.restarts)
        if number != result.restart and best.utility > 0 and alike[number] < AGREE
    ]
    if not rivals:
        return []
    figures = ", ".join(
        f"start {number + 1}: {alike[number]:.0%} alike, U = {result.restarts[number].utility:+.3f}"
        for number in rivals
    )
    finding = Finding(
        "starts-disagree",
        "Searches from other random labels found something else, whatever the label names.",
        "The rows may be split in more than one way. Look at rows that two seeds label "
        "differently (--seed), and use label words or a template that say which split is meant.",
        "check",
        f"Start {result.restart + 1}, which was taken: U = {best.utility:+.3f} nats; {figures}",
    )
    return [finding]


def _several_concepts(result: SearchResult) -> list[Finding]:
    """Other labels, independent of these, that are about as coherent: which was found is chance."""
    rival = result.rival
    if rival is None or rival.coherence < max(RIVAL, RIVALS * result.coherence):
        return []
    finding = Finding(
        "several-concepts",
        "The rows are split in more than one way, the label words do not choose, and which way was "
        "found is chance.",
        "See the others with --concepts 3, and pick one by its clearest rows; or say what is meant "
        "by label words, pinned rows or --easy.",
        "check",
        f"Coherence {result.coherence:.0%}; {rival.coherence:.0%} of labels independent of these",
    )
    return [finding]


def _jumped(result: SearchResult, *, clear: bool) -> list[Finding]:
    """A start that changed many labels late, and ended with something less coherent."""
    sweeps = [record for record in result.history if type(record) is SweepRecord]
    starts = [list(of_one) for _, of_one in groupby(sweeps, key=lambda record: record.restart)]
    jumps = [
        (now, before, start[-1])
        for start in starts
        for before, now in pairwise(start)
        if now.sweep >= LATE
        and now.moved >= JUMP * sum(now.counts)
        and start[-1].utility < before.utility
    ]
    if not jumps:
        return []
    now, before, last = max(jumps, key=lambda jump: jump[0].moved)
    finding = Finding(
        "late-jump",
        f"Start {now.restart + 1} lost what it had found: many labels changed late, and U fell.",
        "The rows may be split by no concept that this model is sure of: compare with another "
        "--seed, and look at rows that the two label differently.",
        "note" if clear else "check",
        f"Sweep {now.sweep + 1} changed {many(now.moved, 'label')} of {sum(now.counts):,}; U fell "
        f"from {before.utility:+.3f} to {last.utility:+.3f} nats by the end",
    )
    return [finding]


def _decided_afterwards(result: SearchResult) -> list[Finding]:
    found: list[Finding] = []
    many_rows = LEFT * len(result.labels)
    if result.contradictions:
        message = (
            f"{many(result.contradictions, 'pair')} of labels contradicted each other when the "
            "search ended; their groups were labelled again, as the rule allows."
        )
        advice = "More --steps, or a lower --alpha, leave fewer."
        severity: Severity = "check" if result.contradictions >= many_rows else "note"
        found.append(Finding("contradictions", message, advice, severity))
    if result.settled:
        message = (
            f"{many(result.settled, 'label')} of {len(result.labels):,} were decided after the "
            "search, which had left them open or in contradiction: by one read, given the labels "
            "found."
        )
        advice = "More --steps leave fewer, unless the search has stalled."
        severity = "check" if result.settled >= many_rows else "note"
        found.append(Finding("settled", message, advice, severity))
    if result.by_confidence:
        message = (
            f"{many(result.by_confidence, 'group')} of related rows had too many possible "
            "labellings to try them all: the most confident row decided, and the others were set "
            "to agree."
        )
        advice = "Smaller groups are labelled exactly."
        found.append(Finding("by-confidence", message, advice, "note"))
    return found


def _stalled(steps: Sequence[Step]) -> list[Finding]:
    batches = [list(of_one) for _, of_one in groupby(steps, key=lambda step: step.batch)]
    stalled = [batch for batch in batches if _stalls(batch)]
    if not stalled:
        return []
    last = stalled[-1]
    accepted = sum(step.accepted for step in _tried(last))
    where = "" if len(stalled) == 1 else f" in {len(stalled):,} batches"
    finding = Finding(
        "stalled",
        f"The search stalled{where}: it accepted almost none of the labellings that it tried last.",
        "More --steps will change little; a lower --alpha lets more be accepted.",
        "note",
        f"{accepted} of the last {STALL_WINDOW} labellings were accepted, under "
        f"{STALL_RATE:.0%}, with alpha {last[-1].alpha:g}",
    )
    return [finding]


def _tried(steps: Sequence[Step]) -> list[Step]:
    """The last labellings that differed from what was there."""
    return [step for step in steps if step.Delta != 0 or not step.accepted][-STALL_WINDOW:]


def _stalls(steps: Sequence[Step]) -> bool:
    """Whether nearly all of a batch's last labellings were refused."""
    tried = _tried(steps)
    accepted = sum(step.accepted for step in tried)
    return len(tried) == STALL_WINDOW and accepted < STALL_RATE * STALL_WINDOW
