"""Scores that change with the context, rules that are needed, words that do not fit."""

from dataclasses import replace

import numpy as np
import pytest
from test_diagnosis import result

from icm_client.coherence.constraints import Asymmetry, MutualExclusion
from icm_client.coherence.problem import NO_CONSTRAINT, FloatArray
from icm_client.coherence.result import SearchResult
from icm_client.verdict.stability import (
    CONFLICTING,
    CONFLICTS,
    DROWNED,
    LOW_MASS,
    POOR_MASS,
    UNSTEADY,
    WAVERING,
    context_effects,
    label_words,
    rule_conflicts,
    server_noise,
)

ALL = np.arange(100)


def with_mass(mass: float) -> SearchResult:
    return replace(result(), label_mass=np.full(100, mass))


@pytest.mark.parametrize(
    ("mass", "severity"),
    [(0.99, None), (LOW_MASS, None), (LOW_MASS - 0.01, "note"), (POOR_MASS - 0.01, "check")],
)
def test_label_words_that_the_model_would_not_say_are_told(
    mass: float, severity: str | None
) -> None:
    found = label_words(with_mass(mass), ALL)
    assert [finding.severity for finding in found] == ([] if severity is None else [severity])
    assert all(f"{mass:.1%}" in finding.figures for finding in found)


def test_items_without_a_score_have_no_mass() -> None:
    half = np.where(ALL < 50, np.nan, 0.9)
    assert label_words(replace(result(), label_mass=half), ALL) == []
    assert label_words(replace(result(), label_mass=np.full(100, np.nan)), ALL) == []
    assert label_words(result(), ALL) == []


def swept(changing: int, sweeps: int = 4) -> SearchResult:
    """`changing` of 100 items have the other label in one sweep, by less than in the others."""
    towards = np.ones((sweeps, 100))
    towards[0, :changing] = -0.5
    scores: FloatArray = np.stack([towards, np.zeros_like(towards)], axis=2)
    return replace(result(first=100), sweep_scores=scores)


@pytest.mark.parametrize(
    ("changing", "severity"),
    [
        (0, None),
        (round(400 * UNSTEADY) - 1, None),
        (round(400 * UNSTEADY), "note"),
        (round(400 * WAVERING), "check"),
    ],
)
def test_labels_that_depend_on_the_demos_are_told(changing: int, severity: str | None) -> None:
    found = context_effects(swept(changing), ALL)
    assert [finding.severity for finding in found] == ([] if severity is None else [severity])
    for finding in found:
        assert f"Over 4 sweeps {changing} rows of 100 changed sides" in finding.figures
        assert "its margin is" in finding.figures


def test_one_sweep_says_nothing_of_wavering() -> None:
    assert context_effects(swept(90, sweeps=1), ALL) == []
    assert context_effects(result(), ALL) == []


def test_only_the_rows_own_items_waver() -> None:
    assert context_effects(swept(60), np.arange(60, 100)) == []
    (finding,) = context_effects(swept(60), np.arange(60))
    assert "60 rows of 60" in finding.figures


def in_pairs(alike: int) -> SearchResult:
    """50 pairs, of which `alike` have the same label in both orders before the rule is applied."""
    free = np.tile([1, 0], 50)
    free[: 2 * alike] = 1
    return replace(result(), log_probs=np.log(np.where(np.eye(2)[free] > 0, 0.9, 0.1)))


ORDERS = Asymmetry(tuple((i, i + 1) for i in range(0, 100, 2)), true=1, false=0)


@pytest.mark.parametrize(
    ("alike", "severity"),
    [
        (0, None),
        (int(50 * CONFLICTS), None),
        (int(50 * CONFLICTS) + 1, "note"),
        (int(50 * CONFLICTING) + 1, "check"),
    ],
)
def test_pairs_whose_order_decides_are_told(alike: int, severity: str | None) -> None:
    found = rule_conflicts(in_pairs(alike), ORDERS)
    assert [finding.severity for finding in found] == ([] if severity is None else [severity])
    for finding in found:
        assert finding.code == "order-effects"
        assert f"{alike / 50:.0%} of 50" in finding.figures
        assert "affirmative one in 100% of them" in finding.figures


def test_another_rule_is_told_of_in_its_own_words() -> None:
    groups = tuple((i, i + 1) for i in range(0, 100, 2))
    rule = MutualExclusion(groups, tuple(range(100)), true=1)
    (finding,) = rule_conflicts(in_pairs(20), rule)
    assert finding.code == "rule-conflicts"
    assert rule_conflicts(in_pairs(20), NO_CONSTRAINT) == []


def test_unscored_and_few_groups_are_left_out() -> None:
    broken = in_pairs(20)
    log_probs = broken.log_probs.copy()
    log_probs[:40:2] = np.nan
    assert rule_conflicts(replace(broken, log_probs=log_probs), ORDERS) == []
    few = Asymmetry(ORDERS.pairs[:9], true=1, false=0)
    assert rule_conflicts(broken, few) == []


def asked_twice(by: float) -> FloatArray:
    """Log-odds of eight reads that differ by `by` nats, one way or the other."""
    signs = np.tile([1.0, -1.0], 4)[:, np.newaxis]
    differences: FloatArray = signs * np.array([by / 2, -by / 2])
    return differences


def test_noise_larger_than_margins_is_told() -> None:
    margins = np.linspace(0, 2, 100)
    scores = np.stack([margins, np.zeros(100)], axis=1)
    sure = replace(result(first=100), log_probs=scores)
    assert server_noise(sure, ALL, asked_twice(0.0)) == []
    # One read's standard deviation is a difference's over the square root of two.
    (finding,) = server_noise(sure, ALL, asked_twice(np.sqrt(2) * 0.2))
    assert finding.severity == "check"
    assert "8 reads asked twice differ by 0.200 nats" in finding.figures
    within = int((margins < 0.4).sum())
    assert within > 100 * DROWNED
    assert f"{within} rows of 100 have a smaller margin" in finding.figures
    (finding,) = server_noise(sure, ALL, asked_twice(np.sqrt(2) * 0.03))
    assert finding.severity == "note"


def test_averaged_sweeps_have_less_noise_and_unanswered_reads_none() -> None:
    four = replace(swept(0), log_probs=np.stack([np.full(100, 0.3), np.zeros(100)], axis=1))
    assert server_noise(four, ALL, asked_twice(np.sqrt(2) * 0.2)) == []
    (finding,) = server_noise(four, ALL, asked_twice(np.sqrt(2) * 0.4))
    assert "0.200 after averaging" in finding.figures
    assert server_noise(four, ALL, np.full((8, 2), np.nan)) == []
