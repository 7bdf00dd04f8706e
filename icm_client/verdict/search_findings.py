"""What the search left, and how: starts that disagree, stalls, what was decided after it."""

from collections.abc import Sequence
from itertools import combinations, groupby, pairwise

import numpy as np

from icm_client.coherence.anneal import STALL_RATE, STALL_WINDOW
from icm_client.coherence.matching import best_permutation, pair_counts
from icm_client.coherence.problem import UNLABELLED, FloatArray, IntArray
from icm_client.coherence.result import SearchResult, Step, SweepRecord
from icm_client.verdict.findings import Finding, many

AGREE = 0.8
"""Share of the rows that two starts label alike, up to names, under which they found two things."""

LATE = 4
"""The sweep, from 0, from which on a start's labels are expected to stand still."""

JUMP = 0.2
"""Share of the labels that one late sweep moves, from which on it is a jump."""

LEFT = 0.1
"""Share of the rows decided after the search, from which on a look is advised."""


def search_findings(result: SearchResult, n_labels: int, *, clear: bool = False) -> list[Finding]:
    """Return them; none of it alone condemns labels that are coherent.

    Args:
        result: of any search.
        n_labels: `K`.
        clear: whether the scores clearly fall into one group a label (`LabelGroups.clear`).
    """
    found = [
        _disagreeing(result, n_labels),
        _jumped(result, clear=clear),
        _contradictions(result),
        _settled(result),
        _by_confidence(result),
        _stalled(result.steps),
    ]
    return [finding for finding in found if finding is not None]


def agreement_matrix(labellings: Sequence[IntArray], n_labels: int) -> FloatArray:
    """Share of the items that two labellings label alike, names aside, `[R, R]`.

    Names of one are exchanged as makes the most alike.
    Items that either leaves without a label are not counted.
    """
    matrix = np.eye(len(labellings))
    for (i, one), (j, other) in combinations(enumerate(labellings), 2):
        matrix[i, j] = matrix[j, i] = _agreement(one, other, n_labels)
    return matrix


def _agreement(one: IntArray, other: IntArray, n_labels: int) -> float:
    both = (one != UNLABELLED) & (other != UNLABELLED)
    if not both.any():
        return 0.0
    table = pair_counts(one[both], other[both], n_labels)
    names = best_permutation(table)
    return float(table[np.arange(n_labels), names].sum() / both.sum())


def _disagreeing(result: SearchResult, n_labels: int) -> Finding | None:
    """Starts that found something else, whatever their `U`: it is no measure at chance."""
    if len(result.restarts) < 2:  # noqa: PLR2004
        return None
    alike = agreement_matrix([end.labels for end in result.restarts], n_labels)[result.restart]
    best = result.restarts[result.restart]
    rivals = [
        number
        for number, end in enumerate(result.restarts)
        if number != result.restart and best.utility > 0 and alike[number] < AGREE
    ]
    if not rivals:
        return None
    figures = ", ".join(
        f"start {number + 1}: {alike[number]:.0%} alike, U = {result.restarts[number].utility:+.3f}"
        for number in rivals
    )
    return Finding(
        "starts-disagree",
        f"Searches from other random labels found something else ({figures}; start "
        f"{result.restart + 1}, which was taken: U = {best.utility:+.3f} nats). Names are set "
        "aside in this.",
        "The rows may be split in more than one way. Look at rows that two seeds label "
        "differently (--seed), and use words or a template that say which split is meant.",
        "check",
    )


def _jumped(result: SearchResult, *, clear: bool) -> Finding | None:
    """A start that turned many labels late, and ended with something less coherent."""
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
        return None
    now, before, last = max(jumps, key=lambda jump: jump[0].moved)
    return Finding(
        "late-jump",
        f"Start {now.restart + 1} let go of what it had found: its sweep {now.sweep + 1} changed "
        f"{many(now.moved, 'label')} of {sum(now.counts):,}, and U fell from "
        f"{before.utility:+.3f} to {last.utility:+.3f} nats by the end.",
        "The rows may be split by no concept that this model is sure of: compare with another "
        "--seed, and look at rows that the two label differently.",
        "note" if clear else "check",
    )


def _contradictions(result: SearchResult) -> Finding | None:
    if not result.contradictions:
        return None
    return Finding(
        "contradictions",
        f"{many(result.contradictions, 'pair')} of labels contradicted each other when "
        "the search ended; their groups were labelled again, as the rule allows.",
        "More --steps, or a lower --alpha, leave fewer.",
        "check" if result.contradictions >= LEFT * len(result.labels) else "note",
    )


def _settled(result: SearchResult) -> Finding | None:
    if not result.settled:
        return None
    return Finding(
        "settled",
        f"{many(result.settled, 'label')} of {len(result.labels):,} were decided after "
        "the search, which had left them open or in contradiction: by one reading behind "
        "the labels that it had found.",
        "More --steps leave fewer, unless the search has stalled.",
        "check" if result.settled >= LEFT * len(result.labels) else "note",
    )


def _by_confidence(result: SearchResult) -> Finding | None:
    if not result.by_confidence:
        return None
    return Finding(
        "by-confidence",
        f"{many(result.by_confidence, 'group')} of related rows were too large to try all "
        "labellings of: the most confident row decided, and the others were set to agree.",
        "Narrower groups are labelled exactly.",
        "note",
    )


def _stalled(steps: Sequence[Step]) -> Finding | None:
    stalled = [of_one for of_one in _batches(steps) if _stalls(of_one)]
    if not stalled:
        return None
    last = stalled[-1]
    accepted = sum(step.accepted for step in _tried(last))
    where = "" if len(stalled) == 1 else f" in {len(stalled):,} batches"
    return Finding(
        "stalled",
        f"The search stalled{where}: {accepted} of the last {STALL_WINDOW} labellings that it "
        f"tried were accepted, fewer than {STALL_RATE:.0%} (alpha {last[-1].alpha:g}).",
        "More --steps will change little; a lower --alpha lets more be accepted.",
        "note",
    )


def _batches(steps: Sequence[Step]) -> list[list[Step]]:
    return [list(of_one) for _, of_one in groupby(steps, key=lambda step: step.batch)]


def _tried(steps: Sequence[Step]) -> list[Step]:
    """The last labellings that differed from what was there."""
    return [step for step in steps if step.Delta != 0 or not step.accepted][-STALL_WINDOW:]


def _stalls(steps: Sequence[Step]) -> bool:
    """Whether nearly all of them were refused."""
    tried = _tried(steps)
    accepted = sum(step.accepted for step in tried)
    return len(tried) == STALL_WINDOW and accepted < STALL_RATE * STALL_WINDOW
