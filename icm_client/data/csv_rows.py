"""Read rows from CSV and TSV, and say where one is broken.

A double quote means two things. In CSV it opens a field in which commas and line breaks are text
(RFC 4180). In TSV most programs write it as a character, and a few quote fields as in CSV. Read the
wrong way, one quote at the beginning of a text swallows the rows up to the next quote.
"""

import csv
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import NamedTuple

from icm_client.data.formats import NO_OPTIONS, FileOptions, delimiter_of
from icm_client.data.messages import listed, named_lines, shown
from icm_client.data.values import BLANK, Unusable
from icm_client.errors import RowError

_LONGEST_FIELD = 2**31 - 1
_CARRIAGE_RETURN = "a carriage return outside double quotes: end lines in \\n or \\r\\n"
_SEP_LINE = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)
_QUOTED = re.compile(r'"(?:[^"]|"")*"', re.DOTALL)
_NUMBER = re.compile(r"\s*[-+]?[\d.,]+\s*")
# A single column's text of fewer lines is taken as meant.
_LONG_TEXT_LINES = 4

_Line = tuple[int, str]


class _Record(NamedTuple):
    """A row of the file.

    Attributes:
        line: the line that it starts on.
        cells: its cells, or why it has none.
        further: the lines that follow its first.
        quoted: whether a double quote opens its first field.
    """

    line: int
    cells: list[str] | Unusable
    further: list[_Line]
    quoted: bool = False


def csv_rows(
    lines: Iterator[str],
    path: str,
    warnings: list[str],
    broken: Mapping[int, str],
    file: FileOptions = NO_OPTIONS,
) -> Iterator[tuple[int, object]]:
    """Yield each row with the line it starts on: its fields, `BLANK`, or why it has none.

    With `auto`, a comma-separated file is read as RFC 4180 has it. In a tab-separated one quotes
    are part of the text, unless every field of the line, or of the header, is in quotes, or a
    field could not have been written otherwise (quotes doubled inside, or a tab or line break
    without which the columns would not be right).

    Args:
        lines: the file's lines with their ends. A first line `sep=;` names the separator.
        path: the file as the user named it.
        warnings: sentences that the user should see are added here.
        broken: lines that cannot be decoded, with the reason; each is there once it has been read.
        file: what a double quote means, and what separates the columns.

    Raises:
        RowError: the header cannot be used; or a quote is never closed.
    """
    # The module's limit of 128 KiB is that of every reader in the process; a long text is no fault,
    # and most often it is in a column that no template uses.
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_FIELD))
    numbered = enumerate(lines, start=1)
    first = next(numbered, (1, ""))
    quote, delimiter = file.quote, file.delimiter
    if named := _SEP_LINE.fullmatch(first[1]):
        delimiter = delimiter or named[1]
        first = next(numbered, (2, ""))
    while not first[1].strip() and (following := next(numbered, None)):
        first = following
    if delimiter is None:
        delimiter = _delimiter(first[1], path)
    every = chain([first], numbered)
    notes = _Notes()
    if quote == "auto" and delimiter == "\t":
        records = _tabbed(every, path, notes)
    elif quote == "none":
        records = (_literal_record(line, ended, delimiter) for line, ended in every)
    else:
        records = _standard(every, path, delimiter)
    records = (_with_broken(record, broken) for record in records)
    yield from _rows(records, path, notes if quote == "auto" else None, delimiter)
    warnings += notes.sentences()


def _delimiter(header: str, path: str) -> str:
    """The usual one for the file's name, or that of a spreadsheet in another language."""
    usual = delimiter_of(path)
    others = [other for other in (";", "\t", "|") if other in header]
    return others[0] if usual not in header and len(others) == 1 else usual


