from dataclasses import replace

import numpy as np
import pytest

from icm_client.coherence.anneal import STALL_WINDOW
from icm_client.coherence.label_names import RESPONSIVE, NameExchange, WordSplit
from icm_client.coherence.label_prior import PriorEstimate
from icm_client.coherence.problem import UNLABELLED
from icm_client.coherence.result import RestartEnd, SearchResult, Step
from icm_client.verdict.concept import INCOHERENT, SAME_SPLIT
from icm_client.verdict.diagnosis import ANNOUNCED_SHARE, DEGENERATE_SHARE, Evidence, diagnose
from icm_client.verdict.findings import Finding, Severity, recorded_finding, verdict_of, worst_first

CLEAR = NameExchange((1, 0), 0.5, -0.5, standard_error=0.01, words=12.0, pull=0.8, response=0.95)
CLOSE = NameExchange((1, 0), utility=0.5, exchanged_utility=0.49, standard_error=0.01)
WORDS = ("bad", "good")


def result(
    *, first: int = 50, coherence: float = 0.7, exchange: NameExchange = CLEAR
) -> SearchResult:
    """100 items, `first` of them with label 0."""
    labels = np.repeat([0, 1], [first, 100 - first])
    return SearchResult(
        labels=labels,
        log_probs=np.log(np.where(np.eye(2)[labels] > 0, 0.9, 0.1)),
        utility=coherence * np.log(2),
        coherence=coherence,
        restart=0,
        prior=PriorEstimate(np.zeros(2), "even"),
        exchange=exchange,
        history=(),
    )


def codes(found: SearchResult) -> list[str]:
    return [finding.code for finding in diagnose(found, WORDS)]


def test_coherent_balanced_well_named_labels_have_no_findings() -> None:
    assert diagnose(result(), WORDS) == ()
    assert diagnose(result(coherence=INCOHERENT), WORDS) == ()


def test_labels_that_do_not_predict_each_other_are_not_to_be_trusted() -> None:
    (finding,) = diagnose(result(coherence=INCOHERENT - 0.01), WORDS)
    assert finding.code == "incoherent"
    assert finding.fatal
    assert f"{INCOHERENT - 0.01:.0%}" in finding.figures
    assert finding.advice


@pytest.mark.parametrize(("first", "word"), [(100, "bad"), (0, "good"), (1, "good")])
def test_one_label_for_nearly_all_is_told_with_its_name(first: int, word: str) -> None:
    (finding,) = diagnose(result(first=first), WORDS)
    assert finding.code == "one-label"
    assert finding.fatal
    assert repr(word) in finding.message
    assert f"{max(first, 100 - first)}%" in finding.message


def test_a_rare_label_alone_is_no_finding() -> None:
    assert codes(result(first=round(100 * DEGENERATE_SHARE) - 2)) == []


def test_labels_that_the_demos_have_no_say_in_are_not_to_be_trusted() -> None:
    doubtful = replace(CLEAR, words=0.5, response=RESPONSIVE - 0.01)
    (finding,) = diagnose(result(exchange=doubtful), WORDS)  # its names are the least trouble
    assert finding.code == "unresponsive"
    assert finding.fatal
    assert f"{RESPONSIVE - 0.01:.0%} of the rows" in finding.figures
    assert codes(result(exchange=replace(CLEAR, words=12.0, response=RESPONSIVE))) == []


def test_labels_that_are_the_words_two_groups_are_to_be_checked_whatever_demos_teach() -> None:
    """The words name the rows clearly, and the model follows something else in demos."""
    split = WordSplit(gain=20.0, separation=5.0, differing=SAME_SPLIT, items=96)
    by_words = replace(CLEAR, response=RESPONSIVE - 0.01, split=split)
    (finding,) = diagnose(result(exchange=by_words), WORDS)
    assert (finding.code, finding.severity) == ("by-words", "check")
    assert "Of 96 labels 10% differ" in finding.figures
    for vague in (split._replace(gain=3.8), split._replace(differing=SAME_SPLIT + 0.01)):
        assert "unresponsive" in codes(result(exchange=replace(by_words, split=vague)))
    assert "incoherent" in codes(result(coherence=0.1, exchange=by_words))
    assert "unresponsive" in codes(result(first=98, exchange=by_words))  # nearly all are one


def test_names_are_not_doubted_where_the_labels_are() -> None:
    assert codes(result(coherence=-0.1, exchange=CLOSE)) == ["incoherent"]


