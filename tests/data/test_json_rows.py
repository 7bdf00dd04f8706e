import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from read_files import read, refused

from icm_client.data import JsonValue, Task, check_gold
from icm_client.data.json_rows import json_rows
from icm_client.errors import RowError


@pytest.fixture
def jsonl(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


JSON_FIELDS = st.dictionaries(
    st.text(st.characters(codec="utf-8", exclude_characters="\0")).filter(lambda key: key != "id"),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(10**290), 10**290)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(codec="utf-8", exclude_characters="\0")),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".json-lines", ".json", ".JSONL"])
def test_json_lines(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    dataset = read(path, b'{"id": "a", "text": "x", "tags": [1, null]}\n{"id": "b", "n": 1.5}')
    assert dataset.name == str(path)
    assert [(row.id, row.fields) for row in dataset.rows] == [
        ("a", {"id": "a", "text": "x", "tags": [1, None]}),
        ("b", {"id": "b", "n": 1.5}),
    ]


def test_blank_lines_are_skipped_but_counted(jsonl: Path) -> None:
    dataset = read(jsonl, b'\n{"n": 1}\r\n  \t\r\n\n{"n": 2}\n\n')
    assert [(row.id, row.line) for row in dataset.rows] == [(1, 2), (2, 5)]


def test_line_separators_inside_a_text_do_not_end_the_line(jsonl: Path) -> None:
    rows = read(jsonl, '{"a": "x\u2028y\x85z"}\n{"a": ""}\n'.encode()).rows
    assert rows[0].fields == {"a": "x\u2028y\x85z"}


@given(st.lists(JSON_FIELDS, min_size=2, max_size=5), st.booleans())
def test_what_json_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, JsonValue]], ascii_only: bool
) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    text = "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows)
    assert [row.fields for row in read(path, text.encode()).rows] == rows


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"a": 1,}', "broken JSON at column 8: trailing comma"),
        (b'{"a": 1} x', "broken JSON at column 10: unexpected content"),
        (b'{"a": "x', "broken JSON at column 9: unexpected end of data; the line begins '{"),
        ('{"é": oops}'.encode(), "broken JSON at column 7:"),
        (b'{"a": "' + b"z" * 9999, "..."),
        (b'{"a": "\x1b[31m"}', r"control character in string; the line begins '{\"a\": \"\x1b[31"),
        (b'{"a": NaN}', "NaN at column 7 is not JSON: use null"),
        (b'{"a": [Infinity]}', "Infinity at column 8 is not JSON: use null"),
        (b'{"a": -Infinity}', "Infinity at column 8 is not JSON: use null"),
        (b'{"a": 1e999}', "broken JSON at column 7: number is infinity"),
        (b'{"a": "\\ud800"}', "half of a surrogate pair (a lone \\ud800 to \\udfff) at column 8"),
        (b'{"a": "\\udc00"}', "half of a surrogate pair (a lone \\ud800 to \\udfff) at column 8"),
        (b'{"a": "\\ud800\\u0041"}', "half of a surrogate pair"),
        (b'{"a": "\xff"}', "not UTF-8: byte 0xff at byte 8 of the line. Name the encoding"),
        (b'{"a": "\xed\xa0\x80"}', "not UTF-8: byte 0xed at byte 8"),
        (b'{"a": "\0"}', "a NUL byte at byte 8 of the line"),
        (b'{"a": "\\u0000"}', "field 'a' holds a NUL character"),
        (b"[1, 2]", "a row must be an object with named fields, not a list: [1, 2]"),
        (b'"text"', "not text: 'text'"),
        (b"12", "not a number: 12"),
        (b"null", "not null"),
        (b'{"a": ' + b"[" * 5000, "depth limit"),
        (b'{"a": ' + b"[" * 300 + b"]" * 300 + b"}", "nested more than 200 deep"),
        (b'{"id": 1.5}', "the id must be text or a whole number"),
    ],
)
def test_a_bad_line_is_named(jsonl: Path, line: bytes, said: str) -> None:
    message = refused(jsonl, b'{"a": 1}\n\n' + line + b'\n{"a": 2}\n')
    assert message.startswith(":3: ")
    assert said.replace('\\"', '"') in message


BIG = ["36893488147419103232", "36893488147419103233", "12345678901234567890123"]


@pytest.mark.parametrize("wrapped", ["{}\n{}\n{}\n", "[{},\n{},\n{}]"])
def test_whole_numbers_past_64_bits_keep_their_digits(jsonl: Path, wrapped: str) -> None:
    lines = [f'{{"id": {n}, "n": [{n}], "t": "{n}", "x": 1.5}}' for n in BIG]
    rows = read(jsonl, wrapped.format(*lines).encode()).rows
    assert [row.id for row in rows] == [int(n) for n in BIG]
    assert rows[0].fields == {"id": int(BIG[0]), "n": [int(BIG[0])], "t": BIG[0], "x": 1.5}
    task = Task(template="{id}:", labels=("a", "b"))
    assert task.render(rows[1]) == f"{BIG[1]}:"


def test_a_repeated_id_names_both_lines(jsonl: Path) -> None:
    message = refused(jsonl, b'{"id": "a"}\n\n{"id": "b"}\n{"id": "a"}\n')
    assert message.startswith(f":4: the id 'a' is already that of {jsonl}:1; ids must be unique")


