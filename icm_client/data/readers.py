"""Read rows from files of any kind, one at a time, and say where one is wrong."""

import codecs
import io
import os
import re
import shlex
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from io import BufferedReader
from zipfile import BadZipFile, ZipFile

from icm_client.data.arrow_rows import ARROW_FILE, ARROW_STREAM, PARQUET, arrow_rows, parquet_rows
from icm_client.data.csv_rows import csv_rows
from icm_client.data.formats import (
    NO_OPTIONS,
    FileFormat,
    FileOptions,
    Quote,
    format_of,
    require_pyarrow,
)
from icm_client.data.json_rows import json_rows
from icm_client.data.loaders import made_rows
from icm_client.data.messages import shown
from icm_client.data.rows import FEWEST_ROWS, Dataset, Place, collect
from icm_client.data.sources import STDIN, File, Named, found_files, named, opened, seekable
from icm_client.data.xlsx_rows import xlsx_rows
from icm_client.errors import InputError, RowError

_BOM = b"\xef\xbb\xbf"
# Marks in front of a text in another encoding than UTF-8; the longer ones first.
_OTHER_MARKS: Mapping[bytes, str] = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# How files that are read by their content begin.
_KNOWN: Mapping[bytes, FileFormat] = {
    PARQUET: "parquet",
    ARROW_FILE: "arrow",
    ARROW_STREAM: "arrow",
}
_NAMES: Mapping[FileFormat, str] = {
    "jsonl": "JSON Lines",
    "csv": "CSV",
    "parquet": "a Parquet file",
    "arrow": "an Arrow file",
    "xlsx": "an Excel workbook",
}
_ZIP = b"PK\x03\x04"
# How files of a kind that is not read begin, and what to do with them.
_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (_ZIP, "a zip archive: unpack it first, unzip {path}"),
    (
        b"\xd0\xcf\x11\xe0",
        "an old Excel workbook, or one with a password: save it as .xlsx without one, or as CSV",
    ),
    (b"FEA1", "a Feather file of version 1: write it anew with pyarrow.feather.write_feather"),
    (b"SQLite format 3\0", "an SQLite database: export the table as CSV or JSON Lines"),
    (b"%PDF-", "a PDF: text must be taken out of it first"),
    (
        b"version https://git-lfs.github.com/spec/",
        "a pointer of Git LFS in the place of the data: git lfs pull gets it",
    ),
)
_LONGEST_BEGINNING = 512
_TAR = slice(257, 262)
_WEB_PAGE = (b"<!doctype html", b"<html")
_JSON = re.compile(rb"(?:\xef\xbb\xbf)?\s*[\[{]")


def read_rows(
    path: Named | Sequence[str | os.PathLike[str]],
    *,
    format: FileFormat | None = None,  # noqa: A002 - the word that users look for
    gold: str | None = None,
    loader: str | None = None,
    template_fields: Sequence[str] = (),
    fewest: int = FEWEST_ROWS,
    quote: Quote = "auto",
    encoding: str | None = None,
    delimiter: str | None = None,
    skip_bad_rows: bool = False,
) -> Dataset:
    """Return the rows of a file, or of several.

    A file is read row by row. So is a JSON array, unless it is on a single line.

    Args:
        path: a .jsonl, .ndjson, .json, .csv, .tsv, .parquet, .arrow, .feather or .xlsx file,
            compressed (.gz, .zst, .bz2, .xz) or not; a pattern such as `data/*.jsonl`; a folder
            that `datasets` has saved; `-` for standard input; a URL; or a list of these. Text is
            UTF-8. What begins with `[` is read as one JSON array, whatever it is called.
        format: the file's format where neither its name nor its content shows it.
        gold: the field with the known labels, if any: it is taken out of the rows.
        loader: the task's loader, for a public file in its own format (`icm_client.data.loaders`).
        template_fields: the fields of the task's template; a row that has them needs no loader.
        fewest: rows that the file must hold; 1 is enough for labels that a person has checked.
        quote: what a double quote means in CSV and TSV (`icm_client.data.csv_rows.csv_rows`).
        encoding: of text that is not UTF-8 and does not say so, by a name that Python knows.
        delimiter: the character between the columns of CSV; None goes by the file.
        skip_bad_rows: leave rows that cannot be used aside, in `Dataset.skipped`.

    Raises:
        RowError: the file or some of its rows cannot be used; the message has file and line of
            each row, or for a JSON array the element's number.
        InputError: neither name, content nor `format` show which format it is; or an option does
            not go with it.
        TaskError: no loader has that name.
        SetupError: a kind of file or a URL whose package is not installed.
    """
    warnings: list[str] = []
    with opened_rows(
        path,
        warnings,
        file=FileOptions(format=format, encoding=encoding, delimiter=delimiter, quote=quote),
        loader=loader,
        template_fields=template_fields,
        fewest=fewest,
    ) as numbered:
        dataset = collect(
            numbered, path=named(path), gold=gold, fewest=fewest, skip_bad_rows=skip_bad_rows
        )
    return replace(dataset, warnings=(*warnings, *dataset.warnings))


