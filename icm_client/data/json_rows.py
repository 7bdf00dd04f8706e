"""Read rows from JSON Lines, or from one JSON array, and say where one is broken.

A row must be one object, on a line of its own or in an array. A file of another shape (columns, a
list inside an object, bare texts or lists) is refused with the shell command that makes rows of it.
"""

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import PurePath
from types import MappingProxyType
from typing import NamedTuple

import orjson

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


# Characters that are read at once to see whether a file is one object over several lines.
_MOST_HELD = 2**26
_DEEPEST = 4


class Shape(NamedTuple):
    """How a file holds its rows.

    Attributes:
        what: the kind of file, after "the file is".
        rows: a Python expression that makes its rows out of `data`, the file's content.
    """

    what: str
    rows: str


LISTS = Shape("a list of lists (pandas' orient='values')", '({"text": row[0]} for row in data)')
TEXTS = Shape("a list of texts", '({"text": text} for text in data)')


def refuse_other_shapes(
    lines: Iterator[tuple[int, str]], path: str, template_fields: Sequence[str], fewest: int
) -> Iterator[tuple[int, str]]:
    """Return the lines, unless they show another shape: bare values a line, or one object in all.

    The first of them is not blank. A single object may be the one row of a file that needs no more.

    Raises:
        RowError: they do; the message has the command that makes rows of the file.
    """
    first = next(lines)
    every = chain([first], lines)
    mark = first[1].lstrip()[0]
    if mark == "{":
        return _refuse_one_object(every, path, template_fields, fewest)
    return _refuse_bare_values(every, mark, path, template_fields) if mark in '["' else every


def refusal(shape: Shape, path: str) -> RowError:
    """Return the error with the command that writes the file's rows beside it, one a line."""
    code = (
        "import json, sys; data = json.load(sys.stdin.buffer); "
        f"[print(json.dumps(row)) for row in {shape.rows}]"
    )
    return RowError(
        f"the file is {shape.what}; one object a row is needed. This command makes them: "
        f"python -c {shlex.quote(code)} < {_into_lines(path)}",
        path=path,
    )


def _refuse_bare_values(
    lines: Iterator[tuple[int, str]], mark: str, path: str, template_fields: Sequence[str]
) -> Iterator[tuple[int, str]]:
    """Return the lines, unless the first two that are not blank are a list each, or a text."""
    taken = [next(lines)]
    for more in lines:
        taken.append(more)
        if more[1].strip():
            break
    line, first = taken[0]
    if len(taken) > 1 and taken[-1][1].lstrip().startswith(mark):
        with suppress(orjson.JSONDecodeError):  # an array over several lines, or a broken one
            value = read_json(first)
            is_text = isinstance(value, str)
            if is_text or (value and not any(isinstance(one, dict) for one in value)):
                what, part = ("text", ".") if is_text else ("list", ".[0]")
                field = json.dumps(template_fields[0] if template_fields else "text")
                raise RowError(
                    f"each line is a {what}; one object a row is needed. This command makes them: "
                    f"jq -c {shlex.quote(f'{{{field}: {part}}}')} {_into_lines(path)}",
                    path=path,
                    line=line,
                )
    return chain(taken, lines)


def _refuse_one_object(
    lines: Iterator[tuple[int, str]], path: str, template_fields: Sequence[str], fewest: int
) -> Iterator[tuple[int, str]]:
    """Return the lines, unless all of them are one object, which is no rows."""
    taken = [next(lines)]
    first = taken[0][1]
    try:
        value = read_json(first)
    except orjson.JSONDecodeError as problem:
        if problem.pos >= len(first.rstrip()) - 1:  # cut off, not broken
            size = 0
            for more in lines:
                taken.append(more)
                size += len(more[1])
                if size > _MOST_HELD:
                    break
            _refuse_object_over_lines(taken, path, template_fields)
        return chain(taken, lines)
    for more in lines:
        taken.append(more)
        if more[1].strip():
            return chain(taken, lines)
    if fewest > 1 and (shape := _shape_of(value, template_fields)) is not None:
        raise refusal(shape, path)
    return iter(taken[:1])


def _refuse_object_over_lines(
    lines: Sequence[tuple[int, str]], path: str, template_fields: Sequence[str]
) -> None:
    line, first = lines[0]
    try:
        value = read_json("".join(text for _, text in lines))
    except orjson.JSONDecodeError:
        if first.strip() != "{":
            return
        value = None  # several objects over several lines, perhaps
    if (shape := _shape_of(value, template_fields)) is not None:
        raise refusal(shape, path)
    raise RowError(
        "an object over several lines; each must stand on one line. Convert the file: "
        f"jq -c . {_into_lines(path)}",
        path=path,
        line=line,
    )


def _into_lines(path: str) -> str:
    """Return `PATH > PATH.jsonl`, quoted for a shell; never the file itself."""
    target = PurePath(path).with_suffix(".jsonl")
    if str(target) == path:
        target = target.with_name(f"{target.stem}-lines.jsonl")
    return f"{shlex.quote(path)} > {shlex.quote(str(target))}"


