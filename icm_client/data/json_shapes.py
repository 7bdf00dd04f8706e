"""JSON that holds rows in another shape: columns, a list inside an object, plain texts.

What is asked about must be one object a row; the user gets the command that makes rows of it.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
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
    if lists := [name for name, held in value.items() if _holds_rows(held)]:
        longest = max(lists, key=lambda name: len(value[name]))
        name = json.dumps(longest, ensure_ascii=False)
        return Shape(f"an object with rows in its field {name}", f"data[{name}]")
    return _columns(value, template_fields)


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


def _holds_rows(held: object) -> bool:
    return isinstance(held, list) and bool(held) and all(isinstance(one, dict) for one in held)


def _are_rows(outer: list[str], inner: list[str], template_fields: Sequence[str]) -> bool:
    """Whether the outer keys are the rows' and the inner ones the fields', or the other way."""
    if template_fields and set(template_fields) <= set(inner):
        return True
    if template_fields and set(template_fields) <= set(outer):
        return False
    return all(name.isdecimal() for name in outer) and not all(name.isdecimal() for name in inner)
