import csv as csv_module
import datetime as dt
import gzip
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icm_client.data import (
    Dataset,
    JsonValue,
    Task,
    check_gold,
    loaded,
    read_rows,
    take_own_gold,
)
from icm_client.data.csv_rows import Quote
from icm_client.data.json_rows import json_rows
from icm_client.errors import InputError, RowError, SetupError

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


def read(path: Path, content: bytes, *, gold: str | None = None) -> Dataset:
    path.write_bytes(content)
    return read_rows(path, gold=gold)


def refused(path: Path, content: bytes, *, gold: str | None = None) -> str:
    """Return what is said after the file's name."""
    path.write_bytes(content)
    with pytest.raises(RowError) as caught:
        read_rows(path, gold=gold)
    assert caught.value.path == str(path)
    message = str(caught.value)
    assert all(line.isprintable() for line in message.splitlines())
    assert len(message) < len(str(path)) * 3 + 400
    return message.removeprefix(str(path))


@pytest.fixture
def jsonl(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    return tmp_path / "rows.csv"


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    return tmp_path / "rows.parquet"


# JSON Lines


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".json-lines", ".json", ".JSONL"])
def test_json_lines(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    dataset = read(path, b'{"id": "a", "text": "x", "tags": [1, null]}\n{"id": "b", "n": 1.5}')
    assert dataset.name == str(path)
    assert [(row.id, row.fields) for row in dataset.rows] == [
        ("a", {"id": "a", "text": "x", "tags": [1, None]}),
        ("b", {"id": "b", "n": 1.5}),
    ]


def test_the_name_is_kept_as_the_user_gave_it(jsonl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read(jsonl, b'{"n": 1}\n{"n": 2}\n')
    monkeypatch.chdir(jsonl.parent)
    assert read_rows("./rows.jsonl").name == "./rows.jsonl"


def test_blank_lines_are_skipped_but_counted(jsonl: Path) -> None:
    dataset = read(jsonl, b'\n{"n": 1}\r\n  \t\r\n\n{"n": 2}\n\n')
    assert [(row.id, row.line) for row in dataset.rows] == [(1, 2), (2, 5)]


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_a_byte_order_mark_is_accepted(jsonl: Path, csv: Path, ending: bytes) -> None:
    from_jsonl = read(jsonl, b"\xef\xbb\xbf" + ending.join([b'{"a": "1"}', b'{"a": "2"}']))
    from_csv = read(csv, b"\xef\xbb\xbf" + ending.join([b"a", b"1", b"2"]))
    for dataset in (from_jsonl, from_csv):
        assert [row.fields for row in dataset.rows] == [{"a": "1"}, {"a": "2"}]


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
        (b'{"a": "\xff"}', "not UTF-8: byte 0xff at byte 8 of the line. Save the file as UTF-8"),
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


def test_an_object_over_several_lines_comes_with_the_command(tmp_path: Path) -> None:
    message = refused(tmp_path / "my rows.json", b'{\n  "a": 1\n}\n')
    assert message.startswith(":1: an object over several lines; each must stand on one line. ")
    assert message.endswith(f"jq -c . '{tmp_path}/my rows.json' > '{tmp_path}/my rows.jsonl'")


def test_the_converting_command_never_writes_over_its_own_input(jsonl: Path) -> None:
    assert refused(jsonl, b"{\n}").endswith(
        "rows.jsonl > " + str(jsonl.parent / "rows-lines.jsonl")
    )


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
        (b'[{"a": 1}, {"a": 2}]\n[{"a": 3}]', ": something stands after the end of the array"),
        (b'[{"a": 1}, {"a": 2}] ,', ": something stands after the end of the array: ','"),
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


# JSON that is no rows


COLUMNS = {"text": {"0": "a", "1": "é"}, "n": {"0": 1, "1": 36893488147419103233}}
RECORDS = [{"text": "a", "n": 1}, {"text": "é", "n": 36893488147419103233}]


def run_python_command(message: str) -> None:
    command = message.partition("This command makes them: python")[2]
    subprocess.run(["/bin/sh", "-c", f"{shlex.quote(sys.executable)}{command}"], check=True)


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (COLUMNS, "columns, not rows (pandas' to_json without orient='records')"),
        ({"0": RECORDS[0], "1": RECORDS[1]}, "rows by their index (pandas' orient='index')"),
        ({"text": ["a", "é"], "n": [1, RECORDS[1]["n"]]}, "columns, not rows"),
        (
            {
                "columns": ["text", "n"],
                "index": [0, 1],
                "data": [["a", 1], list(RECORDS[1].values())],
            },
            "columns and cells (pandas' orient='split')",
        ),
        (
            {"version": "1'", 'it\'s "data"': RECORDS},
            "an object with rows in its field \"it's",
        ),
    ],
)
def test_json_that_is_no_rows_comes_with_the_command_that_makes_them(
    tmp_path: Path, shape: object, said: str, indent: int | None
) -> None:
    path = tmp_path / "my rows.json"
    content = json.dumps(shape, indent=indent, ensure_ascii=False)
    message = refused(path, f"\ufeff{content}\n".encode())
    assert message.startswith(f": the file is {said}")
    run_python_command(message)
    rows = read_rows(path.with_suffix(".jsonl")).rows
    assert [row.fields for row in rows] == RECORDS


