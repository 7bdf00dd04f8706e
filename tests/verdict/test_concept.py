"""Groups of scores, and labels that are likely wrong."""

import re
from dataclasses import replace

import numpy as np
import pytest
from test_diagnosis import result

from icm_client.coherence.calibration import log_softmax
from icm_client.coherence.problem import UNLABELLED, FloatArray
from icm_client.coherence.result import SearchResult
from icm_client.verdict.concept import FAINT, groups_of, no_groups, unsure
from icm_client.verdict.findings import Finding

ALL = np.arange(100)


def test_labels_that_are_likely_wrong_are_told() -> None:
    noise = np.random.default_rng(0).normal(size=(100, 3))

    def found(lead: float) -> list[str]:
        log_probs = log_softmax(0.3 * noise + lead * np.eye(3)[ALL % 3])
        of = replace(result(), log_probs=log_probs, labels=log_probs.argmax(axis=1))
        return [finding.figures for finding in unsure(of, ALL)]

    assert found(4.0) == []
    (figures,) = found(0.2)
    assert "of 100 rows have a confidence under 70%" in figures
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
    here, nothing = re.findall(r"(?:a coherence of|would have) (\d+)%", finding.figures)
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