def test_the_fatal_come_first() -> None:
    assert codes(result(first=100, exchange=CLOSE)) == ["one-label", "ambiguous-names"]
    assert codes(result(first=100, coherence=0.0)) == ["incoherent", "one-label"]


def test_a_rare_label_that_the_prior_announces_is_no_finding() -> None:
    given = replace(result(first=99), prior=PriorEstimate(np.zeros(2), "given"))
    announced = Evidence(prior=np.array([ANNOUNCED_SHARE, 1 - ANNOUNCED_SHARE]))
    assert diagnose(given, WORDS, announced) == ()
    other_way = Evidence(prior=np.array([1 - ANNOUNCED_SHARE, ANNOUNCED_SHARE]))
    for evidence in (other_way, Evidence(prior=np.array([0.7, 0.3]))):
        (finding,) = diagnose(given, WORDS, evidence)
        assert finding.code == "one-label"


def steps(*accepted: bool, batch: int = 0, delta: float = -1.0) -> tuple[Step, ...]:
    return tuple(
        Step(n, 1.0, 20.0, 0, 0, (), -5.0, delta, taken, batch)
        for n, taken in enumerate(accepted, start=1)
    )


def test_the_collapse_of_algorithm_1_into_one_label_is_told_as_its_own() -> None:
    collapsed = replace(result(first=100, coherence=0.0, exchange=CLOSE), steps=steps(True))
    incoherent, one_label = diagnose(collapsed, WORDS)
    assert (incoherent.code, one_label.code) == ("incoherent", "one-label")
    assert incoherent.fatal
    assert one_label.fatal
    assert "one label for nearly all rows" in incoherent.message
    assert "follow no concept" not in incoherent.message
    assert "'bad' was given to 100%" in one_label.message
    assert "--preset fast" in one_label.advice
    assert "--prior" in diagnose(result(first=100), WORDS)[0].advice


def test_what_was_decided_after_the_search_is_told() -> None:
    left = replace(result(), settled=9, contradictions=1)
    contradictions, settled = diagnose(left, WORDS)
    assert (contradictions.code, settled.code) == ("contradictions", "settled")
    assert contradictions.message.startswith("1 pair of labels")
    assert settled.message.startswith("9 labels of 100 were decided after the search")
    assert contradictions.severity == settled.severity == "note"
    many_left = replace(result(), settled=10, contradictions=10)
    assert [finding.severity for finding in diagnose(many_left, WORDS)] == ["check", "check"]


def test_groups_labelled_by_confidence_are_told_once_for_all() -> None:
    (finding,) = diagnose(replace(result(), by_confidence=3), WORDS)
    assert finding.code == "by-confidence"
    assert finding.message.startswith("3 groups")
    assert not finding.fatal


def test_a_search_that_accepts_nothing_any_more_has_stalled() -> None:
    refused = [False] * STALL_WINDOW
    (finding,) = diagnose(replace(result(), steps=steps(True, *refused)), WORDS)
    assert finding.code == "stalled"
    assert "alpha 20" in finding.figures
    assert f"0 of the last {STALL_WINDOW} labellings" in finding.figures
    assert not finding.fatal
    assert codes(replace(result(), steps=steps(*refused[:-1]))) == []
    assert codes(replace(result(), steps=steps(*refused[:-3], *[True] * 3))) == []


def test_steps_that_change_nothing_do_not_count_as_accepted_ones() -> None:
    idle = steps(*[True] * 200, delta=0.0)
    refused = steps(*[False] * STALL_WINDOW)
    assert codes(replace(result(), steps=idle)) == []
    assert codes(replace(result(), steps=(*refused, *idle))) == ["stalled"]