@pytest.mark.parametrize(
    ("content", "said", "rows"),
    [
        (
            {"features": [{"name": n} for n in "abc"], "rows": [{"row": row} for row in RECORDS]},
            'an object with rows in its field "rows"',
            RECORDS,
        ),
        (
            {"took": 3, "hits": {"total": 2, "hits": [{"_source": row} for row in RECORDS]}},
            'an object with rows in its field "hits.hits"',
            RECORDS,
        ),
        ({"data": {"train": RECORDS}}, 'rows in its field "data.train"', RECORDS),
        (
            {"train": RECORDS, "test": [{"text": "x"}], "notes": [{"by": "me"}] * 9},
            'rows in its fields "train" and "test", taken together',
            [*RECORDS, {"text": "x"}],
        ),
        (
            {"text": ["a", "b"], "id": [1, 2], "version": "1"},
            "columns, not rows (text, id)",
            [{"text": "a", "id": 1}, {"text": "b", "id": 2}],
        ),
        (
            {"q1": "a", "q2": "b"},
            "texts by their names",
            [{"id": "q1", "text": "a"}, {"id": "q2", "text": "b"}],
        ),
        ([["a", 1], ["b", 2]], "a list of lists", [{"text": "a"}, {"text": "b"}]),
    ],
)
def test_rows_that_lie_deeper_are_found_by_the_templates_fields(
    tmp_path: Path, content: object, said: str, rows: list[object]
) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(content))
    with pytest.raises(RowError, match=re.escape(said)) as caught:
        read_rows(path, template_fields=["text"])
    run_python_command(str(caught.value))
    assert [row.fields for row in read_rows(path.with_suffix(".jsonl")).rows] == rows


