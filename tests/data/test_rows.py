import dataclasses
import datetime as dt
import decimal
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icm_client.data import Dataset, check_gold, rows_from
from icm_client.errors import RowError


def refused(rows: object, *, gold: str | None = None) -> RowError:
    with pytest.raises(RowError) as caught:
        rows_from(rows, gold=gold)  # type: ignore[arg-type]
    return caught.value


def with_gold(*values: object) -> Dataset:
    return rows_from([{"text": "x", "label": value} for value in values], gold="label")


def test_strings_become_rows_with_a_text() -> None:
    dataset = rows_from(["good film", "bad film"])
    assert dataset.name == "rows"
    assert [(row.id, row.fields, row.line) for row in dataset.rows] == [
        (1, {"text": "good film"}, 1),
        (2, {"text": "bad film"}, 2),
    ]
    assert dataset.gold is None
    assert dataset.gold_field is None
    assert dataset.warnings == ()


def test_an_iterator_of_rows_is_enough() -> None:
    assert len(rows_from({"n": n} for n in range(5)).rows) == 5


def test_ids_of_the_user_are_kept_and_other_rows_are_numbered() -> None:
    rows = rows_from([{"id": "a", "n": 1}, {"n": 2}, {"id": 70, "n": 3}]).rows
    assert [row.id for row in rows] == ["a", 2, 70]
    assert rows[0].fields == {"id": "a", "n": 1}


def test_a_row_never_holds_its_gold_label() -> None:
    poison = "GOLD-IN-A-PROMPT"
    dataset = rows_from(
        [{"text": "a", "label": poison, "n": 1}, {"text": "b", "label": poison, "n": 2}],
        gold="label",
    )
    assert dataset.gold == (poison, poison)
    assert dataset.gold_field == "label"
    assert poison not in repr(dataset.rows)
    assert poison not in repr([dataclasses.asdict(row) for row in dataset.rows])
    assert all(list(row.fields) == ["text", "n"] for row in dataset.rows)


def test_the_users_own_dictionaries_keep_their_gold() -> None:
    mine = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]
    rows_from(mine, gold="label")
    assert [row["label"] for row in mine] == ["x", "y"]


def test_gold_labels_are_text_and_empty_ones_are_absent() -> None:
    dataset = with_gold(True, False, 3, 0.5, "word", None, "", "  ")
    assert dataset.gold == ("True", "False", "3", "0.5", "word", None, None, None)
    assert dataset.warnings == (
        "3 of 8 rows have no label in the gold field 'label': the accuracy leaves them out",
    )


def test_gold_that_is_empty_everywhere_is_warned_about() -> None:
    (warning,) = with_gold(None, "").warnings
    assert warning.startswith("no row has a label in the gold field 'label'")


def test_complete_gold_is_not_warned_about() -> None:
    assert with_gold("a", "b").warnings == ()


def test_a_missing_gold_field_names_the_fields_there_are() -> None:
    error = refused([{"text": "a", "label": "x"}, {"text": "b", "lable": "y"}], gold="label")
    assert error.line == 2
    assert str(error) == (
        "rows:2: no gold field 'label'; the row has 'text', 'lable'. Did you mean 'lable'?"
    )


@pytest.mark.parametrize(
    ("value", "kind"), [(["x"], "a list"), (("x",), "a list"), ({"a": 1}, "an object")]
)
def test_a_gold_label_of_many_values_is_refused(value: object, kind: str) -> None:
    error = refused([{"label": "x"}, {"label": value}], gold="label")
    assert str(error) == f"rows:2: the gold field 'label' holds {kind}; it must hold one label"


def test_the_id_cannot_be_gold() -> None:
    assert "'id' names the rows" in str(refused([{"id": 1}, {"id": 2}], gold="id"))


@pytest.mark.parametrize(("first", "second"), [(7, 7), ("x", "x"), (7, "7")])
def test_two_rows_with_one_id_are_refused_and_both_named(
    first: str | int, second: str | int
) -> None:
    error = refused([{"id": "other"}, {"id": first}, {"id": second}])
    assert str(error).startswith(f"rows:3: the id {second!r} is already that of rows:2;")


def test_an_id_that_is_another_rows_number_is_refused() -> None:
    error = refused([{"id": 2, "n": 0}, {"n": 1}])
    assert str(error).startswith("rows:2: the id 2 is already that of rows:1;")


@pytest.mark.parametrize("bad", [None, True, 1.5, [1], {"a": 1}])
def test_an_id_is_text_or_a_whole_number(bad: object) -> None:
    error = refused([{"id": 1}, {"id": bad}])
    assert str(error).startswith("rows:2: the id must be text or a whole number")


def test_an_empty_id_is_refused() -> None:
    assert str(refused([{"id": "a"}, {"id": " "}])).startswith("rows:2: the id is empty")


@pytest.mark.parametrize(
    ("rows", "found"), [([], "no rows"), ([{"text": "a"}], "only one row"), (["a"], "only one row")]
)
def test_fewer_than_two_rows_cannot_be_compared(rows: object, found: str) -> None:
    error = refused(rows)
    assert error.line is None
    assert str(error) == (
        f"rows: {found}; at least 2 rows are needed: labels are found by comparing rows"
    )