@contextmanager
def opened_rows(
    path: Named | Sequence[str | os.PathLike[str]],
    warnings: list[str],
    *,
    file: FileOptions = NO_OPTIONS,
    loader: str | None = None,
    template_fields: Sequence[str] = (),
    fewest: int = FEWEST_ROWS,
) -> Iterator[Iterator[tuple[Place, object]]]:
    """Find a file or several and give the rows, each with its place, as `collect` takes them.

    Within the block they are read one by one. Sentences that the user should see have been added
    to `warnings` when the last of them is read.

    Raises:
        RowError: the file cannot be used, when it is opened or at a row.
        InputError, TaskError, SetupError: as `read_rows`.
    """
    with found_files(path) as found:
        several = len(found.files) > 1

        def every() -> Generator[tuple[Place, object]]:
            for one in found.files:
                said: list[str] = []
                name = one.name if several else None
                least = 0 if several else fewest
                with _rows_of(one, said, file, template_fields, least) as rows_of_one:
                    for line, row in rows_of_one:
                        yield Place(line, name), row
                warnings.extend(f"{one.name}: {words}" if several else words for words in said)

        with closing(every()) as rows:
            yield rows if loader is None else made_rows(loader, rows, template_fields)


@contextmanager
def _rows_of(
    file: File,
    warnings: list[str],
    options: FileOptions,
    template_fields: Sequence[str],
    fewest: int,
) -> Iterator[Iterable[tuple[int, object]]]:
    """Give the rows of a file with their lines; `fewest` is 0 where it may have none."""
    name = file.name
    with opened(file) as stream:
        if not stream.peek(1):
            if not fewest:
                warnings.append("the file is empty")
                yield ()
                return
            if name == STDIN:
                raise RowError("nothing came: pipe the rows into the command", path=name)
            needed = "one row is" if fewest == 1 else f"{fewest} rows are"
            raise RowError(f"the file is empty; at least {needed} needed", path=name)
        kind = _kind_of(stream, file, options)
        if kind in ("jsonl", "csv"):
            broken: dict[int, str] = {}
            lines = _lines_of(stream, name, broken, options.encoding)
            if kind == "csv":
                yield csv_rows(lines, name, warnings, broken, options)
            else:
                yield json_rows(lines, name, template_fields, fewest=fewest or 1, broken=broken)
            return
        with seekable(stream) as whole:
            if kind == "xlsx":
                yield xlsx_rows(whole, name, warnings, file.sheet)
            else:
                require_pyarrow(name)
                yield (parquet_rows if kind == "parquet" else arrow_rows)(whole, name)


def _kind_of(stream: BufferedReader, file: File, options: FileOptions) -> FileFormat:
    """Return the format that the file's content shows, or else its name.

    Raises:
        RowError: it is of a kind that is not read.
        InputError: an option speaks of another format, or nothing shows the format.
    """
    beginning = stream.peek(_LONGEST_BEGINNING)[:_LONGEST_BEGINNING]
    asked = options.format
    kind = next((kind for sign, kind in _KNOWN.items() if beginning.startswith(sign)), None)
    if beginning.startswith(_ZIP) and _is_workbook(stream):
        kind = "xlsx"
    if kind is None:
        _refuse_other_kinds(beginning, file.name)
        kind = _kind_of_text(beginning, file.name, asked)
    elif asked not in (None, kind):
        raise InputError(
            f"{file.name}: the file is {_NAMES[kind]}, and was to be read as {_NAMES[asked]}: "
            "leave the format out"
        )
    for given, fits, what in (
        (options.encoding, kind in ("jsonl", "csv"), "an encoding"),
        (options.delimiter, kind == "csv", "a delimiter"),
    ):
        if given is not None and not fits:
            raise InputError(
                f"{file.name}: {what} ({shown(given)}) was named, but the file is "
                f"{_NAMES[kind]}, which has none: leave it out"
            )
    if file.sheet is not None and kind != "xlsx":
        raise InputError(f"{file.name}: the file is {_NAMES[kind]}, which has no sheets")
    return kind


