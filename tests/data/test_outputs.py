import csv
import errno
import gzip
import io
import json
import os
import re
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import feather

from icm_client.data import (
    FileFormat,
    LabelledRow,
    Row,
    check_output,
    read_rows,
    rows_from,
    write_labels,
)
from icm_client.data.outputs import written_to
from icm_client.errors import InputError, SetupError

SUFFIXES = [".jsonl", ".csv", ".tsv", ".parquet", ".arrow", ".jsonl.gz", ".csv.zst"]


def labelled(
    *rows: Mapping[str, object], labels: Sequence[str] = ("yes", "no")
) -> list[LabelledRow]:
    log_probs = {label: -0.1 * (index + 1) for index, label in enumerate(labels)}
    return [LabelledRow(row, labels[0], 0.75, log_probs, "exact") for row in rows_from(rows).rows]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def columns(path: Path) -> list[str]:
    if path.suffix == ".parquet":
        return list(pq.read_table(path).column_names)
    if path.suffix == ".arrow":
        return list(feather.read_table(path).column_names)
    if path.suffix in (".gz", ".zst"):
        return ["id", "label", *list(read_rows(path).rows[0].fields)[2:]]
    if path.suffix == ".jsonl":
        return list(json.loads(path.read_text().splitlines()[0]))
    with path.open(newline="") as file:
        return next(csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ","))


# what is written


def test_json_lines_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    rows = rows_from([{"id": "a", "text": "é", "n": [1]}, {"text": "b"}]).rows
    write_labels(
        path,
        [
            LabelledRow(rows[0], "yes", 0.75, {"yes": -0.1, "no": -2.5}, "exact"),
            LabelledRow(rows[1], "no", 1.0, {"yes": -30.0, "no": -1e-17}, "floor"),
        ],
        gold=("yes", None),
        gold_field="truth",
    )
    assert path.read_text() == (
        '{"id":"a","label":"yes","confidence":0.75,"log_prob_yes":-0.1,"log_prob_no":-2.5,"exactness":"exact",'
        '"text":"é","n":[1],"truth":"yes"}\n'
        '{"id":2,"label":"no","confidence":1.0,"log_prob_yes":-30.0,"log_prob_no":-1e-17,"exactness":"floor",'
        '"text":"b","truth":null}\n'
    )


def test_csv_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    rows = labelled({"text": 'a "b"\r', "n": {"k": [1]}, "ok": True}, {"text": "é, c", "m": None})
    write_labels(path, rows)
    assert path.read_bytes().decode() == (
        "id,label,confidence,log_prob_yes,log_prob_no,exactness,text,n,ok,m\r\n"
        '1,yes,0.75,-0.1,-0.2,exact,"a ""b""\r","{""k"":[1]}",True,\r\n'
        '2,yes,0.75,-0.1,-0.2,exact,"é, c",,,\r\n'
    )


