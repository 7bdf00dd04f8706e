"""Names that fit, that are the wrong way round, and that nobody can tell apart."""

from dataclasses import replace

import numpy as np
import pytest
from test_diagnosis import CLEAR, CLOSE, WORDS, codes, result

from icm_client.coherence.label_names import CLEAR_PULL, NameExchange, WordSplit
from icm_client.verdict.diagnosis import diagnose
from icm_client.verdict.names import SPLIT_DIFFERS


def test_too_few_rows_of_a_label_to_look_at_are_to_be_checked() -> None:
    by_u_alone = NameExchange((1, 0), utility=0.5, exchanged_utility=-0.5, standard_error=0.01)
    (finding,) = diagnose(result(exchange=by_u_alone), WORDS)
    assert (finding.code, finding.severity) == ("too-few-rows", "check")
    assert "'bad' and 'good'" in finding.message


def test_names_that_say_nothing_of_what_was_found_are_not_to_be_trusted() -> None:
    (finding,) = diagnose(result(exchange=CLOSE), WORDS)
    assert finding.code == "ambiguous-names"
    assert finding.fatal
    assert "not to be trusted as they are named" in finding.message
    assert "'bad' and 'good'" in finding.message
    assert "changes U from +0.500 to +0.490" in finding.figures
    assert "label-word effect" not in finding.figures  # nobody knows it


def test_words_that_do_not_go_with_what_was_found_are_doubted_whatever_u_says() -> None:
    (finding,) = diagnose(result(exchange=replace(CLEAR, words=1.2, pull=0.1, response=1.0)), WORDS)
    assert finding.code == "ambiguous-names"
    assert "label-word effect: +1.2 standard errors" in finding.figures
    assert diagnose(result(exchange=replace(CLEAR, words=12.0, response=1.0)), WORDS) == ()


@pytest.mark.parametrize(
    ("errors", "said"),
    [(-67082.0, "under -100.0"), (250.0, "over +100.0"), (99.96, "+100.0"), (-12.3, "-12.3")],
)
def test_a_note_gives_no_more_standard_errors_than_mean_something(errors: float, said: str) -> None:
    weak = replace(CLEAR, words=errors, pull=CLEAR_PULL - 0.01, response=1.0)
    (finding, *_) = diagnose(result(exchange=weak), WORDS)
    assert f"label-word effect: {said} standard errors" in finding.figures


def test_words_that_say_little_are_to_be_looked_at_even_where_u_is_clear() -> None:
    little = replace(CLEAR, words=6.0, pull=CLEAR_PULL - 0.01, response=1.0)
    (finding,) = diagnose(result(exchange=little), WORDS)
    assert (finding.code, finding.severity) == ("weak-names", "check")
    assert "+19% of the in-context one" in finding.figures
    assert diagnose(result(exchange=replace(little, pull=CLEAR_PULL)), WORDS) == ()


def test_of_three_labels_the_two_exchanged_are_named() -> None:
    three = replace(result(), exchange=replace(CLOSE, names=(0, 2, 1)))
    (finding,) = diagnose(three, ("red", "green", "blue"))
    assert "'green' and 'blue'" in finding.message


def test_names_that_were_exchanged_are_told_and_not_doubted() -> None:
    better = replace(CLEAR, utility=0.2, exchanged_utility=0.6, words=-12.0, pull=-0.8)
    assert codes(replace(result(exchange=better), exchanged=True)) == ["names-exchanged"]


def test_names_that_were_left_the_wrong_way_round_are_not_to_be_trusted() -> None:
    better = NameExchange((1, 0), utility=0.2, exchanged_utility=0.6, standard_error=0.01)
    (finding,) = diagnose(result(exchange=better), WORDS)
    assert finding.code == "names-reversed"
    assert finding.fatal
    assert "have been exchanged" not in finding.message
    assert "changes U from +0.200 to +0.600" in finding.figures


def test_names_of_which_nothing_is_known_have_no_figures_that_are_no_numbers() -> None:
    unknown = NameExchange((1, 0), utility=np.nan, exchanged_utility=np.nan, standard_error=np.nan)
    (finding,) = diagnose(result(exchange=unknown), WORDS)
    assert finding.code == "ambiguous-names"
    assert "nan" not in finding.text


@pytest.mark.parametrize(
    ("split", "found"),
    [
        (WordSplit(gain=8.0, separation=3.5, differing=SPLIT_DIFFERS, items=96), True),
        (WordSplit(gain=8.0, separation=3.5, differing=SPLIT_DIFFERS - 0.01, items=96), False),
        (WordSplit(gain=3.8, separation=2.5, differing=0.3, items=96), False),  # 0.04 a row
        (WordSplit(gain=3.1, separation=2.5, differing=0.3, items=50), True),
        (None, False),
    ],
)
def test_words_that_split_the_rows_otherwise_than_the_labels_are_told(
    split: WordSplit | None, found: bool
) -> None:
    """Labels that a salient feature drew away from what the words name, which looks well named."""
    findings = diagnose(result(exchange=replace(CLEAR, split=split)), WORDS)
    assert [(one.code, one.severity) for one in findings] == [("other-split", "check")] * found
    if found:
        assert split is not None
        assert f"of the {split.items} labels" in findings[0].figures
