"""Each row of the tables in docs/rows.md: what DATA may be, and what is said where it cannot be."""

import bz2
import csv
import datetime as dt
import gzip
import io
import json
import lzma
import os
import re
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import xlsxwriter

from icm_client import FileOptions, read_rows
from icm_client.data.formats import zstd
from icm_client.data.sources import found_files
from icm_client.errors import InputError, RowError, SetupError

ROOT = Path(__file__).parents[2]
ROWS = [
    {"id": "a", "text": 'Café, au lait; "hot"', "more": "1"},
    {"id": "b", "text": "two\nlines", "more": "x"},
    {"id": "c", "text": "naïve", "more": "3"},
]

Data = str | Sequence[str | os.PathLike[str]]


class Case(NamedTuple):
    """How a test has a source: what DATA is, and the options with it."""

    data: Data
    options: FileOptions = FileOptions()


def table(heading: str) -> dict[str, str]:
    """The two columns of the docs' table that has this heading."""
    page = (ROOT / "docs" / "rows.md").read_text("utf-8")
    lines = page.split(f"{heading}\n| --- | --- |\n", 1)[1].split("\n\n", 1)[0].splitlines()
    cells = (line.strip("| ").split(" | ", 1) for line in lines)
    return {re.sub("^`([^`]*)`$", r"\1", first): said for first, said in cells}


# The forms, as bytes.


def jsonl(rows: Sequence[Mapping[str, Any]] = ROWS) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def separated(delimiter: str = ",") -> str:
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows(cells())
    return file.getvalue()


def parquet() -> bytes:
    pq.write_table(pa.Table.from_pylist(ROWS), file := io.BytesIO())
    return file.getvalue()


def arrow(*, stream: bool = False) -> bytes:
    whole = pa.Table.from_pylist(ROWS)
    kind = pa.ipc.new_stream if stream else pa.ipc.new_file
    with kind(file := io.BytesIO(), whole.schema) as writer:
        writer.write_table(whole, max_chunksize=1)
    return file.getvalue()


def workbook(sheets: Mapping[str, Sequence[Sequence[object]]], path: str) -> str:
    with xlsxwriter.Workbook(path, {"default_date_format": "yyyy-mm-dd"}) as book:
        for name, lines in sheets.items():
            sheet = book.add_worksheet(name)
            for number, line in enumerate(lines):
                sheet.write_row(number, 0, line)
    return path


def cells() -> list[Sequence[object]]:
    return [list(ROWS[0]), *(tuple(row.values()) for row in ROWS)]


def two_sheets(path: str, rows_in: str) -> str:
    other: list[list[object]] = [["id", "text"], ["z", "other"]]
    names = {name: cells() if name == rows_in else other for name in ("Sheet1", "Sheet 2")}
    return workbook(names, path)


def written(name: str, content: bytes) -> str:
    path = Path(name)
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(content)
    return name


# A web server, and a hub.


class Site(ThreadingHTTPServer):
    """A server on this machine with files of its own, and with what the hub's API says of them."""

    files: Mapping[str, bytes] = {
        "/rows.jsonl.gz": gzip.compress(jsonl()),
        "/datasets/OWNER/NAME/resolve/main/rows.jsonl": jsonl(),
        "/datasets/OWNER/NAME/resolve/main/more.jsonl": jsonl(
            [{"id": "d", "text": "", "more": ""}]
        ),
    }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, path: str) -> tuple[int, bytes]:
        inside = [
            {"type": "file", "path": Path(name).name, "size": len(content), "oid": "b" * 40}
            for name, content in self.files.items()
            if "/resolve/" in name
        ]
        if path == "/secret.jsonl":
            return 401, b""
        if path in self.files:
            return 200, self.files[path]
        if path == "/api/datasets/OWNER/NAME":
            about = {"id": "OWNER/NAME", "sha": "a" * 40, "private": False, "siblings": []}
            return 200, json.dumps(about).encode()
        if path.startswith("/api/datasets/OWNER/NAME/tree/main"):
            return 200, json.dumps(inside).encode()
        return 404, b""