@pytest.mark.parametrize("line", ['["a, b", 1]', '"a, b"'])
def test_lines_without_names_come_with_the_command(jsonl: Path, line: str) -> None:
    jsonl.write_text(f"{line}\n\n{line}\n")
    with pytest.raises(RowError, match=r"each line is a (list|text); one object a row") as caught:
        read_rows(jsonl, template_fields=["review"])
    if shutil.which("jq"):
        subprocess.run(["/bin/sh", "-c", str(caught.value).partition("them: ")[2]], check=True)
        found = read_rows(jsonl.with_name("rows-lines.jsonl")).rows
        assert [row.fields for row in found] == [{"review": "a, b"}] * 2


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.parquet", "rows.jsonl.gz"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(b'{"a": "b"}\n', mtime=0), "compressed with gzip: unpack it first, gunzip"),
        (b"PK\x03\x04\x14\0\6\0", "a zip archive, as workbooks are too"),
        (LFS_POINTER, "a pointer of Git LFS in the place of the data: git lfs pull gets it"),
        (b"\n<!DOCTYPE html>\n<html>", "a web page"),
    ],
)
def test_a_file_of_another_kind_is_said_to_be_one(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(RowError, match=f"{name}: the file is {said}"):
        read_rows(path)


def test_the_template_tells_columns_from_rows_by_their_index(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    for content, said in (
        ('{"0": {"1": "a"}, "1": {"1": "b"}}', "columns"),
        ('{"x": {"text": "a"}, "y": {"text": "b"}}', "rows by their index"),
        ('{"text": {"x": "a", "y": "b"}}', "columns"),
    ):
        path.write_text(content)
        with pytest.raises(RowError, match=f"the file is {said}"):
            read_rows(path, template_fields=("text",))


def test_a_list_of_texts_comes_with_the_command_too(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    run_python_command(refused(path, b'["a", "b"]'))
    assert texts(read_rows(path.with_suffix(".jsonl"))) == ["a", "b"]


def test_one_row_with_lists_in_it_is_a_row(jsonl: Path) -> None:
    jsonl.write_text('{"id": 1, "label": "x", "spans": [{"from": 1}]}\n\n')
    assert len(read_rows(jsonl, fewest=1).rows) == 1
    jsonl.write_text('{"a": [1, 2]}\n{"a": [3, 4]}\n')
    assert len(read_rows(jsonl).rows) == 2


# files


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_file_that_is_missing_empty_or_a_folder(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    with pytest.raises(RowError, match=r"no such file: check the path$") as caught:
        read_rows(path)
    assert caught.value.path == str(path)
    assert refused(path, b"") == ": the file is empty; at least 2 rows are needed"
    path.unlink()
    path.mkdir()
    with pytest.raises(RowError, match=r"this is a folder: name one file in it$"):
        read_rows(path)


def test_a_file_that_may_not_be_read(jsonl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_args: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbidden)  # root may read everything
    with pytest.raises(RowError, match=r"the file may not be read: check its permissions$"):
        read_rows(jsonl)


def test_a_disk_that_fails(jsonl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_args: object, **_options: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "open", broken)
    with pytest.raises(RowError, match=r"the file cannot be read: Input/output error$"):
        read_rows(jsonl)


def test_a_pipe_can_be_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b'{"a": 1}\n{"a": 2}\n',))
    writer.start()
    assert len(read_rows(pipe, format="jsonl").rows) == 2
    writer.join()


@pytest.mark.parametrize(
    ("suffix", "content"),
    [(".jsonl", b"\n \n"), (".csv", b"a,b\n"), (".csv", b"\n\n"), (".csv", b"a\n\n\n")],
)
def test_a_file_without_rows(tmp_path: Path, suffix: str, content: bytes) -> None:
    assert refused(tmp_path / f"rows{suffix}", content).startswith(": no rows; at least 2")


@pytest.mark.parametrize(("suffix", "content"), [(".jsonl", b'{"a": 1}\n'), (".csv", b"a\n1\n")])
def test_a_file_with_one_row(tmp_path: Path, suffix: str, content: bytes) -> None:
    assert refused(tmp_path / f"rows{suffix}", content).startswith(": only one row; at least 2")


def test_a_name_that_does_not_tell_the_format(tmp_path: Path) -> None:
    path = tmp_path / "rows.txt"
    path.write_bytes(b'{"a": 1}\n{"a": 2}\n')
    with pytest.raises(InputError, match="the name does not tell the format"):
        read_rows(path)
    assert len(read_rows(path, format="jsonl").rows) == 2


def test_a_format_that_is_not_known(jsonl: Path) -> None:
    jsonl.write_bytes(b"{}")
    with pytest.raises(InputError, match="no format is called 'yaml'; there are 'jsonl', 'csv'"):
        read_rows(jsonl, format="yaml")  # type: ignore[arg-type]


# CSV


def test_csv(csv: Path) -> None:
    dataset = read(csv, 'id,text,label\n7,"a ""b"", c",yes\nx,é,no\n'.encode(), gold="label")
    assert [(row.id, row.fields, row.line) for row in dataset.rows] == [
        ("7", {"id": "7", "text": 'a "b", c'}, 2),
        ("x", {"id": "x", "text": "é"}, 3),
    ]
    assert dataset.gold == ("yes", "no")


def test_tab_separated(tmp_path: Path) -> None:
    dataset = read(tmp_path / "rows.tsv", b"text\tn\na, b\t1\nc\t2\n")
    assert dataset.rows[0].fields == {"text": "a, b", "n": "1"}


def test_csv_lines_are_counted_as_an_editor_counts_them(csv: Path) -> None:
    dataset = read(csv, b'\r\na,b\r\n"1\r\n2\n3",x\r\n\r\n\r\n4,y\r\n')
    assert [(row.line, row.fields["a"]) for row in dataset.rows] == [(3, "1\r\n2\n3"), (8, "4")]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'a,b\n"x\ny",2\n3\n', ":4: columns: 1 here, 2 in the header;"),
        (b"a,b\n1,2\nlong,2,3\n", ":3: columns: 3 here, 2 in the header;"),
        (b"a,b\n1,2\n" + b"z" * 9999 + b"\n", "The row begins 'zzz"),
        (b"a,b,a\n1,2,3\n", ":1: the header names 'a' more than once: rename one"),
        (b",a\n0,x\n1,y\n", ":1: column 1 has no name in the header (pandas"),
        (b"a, \n0,x\n1,y\n", ":1: column 2 has no name in the header"),
        (b"\n,,\n1,2,3\n", ":2: the header is empty"),
        (b'""\n1\n2\n', ":1: the header is empty"),
        (b'a,b\n1,2\n"x,3\n\n4,5\n', ":3: broken CSV: a double quote is opened here and never"),
        (b'a,b\n"x"y,2\n3,4\n', ":2: broken CSV: ',' expected after '\"'"),
        (b"a,b\n1,2\r3,4\n", ":2: broken CSV: a carriage return outside double quotes"),
        (b'a\n"x\ny\xff"\nz\n', ":2: not UTF-8: byte 0xff at byte 2 of line 3"),
        (b'a\n"x\ny\0"\nz\n', ":2: a NUL byte at byte 2 of line 3"),
        ("a,b\n1,2\n".encode("utf-16"), ":1: a NUL byte at byte 4 of the line"),
        (b"id\nx\n\ny\nx\n", ":5: the id 'x' is already that of "),
        (b"id,a\nx,1\n,2\n", ":3: the id is empty: give the row one"),
    ],
)
def test_bad_csv_is_named(csv: Path, content: bytes, said: str) -> None:
    message = refused(csv, content)
    assert said in message
    if said.startswith(":"):
        assert message.startswith(said)