def test_a_missing_gold_field_is_named_with_its_line(jsonl: Path) -> None:
    message = refused(jsonl, b'{"t": 1, "label": "a"}\n\n{"t": 2, "Label": "b"}\n', gold="label")
    assert message == ":3: no gold field 'label'; the row has 't', 'Label'. Did you mean 'Label'?"


def test_a_row_with_many_fields_does_not_fill_the_screen(jsonl: Path) -> None:
    wide = json.dumps({f"column_{n}": n for n in range(500)}).encode()
    assert "'column_11' and 488 more" in refused(jsonl, wide + b"\n" + wide, gold="label")


def test_a_wrong_gold_label_is_named_with_file_and_line(jsonl: Path) -> None:
    dataset = read(jsonl, b'{"l": "yes"}\n\n{"l": "maybe"}\n', gold="l")
    with pytest.raises(RowError) as caught:
        check_gold(dataset, ["yes", "no"])
    assert caught.value.line == 3
    assert str(caught.value).startswith(f"{jsonl}:3: the gold field 'l' holds 'maybe'")


# a JSON array


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
@pytest.mark.parametrize(
    "content",
    [
        b'[{"a": 1, "b": "],[{"}, {"a": [[2], {"c": "\\""}]}]',
        b'\n[\r\n {\r\n"a": 1,\r\n\r\n"b": "],[{"},\r\n{"a": [[2],{"c": "\\""}]}\r\n]\n\n',
        b'[\n{"a": 1, "b": "],[{"}\n,\n{"a": [[2], {"c": "\\""}]}\n]',
    ],
)
def test_a_json_array(tmp_path: Path, suffix: str, content: bytes) -> None:
    rows = read(tmp_path / f"rows{suffix}", content).rows
    assert [(row.line, row.fields) for row in rows] == [
        (1, {"a": 1, "b": "],[{"}),
        (2, {"a": [[2], {"c": '"'}]}),
    ]


@given(
    st.lists(JSON_FIELDS, min_size=2, max_size=5),
    st.booleans(),
    st.sampled_from([None, 0, 1, 4]),
)
def test_an_array_that_json_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[dict[str, JsonValue]],
    ascii_only: bool,
    indent: int | None,
) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.json"
    text = json.dumps(rows, ensure_ascii=ascii_only, indent=indent)
    assert [row.fields for row in read(path, text.encode()).rows] == rows


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[]", ": no rows; at least 2"),
        (b"[\n]\n", ": no rows; at least 2"),
        (b'[{"a": 1}]', ": only one row"),
        (b'[{"a": 1}, 5]', ":2: a row must be an object with named fields, not a number: 5"),
        (b'[{"id": 1}, {"id": 1}]', ":2: the id 1 is already that of "),
        (b'[{"a": 1}, {"a": NaN}]', ":2: NaN at line 1, column 18 is not JSON"),
        (b'[{"a": 1},\n{\n\n"a": oops}]', ":2: broken JSON at line 4, column 6: "),
        (b'[{"a": 1}, {"a": "\\ud800"}]', ":2: half of a surrogate pair"),
        (b'[{"a": 1} {"a": 2}]', ":1: broken JSON at line 1, column 11: unexpected content"),
        (b'[{"a": 1}, {"a": 2]]', ":2: broken JSON at line 1, column 19: "),
        (b'[{"a": 1},\n{"a": 2},\n]', ":3: a comma before the array's end (after line 2)"),
        (b'[{"a": 1},, {"a": 2}]', ":2: a comma with nothing before it (after line 1)"),
        (b'[\n{"a": 1},\n{"a": "x}\n]', ":2: broken JSON: a double quote is opened and never"),
        (b'[{"a": 1},\n{"a": 2}', ":2: the array is never closed: the file is cut off"),
        (b'[{"a": 1}, {"a": 2}]\n[{"a": 3}]', ": there is text after the end of the array"),
        (b'[{"a": 1}, {"a": 2}] ,', ": there is text after the end of the array: ','"),
        (b'[{"a": 1},\n{"a": "\xff"}]', ":2: not UTF-8: byte 0xff at byte 8 of the line"),
        (b'[{"a": 1},\n{"a": "\0"}]', ":2: a NUL byte at byte 8 of the line"),
        (b'[{"a": ' + b"[" * 5000, ":1: the array is never closed"),
        (b'[{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}]", "depth limit"),
        (b'[{"t": 1, "label": "a"}, {"t": 2}]', None),
    ],
)
def test_a_bad_array_is_named_by_element(tmp_path: Path, content: bytes, said: str | None) -> None:
    gold = "label" if said is None else None
    message = refused(tmp_path / "rows.json", content, gold=gold)
    assert (said or ":2: no gold field 'label'") in message


def test_an_array_is_read_without_being_held_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    read_to = 0

    def lines() -> Iterator[str]:
        nonlocal read_to
        for text in ("[\n", '{"a": 1},\n', '{"a": 2},\n', '{"a": 3}]\n'):
            read_to += 1
            yield text

    rows = json_rows(lines(), str(path))
    assert next(rows) == (1, {"a": 1})
    assert read_to == 2
