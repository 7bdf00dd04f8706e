"""Starts of one search that found different things."""

from dataclasses import replace

import numpy as np
import pytest
from test_diagnosis import result

from icm_client.analysis.search_findings import AGREE, JUMP, LATE, agreement_matrix, search_findings
from icm_client.coherence.contexts import UNLABELLED
from icm_client.coherence.problem import IntArray
from icm_client.coherence.search_result import RestartEnd, SearchResult

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
    assert "start 1: 50% alike, U = +0.100" in finding.message
    assert "start 2, which was taken: U = +0.200" in finding.message


def test_starts_that_agree_or_found_nothing_are_no_finding() -> None:
    assert search_findings(ended((HALVES, 0.2)), 2) == []
    assert search_findings(ended((HALVES, 0.2), (1 - HALVES, 0.2)), 2) == []
    assert search_findings(ended((HALVES, -0.2), (CROSSED, -0.2)), 2) == []
    nearly = HALVES.copy()
    nearly[: round(100 * (1 - AGREE))] = 1
    assert search_findings(ended((HALVES, 0.2), (nearly, 0.2)), 2) == []