# quotes


def tsv(path: Path, text: str, quote: Quote = "auto") -> Dataset:
    path = path.with_name("rows.tsv")
    path.write_text(text, newline="")
    return read_rows(path, quote=quote)


def texts(dataset: Dataset, field: str = "text") -> list[JsonValue]:
    return [row.fields[field] for row in dataset.rows]


def test_a_quote_that_opens_a_text_of_a_tsv_swallows_no_rows(csv: Path) -> None:
    words = [f"words {n}" for n in range(12)]
    words[3], words[7] = '"words', 'words"'
    lines = "".join(f"{n}\t{word}\n" for n, word in enumerate(words))
    dataset = tsv(csv, f"idx\ttext\n{lines}")
    assert texts(dataset) == words
    assert [row.line for row in dataset.rows] == list(range(2, 14))
    (said,) = dataset.warnings
    assert said.startswith("in line 5 a field begins with a double quote, which is read as part")
    assert "--quote standard" in said


@pytest.mark.parametrize(
    ("line", "cells"),
    [
        ('1\t"a b"', ("1", '"a b"')),  # a quoted sentence
        ('1\t"a" and "b"', ("1", '"a" and "b"')),
        ('1\ta "b" c', ("1", 'a "b" c')),
        ('1\t27" screen', ("1", '27" screen')),
        ('1\t""', ("1", '""')),
        ('"1"\t"a b"', ("1", "a b")),  # each field is quoted
        ('"1"\t"a ""b"""', ("1", 'a "b"')),
        ('1\t"a ""b"""', ("1", 'a "b"')),  # what pandas and spreadsheets write of: a "b"
        ('1\t"a\tb"', ("1", "a\tb")),
        ('1\t"a\nb"', ("1", "a\nb")),
        ('1\t"a\n\n""b"" c\nd"', ("1", 'a\n\n"b" c\nd')),
        ('"a\nb"\tx', ("a\nb", "x")),
    ],
)
def test_quotes_in_a_tsv_are_text_unless_they_can_only_enclose(
    csv: Path, line: str, cells: tuple[str, str]
) -> None:
    after = line.count("\n") + 3
    dataset = tsv(csv, f"n\ttext\n{line}\nx\ty\n")
    assert tuple(dataset.rows[0].fields.values()) == cells
    assert (tuple(dataset.rows[1].fields.values()), dataset.rows[1].line) == (("x", "y"), after)