def test_parquet_keeps_kinds(tmp_path: Path) -> None:
    path = tmp_path / "labels.parquet"
    rows = labelled(
        {
            "n": 1,
            "x": 0.5,
            "tags": ["a"],
            "none": None,
            "mixed": 1,
            "deep": {"k": 1},
            "big": 2**64 - 1,
        },
        {"n": None, "x": 2.5, "tags": [], "none": None, "mixed": "b", "deep": {}, "big": -1},
        {"n": 3, "x": 1.0, "tags": None, "none": None, "mixed": [True], "deep": None, "big": 0},
    )
    write_labels(path, rows)
    table = pq.read_table(path).to_pydict()
    assert table["n"] == [1, None, 3]
    assert table["x"] == [0.5, 2.5, 1.0]
    assert table["tags"] == [["a"], [], None]
    assert table["none"] == [None, None, None]
    assert table["mixed"] == ["1", "b", "[true]"]
    assert table["deep"] == ['{"k":1}', "{}", None]
    assert table["big"] == [str(2**64 - 1), "-1", "0"]
    assert table["log_prob_no"] == [-0.2] * 3


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".json"])
def test_whole_numbers_past_64_bits_are_written_with_all_digits(
    tmp_path: Path, suffix: str
) -> None:
    big = 36893488147419103233
    path = tmp_path / f"labels{suffix}"
    write_labels(path, labelled({"id": big, "n": big, "deep": [big]}, {"id": -big, "n": 4}))
    rows = read_rows(path).rows
    assert [str(row.id) for row in rows] == [str(big), str(-big)]
    assert [str(row.fields["n"]) for row in rows] == [str(big), "4"]
    assert str(rows[0].fields["deep"]) == f"[{big}]"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_all_formats_have_the_same_columns(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"labels{suffix}"
    rows = labelled({"text": "a", "id": 5, "label": "mine"}, {"text": "b", "id": 6, "label": "x"})
    write_labels(path, rows, gold=("yes", "no"), gold_field="truth")
    assert columns(path) == [
        "id",
        "label",
        "confidence",
        "log_prob_yes",
        "log_prob_no",
        "exactness",
        "text",
        "row_label",
        "truth",
    ]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_gold_field_of_our_name_is_written_beside_ours(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"labels{suffix}"
    data = rows_from([{"text": "a", "label": "no"}, {"text": "b", "label": "yes"}], gold="label")
    rows = [LabelledRow(row, "yes", 0.5, {"yes": -1.0, "no": -1.0}, "exact") for row in data.rows]
    write_labels(path, rows, gold=data.gold, gold_field=data.gold_field)
    again = read_rows(path, gold="row_label")
    assert again.gold == ("no", "yes")
    assert [row.fields["label"] for row in again.rows] == ["yes", "yes"]


def test_a_prefixed_name_never_meets_another_field(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    row = {"label": 1, "row_label": 2, "row_row_label": 3, "confidence": 4, "log_prob_yes": 5}
    write_labels(path, labelled(row, row))
    written = json.loads(path.read_text().splitlines()[0])
    assert list(written.items())[6:] == [
        ("row_row_row_label", 1),
        ("row_label", 2),
        ("row_row_label", 3),
        ("row_confidence", 4),
        ("row_log_prob_yes", 5),
    ]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_written_is_read_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"labels{suffix}"
    texts = ['a, "b"\tc', "line\none", "cr\rlf\r\n", " padded ", "é\u2028\U0001f600", "{}"]
    rows = labelled(*({"id": f"r{n}", "text": text} for n, text in enumerate(texts)))
    write_labels(path, rows)
    again = read_rows(path)
    assert [row.id for row in again.rows] == [item.row.id for item in rows]
    assert [row.fields["text"] for row in again.rows] == texts
    assert [float(str(row.fields["log_prob_no"])) for row in again.rows] == [-0.2] * 6


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(
    numbers=st.lists(
        st.floats(max_value=0, allow_nan=False, allow_infinity=False), min_size=2, max_size=2
    ),
    text=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
)
def test_no_digit_and_no_character_is_lost(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, numbers: list[float], text: str
) -> None:
    path = tmp_path_factory.mktemp("labels") / f"labels{suffix}"
    rows = [
        LabelledRow(
            Row(number, {"text": text}, number), "a", 0.1 + 0.2, {"a": value, "b": -0.0}, "exact"
        )
        for number, value in enumerate(numbers, start=1)
    ]
    write_labels(path, rows)
    again = read_rows(path).rows
    assert [float(str(row.fields["log_prob_a"])) for row in again] == numbers
    assert [float(str(row.fields["confidence"])) for row in again] == [0.1 + 0.2] * 2
    assert [row.fields["text"] for row in again] == [text] * 2


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_same_rows_give_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    first, second = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    rows = labelled({"a": 1, "b": [1, {"c": 2}]}, {"b": None, "c": "x"})
    write_labels(first, rows)
    write_labels(second, rows)
    assert first.read_bytes() == second.read_bytes()


def test_a_compressed_file_has_neither_its_time_nor_its_name(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl.gz"
    write_labels(path, labelled({"a": 1}, {"a": 2}))
    content = path.read_bytes()
    assert content[3] == 0  # no name among what gzip could keep
    assert content[4:8] == bytes(4)  # the time
    write_labels(tmp_path / "labels.jsonl", labelled({"a": 1}, {"a": 2}))
    assert gzip.decompress(content) == (tmp_path / "labels.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("name", "asked", "said"),
    [
        ("labels.xlsx", None, "labels are not written as an Excel workbook: name a .csv file"),
        ("labels", "xlsx", "labels are not written as an Excel workbook"),
        ("labels.parquet.gz", None, "is not compressed as a whole: leave out the ending .gz"),
        ("labels.zst", "arrow", "is not compressed as a whole: leave out the ending .zst"),
        ("labels.gz", None, "the file's name does not show its format"),
    ],
)
def test_what_labels_are_not_written_as(
    tmp_path: Path, name: str, asked: FileFormat | None, said: str
) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        check_output(tmp_path / name, asked)
    with pytest.raises(InputError, match=re.escape(said)):
        write_labels(tmp_path / name, labelled({"a": 1}, {"a": 2}), format=asked)
    assert names_in(tmp_path) == []


def test_standard_output(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = labelled({"a": 1}, {"a": 2})
    check_output("-")
    write_labels("-", rows)
    write_labels(tmp_path / "labels.jsonl", rows)
    printed = capfdbinary.readouterr().out
    assert printed == (tmp_path / "labels.jsonl").read_bytes()
    with written_to("-", "csv") as file:
        write_labels(file, rows)
        assert capfdbinary.readouterr().out == b""
    write_labels(tmp_path / "labels.csv", rows)
    assert capfdbinary.readouterr().out == (tmp_path / "labels.csv").read_bytes()
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    check_output("-", "csv")
    for table in ("parquet", "arrow"):
        with pytest.raises(InputError, match=f"standard output is a terminal, and {table} is no"):
            check_output("-", table)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with pytest.raises(InputError, match="standard output takes text alone here: name a file"):
        check_output("-")


def test_a_format_may_be_named(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    write_labels(path, labelled({"a": 1}, {"a": 2}), format="csv")
    assert path.read_text().startswith("id,label,confidence,")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_numpy_numbers_are_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"labels{suffix}"
    row = Row(1, {}, 1)
    numbers = {"a": np.float64(-0.5), "b": np.float64(-1.5)}
    write_labels(path, [LabelledRow(row, "a", np.float64(0.7), numbers, "exact")] * 2, format=None)
    assert b"np." not in path.read_bytes()


# what is refused


@pytest.mark.parametrize(
    "bad",
    [
        [],
        [LabelledRow(Row(1, {}, 1), "a", 0.5, {"a": float("nan")}, "exact")],
        [LabelledRow(Row(1, {}, 1), "a", 0.5, {"a": float("-inf")}, "exact")],
        [LabelledRow(Row(1, {}, 1), "a", float("nan"), {"a": -1.0}, "exact")],
        [
            LabelledRow(Row(1, {}, 1), "a", 0.5, {"a": -1.0, "b": -2.0}, "exact"),
            LabelledRow(Row(2, {}, 2), "a", 0.5, {"b": -1.0, "a": -2.0}, "exact"),
        ],
    ],
)
def test_labels_that_cannot_be_right_are_not_written(
    tmp_path: Path, bad: list[LabelledRow]
) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text("before")
    with pytest.raises(ValueError, match="row"):
        write_labels(path, bad)
    assert path.read_text() == "before"
    assert names_in(tmp_path) == ["labels.jsonl"]


@pytest.mark.parametrize(
    ("gold", "gold_field"),
    [(("a", "b"), None), (None, "y"), ((), "y"), (("a",), "y"), (("a",) * 3, "y")],
)
def test_gold_must_match_the_rows(
    tmp_path: Path, gold: tuple[str, ...] | None, gold_field: str | None
) -> None:
    with pytest.raises(ValueError, match="gold"):
        write_labels(
            tmp_path / "labels.csv",
            labelled({"n": 1}, {"n": 2}),
            gold=gold,
            gold_field=gold_field,
        )


def both_refuse(path: Path, said: str) -> None:
    with pytest.raises(InputError) as before:
        check_output(path)
    with pytest.raises(InputError) as after:
        write_labels(path, labelled({"n": 1}, {"n": 2}))
    assert str(before.value) == str(after.value)
    assert str(before.value).startswith(f"{path}: ")
    assert said in str(before.value)


def test_no_such_folder(tmp_path: Path) -> None:
    both_refuse(tmp_path / "no" / "labels.jsonl", f"there is no folder {tmp_path / 'no'}: create")
    assert names_in(tmp_path) == []


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.mkdir()
    both_refuse(path, "this is a folder: name a file in it")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    both_refuse(tmp_path / "file" / "labels.jsonl", "there is no folder")


def test_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    os.mkfifo(path)
    both_refuse(path, "not an ordinary file: name another")
    assert stat.S_ISFIFO(path.stat().st_mode)


@pytest.mark.parametrize("name", ["labels", "labels.txt", "labels.gz"])
def test_a_name_that_does_not_tell_the_format(tmp_path: Path, name: str) -> None:
    both_refuse(Path(name), "name does not show its format")
    assert names_in(tmp_path) == []


def test_a_write_protected_file_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text("before")
    path.chmod(0o444)
    monkeypatch.setattr(os, "access", lambda file, mode: not (file == path and mode == os.W_OK))
    both_refuse(path, "the file is write-protected: name another, or chmod u+w it")
    assert path.read_text() == "before"


def test_a_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_args: object) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", read_only)
    monkeypatch.setattr(Path, "open", read_only)
    both_refuse(tmp_path / "labels.jsonl", "cannot be written (Read-only file system): name a file")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = tmp_path / f"labels{suffix}"
    path.write_text("before")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)"):
        write_labels(path, labelled({"n": 1}, {"n": 2}))
    assert path.read_text() == "before"
    assert names_in(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_interrupted_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = tmp_path / f"labels{suffix}"
    path.write_text("before")

    def interrupt(_descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_labels(path, labelled({"n": 1}, {"n": 2}))
    assert path.read_text() == "before"
    assert names_in(tmp_path) == [path.name]


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "labels.parquet"
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(SetupError, match=r"pip install 'icm-client\[parquet\]'"):
        check_output(path)
    with pytest.raises(SetupError, match=r"pip install 'icm-client\[parquet\]'"):
        write_labels(path, labelled({"n": 1}, {"n": 2}))
    assert names_in(tmp_path) == []


# what stays as it was


def test_checking_an_output_leaves_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    check_output(path)
    assert names_in(tmp_path) == []
    path.write_text("before")
    check_output(path)
    check_output(tmp_path / "labels", "csv")
    assert path.read_text() == "before"
    assert names_in(tmp_path) == ["labels.jsonl"]


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    write_labels(path, labelled({"n": 1}, {"n": 2}))
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_replaced_file_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.touch()
    path.chmod(0o604)
    write_labels(path, labelled({"n": 1}, {"n": 2}))
    assert stat.S_IMODE(path.stat().st_mode) == 0o604
    assert orjson.loads(path.read_text().splitlines()[0])["n"] == 1


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    real, link = tmp_path / "there" / "real.jsonl", tmp_path / "labels.jsonl"
    link.symlink_to(real)
    write_labels(link, labelled({"n": 1}, {"n": 2}))
    assert link.is_symlink()
    assert len(real.read_text().splitlines()) == 2
    assert names_in(tmp_path / "there") == ["real.jsonl"]


def test_a_json_file_is_one_array(tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    rows = labelled({"text": "é"}, {"text": "b"})
    write_labels(path, rows)
    assert [record["text"] for record in json.loads(path.read_bytes())] == ["é", "b"]
    assert [row.fields["label"] for row in read_rows(path).rows] == ["yes", "yes"]
    write_labels(path, rows, format="jsonl")
    assert [json.loads(line)["text"] for line in path.read_text().splitlines()] == ["é", "b"]
