"""One question, one source, or nothing that is striking."""

import random
from math import comb

import numpy as np
import pytest

from icm_client.coherence.problem import IntArray
from icm_client.verdict.groups import FEWEST, explanations, group_findings

WORDS = ("False", "True")


def few(n: int, rows: range) -> IntArray:
    """`n` labels, 0 in these rows and 1 in all others."""
    return np.array([0 if row in rows else 1 for row in range(n)])


def test_a_label_whose_rows_all_answer_one_question_is_told_with_how_it_was_tested() -> None:
    question = [f"q{row // 12}" for row in range(120)]
    (finding,) = group_findings({"question": question}, few(120, range(11)), WORDS)
    assert (finding.code, finding.severity) == ("one-group", "note")
    assert finding.message == "All 11 rows called 'False' have question 'q0'."
    assert "12 of all 120 rows" in finding.figures
    assert "hypergeometric" in finding.figures


def test_the_chance_is_the_hypergeometric_one_for_all_that_was_looked_at() -> None:
    question = [f"q{row // 12}" for row in range(120)]
    (found,) = explanations({"question": question}, few(120, range(11)))
    assert (found.rows, found.rows_of_value, found.rows_of_both) == (11, 12, 11)
    assert found.chance == pytest.approx(10 * comb(12, 11) / comb(120, 11))


def test_nearly_all_rows_will_do_and_most_will_not() -> None:
    question = [f"q{row // 12}" for row in range(120)]
    held = few(120, range(9))
    held[60] = 0
    (finding,) = group_findings({"question": question}, held, WORDS)
    assert finding.message.startswith("9 of the 10 rows called 'False' have question")
    held[61] = 0
    assert group_findings({"question": question}, held, WORDS) == []


@pytest.mark.parametrize("seed", range(40))
def test_chance_is_not_blamed(seed: int) -> None:
    drawn = random.Random(seed)
    n = drawn.choice([20, 60, 200])
    fields = {
        name: [drawn.choice("abcdefgh"[:k]) for _ in range(n)]
        for name, k in (("one", 2), ("other", 8), ("third", 4))
    }
    held = np.array([int(drawn.random() > 0.15) for _ in range(n)])
    assert group_findings(fields, held, WORDS) == []


def test_a_field_of_texts_or_ids_explains_nothing() -> None:
    fields = {"id": [f"{row}" for row in range(100)], "source": ["web"] * 100}
    assert group_findings(fields, few(100, range(10)), WORDS) == []


def test_a_value_that_most_rows_have_explains_nothing() -> None:
    source = ["web"] * 90 + ["book"] * 10
    assert group_findings({"source": source}, few(100, range(10)), WORDS) == []


def test_labels_of_a_few_rows_and_rows_without_a_value_are_left_alone() -> None:
    question: list[str | None] = [f"q{row // 12}" for row in range(120)]
    assert group_findings({"question": question}, few(120, range(FEWEST - 1)), WORDS) == []
    question[:12] = [None] * 12
    assert group_findings({"question": question}, few(120, range(11)), WORDS) == []


def test_each_label_of_several_is_explained_by_its_best_field() -> None:
    held = np.repeat([0, 1, 2], [80, 20, 20])
    source = ["a"] * 80 + ["b"] * 20 + ["c"] * 20
    wider = ["a"] * 80 + ["b"] * 40
    told = group_findings({"wider": wider, "source": source}, held, ("x", "y", "z"))
    assert [finding.message for finding in told] == [
        "All 20 rows called 'y' have source 'b'.",
        "All 20 rows called 'z' have source 'c'.",
    ]