class _Handler(BaseHTTPRequestHandler):
    server: Site

    def _answer(self) -> None:
        status, content = self.server.answer(self.path.partition("?")[0])
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = _answer  # noqa: N815 - http.server's names

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Print nothing."""


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def from_hub(url: str, site: Site) -> list[dict[str, Any]]:
    """Rows, or the error, as a process says that begins with this hub: its address is read once."""
    code = (
        "import json, sys\nfrom icm_client import IcmError, read_rows\n"
        "try:\n    print(json.dumps([dict(row.fields) for row in read_rows(sys.argv[1]).rows]))\n"
        "except IcmError as error:\n    print(json.dumps([{'error': str(error)}]))"
    )
    about = {**os.environ, "HF_ENDPOINT": site.url, "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, url], env=about, capture_output=True, text=True, check=True
    )
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def standard_input(patch: pytest.MonkeyPatch, content: bytes, *, terminal: bool = False) -> str:
    stream = io.TextIOWrapper(io.BytesIO(content))
    patch.setattr(stream, "isatty", lambda: terminal)
    patch.setattr(sys, "stdin", stream)
    return "-"


def piped(content: bytes) -> str:
    reader, writer = os.pipe()

    def write() -> None:
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(content)

    threading.Thread(target=write).start()
    return f"/dev/fd/{reader}"


# The tables.


def saved() -> str:
    import datasets  # noqa: PLC0415 - slow to load

    datasets.Dataset.from_list(ROWS).save_to_disk("saved", num_shards=2)
    return "saved/"


def in_memory() -> str:
    with fsspec.open("memory://bucket/rows.csv", "wb") as file:
        file.write(separated().encode())
    return "memory://bucket/rows.csv"


SOURCES: Mapping[str, Callable[[pytest.MonkeyPatch, Site], Case]] = {
    "rows.jsonl": lambda *_: Case(written("rows.jsonl", jsonl())),
    "rows.json": lambda *_: Case(written("rows.json", json.dumps(ROWS, indent=1).encode())),
    "rows.csv": lambda *_: Case(
        written("rows.csv", separated("/").encode()), FileOptions(delimiter="/")
    ),
    "rows.tsv": lambda *_: Case(written("rows.tsv", separated("\t").encode())),
    "rows.parquet": lambda *_: Case(written("rows.parquet", parquet())),
    "rows.arrow": lambda *_: Case(written("rows.arrow", arrow())),
    "stream.arrow": lambda *_: Case(written("stream.arrow", arrow(stream=True))),
    "saved/": lambda *_: Case(saved()),
    "rows.xlsx": lambda *_: Case(two_sheets("rows.xlsx", "Sheet1")),
    "rows.xlsx#Sheet 2": lambda *_: Case(f"{two_sheets('rows.xlsx', 'Sheet 2')}#Sheet 2"),
    "rows.jsonl.gz": lambda *_: Case(written("rows.jsonl.gz", gzip.compress(jsonl()))),
    "rows.csv.zst": lambda *_: Case(written("rows.csv.zst", zstd.compress(separated().encode()))),
    "rows.tsv.bz2": lambda *_: Case(
        written("rows.tsv.bz2", bz2.compress(separated("\t").encode()))
    ),
    "rows.parquet.xz": lambda *_: Case(written("rows.parquet.xz", lzma.compress(parquet()))),
    "utf16.csv": lambda *_: Case(written("utf16.csv", separated(";").encode("utf-16"))),
    "latin1.csv": lambda *_: Case(
        written("latin1.csv", separated().encode("latin-1")), FileOptions(encoding="latin-1")
    ),
    "rows.txt": lambda *_: Case(
        written("rows.txt", separated().encode()), FileOptions(format="csv")
    ),
    "-": lambda patch, _: Case(standard_input(patch, gzip.compress(jsonl()))),
    "/dev/fd/3": lambda *_: Case(piped(jsonl())),
    "data/*.jsonl": lambda *_: Case(
        str(Path(written("data/2.jsonl", jsonl(ROWS[1:]))).parent / "*.jsonl")
        if written("data/1.jsonl", jsonl(ROWS[:1]))
        else ""
    ),
    "a.jsonl b.csv": lambda *_: Case(
        [written("a.jsonl", jsonl(ROWS[:1])), written("b.csv", csv_but_the_first())]
    ),
    "memory://bucket/rows.csv": lambda *_: Case(in_memory()),
    "https://HOST/rows.jsonl.gz": lambda _, site: Case(f"{site.url}/rows.jsonl.gz?token=secret"),
}
HUB = "hf://datasets/OWNER/NAME/rows.jsonl"


def csv_but_the_first() -> bytes:
    header, rest = separated().split("\r\n", 1)
    return f"{header}\r\n{rest.split(chr(13) + chr(10), 1)[1]}".encode()


def test_the_table_of_sources_is_this_one() -> None:
    assert list(table("| DATA | what it is |")) == [*SOURCES, HUB]


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_gives_the_same_rows(
    name: str, monkeypatch: pytest.MonkeyPatch, site: Site
) -> None:
    case = SOURCES[name](monkeypatch, site)
    dataset = read_rows(case.data, **asdict(case.options))
    assert [row.fields for row in dataset.rows] == ROWS
    assert [row.number for row in dataset.rows] == [1, 2, 3]
    assert "secret" not in dataset.name
    if name == "rows.xlsx":
        (said,) = dataset.warnings
        assert said.startswith("the rows are those of the sheet 'Sheet1'; the workbook has also")
        assert said.endswith("'Sheet 2', which 'rows.xlsx#Sheet 2' would name")
    else:
        assert dataset.warnings == ()


def test_a_file_and_a_pattern_of_the_hub(site: Site) -> None:
    assert from_hub(HUB, site) == ROWS
    assert len(from_hub(HUB.replace("rows.jsonl", "*.jsonl"), site)) == len(ROWS) + 1


def saved_splits() -> str:
    import datasets  # noqa: PLC0415

    whole = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict({"train": whole, "test": whole}).save_to_disk("splits")
    return "splits/"


def folder() -> str:
    Path("folder").mkdir()
    return "folder/"


def zipped() -> str:
    with zipfile.ZipFile("rows.zip", "w") as archive:
        archive.writestr("rows.jsonl", jsonl())
    return "rows.zip"


def tarred() -> str:
    written("rows.jsonl", jsonl())
    with tarfile.open("rows.tar.gz", "w:gz") as archive:
        archive.add("rows.jsonl")
    return "rows.tar.gz"


def cut(name: str, content: bytes) -> Case:
    return Case(written(name, content[: len(content) - 9]))


WRONG: Mapping[str, Callable[[pytest.MonkeyPatch, Site], Case]] = {
    "missing.jsonl": lambda *_: Case("missing.jsonl"),
    "none/*.jsonl": lambda *_: Case("none/*.jsonl"),
    "folder/": lambda *_: Case(folder()),
    "splits/": lambda *_: Case(saved_splits()),
    "empty.jsonl": lambda *_: Case(written("empty.jsonl", b"")),
    "cut.jsonl.gz": lambda *_: cut("cut.jsonl.gz", gzip.compress(jsonl())),
    "cut.csv.zst": lambda *_: cut("cut.csv.zst", zstd.compress(separated().encode())),
    "cut.tsv.bz2": lambda *_: cut("cut.tsv.bz2", bz2.compress(separated("\t").encode())),
    "cut.jsonl.xz": lambda *_: cut("cut.jsonl.xz", lzma.compress(jsonl())),
    "cut.parquet": lambda *_: cut("cut.parquet", parquet()),
    "cut.arrow": lambda *_: cut("cut.arrow", arrow()),
    "rows.zip": lambda *_: Case(zipped()),
    "rows.tar.gz": lambda *_: Case(tarred()),
    "old.xls": lambda *_: Case(written("old.xls", b"\xd0\xcf\x11\xe0" + bytes(500))),
    "text.xlsx": lambda *_: Case(written("text.xlsx", separated().encode())),
    "rows.xlsx#Nothing": lambda *_: Case(f"{two_sheets('rows.xlsx', 'Sheet1')}#Nothing"),
    "unnamed.xlsx": lambda *_: Case(
        workbook({"One": [["id", None, "text"], ["a", 1, "x"]]}, "unnamed.xlsx")
    ),
    "beside.xlsx": lambda *_: Case(
        workbook({"One": [["id", "text"], ["a", "x"], ["b", "y", "stray"]]}, "beside.xlsx")
    ),
    "page.html": lambda *_: Case(written("page.html", b"<!DOCTYPE html>\n<html></html>")),
    "old.feather": lambda *_: Case(written("old.feather", b"FEA1" + bytes(60))),
    "`parquet.csv` with `--format csv`": lambda *_: Case(
        written("parquet.csv", parquet()), FileOptions(format="csv")
    ),
    "`nobom.csv` in UTF-16 without a mark": lambda *_: Case(
        written("nobom.csv", separated().encode("utf-16-le"))
    ),
    "`cut16.csv` in UTF-16": lambda *_: cut("cut16.csv", separated().encode("utf-16")),
    "latin1.csv": lambda *_: Case(written("latin1.csv", separated().encode("latin-1"))),
    "`rows.parquet` with `--encoding latin-1`": lambda *_: Case(
        written("rows.parquet", parquet()), FileOptions(encoding="latin-1")
    ),
    "`rows.jsonl` with `--delimiter ;`": lambda *_: Case(
        written("rows.jsonl", jsonl()), FileOptions(delimiter=";")
    ),
    "unknown": lambda *_: Case(written("unknown", separated().encode())),
    "`-` at a terminal": lambda patch, _: Case(standard_input(patch, b"", terminal=True)),
    "`-` with CSV in it": lambda patch, _: Case(standard_input(patch, separated().encode())),
    "`-` with nothing in it": lambda patch, _: Case(standard_input(patch, b"")),
    "https://HOST/missing.jsonl": lambda _, site: Case(f"{site.url}/missing.jsonl"),
    "https://HOST/secret.jsonl": lambda _, site: Case(f"{site.url}/secret.jsonl"),
    "nowhere://rows.jsonl": lambda *_: Case("nowhere://rows.jsonl"),
}
WRONG_ON_THE_HUB = ("hf://datasets/OWNER/NAME", "hf://datasets/OWNER/OTHER/rows.jsonl")


def test_the_table_of_what_cannot_be_read_is_this_one() -> None:
    assert set(table("| DATA | message |")) == {*WRONG, *WRONG_ON_THE_HUB}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_read_is_said_as_the_table_says(
    name: str, monkeypatch: pytest.MonkeyPatch, site: Site
) -> None:
    case = WRONG[name](monkeypatch, site)
    with pytest.raises((RowError, InputError, SetupError)) as caught:
        read_rows(case.data, **asdict(case.options))
    assert table("| DATA | message |")[name] in str(caught.value)
    assert all(line.isprintable() for line in str(caught.value).splitlines())


@pytest.mark.parametrize("name", WRONG_ON_THE_HUB)
def test_what_is_no_file_of_the_hub(name: str, site: Site) -> None:
    (found,) = from_hub(name, site)
    assert found["error"].startswith(f"{name}: {table('| DATA | message |')[name]}")


# What the tables do not show.


def test_a_compression_and_a_table_are_known_by_their_content_whatever_their_name() -> None:
    for name, content in (
        ("rows.jsonl", gzip.compress(gzip.compress(jsonl()))),
        ("rows.jsonl.gz", jsonl()),  # as a browser saves it
        ("rows.csv", parquet()),
        ("rows", arrow(stream=True)),
    ):
        assert [row.fields for row in read_rows(written(name, content)).rows] == ROWS
    two_sheets("rows.xlsx", "Sheet1")
    assert len(read_rows(written("rows.csv", Path("rows.xlsx").read_bytes())).rows) == len(ROWS)


def test_parts_of_a_compressed_file_that_follow_one_another() -> None:
    parts = [jsonl(ROWS[:1]), jsonl(ROWS[1:])]
    for ending, compress in (
        ("gz", gzip.compress),
        ("zst", zstd.compress),
        ("bz2", bz2.compress),
        ("xz", lzma.compress),
    ):
        path = written(f"rows.jsonl.{ending}", b"".join(map(compress, parts)))
        assert [row.fields for row in read_rows(path).rows] == ROWS


def test_utf_32_and_an_encoding_that_is_named() -> None:
    for encoding, named in (("utf-32", None), ("utf-16-be", "utf-16-be"), ("utf-16", "utf-16")):
        content = separated().encode(encoding)
        dataset = read_rows(written("rows.csv", content), encoding=named)
        assert [row.fields for row in dataset.rows] == ROWS
    katakana = '{"text": "カタカナ"}\n'.encode("shift_jis") * 2
    dataset = read_rows(written("rows.jsonl", katakana), encoding="shift_jis")
    assert [row.fields["text"] for row in dataset.rows] == ["カタカナ"] * 2


def test_a_line_that_is_not_of_the_encoding_named_is_named() -> None:
    path = written("rows.jsonl", b'{"text": "x"}\n' + b'{"text": "\x81"}\n')
    with pytest.raises(RowError, match=r"rows.jsonl:2: not cp1252: byte 0x81 at byte 11 of the"):
        read_rows(path, encoding="cp1252")


def test_where_utf_16_is_damaged() -> None:
    content = '{"text": "x"}\n'.encode("utf-16-le") * 1000
    damaged = b"\xff\xfe" + content[:20_000] + b"\x00\xdc" + content[20_000:]
    with pytest.raises(RowError, match=r"not UTF-16 at byte 20,003 of the file"):
        read_rows(written("rows.jsonl", damaged))


# A workbook.


def test_numbers_dates_and_empty_cells_of_a_workbook() -> None:
    day = dt.date(2024, 2, 29)
    noon = dt.datetime(2024, 2, 29, 12, 30)  # noqa: DTZ001 - as Excel has it
    lines: list[list[object]] = [
        [],
        [],
        ["id", "n", "share", "day", "time", "true", "text"],
        [7, 2**53, 0.1, day, noon, True, " a "],
        [],
        [8, -3, None, None, None, None, "b"],
        [],
    ]
    dataset = read_rows(workbook({"One": lines}, "rows.xlsx"))
    assert [(row.id, row.line, dict(row.fields)) for row in dataset.rows] == [
        (
            7,
            4,
            {
                "id": 7,
                "n": float(2**53),  # which may have been another number before Excel
                "share": 0.1,
                "day": "2024-02-29",
                "time": "2024-02-29T12:30:00",
                "true": True,
                "text": " a ",
            },
        ),
        (
            8,
            6,
            dict.fromkeys(("share", "day", "time", "true")) | {"id": 8, "n": -3, "text": "b"},
        ),
    ]
    assert dataset.warnings == (
        "1 row is blank and left out (line 5); the other rows keep their numbers",
    )


def test_a_workbook_whose_rows_do_not_begin_at_the_edge() -> None:
    lines: list[list[object]] = [[None, None, "id", "text"], [None, None, 1, "x"]]
    path = workbook({"One": [*lines, [None, None, 2, "y"]]}, "rows.xlsx")
    assert [row.fields for row in read_rows(path).rows] == [
        {"id": 1, "text": "x"},
        {"id": 2, "text": "y"},
    ]
    path = workbook({"One": [*lines, [None, "stray", 2, "y"]]}, "rows.xlsx")
    with pytest.raises(RowError, match=r"rows.xlsx:3: the cell in column B holds 'stray'"):
        read_rows(path)


def test_an_empty_sheet_and_a_file_whose_name_has_the_sheets_mark() -> None:
    with pytest.raises(RowError, match="no rows; at least 2"):
        read_rows(workbook({"One": []}, "rows.xlsx"))
    two_sheets("rows.xlsx", "Sheet1")
    Path("rows.xlsx").rename("rows.xlsx#Sheet 2")  # no sheet: a file of this name
    assert len(read_rows("rows.xlsx#Sheet 2").rows) == len(ROWS)
    written("text.xlsx", b"a\n1\n2\n")
    with pytest.raises(InputError, match="the file is CSV, which has no sheets"):
        read_rows("text.xlsx#One", format="csv")


# Several files.


def test_errors_and_rows_of_several_files_have_their_file_and_line() -> None:
    written("1.jsonl", b'{"text": "a"}\n\n{"text": "b"}\n')
    written("2.csv", b"text\nc\n\nd\n")
    dataset = read_rows(["1.jsonl", "2.csv"])
    assert dataset.name == "1.jsonl, 2.csv"
    assert [(row.id, row.file, row.line) for row in dataset.rows] == [
        (1, "1.jsonl", 1),
        (2, "1.jsonl", 3),
        (3, "2.csv", 2),
        (5, "2.csv", 4),
    ]
    assert dataset.warnings == (
        "1 row is blank and left out (2.csv:3); the other rows keep their numbers",
    )
    written("2.csv", b"text\nc\nd,e\nf,g\n")
    with pytest.raises(RowError) as caught:
        read_rows(["1.jsonl", "2.csv"])
    assert (caught.value.path, caught.value.line) == ("2.csv", 3)
    dataset = read_rows(["2.csv", "1.jsonl"], skip_bad_rows=True)
    assert [(row.file, row.line) for row in dataset.skipped] == [("2.csv", 3), ("2.csv", 4)]
    assert [row.file for row in dataset.rows] == ["2.csv", "1.jsonl", "1.jsonl"]
    assert dataset.skipped[0].summary()["file"] == "2.csv"


def test_an_id_that_two_files_have_and_a_file_without_rows() -> None:
    written("1.jsonl", b'{"id": 1, "text": "a"}\n')
    written("2.jsonl", b"")
    written("3.jsonl", b'{"id": 2, "text": "b"}\n')
    assert read_rows("?.jsonl").warnings == ("2.jsonl: the file is empty",)
    written("3.jsonl", b'{"id": 1, "text": "b"}\n')
    with pytest.raises(RowError, match=r"^3.jsonl:1: the id 1 is already that of 1.jsonl:1; ids"):
        read_rows("?.jsonl")


def test_alike_errors_in_several_files_are_named_together() -> None:
    for name in ("1.jsonl", "2.jsonl"):
        written(name, b'{"text": "a"}\n[]\n')
    with pytest.raises(RowError) as caught:
        read_rows("*.jsonl")
    assert str(caught.value).splitlines() == [
        "1.jsonl:2: a row must be an object with named fields, not a list: []",
        "  the same in 2.jsonl:2",
        "2 rows cannot be used",
    ]


# Copies.


def test_what_can_be_read_once_is_there_twice_within_the_block_and_gone_after_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with found_files(standard_input(monkeypatch, jsonl())) as files:
        first = read_rows(files)
        assert read_rows(files) == first
        assert first.name == "<stdin>"
        assert len(list(tmp_path.glob("icm-client-*"))) == 1
    assert list(tmp_path.glob("icm-client-*")) == []


def test_a_secret_in_a_url_is_not_said(site: Site) -> None:
    address = f"{site.url}/missing.jsonl?X-Amz-Signature=secret".replace("//", "//me:secret@")
    with pytest.raises(RowError) as caught:
        read_rows(address)
    assert "secret" not in str(caught.value)


def test_a_url_whose_package_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(SetupError, match=r"^s3://bucket/rows.csv: .*s3fs"):
        read_rows("s3://bucket/rows.csv")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(SetupError, match=re.escape("pip install 'icm-client[remote]'")):
        read_rows("https://host/rows.csv")
    two_sheets("rows.xlsx", "Sheet1")
    monkeypatch.setitem(sys.modules, "python_calamine", None)
    with pytest.raises(SetupError, match=re.escape("pip install 'icm-client[excel]'")):
        read_rows("rows.xlsx")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"quote": "both"}, "quote must be one of 'auto', 'none', 'standard', not 'both'"),
        ({"delimiter": "||"}, "the delimiter must be one character, such as ; or |, not '||'"),
        ({"delimiter": '"'}, "the delimiter must be one character"),
        ({"encoding": "hex"}, "there is no encoding 'hex'"),
        ({"encoding": "latin-0"}, "there is no encoding 'latin-0'; for example there are utf-8"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        FileOptions(**options)