def _kind_of_text(beginning: bytes, name: str, asked: FileFormat | None) -> FileFormat:
    try:
        return format_of(name, asked)
    except InputError:
        if asked is None and _JSON.match(beginning):
            return "jsonl"
        if asked is None and name == STDIN:
            raise InputError(
                f"{name}: what came does not show its format: name it, for example --format csv"
            ) from None
        raise


def _is_workbook(stream: BufferedReader) -> bool:
    try:
        with seekable(stream) as whole, ZipFile(whole) as archive:
            return any(name.startswith("xl/") for name in archive.namelist())
    except BadZipFile:
        return False
    finally:
        stream.seek(0)


def _refuse_other_kinds(beginning: bytes, path: str) -> None:
    """Raise `RowError` where the file begins like one of a kind that is not read."""
    if beginning.lstrip().lower().startswith(_WEB_PAGE):
        raise RowError(
            "the file is a web page, perhaps of a login or of the file's description: download "
            "the file itself",
            path=path,
        )
    if beginning[_TAR] == b"ustar":
        raise RowError(
            f"the file is a tar archive: unpack it first, tar xf {shlex.quote(path)}", path=path
        )
    for sign, what in _BEGINNINGS:
        if beginning.startswith(sign):
            raise RowError(f"the file is {what.format(path=shlex.quote(path))}", path=path)


def _lines_of(
    stream: BufferedReader, path: str, broken: dict[int, str], encoding: str | None
) -> Iterator[str]:
    r"""Yield the file's lines with their ends, decoded, without a byte order mark.

    Lines end in `\n`. In an encoding that writes it as one byte, they are decoded one by one, and
    what is wrong with one of them is in `broken`.
    """
    if encoding is None:
        beginning = stream.peek(4)
        marked = (name for mark, name in _OTHER_MARKS.items() if beginning.startswith(mark))
        encoding = next(marked, "utf-8")
    if "\n".encode(encoding) == b"\n":
        lines = _decoded_lines(stream, path, broken, encoding)
    else:
        lines = _wide_lines(stream, path, encoding)
    for number, line in enumerate(lines):
        yield line if number else line.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")


def _decoded_lines(
    stream: BufferedReader, path: str, broken: dict[int, str], encoding: str
) -> Iterator[str]:
    """Yield the lines, decoded one by one.

    A line that cannot be decoded is added to `broken`, with the reason, and then yielded with
    U+FFFD in the place of what is not text: the row that it is part of cannot be used. In a JSON
    array it is a `RowError`.
    """
    called = "UTF-8" if encoding == "utf-8" else encoding
    is_array: bool | None = None
    for line, content in enumerate(stream, start=1):
        if is_array is None and content.removeprefix(_BOM).strip():
            is_array = content.removeprefix(_BOM).lstrip().startswith(b"[")
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError as problem:
            text = content.decode(encoding, errors="replace")
            reason = (
                f"not {called}: byte 0x{content[problem.start]:02x} at byte {problem.start + 1} of "
                "the line. Name the encoding (--encoding latin-1, for example), or save the file "
                "as UTF-8: iconv -f latin1 -t utf-8"
            )
        else:
            reason = ""
        if (nul := content.find(0)) >= 0:
            reason = (
                f"a NUL byte at byte {nul + 1} of the line: the file is damaged, or in UTF-16 "
                "(--encoding utf-16-le)"
            )
            text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
        if reason:
            if is_array or (line == 1 and nul >= 0):
                raise RowError(reason, path=path, line=line)
            broken[line] = reason
        yield text


def _wide_lines(stream: BufferedReader, path: str, encoding: str) -> Iterator[str]:
    """Yield the lines of a text in UTF-16, UTF-32 or the like."""
    text = io.TextIOWrapper(stream, encoding, newline="\n")
    try:
        yield from text
    except UnicodeDecodeError as problem:
        place = stream.tell() - len(problem.object) + problem.start + 1
        raise RowError(
            f"not {encoding.upper()} at byte {place:,} of the file ({problem.reason}): the file is "
            "damaged or cut off, or in another encoding",
            path=path,
        ) from None
    finally:
        text.detach()