class _Notes:
    """Lines on which quotes are perhaps not what they seem.

    In a file of one column, each line of a quoted text would make a row. Such a text looks like
    rows that a stray quote has swallowed where it is long, none of its lines is empty or has a
    separator or a quote, and hardly another text of the file is in quotes: a program that puts
    texts in quotes does so for each with a separator in it.
    """

    def __init__(self) -> None:
        self.kept: list[int] = []
        self._swallowed: list[int] = []
        self._in_one_column: list[int] = []
        self._one_column_rows = 0
        self._quoted_rows = 0

    def add(self, record: _Record, cells: list[str], delimiter: str) -> None:
        if len(cells) > 1:
            if record.further:
                self._swallowed += _swallowed(cells, record.further, delimiter)
            return
        self._one_column_rows += 1
        self._quoted_rows += record.quoted
        (text,) = cells
        is_long = len(record.further) + 1 >= _LONG_TEXT_LINES
        is_plain = delimiter not in text and '"' not in text
        if is_long and is_plain and all(line.strip() for line in text.split("\n")):
            self._in_one_column += [line for line, _ in record.further]

    def sentences(self) -> Iterator[str]:
        if self.kept:
            yield (
                f"in {named_lines(self.kept)} a field begins with a double quote, which is read as "
                "part of the text: if quotes enclose fields in this file, use --quote standard"
            )
        swallowed = self._swallowed
        if not swallowed and (self._quoted_rows - 1) * 10 <= self._one_column_rows:
            swallowed = self._in_one_column
        if swallowed:
            one = len(swallowed) == 1
            yield (
                f"{named_lines(swallowed)} would make {'a row' if one else 'rows'}, but "
                f"{'stands' if one else 'stand'} inside a double quote that is opened above and "
                "read as text: if rows are meant, use --quote none, or double that quote and "
                "enclose its field in quotes"
            )


def _swallowed(cells: list[str], further: list[_Line], delimiter: str) -> list[int]:
    """Return which further lines of a record look like rows: its columns, its numbers.

    The last line of a quoted first column has all columns in any case.
    """
    quoted = next((place for place, cell in enumerate(cells) if "\n" in cell), 0)
    looked_at = further if quoted else further[:-1]
    found = []
    for line, text in looked_at:
        own = _parsed([(line, text)], delimiter) or []
        if len(own) == len(cells) and all(
            bool(_NUMBER.fullmatch(one)) == bool(_NUMBER.fullmatch(other))
            for one, other in zip(own[:quoted], cells[:quoted], strict=True)
        ):
            found.append(line)
    return found


def _rows(
    records: Iterator[_Record], path: str, notes: _Notes | None, delimiter: str
) -> Iterator[tuple[int, object]]:
    header: list[str] | None = None
    blank: list[_Record] = []
    for record in records:
        line, cells = record.line, record.cells
        if header is None:
            if isinstance(cells, Unusable):
                raise RowError(str(cells), path=path, line=line)
            if cells:
                header = header_of(cells, path, line)
            continue
        if not isinstance(cells, Unusable) and not any(cell.strip() for cell in cells):
            blank.append(record)
            continue
        yield from ((one.line, BLANK) for one in blank)
        blank.clear()
        if isinstance(cells, Unusable):
            yield line, cells
        elif len(cells) != len(header):
            problem = (
                f"columns: {len(cells)} here, {len(header)} in the header; text with a separator "
                f"or line break in it must be in double quotes. The row begins {shown(cells[0])}"
            )
            yield line, Unusable(problem)
        else:
            if notes is not None:
                notes.add(record, cells, delimiter)
            yield line, dict(zip(header, cells, strict=True))
    # Files end in empty lines; a spreadsheet's empty row has its separators.
    yield from ((one.line, BLANK) for one in blank if one.cells)


def header_of(cells: list[str], path: str, line: int) -> list[str]:
    """Return the columns' names.

    Raises:
        RowError: one is missing, or two are the same.
    """
    if not any(cell.strip() for cell in cells):
        reason = "the header is empty: the first line must name the columns"
    elif "" in (names := [cell.strip() for cell in cells]):
        reason = (
            f"column {names.index('') + 1} has no name in the header (pandas writes one for its "
            "index: use to_csv(..., index=False))"
        )
    elif repeated := repeated_names(cells):
        reason = f"the header names {listed(repeated)} more than once: rename one"
    else:
        return cells
    raise RowError(reason, path=path, line=line)


def repeated_names(names: list[str]) -> list[str]:
    """Return the names that are there more than once, sorted."""
    return sorted({name for name in names if names.count(name) > 1})


def _with_broken(record: _Record, broken: Mapping[int, str]) -> _Record:
    """Return the record, without cells where one of its lines is not UTF-8."""
    for line in (record.line, *(line for line, _ in record.further)):
        if line in broken:
            reason = broken[line]
            if line != record.line:
                reason = reason.replace("of the line", f"of line {line}", 1)
            return record._replace(cells=Unusable(reason))
    return record


