"""JSON that holds rows in another shape: columns, a list inside an object, plain texts.

What is asked about must be one object a row; the user gets the command that makes rows of it.
"""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import NamedTuple


class Shape(NamedTuple):
    """How a file holds its rows.

    Attributes:
        what: what it is, after "the file is".
        rows: a Python expression for its rows, of `data`, what the file holds.
    """

    what: str
    rows: str


LISTS = Shape("a list of lists (pandas' orient='values')", '({"text": row[0]} for row in data)')
TEXTS = Shape("a list of texts", '({"text": text} for text in data)')


def shape_of(value: object, template_fields: Sequence[str] = ()) -> Shape | None:
    """Return how a file of one JSON object holds rows, or None where it does not.

    Args:
        value: what the file holds.
        template_fields: what the template uses; tells columns of cells from rows by their index.
    """
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


class _Inside(NamedTuple):
    """A list of objects somewhere inside an object.

    Attributes:
        place: its keys, from the outside.
        rows: a Python expression for its rows, of `data`.
        has_fields: whether a row has what the template uses.
        n_rows: how many there are.
    """

    place: tuple[str, ...]
    rows: str
    has_fields: bool
    n_rows: int


def _rows_inside(value: Mapping[str, object], fields: set[str]) -> Shape | None:
    """Lists of objects inside `value`: those with the template's fields, else the longest one."""
    every = list(_inside(value, fields, ()))
    if not every:
        return None
    found = [one for one in every if one.has_fields and fields]
    found = found or [max(every, key=lambda one: one.n_rows)]
    names = [json.dumps(".".join(one.place), ensure_ascii=False) for one in found]
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
    for name, held in value.items():
        here = (*place, name)
        if isinstance(held, list) and _holds_rows(held):
            rows = "data" + "".join(f"[{json.dumps(key, ensure_ascii=False)}]" for key in here)
            around = _around(held[0], fields)
            if around is not None:
                rows = f"(row[{json.dumps(around, ensure_ascii=False)}] for row in {rows})"
            has_fields = around is not None or fields <= held[0].keys()
            yield _Inside(here, rows, has_fields, len(held))
        elif isinstance(held, Mapping) and len(here) < _DEEPEST:
            yield from _inside(held, fields, here)


_DEEPEST = 4


def _around(row: Mapping[str, object], fields: set[str]) -> str | None:
    """The field in which the row proper lies, as in what Hugging Face's datasets server gives."""
    if not fields or fields <= row.keys():
        return None
    inner = ((name, held) for name, held in row.items() if isinstance(held, Mapping))
    return next((name for name, held in inner if fields <= held.keys()), None)


def _named_columns(value: Mapping[str, object], template_fields: Sequence[str]) -> Shape | None:
    """Columns that hold what the template uses, beside fields that are no columns."""
    used = [value.get(name) for name in template_fields]
    lengths = {len(held) if isinstance(held, list) else 0 for held in used}
    if len(lengths) != 1 or 0 in lengths:
        return None
    columns = [
        name for name, held in value.items() if isinstance(held, list) and len(held) in lengths
    ]
    names = json.dumps(columns, ensure_ascii=False)
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


def _columns(value: Mapping[str, object], template_fields: Sequence[str]) -> Shape | None:
    every = list(value.values())
    lists = [held for held in every if isinstance(held, list)]
    if len(lists) == len(every) and len(set(map(len, lists))) == 1:
        return Shape(
            "columns, not rows", "(dict(zip(data, cells)) for cells in zip(*data.values()))"
        )
    objects = [held for held in every if isinstance(held, Mapping)]
    inner = list(objects[0]) if objects else []
    if len(objects) < len(every) or not inner or any(set(held) != set(inner) for held in objects):
        return None
    if any(_holds_rows(cell) for held in objects for cell in held.values()):
        return None
    if _are_rows(list(value), inner, template_fields):
        return Shape("rows by their index (pandas' orient='index')", "data.values()")
    return Shape(
        "columns, not rows (pandas' to_json without orient='records')",
        "(dict(zip(data, cells)) for cells in zip(*(one.values() for one in data.values())))",
    )


def command_for(shape: Shape, path: str) -> str:
    """Return the shell command that writes the file's rows beside it, one a line."""
    code = (
        "import json, sys; data = json.load(sys.stdin.buffer); "
        f"[print(json.dumps(row)) for row in {shape.rows}]"
    )
    return f"python -c {shlex.quote(code)} < {into_lines(path)}"


def into_lines(path: str) -> str:
    """Return `PATH > PATH.jsonl`, quoted for a shell; never the file itself."""
    target = PurePath(path).with_suffix(".jsonl")
    if str(target) == path:
        target = target.with_name(f"{target.stem}-lines.jsonl")
    return f"{shlex.quote(path)} > {shlex.quote(str(target))}"


def line_command(first: str, second: str, path: str, field: str) -> str | None:
    """Return the command for a file of lists or of texts, one a line; None where it is neither."""
    for mark, what in (("[", ".[0]"), ('"', ".")):
        if first.lstrip().startswith(mark) and second.lstrip().startswith(mark):
            return f"jq -c {shlex.quote(f'{{{json.dumps(field)}: {what}}}')} {into_lines(path)}"
    return None


def _holds_rows(held: object) -> bool:
    return isinstance(held, list) and bool(held) and all(isinstance(one, dict) for one in held)


def _are_rows(outer: list[str], inner: list[str], template_fields: Sequence[str]) -> bool:
    """Whether the outer keys are the rows' and the inner ones the fields', or the other way."""
    if template_fields and set(template_fields) <= set(inner):
        return True
    if template_fields and set(template_fields) <= set(outer):
        return False
    return all(name.isdecimal() for name in outer) and not all(name.isdecimal() for name in inner)