def test_a_tsv_with_a_quoted_header_is_quoted_throughout(csv: Path) -> None:
    dataset = tsv(csv, '"n"\t"text"\n1\t"a b"\n2\t"c\n3\td"\n')
    assert texts(dataset) == ["a b", "c\n3\td"]


def test_what_quotes_mean_can_be_said(csv: Path) -> None:
    content = 'n\ttext\n1\t"a b"\n2\t"c\n3\td"\n'
    assert texts(tsv(csv, content)) == ['"a b"', '"c', 'd"']
    assert texts(tsv(csv, content, "none")) == ['"a b"', '"c', 'd"']
    assert texts(tsv(csv, content, "standard")) == ["a b", "c\n3\td"]
    csv.write_text('n,text\n1,"a\n2,b"\n3,c\n')
    assert texts(read_rows(csv, quote="none")) == ['"a', 'b"', "c"]
    with pytest.raises(InputError, match="quote must be one of 'auto', 'none', 'standard', not"):
        read_rows(csv, quote="never")  # type: ignore[arg-type]


@given(
    st.lists(
        st.tuples(
            st.text(st.sampled_from('a" \t\n\r,')).filter(str.strip),
            st.text(st.sampled_from('b" \t\n\r,')).filter(str.strip),
        ),
        min_size=2,
        max_size=5,
    ),
    st.sampled_from(["rows.csv", "rows.tsv"]),
)
def test_fields_that_are_all_quoted_are_read_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], name: str
) -> None:
    path = tmp_path_factory.mktemp("rows") / name
    with path.open("w", newline="") as file:
        writer = csv_module.writer(
            file,
            delimiter="\t" if name.endswith("tsv") else ",",
            quoting=csv_module.QUOTE_ALL,
        )
        writer.writerows([("x", "y"), *rows])
    assert [tuple(row.fields.values()) for row in read_rows(path).rows] == rows


def test_rows_that_a_quote_has_swallowed_are_named(csv: Path) -> None:
    lines = [f"{n},words {n},yes" for n in range(12)]
    lines[3], lines[8] = '3,"words 3,yes', '8,words 8","yes"'
    csv.write_text("\n".join(["n,text,label", *lines]))
    dataset = read_rows(csv)
    assert len(dataset.rows) == 7
    (said,) = dataset.warnings
    assert said.startswith(
        "lines 6, 7, 8, 9 and 10 would make rows, but stand inside a double quote that is opened"
    )
    assert "--quote none" in said
    assert read_rows(csv, quote="standard").warnings == ()


@pytest.mark.parametrize(
    "content",
    [
        'n,text\n1,"Hello\nWell, no\nBye, then"\n2,x\n',  # prose with commas
        'text,n\n"Hello\nand bye",1\nx,2\n',
        'text\n"Hello\nWell\nBye"\nx\n',
        'n,text,label\n1,"Hello\nWell, no",yes\n2,x,no\n',
    ],
)
def test_a_text_of_several_lines_raises_no_alarm(csv: Path, content: str) -> None:
    csv.write_text(content)
    assert read_rows(csv).warnings == ()


def test_a_quote_that_swallows_the_rows_of_a_single_column_is_noted(csv: Path) -> None:
    lines = [f"words {n}" for n in range(12)]
    lines[3], lines[7] = '"words 3', 'words 7"'
    csv.write_text("\n".join(["text", *lines]))
    dataset = read_rows(csv)
    assert len(dataset.rows) == 8
    (said,) = dataset.warnings
    assert said.startswith(
        "lines 6, 7, 8 and 9 would make rows, but stand inside a double quote that is opened above"
    )
    assert "--quote none" in said
    assert len(read_rows(csv, quote="none").rows) == 12
    assert read_rows(csv, quote="standard").warnings == ()


