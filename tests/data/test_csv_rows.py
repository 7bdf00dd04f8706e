import csv as csv_module
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from read_files import read, refused

from icm_client.data import Dataset, JsonValue, loaded, read_rows, take_own_gold
from icm_client.data.formats import Quote
from icm_client.errors import InputError


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    return tmp_path / "rows.csv"


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
        ("a,b\n1,2\n".encode("utf-16-le"), ":1: a NUL byte at byte 2 of the line"),
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
        "4 rows are blank and left out (lines 3, 5, 6 and 8); the other rows keep their numbers",
    )


def test_an_empty_cell_of_a_single_column_is_a_blank_row(csv: Path) -> None:
    dataset = read(csv, b"a\nx\n\ny\n\n")
    assert [(row.id, row.line) for row in dataset.rows] == [(1, 2), (3, 4)]
    assert dataset.warnings == (
        "1 row is blank and left out (line 3); the other rows keep their numbers",
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