def _shape_of(value: object, template_fields: Sequence[str]) -> Shape | None:
    """Return how a file of one JSON object holds rows, or None where it does not."""
    if not isinstance(value, Mapping) or not value:
        return None
    if isinstance(value.get("columns"), list) and isinstance(value.get("data"), list):
        return Shape(
            "columns and cells (pandas' orient='split')",
            '(dict(zip(data["columns"], cells)) for cells in data["data"])',
        )
    fields = set(template_fields)
    if any(map(_holds_rows, value.values())):
        return _rows_inside(value, fields)
    return (
        _columns(value, template_fields)
        or _rows_inside(value, fields)
        or _named_columns(value, template_fields)
        or _named_texts(value, fields)
    )


def _columns(value: Mapping[str, object], template_fields: Sequence[str]) -> Shape | None:
    every = list(value.values())
    lists = [one for one in every if isinstance(one, list)]
    if len(lists) == len(every) and len(set(map(len, lists))) == 1:
        return Shape(
            "columns, not rows", "(dict(zip(data, cells)) for cells in zip(*data.values()))"
        )
    objects = [one for one in every if isinstance(one, Mapping)]
    keys = list(objects[0]) if objects else []
    if len(objects) < len(every) or not keys or any(set(one) != set(keys) for one in objects):
        return None
    if any(_holds_rows(cell) for one in objects for cell in one.values()):
        return None
    if _are_rows(list(value), keys, template_fields):
        return Shape("rows by their index (pandas' orient='index')", "data.values()")
    return Shape(
        "columns, not rows (pandas' to_json without orient='records')",
        "(dict(zip(data, cells)) for cells in zip(*(one.values() for one in data.values())))",
    )


def _are_rows(outer: list[str], inner: list[str], template_fields: Sequence[str]) -> bool:
    """Whether the outer keys are the rows' and the inner ones the fields', or the other way."""
    if template_fields and set(template_fields) <= set(inner):
        return True
    if template_fields and set(template_fields) <= set(outer):
        return False
    return all(name.isdecimal() for name in outer) and not all(name.isdecimal() for name in inner)


class _Inside(NamedTuple):
    """A list of objects somewhere inside an object."""

    place: tuple[str, ...]  # its keys, from the outside
    rows: str  # as in `Shape`
    has_fields: bool  # whether a row has what the template uses
    n_rows: int


def _rows_inside(value: Mapping[str, object], fields: set[str]) -> Shape | None:
    """Lists of objects inside `value`: those with the template's fields, else the longest one."""
    every = list(_inside(value, fields, ()))
    if not every:
        return None
    found = [one for one in every if one.has_fields and fields]
    found = found or [max(every, key=lambda one: one.n_rows)]
    names = [_quoted(".".join(one.place)) for one in found]
    if len(found) == 1:
        return Shape(f"an object with rows in its field {names[0]}", found[0].rows)
    several = f"{', '.join(names[:-1])} and {names[-1]}"
    return Shape(
        f"an object with rows in its fields {several}, taken together",
        f"[{', '.join('*' + one.rows for one in found)}]",
    )


def _inside(
    value: Mapping[str, object], fields: set[str], place: tuple[str, ...]
) -> Iterator[_Inside]:
    for name, inner in value.items():
        here = (*place, name)
        if isinstance(inner, list) and _holds_rows(inner):
            rows = "data" + "".join(f"[{_quoted(key)}]" for key in here)
            around = _around(inner[0], fields)
            if around is not None:
                rows = f"(row[{_quoted(around)}] for row in {rows})"
            has_fields = around is not None or fields <= inner[0].keys()
            yield _Inside(here, rows, has_fields, len(inner))
        elif isinstance(inner, Mapping) and len(here) < _DEEPEST:
            yield from _inside(inner, fields, here)


def _around(row: Mapping[str, object], fields: set[str]) -> str | None:
    """The field that holds the row itself, as in what Hugging Face's dataset server gives."""
    if not fields or fields <= row.keys():
        return None
    objects = ((name, inner) for name, inner in row.items() if isinstance(inner, Mapping))
    return next((name for name, inner in objects if fields <= inner.keys()), None)


def _named_columns(value: Mapping[str, object], template_fields: Sequence[str]) -> Shape | None:
    """Columns with the fields that the template uses, beside fields that are no columns."""
    used = [value.get(name) for name in template_fields]
    lengths = {len(inner) if isinstance(inner, list) else 0 for inner in used}
    if len(lengths) != 1 or 0 in lengths:
        return None
    columns = [
        name for name, inner in value.items() if isinstance(inner, list) and len(inner) in lengths
    ]
    names = _quoted(columns)
    return Shape(
        f"columns, not rows ({', '.join(columns)})",
        f"(dict(zip({names}, cells)) for cells in zip(*(data[name] for name in {names})))",
    )


def _named_texts(value: Mapping[str, object], fields: set[str]) -> Shape | None:
    if not fields or fields & value.keys() or not all(isinstance(v, str) for v in value.values()):
        return None
    return Shape(
        "texts by their names", '({"id": name, "text": text} for name, text in data.items())'
    )


def _holds_rows(inner: object) -> bool:
    return isinstance(inner, list) and bool(inner) and all(isinstance(one, dict) for one in inner)


def _quoted(names: str | list[str]) -> str:
    return json.dumps(names, ensure_ascii=False)
