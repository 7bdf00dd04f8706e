import pytest
from hypothesis import given
from hypothesis import strategies as st

from icm_client.data.answer_text import comparable, exact, final_answer
from icm_client.data.values import JsonValue, Unusable


@pytest.mark.parametrize(
    "same",
    [
        ["1000", 1000, 1000.0, "1,000", "$1,000.00", "1 000", "1'000", "1_000", "1000.", "+1000"],
        [
            "1000",
            " 1000 \n",
            "1,000.0.",
            "\uff11\uff10\uff10\uff10",
            "€1000",
            "1000 €",
            "$ 1,000",
            "01000",
        ],
        ["-5", "\u22125", "-$5", "$-5", "- 5", -5, "-5.0"],
        ["0", "-0", "0.00", ".0", "000", 0.0],
        ["0.5", ".5", "0.50", 0.5],
        ["1000000000000000000000000", 1e24, "1,000,000,000,000,000,000,000,000"],
        ["50%", "50.0 %", "50 %."],
        ["True", True, "TRUE", " true"],
        ["two  words", "Two\nwords", "\uff34\uff37\uff2f words"],
        ["straße", "STRASSE"],
    ],
)
def test_answers_that_are_one_answer(same: list[JsonValue]) -> None:
    assert {comparable(value) for value in same} == {comparable(same[0])}


@pytest.mark.parametrize(
    "different",
    [
        ["50", "50%"],
        ["10", "100", "1", "-1", "1.01", "1.001"],
        ["1,00", "100"],
        ["1,0000", "10000"],
        ["1.000,00", "1000"],
        ["Paris", "Paris.", "Paris!"],
        ["5 kg", "5"],
        ["1/2", "0.5"],
        ["A", "B"],
        ["$", "€", "."],
    ],
)
def test_answers_that_are_different_answers(different: list[JsonValue]) -> None:
    assert len({comparable(value) for value in different}) == len(different)


@pytest.mark.parametrize("nothing", [None, "", " \t\n", "\u3000"])
def test_no_answer_is_none(nothing: JsonValue) -> None:
    assert comparable(nothing) is None
    assert exact(nothing) is None


def test_a_list_is_no_answer() -> None:
    with pytest.raises(Unusable, match="a list; it must hold one answer"):
        comparable(["5"])
    with pytest.raises(Unusable, match="an object; it must hold one value"):
        exact({"a": 1})


def test_what_groups_rows_is_compared_as_it_stands() -> None:
    assert exact(7) == exact("7") == exact(" 7 ")
    assert len({exact("a"), exact("A"), exact("7.0"), exact("7")}) == 4


@given(st.text())
def test_comparing_twice_changes_nothing(text: str) -> None:
    once = comparable(text)
    assert comparable(once) == once


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3))
def test_numbers_are_the_same_answer_exactly_when_they_are_equal(number: object) -> None:
    written, grouped = f"{number:f}", f"${number:,f}"
    assert comparable(written) == comparable(grouped)
    assert comparable(written) != comparable(f"{number:f}1")


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        ("3 * 4 = <<3*4=12>>12\nA: 12", "12"),
        ("3 * 4 = 12.\n#### 12", "12"),
        ("So the answer is 12.", "12"),
        ("The final answer is: 12", "12"),
        ("The answer is $1,234.50.", "1234.5"),
        ("the answer is 1234.50", "1234.5"),
        ("A: 012.00", "12"),
        ("A: -5", "-5"),
        ("A: -$5", "-5"),
        ("A: 50%", "50"),
        ("A: .5", "0.5"),
        ("A: 12\nA: 12.0", "12"),
        ("The answer is 5 x 8 = 40. The answer is 40.", "40"),
        ("A: 12\nA: 13", None),
        ("The answer is 5. The answer is 6.", None),
        ("A: 5 hours", None),
        ("A: 7/14", None),
        ("A: -1.8 billion", None),
        ("A: ", None),
        ("Plan A: 12 pieces", None),
        ("So she has 12 left.", None),
        ("", None),
    ],
)
def test_final_answers(solution: str, answer: str | None) -> None:
    assert final_answer(solution) == answer


@given(st.decimals(-(10**9), 10**9, places=2))
def test_every_spelling_of_a_number_is_one_answer(number: object) -> None:
    plain, grouped = f"{number:.2f}", f"{number:,.2f}"
    assert final_answer(f"A: {plain}") is not None
    assert final_answer(f"A: {plain}") == final_answer(f"The answer is {grouped}.")