@pytest.mark.parametrize(
    "long",
    [
        '"words\nand more"',
        '"words\n\nand more\nand more"',  # paragraphs
        '"words\nand more\nand more, more\nand more"',  # no row, without the quotes
        '"words, words\nand more\nand more\nand more"',
        '"words\nand more\nand ""more""\nand more"',  # a program has quoted it
    ],
)
def test_a_long_text_in_a_single_column_that_is_meant_is_not_noted(csv: Path, long: str) -> None:
    csv.write_text("\n".join(["text", *(f"words {n}" for n in range(12)), long, "words"]))
    assert read_rows(csv).warnings == ()


def test_a_single_column_in_which_many_texts_are_quoted_is_not_noted(csv: Path) -> None:
    lines = [f'"words {n}"' if n % 4 else f"words {n}" for n in range(12)]
    csv.write_text("\n".join(["text", *lines, '"words\nmore\nmore\nmore"']))
    assert read_rows(csv).warnings == ()


def test_a_quote_that_is_never_closed_comes_with_the_option(csv: Path) -> None:
    assert "(--quote none reads quotes as part of the text)" in refused(csv, b'a,b\n1,"x\n2,y\n')


# what spreadsheets and other programs write


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=;"])
def test_a_line_that_names_the_separator_is_no_header(csv: Path, first: str) -> None:
    dataset = read(csv, f"\ufeff{first}\r\na;b\r\n1;x, y\r\n2;z\r\n".encode())
    assert [(row.line, row.fields) for row in dataset.rows] == [
        (3, {"a": "1", "b": "x, y"}),
        (4, {"a": "2", "b": "z"}),
    ]


def test_blank_rows_are_counted_and_keep_their_numbers(csv: Path) -> None:
    dataset = read(csv, b"a,b\n1,x\n,\n3,z\n\n , \n6,y\n,\n\n\n")
    assert [(row.id, row.line) for row in dataset.rows] == [(1, 2), (3, 4), (6, 7)]
    assert dataset.warnings == (
        "4 rows are blank and left out (lines 3, 5, 6 and 8); the others keep their numbers",
    )


def test_an_empty_cell_of_a_single_column_is_a_blank_row(csv: Path) -> None:
    dataset = read(csv, b"a\nx\n\ny\n\n")
    assert [(row.id, row.line) for row in dataset.rows] == [(1, 2), (3, 4)]
    assert dataset.warnings == (
        "1 row is blank and left out (line 3); the others keep their numbers",
    )


def test_numbers_stay_when_gold_is_taken_or_a_loader_passes_the_rows(csv: Path) -> None:
    csv.write_text("question,claim,label\nq,c,True\n,,\nq,d,False\n")
    rows = read_rows(csv)
    assert [row.id for row in take_own_gold(rows, "label").rows] == [1, 3]
    assert [row.id for row in loaded(rows, "truthfulqa").rows] == [1, 3]
    assert [row.id for row in read_rows(csv, loader="truthfulqa", gold="label").rows] == [1, 3]


def test_a_long_field_is_no_fault(csv: Path) -> None:
    dataset = read(csv, b"a,html\nx," + b"z" * 200_000 + b'\ny,"' + b"z" * 200_000 + b'"\n')
    assert [len(str(row.fields["html"])) for row in dataset.rows] == [200_000] * 2


# Parquet


def test_parquet(parquet: Path) -> None:
    table = pa.table(
        {
            "id": ["a", "b"],
            "n": [1, None],
            "tags": [["x"], []],
            "meta": [{"k": 1.5}, {"k": None}],
            "day": [dt.date(2024, 2, 29), None],
            "label": [True, False],
        }
    )
    pq.write_table(table, parquet)
    dataset = read_rows(parquet, gold="label")
    assert [(row.id, row.line, row.fields) for row in dataset.rows] == [
        ("a", 1, {"id": "a", "n": 1, "tags": ["x"], "meta": {"k": 1.5}, "day": "2024-02-29"}),
        ("b", 2, {"id": "b", "n": None, "tags": [], "meta": {"k": None}, "day": None}),
    ]
    assert dataset.gold == ("True", "False")


