import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from read_files import refused

from icm_client.data import read_rows
from icm_client.errors import RowError


@pytest.fixture
def jsonl(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


def test_an_object_over_several_lines_comes_with_the_command(tmp_path: Path) -> None:
    message = refused(tmp_path / "my rows.json", b'{\n  "a": 1\n}\n')
    assert message.startswith(":1: an object over several lines; each must stand on one line. ")
    assert message.endswith(f"jq -c . '{tmp_path}/my rows.json' > '{tmp_path}/my rows.jsonl'")


def test_the_converting_command_never_writes_over_its_own_input(jsonl: Path) -> None:
    assert refused(jsonl, b"{\n}").endswith(
        "rows.jsonl > " + str(jsonl.parent / "rows-lines.jsonl")
    )


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
    rows = read_rows(path.with_suffix(".jsonl")).rows
    assert [row.fields["text"] for row in rows] == ["a", "b"]


def test_one_row_with_lists_in_it_is_a_row(jsonl: Path) -> None:
    jsonl.write_text('{"id": 1, "label": "x", "spans": [{"from": 1}]}\n\n')
    assert len(read_rows(jsonl, fewest=1).rows) == 1
    jsonl.write_text('{"a": [1, 2]}\n{"a": [3, 4]}\n')
    assert len(read_rows(jsonl).rows) == 2