def test_batches_stall_one_by_one() -> None:
    first = steps(*[False] * STALL_WINDOW)
    second = steps(*[True] * STALL_WINDOW, batch=1)
    assert codes(replace(result(), steps=(*first, *second))) == ["stalled"]
    half = steps(*[False] * (STALL_WINDOW // 2))
    assert codes(replace(result(), steps=(*half, *(s._replace(batch=1) for s in half)))) == []
    (finding,) = diagnose(
        replace(result(), steps=(*first, *(s._replace(batch=1) for s in first))), WORDS
    )
    assert "in 2 batches" in finding.message


def test_items_without_a_label_have_no_part_in_the_shares() -> None:
    labels = np.array([UNLABELLED] * 60 + [1] * 40)
    (finding,) = diagnose(replace(result(), labels=labels), WORDS)
    assert finding.code == "one-label"
    assert "'good' was given to 100%" in finding.message
    assert codes(replace(result(), labels=np.full(100, UNLABELLED))) == []


@pytest.mark.parametrize(
    ("prior", "said"),
    [
        (PriorEstimate(np.zeros(2), "even", 1.8, (0.2, 0.9)), "do not show how common"),
        (PriorEstimate(np.zeros(2), "even", 1.8), "do not show how common"),
        (PriorEstimate(np.array([0, 0.4]), "mixture", 2.8, (0.3, 0.55)), "too few to tell"),
        (PriorEstimate(np.array([0, 0.4]), "mixture", 3.8, (0.3, 0.45)), None),
        (PriorEstimate(np.zeros(2), "even"), None),
        (PriorEstimate(np.array([0, 0.4]), "given"), None),
    ],
)
def test_shares_that_the_rows_do_not_tell_are_reported(
    prior: PriorEstimate, said: str | None
) -> None:
    findings = diagnose(replace(result(), prior=prior), WORDS)
    assert [finding.code for finding in findings] == ["uneven-shares"] * (said is not None)
    for finding in findings:
        assert said is not None
        assert said in finding.message
        assert finding.severity == "check"
        assert ("90% interval" in finding.figures) == (prior.interval is not None)
        assert f"--prior {WORDS[0]}=" in finding.advice


@pytest.mark.parametrize(("counts", "severity"), [((40, 35, 25), "note"), ((70, 20, 10), "check")])
def test_even_shares_that_were_assumed_of_three_labels_are_doubted_where_they_came_out_uneven(
    counts: tuple[int, int, int], severity: str
) -> None:
    labels = np.repeat([0, 1, 2], counts)
    log_probs = np.log(np.where(np.eye(3)[labels] > 0, 0.98, 0.01))
    found = replace(
        result(),
        labels=labels,
        log_probs=log_probs,
        prior=PriorEstimate(np.zeros(3), "even", 1.8),
        restarts=(),
        label_mass=None,
        sweep_scores=None,
    )
    said = {one.code: one.severity for one in diagnose(found, ("a", "b", "c"))}
    assert said["uneven-shares"] == severity


def test_starts_that_disagree_and_labels_that_turn_with_their_contexts_are_not_to_be_trusted() -> (
    None
):
    found = result()
    steady = np.log(np.where(np.eye(2)[found.labels] > 0, 0.9, 0.1))
    wavering = np.stack([steady, steady, steady])
    for sweep in range(3):  # another 15 rows in each sweep
        rows = slice(15 * sweep, 15 * sweep + 15)
        wavering[sweep, rows] = wavering[sweep, rows, ::-1]
    other = found.labels.copy()
    other[::2] = 1 - other[::2]
    ends = (RestartEnd(found.labels, 0.5, 0.7), RestartEnd(other, 0.4, 0.6))
    assert codes(replace(found, sweep_scores=wavering)) == ["context-effects"]
    assert codes(replace(found, sweep_scores=np.stack([steady] * 3), restarts=ends)) == [
        "starts-disagree"
    ]
    both = diagnose(replace(found, sweep_scores=wavering, restarts=ends), WORDS)
    assert [finding.code for finding in both] == ["unsettled", "starts-disagree", "context-effects"]
    assert verdict_of(both) == "do not trust"


def test_the_worst_finding_is_the_verdict() -> None:
    def finding(severity: Severity) -> Finding:
        return Finding(severity, "seen", "do", severity)

    note, check, fatal = finding("note"), finding("check"), finding("fatal")
    assert verdict_of([]) == verdict_of([note, note]) == "trust"
    assert verdict_of([note, check]) == "check"
    assert verdict_of([note, check, fatal]) == "do not trust"
    assert worst_first([note, fatal, check, note]) == (fatal, check, note, note)
    assert [one.fatal for one in (note, check, fatal)] == [False, False, True]


def test_a_finding_s_summary_says_whether_it_is_fatal() -> None:
    (finding,) = diagnose(result(first=100), WORDS)
    summary = finding.summary()
    assert summary["fatal"] is True
    assert summary["severity"] == "fatal"
    assert summary.keys() == {"code", "message", "advice", "severity", "figures", "fatal"}
    assert recorded_finding(summary) == finding


def test_a_finding_reads_as_a_sentence_what_to_do_and_the_figures() -> None:
    finding = Finding("seen", "Something was seen.", "Look at it.", "note", "3 of 4; 2 are needed")
    assert finding.text == "Something was seen. Look at it. (3 of 4; 2 are needed.)"
    assert replace(finding, figures="").text == "Something was seen. Look at it."