@pytest.mark.parametrize(("one", "kind"), [("text", "text"), ({"text": "a"}, "an object")])
def test_one_row_instead_of_a_list_is_refused(one: object, kind: str) -> None:
    assert str(refused(one)).endswith(f"a list of rows is needed, not one alone ({kind})")


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ([1, 2], "not a list: [1, 2]"),
        (7, "not a number: 7"),
        (None, "not null: None"),
        ({1: "a"}, "field names must be text, not 1"),
        ({"a": math.nan}, "field 'a' holds NaN, which is not JSON: use null"),
        ({"a": [math.inf]}, "field 'a' holds Infinity, which is not JSON"),
        ({"a": {"b": -math.inf}}, "field 'a' holds -Infinity, which is not JSON"),
        ({"a": "x\0y"}, "field 'a' holds a NUL character: remove it from 'x\\x00y'"),
        ({"a": "x\ud800y"}, "field 'a' holds half of a surrogate pair (\\ud800)"),
        ({"a": ["x", {"\udc00": 1}]}, "field 'a' holds half of a surrogate pair (\\udc00)"),
        ({"a\0": 1}, "field 'a\\x00' holds a NUL character"),
        ({"a": {1: 2}}, "field 'a' holds an object with the key 1: keys must be text"),
        ({"a": 10**400}, "a whole number of more than 300 digits: write it as text"),
        ({"a": b"x"}, "field 'a' holds a value of type bytes, which is not JSON"),
        ({"a": {1, 2}}, "field 'a' holds a value of type set, which is not JSON"),
    ],
)
def test_what_json_cannot_hold_is_refused(bad: object, said: str) -> None:
    error = refused([{"a": 1}, bad])
    assert error.line == 2
    assert said in str(error)


def test_endless_nesting_is_refused() -> None:
    deep: list[object] = []
    deep.append(deep)
    assert "nested more than 200 deep" in str(refused([{"a": 1}, {"a": deep}]))


def test_values_from_other_libraries_become_json() -> None:
    row = {
        "day": dt.date(2024, 2, 29),
        "when": dt.datetime(2024, 2, 29, 12, 30, tzinfo=dt.UTC),
        "at": dt.time(9, 5),
        "price": decimal.Decimal("1.50"),
        "took": dt.timedelta(minutes=1),
        "count": np.int64(3),
        "share": np.float64(0.25),
        "ok": np.bool_(True),
        "word": np.str_("w"),
        "pair": (1, None),
    }
    fields = rows_from([row, row]).rows[0].fields
    assert fields == {
        "day": "2024-02-29",
        "when": "2024-02-29T12:30:00+00:00",
        "at": "09:05:00",
        "price": "1.50",
        "took": "0:01:00",
        "count": 3,
        "share": 0.25,
        "ok": True,
        "word": "w",
        "pair": [1, None],
    }
    assert {type(fields[name]) for name in ("count", "share", "ok", "word")} == {
        int,
        float,
        bool,
        str,
    }


@pytest.mark.parametrize("number", [2**64 - 1, -(2**63), 2**65 + 1, -(10**299) - 1])
def test_whole_numbers_are_kept_to_the_last_digit(number: int) -> None:
    row = rows_from([{"id": number, "n": number}, {"n": 0}]).rows[0]
    assert (row.id, row.fields) == (number, {"id": number, "n": number})


@given(st.text(min_size=1).filter(lambda text: "\0" not in text))
def test_a_message_is_short_and_on_one_line_whatever_the_row_holds(text: str) -> None:
    message = str(refused([{"a": 1}, [text * 50]]))
    assert message.isprintable()
    assert len(message) < 200


def test_gold_is_spelled_as_the_labels_are() -> None:
    dataset = check_gold(with_gold("True", "false", " TRUE\n", None), ["True", "False"])
    assert dataset.gold == ("True", "False", "True", None)


def test_an_exact_gold_label_wins_over_one_of_another_case() -> None:
    assert check_gold(with_gold("us", "US"), ["US", "us"]).gold == ("us", "US")


def test_a_gold_label_that_could_be_two_is_refused() -> None:
    with pytest.raises(RowError, match=r"^rows:2: .*'Us', which could be any of 'US', 'us'\.$"):
        check_gold(with_gold("us", "Us"), ["US", "us"])


def test_a_gold_label_that_is_no_label_is_refused() -> None:
    with pytest.raises(RowError) as caught:
        check_gold(with_gold("positive", "postive"), ["positive", "negative"])
    assert caught.value.path is None
    assert str(caught.value) == (
        "rows:2: the gold field 'label' holds 'postive', which is none of the labels "
        "'positive', 'negative'. Did you mean 'positive'?"
    )


def test_a_long_gold_label_is_clipped_in_the_message() -> None:
    with pytest.raises(RowError) as caught:
        check_gold(with_gold("a", "z" * 5000), ["a", "b"])
    assert len(str(caught.value)) < 250


def test_without_gold_there_is_nothing_to_check() -> None:
    dataset = rows_from(["a", "b"])
    assert check_gold(dataset, ["x", "y"]) is dataset
