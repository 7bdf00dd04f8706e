"""Scores that waver, rules that are needed, words that do not fit."""

import re
from dataclasses import replace

import numpy as np
import pytest
from test_diagnosis import result

from icm_client.coherence.calibration import log_softmax
from icm_client.coherence.constraints import Asymmetry, MutualExclusion
from icm_client.coherence.problem import NO_CONSTRAINT, UNLABELLED, FloatArray
from icm_client.coherence.result import SearchResult
from icm_client.verdict.findings import Finding
from icm_client.verdict.stability import (
    CONFLICTING,
    CONFLICTS,
    DROWNED,
    FAINT,
    LOW_MASS,
    POOR_MASS,
    UNSTEADY,
    WAVERING,
    context_effects,
    groups_of,
    label_words,
    no_groups,
    rule_conflicts,
    server_noise,
    unsure,
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
    assert all(f"{mass:.1%}" in finding.message for finding in found)


def test_labels_that_are_likely_wrong_are_told() -> None:
    noise = np.random.default_rng(0).normal(size=(100, 3))

    def found(lead: float) -> list[str]:
        log_probs = log_softmax(0.3 * noise + lead * np.eye(3)[ALL % 3])
        of = replace(result(), log_probs=log_probs, labels=log_probs.argmax(axis=1))
        return [finding.message for finding in unsure(of, ALL)]

    assert found(4.0) == []
    (message,) = found(0.2)
    assert "of 100 have a confidence under 70%" in message
    nothing = replace(result(), labels=np.full(100, UNLABELLED))
    assert unsure(nothing, ALL) == []


def scored(log_odds: FloatArray, coherence: float) -> SearchResult:
    """A search's result on these rows, by the sign of their log-odds."""
    log_probs = log_softmax(np.stack([np.zeros_like(log_odds), log_odds], axis=1))
    labels = (log_odds > 0).astype(np.int64)
    return replace(result(coherence=coherence), log_probs=log_probs, labels=labels)


def doubts(of: SearchResult) -> list[Finding]:
    items = np.arange(len(of.labels))
    return no_groups(of, items, groups_of(of, items))


@pytest.mark.parametrize("n_rows", [64, 128, 400])
def test_rows_of_no_group_are_not_believed_whatever_their_coherence(n_rows: int) -> None:
    """64 TruthfulQA claims on a model that cannot judge them: log-odds of one normal heap."""
    for seed in range(20):
        log_odds = np.random.default_rng(seed).normal(scale=0.65, size=n_rows)
        of = scored(log_odds, coherence=0.29)
        (finding,) = doubts(of)
        assert (finding.code, finding.severity) == ("no-groups", "fatal")
        (looked_at,) = doubts(replace(of, coherence=0.5))
        assert looked_at.severity == "check"


def test_what_a_search_finds_in_nothing_is_said_beside_what_it_found() -> None:
    log_odds = np.random.default_rng(0).normal(scale=0.65, size=20_000)
    (finding,) = doubts(scored(log_odds, coherence=0.29))
    here, nothing = re.findall(r"coherence(?: of)? (\d+)%", finding.message)
    assert abs(int(here) - int(nothing)) <= 1
    assert int(nothing) > 20, "over the 15% of `incoherent`: coherence alone does not tell"


@pytest.mark.parametrize("share", [0.2, 0.36, 0.5, 0.64, 0.8])
@pytest.mark.parametrize("n_rows", [64, 128])
def test_two_groups_are_seen_at_any_share(n_rows: int, share: float) -> None:
    """As far apart as movie reviews are on gemma-3-270m: 90% right, Ashman's D about 3.9."""
    missed = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        upper = np.arange(n_rows) < round(share * n_rows)
        log_odds = 0.65 * rng.normal(size=n_rows) + np.where(upper, 1.3, -1.3)
        missed += len(doubts(scored(log_odds, coherence=FAINT)))
    assert missed <= 1


def test_groups_of_faint_coherence_must_be_clear() -> None:
    """128 claims, 122 called true: the few that lie apart look a little like a second group."""
    rng = np.random.default_rng(1)
    log_odds = 0.4 * rng.normal(size=128) + np.where(np.arange(128) < 8, 1.15, -0.1)
    of = scored(log_odds - 0.8, coherence=FAINT - 0.01)
    groups = groups_of(of, np.arange(128))
    assert groups is not None
    assert groups.needed <= groups.gain < 2 * groups.needed
    (finding,) = doubts(of)
    assert (finding.code, finding.severity) == ("no-groups", "check")
    assert doubts(replace(of, coherence=FAINT)) == []


def test_few_coherent_rows_are_not_doubted_for_want_of_groups() -> None:
    log_odds = np.random.default_rng(0).normal(size=24)
    assert doubts(scored(log_odds, coherence=0.6)) == []
    (looked_at,) = doubts(scored(log_odds, coherence=0.48))
    assert looked_at.severity == "check"
    (condemned,) = doubts(scored(log_odds, coherence=0.29))
    assert condemned.severity == "fatal"
    assert doubts(scored(np.zeros(100), coherence=0.3)) == []


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
        assert f"over 4 sweeps {changing} rows of 100 changed sides" in finding.message
        assert "its margin is" in finding.message


def test_one_sweep_says_nothing_of_wavering() -> None:
    assert context_effects(swept(90, sweeps=1), ALL) == []
    assert context_effects(result(), ALL) == []


def test_only_the_rows_own_items_waver() -> None:
    assert context_effects(swept(60), np.arange(60, 100)) == []
    (finding,) = context_effects(swept(60), np.arange(60))
    assert "60 rows of 60" in finding.message


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
        assert f"{alike / 50:.0%} of 50" in finding.message
        assert "affirmative one in 100% of them" in finding.message


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
    assert "8 reads asked twice differ by 0.200 nats" in finding.message
    within = int((margins < 0.4).sum())
    assert within > 100 * DROWNED
    assert f"{within} rows of 100 have a smaller margin" in finding.message
    (finding,) = server_noise(sure, ALL, asked_twice(np.sqrt(2) * 0.03))
    assert finding.severity == "note"


def test_averaged_sweeps_have_less_noise_and_unanswered_reads_none() -> None:
    four = replace(swept(0), log_probs=np.stack([np.full(100, 0.3), np.zeros(100)], axis=1))
    assert server_noise(four, ALL, asked_twice(np.sqrt(2) * 0.2)) == []
    (finding,) = server_noise(four, ALL, asked_twice(np.sqrt(2) * 0.4))
    assert "0.200 after averaging" in finding.message
    assert server_noise(four, ALL, np.full((8, 2), np.nan)) == []