@pytest.mark.slow
def test_parquet_of_several_batches_is_numbered_through(parquet: Path) -> None:
    pq.write_table(pa.table({"n": range(200_000)}), parquet, row_group_size=70_000)
    rows = read_rows(parquet).rows
    assert (len(rows), rows[-1].id, rows[-1].fields["n"]) == (200_000, 200_000, 199_999)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (pa.table({"a": [1.5, math.nan]}), ":2: field 'a' holds NaN, which is not JSON"),
        (pa.table({"a": ["x", "\0"]}), ":2: field 'a' holds a NUL character"),
        (pa.table({"a": [None, b"x"]}), ":2: field 'a' holds a value of type bytes"),
        (pa.table({"id": [3, 3]}), ":2: the id 3 is already that of "),
        (pa.table({"id": ["x", None]}), ":2: the id must be text or a whole number"),
        (pa.table({"a": [1]}), ": only one row"),
        (pa.table({"a": pa.array([], pa.int64())}), ": no rows"),
        (pa.table([[1, 2], [3, 4]], names=["a", "a"]), ": more than one column is called 'a'"),
    ],
)
def test_bad_parquet_is_named_by_row(parquet: Path, table: pa.Table, said: str) -> None:
    pq.write_table(table, parquet)
    assert refused(parquet, parquet.read_bytes()).startswith(said)


def test_a_missing_gold_column(parquet: Path) -> None:
    pq.write_table(pa.table({"text": ["a", "b"], "lable": [1, 2]}), parquet)
    message = refused(parquet, parquet.read_bytes(), gold="label")
    assert message.startswith(":1: no gold field 'label'; the row has 'text', 'lable'. Did you")


def test_what_is_no_parquet_file(parquet: Path) -> None:
    assert refused(parquet, b'{"a": 1}\n').startswith(": not a Parquet file that can be read: ")


def test_a_damaged_parquet_file(parquet: Path) -> None:
    pq.write_table(pa.table({"a": ["x", "y"]}), parquet)
    content = bytearray(parquet.read_bytes())
    content[4:30] = b"\xff" * 26
    assert refused(parquet, bytes(content)).startswith(": not a Parquet file that can be read: ")


def test_parquet_without_pyarrow_says_what_to_install(
    parquet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet.write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(SetupError, match=r"pip install 'icm-client\[parquet\]'"):
        read_rows(parquet)


@pytest.mark.parametrize(
    "content",
    [
        "id;text\na;one, two\nb;three\n",
        "id\ttext\na\tone, two\nb\tthree\n",
        "id|text\na|one, two\nb|three\n",
    ],
)
def test_a_spreadsheet_of_another_language_writes_other_separators(
    tmp_path: Path, content: str
) -> None:
    rows = read(tmp_path / "rows.csv", content.encode("utf-8-sig")).rows
    assert [(row.id, row.fields["text"]) for row in rows] == [("a", "one, two"), ("b", "three")]


def test_a_header_with_commas_has_commas(tmp_path: Path) -> None:
    rows = read(tmp_path / "rows.csv", b"text,a;b\none,1\ntwo,2\n").rows
    assert [dict(row.fields) for row in rows] == [
        {"text": "one", "a;b": "1"},
        {"text": "two", "a;b": "2"},
    ]


def test_a_spreadsheets_empty_rows_are_no_rows(tmp_path: Path) -> None:
    rows = read(tmp_path / "rows.csv", b"id,text\na,one\n,\nb,two\n,\n,\n").rows
    assert [(row.id, row.line) for row in rows] == [("a", 2), ("b", 4)]


def test_a_field_that_is_nearly_called_id_is_told(tmp_path: Path) -> None:
    found = read(tmp_path / "rows.csv", b"ID,text\na,one\nb,two\n")
    assert [row.id for row in found.rows] == [1, 2]
    (warning,) = found.warnings
    assert "'ID'" in warning
    assert read(tmp_path / "rows.csv", b"id,ID,text\na,1,one\nb,2,two\n").warnings == ()
