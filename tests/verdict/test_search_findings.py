"""Starts of one search that found different things."""

from dataclasses import replace

import numpy as np
import pytest
from test_diagnosis import result

from icm_client.coherence.problem import UNLABELLED, IntArray
from icm_client.coherence.result import RestartEnd, SearchResult, SweepRecord
from icm_client.verdict.search_findings import (
    AGREE,
    JUMP,
    LATE,
    RIVAL,
    RIVALS,
    agreement_matrix,
    search_findings,
)

HALVES = np.repeat([0, 1], 50)
CROSSED = np.tile([0, 1], 50)


def ended(*ends: tuple[IntArray, float], best: int = 0) -> SearchResult:
    """A result with these restarts' labels and `U`."""
    restarts = tuple(RestartEnd(labels, utility, utility) for labels, utility in ends)
    return replace(result(), restarts=restarts, restart=best)


def test_labellings_are_compared_up_to_an_exchange_of_names() -> None:
    nearly = HALVES.copy()
    nearly[:10] = 1
    matrix = agreement_matrix([HALVES, 1 - HALVES, nearly, CROSSED], 2)
    assert matrix[0] == pytest.approx([1, 1, 0.9, 0.5])
    assert (matrix == matrix.T).all()
    assert (np.diag(matrix) == 1).all()
    three = np.arange(90) % 3
    assert agreement_matrix([three, (three + 1) % 3], 3)[0, 1] == 1


def test_items_without_a_label_are_not_compared() -> None:
    few = np.where(np.arange(100) < 90, UNLABELLED, HALVES)
    assert agreement_matrix([HALVES, few], 2)[0, 1] == 1
    assert agreement_matrix([HALVES, np.full(100, UNLABELLED)], 2)[0, 1] == 0


def test_starts_that_found_something_else_are_told_with_figures() -> None:
    (finding,) = search_findings(ended((HALVES, 0.1), (CROSSED, 0.2), best=1), 2)
    assert finding.code == "starts-disagree"
    assert finding.severity == "check"
    assert "start 1: 50% alike, U = +0.100" in finding.figures
    assert "Start 2, which was taken: U = +0.200" in finding.figures


def test_starts_that_agree_or_found_nothing_are_no_finding() -> None:
    assert search_findings(ended((HALVES, 0.2)), 2) == []
    assert search_findings(ended((HALVES, 0.2), (1 - HALVES, 0.2)), 2) == []
    assert search_findings(ended((HALVES, -0.2), (CROSSED, -0.2)), 2) == []
    # At chance U is no measure of which start found something.
    assert search_findings(ended((HALVES, 0.2), (CROSSED, 0.01)), 2) != []
    nearly = HALVES.copy()
    nearly[: round(100 * (1 - AGREE))] = 1
    assert search_findings(ended((HALVES, 0.2), (nearly, 0.2)), 2) == []


def test_independent_labels_as_coherent_as_these_are_several_concepts() -> None:
    def found(coherence: float, rival: float) -> list[str]:
        other = RestartEnd(CROSSED, 0.3, rival)
        one = replace(result(coherence=coherence), rival=other)
        return [finding.code for finding in search_findings(one, 2)]

    assert found(0.8, 0.6) == ["several-concepts"]
    assert found(0.9, RIVALS * 0.9 - 0.01) == []
    assert found(0.6, RIVAL - 0.01) == []  # what noise gives


def swept(*moved_and_utility: tuple[int, float]) -> SearchResult:
    """A result whose only start made these sweeps over 64 rows."""
    history = tuple(
        SweepRecord(0, sweep, utility, utility / np.log(2), (30, 34), moved)
        for sweep, (moved, utility) in enumerate(moved_and_utility)
    )
    return replace(result(), history=history)


def test_a_late_jump_to_something_less_coherent_is_to_be_looked_at() -> None:
    """Seen on 64 claims: 26 labels moved in the eighth sweep, and U fell to 0.015."""
    steady = [(64, 0.1), (20, 0.12), (8, 0.15), (2, 0.16), (1, 0.16), (0, 0.161), (1, 0.161)]
    (finding,) = search_findings(swept(*steady, (26, 0.02), (3, 0.015)), 2)
    assert (finding.code, finding.severity) == ("late-jump", "check")
    (noted,) = search_findings(swept(*steady, (26, 0.02), (3, 0.015)), 2, clear=True)
    assert noted.severity == "note", "it ended in clear groups all the same"
    assert "Sweep 8 changed 26 labels of 64" in finding.figures
    assert "from +0.161 to +0.015" in finding.figures
    assert search_findings(swept(*steady), 2) == []
    assert search_findings(swept(*steady, (26, 0.1), (2, 0.3)), 2) == [], "it found more"
    assert search_findings(swept(*steady, (round(64 * JUMP) - 1, 0.02)), 2) == []
    early = [(64, 0.2), (64, 0.2), (60, 0.1), (50, 0.1)][:LATE]
    assert search_findings(swept(*early, (0, 0.1)), 2) == []
