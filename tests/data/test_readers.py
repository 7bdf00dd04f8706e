import datetime as dt
import math
import os
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from read_files import read, refused

from icm_client.data import read_rows
from icm_client.errors import InputError, RowError, SetupError

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.fixture
def jsonl(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    return tmp_path / "rows.csv"


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    return tmp_path / "rows.parquet"


def test_the_name_is_kept_as_the_user_gave_it(jsonl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read(jsonl, b'{"n": 1}\n{"n": 2}\n')
    monkeypatch.chdir(jsonl.parent)
    assert read_rows("./rows.jsonl").name == "./rows.jsonl"


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_a_byte_order_mark_is_accepted(jsonl: Path, csv: Path, ending: bytes) -> None:
    from_jsonl = read(jsonl, b"\xef\xbb\xbf" + ending.join([b'{"a": "1"}', b'{"a": "2"}']))
    from_csv = read(csv, b"\xef\xbb\xbf" + ending.join([b"a", b"1", b"2"]))
    for dataset in (from_jsonl, from_csv):
        assert [row.fields for row in dataset.rows] == [{"a": "1"}, {"a": "2"}]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.parquet", "rows.jsonl.gz"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"PK\x03\x04\x14\0\6\0", "a zip archive: unpack it first"),
        (b"\xd0\xcf\x11\xe0", "an old Excel workbook, or one with a password"),
        (bytes(257) + b"ustar", "a tar archive: unpack it first"),
        (b"FEA1", "a Feather file of version 1"),
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
    with pytest.raises(RowError, match=r"this is a folder: name one file in it, or "):
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
    path.write_bytes(b"a\n1\n2\n")
    with pytest.raises(InputError, match="name does not show its format"):
        read_rows(path)
    assert len(read_rows(path, format="csv").rows) == 2
    path.write_bytes(b'\xef\xbb\xbf \n{"a": 1}\n{"a": 2}\n')
    assert len(read_rows(path).rows) == 2


def test_a_format_that_is_not_known(jsonl: Path) -> None:
    jsonl.write_bytes(b"{}")
    with pytest.raises(InputError, match="no format is called 'yaml'; there are 'jsonl', 'csv'"):
        read_rows(jsonl, format="yaml")  # type: ignore[arg-type]


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