def _standard(lines: Iterator[_Line], path: str, delimiter: str) -> Iterator[_Record]:
    """Yield records as RFC 4180 has them."""
    taken: list[_Line] = []

    def feed() -> Iterator[str]:
        for line in lines:
            taken.append(line)
            yield line[1]

    reader = csv.reader(feed(), delimiter=delimiter, strict=True)
    while True:
        taken.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as problem:
            start = taken[0][0]
            reason = str(problem)
            if "end of data" in reason:
                reason = (
                    "a double quote is opened here and never closed (--quote none reads quotes as "
                    "part of the text)"
                )
            elif "new-line" in reason:
                reason = _CARRIAGE_RETURN
            if len(taken) > 1:  # it is not known where the next row begins
                raise RowError(f"broken CSV: {reason}", path=path, line=start) from None
            yield _Record(start, Unusable(f"broken CSV: {reason}"), [])
        else:
            yield _Record(taken[0][0], cells, taken[1:], quoted=taken[0][1].startswith('"'))


def _literal_record(line: int, ended: str, delimiter: str) -> _Record:
    text = ended.rstrip("\r\n")
    if "\r" in text:
        return _Record(line, Unusable(f"broken CSV: {_CARRIAGE_RETURN}"), [])
    return _Record(line, text.split(delimiter) if text else [], [])


def _tabbed(lines: Iterator[_Line], path: str, notes: _Notes) -> Iterator[_Record]:
    """Yield records of a tab-separated file, whose quotes are most often text."""
    ahead: deque[_Line] = deque()

    def pull() -> _Line | None:
        return ahead.popleft() if ahead else next(lines, None)

    width = 0
    while (now := pull()) is not None:
        line, ended = now
        record = _literal_record(line, ended, "\t")
        cells = ended.rstrip("\r\n").split("\t")
        if not width and record.cells:
            width = len(cells)
            if all(map(_QUOTED.fullmatch, cells)):  # so is every text of the file
                yield from _standard(chain([now], lines), path, "\t")
                return
        if not any(cell.startswith('"') for cell in cells):
            yield record
            continue
        further = _quoted_lines(now, width, pull, ahead)
        if further or record.cells != cells or len(cells) != width:  # else the line is a row
            found = _parsed([now, *further], "\t")
            if found is not None and len(found) == width:
                yield _Record(line, found, further)
                continue
            ahead.extendleft(reversed(further))
        if record.cells != cells:
            yield record
            continue
        own = _unquoted(cells)
        if any(
            cell.startswith('"') and cell == read for cell, read in zip(cells, own, strict=True)
        ):
            notes.kept.append(line)
        yield _Record(line, own, [])


def _unquoted(cells: list[str]) -> list[str]:
    """Return the cells; one that a program has quoted for a quote in it, or all, without quotes."""
    quoted = [_QUOTED.fullmatch(cell) is not None for cell in cells]
    return [
        cell[1:-1].replace('""', '"') if is_quoted and (all(quoted) or '""' in cell[1:-1]) else cell
        for cell, is_quoted in zip(cells, quoted, strict=True)
    ]


def _quoted_lines(
    first: _Line,
    width: int,
    pull: Callable[[], _Line | None],
    ahead: deque[_Line],
) -> list[_Line]:
    """Return the lines after the first that a record takes if quotes enclose its fields.

    None where one of them makes a row by itself; but the last may, after a first line that makes
    none: `"two<newline>lines"<tab>x`. What is not taken goes back to `ahead`.
    """
    further: list[_Line] = []
    fits = first[1].count("\t") + 1 == width
    is_open = first[1].count('"') % 2 == 1
    while is_open and (following := pull()) is not None:
        further.append(following)
        closes = following[1].count('"') % 2 == 1
        if following[1].count("\t") + 1 == width and (fits or not closes):
            break
        is_open = not closes
    if is_open:
        ahead.extendleft(reversed(further))
        return []
    return further


def _parsed(lines: list[_Line], delimiter: str) -> list[str] | None:
    """Return the cells of one record in which quotes enclose fields, or None where it is none."""
    try:
        records = list(csv.reader((text for _, text in lines), delimiter=delimiter, strict=True))
    except csv.Error:
        return None
    return records[0] if len(records) == 1 else None
