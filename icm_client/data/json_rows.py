"""Read rows from JSON Lines, or from one JSON array, and say where one is broken."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import NamedTuple

import orjson

from icm_client.data.json_shapes import LISTS, TEXTS, refusal, refuse_other_shapes
from icm_client.data.messages import shown
from icm_client.data.values import Unusable, read_json
from icm_client.errors import RowError

_NOT_JSON = ("NaN", "Infinity")
# A string ends on its line: JSON allows no line break in it. A lone quote is one not closed.
_STRUCTURE = re.compile(r'"(?:[^"\\]++|\\.)*+"|["\[\]{},]')


def json_rows(
    lines: Iterable[str],
    path: str,
    template_fields: Sequence[str] = (),
    *,
    fewest: int = 2,
    broken: Mapping[int, str] = MappingProxyType({}),
) -> Iterator[tuple[int, object]]:
    """Yield the file's values, each with its line, or in an array with its number.

    A line or an element that is no JSON is an `Unusable`. An array, too, is read line by line and
    never kept in memory as a whole, unless it is on a single line: so large ones are better kept as
    JSON Lines.

    Args:
        lines: the file's lines with their ends.
        path: the file as the user named it, for errors.
        template_fields: the fields of the template, which distinguish columns from rows.
        fewest: the rows that the file must hold.
        broken: lines that cannot be decoded, with the reason; each is there once it has been read.

    Raises:
        RowError: the file has another shape, such as columns; or an array is broken.
    """
    numbered = enumerate(lines, start=1)
    first = next(((line, text) for line, text in numbered if text.strip()), None)
    if first is None:
        return
    every = refuse_other_shapes(chain([first], numbered), path, template_fields, fewest)
    if first[1].lstrip().startswith("["):
        yield from _array_rows(every, path)
        return
    for line, ended in every:
        if line in broken:
            yield line, Unusable(broken[line])
        elif ended.strip():
            text = ended.rstrip("\r\n")
            value: object
            try:
                value = read_json(text)
            except orjson.JSONDecodeError as problem:
                where = f"at column {problem.colno}"
                value = Unusable(_broken_json(text, problem, where, "line"))
            yield line, value


def _broken_json(text: str, problem: orjson.JSONDecodeError, where: str, what: str) -> str:
    rest = text[problem.pos :]
    for word in _NOT_JSON:
        if rest.startswith(word):
            return f"{word} {where} is not JSON: use null where there is no value"
    if "surrogate" in problem.msg:
        return (
            f"half of a surrogate pair (a lone \\ud800 to \\udfff) {where}, which UTF-8 cannot "
            "hold: remove it"
        )
    return f"broken JSON {where}: {problem.msg}; the {what} begins {shown(text.strip())}"


def _array_rows(lines: Iterator[tuple[int, str]], path: str) -> Iterator[tuple[int, object]]:
    """Yield the array's elements with their 1-based numbers."""
    for number, element in enumerate(_elements(lines, path), start=1):
        if element.last and number == 1 and not element.text.strip():
            return  # an empty array
        if not element.text.strip():
            which = "before the array's end" if element.last else "with nothing before it"
            reason = f"a comma {which} (after line {element.line}): remove it"
            raise RowError(reason, path=path, line=number)
        try:
            value = read_json(element.text)
        except orjson.JSONDecodeError as problem:
            column = problem.colno + (element.column if problem.lineno == 1 else 0)
            where = f"at line {element.line + problem.lineno - 1}, column {column}"
            yield number, Unusable(_broken_json(element.text, problem, where, "element"))
        else:
            if number == 1 and isinstance(value, str | list):
                raise refusal(TEXTS if isinstance(value, str) else LISTS, path)
            yield number, value


class _Element(NamedTuple):
    """An element's text, the line and the columns in front of it, and whether it is the last."""

    text: str
    line: int
    column: int
    last: bool


def _elements(lines: Iterator[tuple[int, str]], path: str) -> Iterator[_Element]:
    """Cut the array at its own commas."""
    depth, number = 0, 1
    pieces: list[str] = []
    began = (1, 0)
    for line, text in lines:
        start = 0
        for token in _STRUCTURE.finditer(text):
            mark = token.group()
            if mark == '"':
                reason = f"a double quote is opened and never closed on line {line}"
                raise RowError(f"broken JSON: {reason}", path=path, line=number)
            if mark in ("[", "{"):
                depth += 1
                if depth == 1:
                    start, began = token.end(), (line, token.end())
            elif mark in ("]", "}"):
                depth -= 1
            if depth == 0 or (mark == "," and depth == 1):
                pieces.append(text[start : token.start()])
                yield _Element("".join(pieces), *began, last=depth == 0)
                if depth == 0:
                    _nothing_after(text[token.end() :], lines, path)
                    return
                pieces.clear()
                number += 1
                start, began = token.end(), (line, token.end())
        pieces.append(text[start:])
    raise RowError(
        "the array is never closed: the file is cut off, or a ] is missing", path=path, line=number
    )


def _nothing_after(text: str, lines: Iterator[tuple[int, str]], path: str) -> None:
    for rest in (text, *(ended for _, ended in lines)):
        if rest.strip():
            raise RowError(
                f"there is text after the end of the array: {shown(rest.strip())}. "
                "A file holds one array, or one object a line",
                path=path,
            )
