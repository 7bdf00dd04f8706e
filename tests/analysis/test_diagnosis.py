from dataclasses import replace

import numpy as np
import pytest

from icm_client.analysis.diagnosis import DEGENERATE_SHARE, INCOHERENT, diagnose
from icm_client.coherence.polarity import NameExchange
from icm_client.coherence.prior import PriorEstimate
from icm_client.coherence.sweep import SearchResult

CLEAR = NameExchange((1, 0), utility=0.5, exchanged_utility=-0.5, standard_error=0.01)
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
    assert f"{INCOHERENT - 0.01:.0%}" in finding.message
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


def test_names_that_say_nothing_of_what_was_found_are_not_to_be_trusted() -> None:
    (finding,) = diagnose(result(exchange=CLOSE), WORDS)
    assert finding.code == "ambiguous-names"
    assert finding.fatal
    assert "not to be trusted as they are named" in finding.message
    assert "'bad' and 'good'" in finding.message
    assert "+0.490 against +0.500" in finding.message


def test_of_three_labels_the_two_exchanged_are_named() -> None:
    three = replace(result(), exchange=replace(CLOSE, names=(0, 2, 1)))
    (finding,) = diagnose(three, ("red", "green", "blue"))
    assert "'green' and 'blue'" in finding.message


def test_names_are_not_doubted_where_the_labels_are() -> None:
    assert codes(result(coherence=-0.1, exchange=CLOSE)) == ["incoherent"]


def test_the_fatal_come_first() -> None:
    assert codes(result(first=100, exchange=CLOSE)) == ["one-label", "ambiguous-names"]
    assert codes(result(first=100, coherence=0.0)) == ["incoherent", "one-label"]


def test_names_that_were_exchanged_are_told_and_not_doubted() -> None:
    better = NameExchange((1, 0), utility=0.2, exchanged_utility=0.6, standard_error=0.01)
    assert codes(result(exchange=better)) == ["names-exchanged"]


def test_a_rare_label_that_the_prior_announces_is_no_finding() -> None:
    given = replace(result(first=99), prior=PriorEstimate(np.zeros(2), "given"))
    assert codes(given) == []
