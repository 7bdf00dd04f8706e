r"""Templates: how a row becomes text. `{field}` is the row's field, `{{` and `}}` are braces."""

import re
import string
from functools import lru_cache
from typing import NamedTuple

from icm_client.data.messages import shown
from icm_client.errors import TaskError

_ESCAPE = re.compile(r"\\([nt\\])")
_ESCAPED = {"n": "\n", "t": "\t", "\\": "\\"}


class Piece(NamedTuple):
    """Text as it stands, and the field that follows it; None after the last field."""

    literal: str
    field: str | None


@lru_cache(maxsize=64)
def parse_template(template: str) -> tuple[Piece, ...]:
    """Return the template's pieces in order.

    Raises:
        TaskError: unbalanced braces, no field at all, or more in braces than a field's name.
    """
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as problem:
        raise TaskError(
            f"the template's braces do not match ({problem}). Write {{field}} for a field, "
            f"{{{{ and }}}} for braces: {shown(template)}"
        ) from None
    pieces = []
    for literal, field, spec, conversion in parsed:
        if field is not None:
            _check_field(field, spec, conversion)
        pieces.append(Piece(literal, field))
    if all(piece.field is None for piece in pieces):
        raise TaskError(
            f"the template has no field, so every row would read the same: {shown(template)}. "
            "Write {text} where the field 'text' belongs"
        )
    return tuple(pieces)


def unescape(text: str) -> str:
    r"""Return the text with `\n`, `\t` and `\\` turned into newline, tab and backslash.

    For texts from a command line, where a newline is hard to type. Any other backslash stays.
    """
    return _ESCAPE.sub(lambda match: _ESCAPED[match[1]], text)


def _check_field(field: str, spec: str | None, conversion: str | None) -> None:
    if not field.strip():
        raise TaskError("the template has {} without a name: write the field's name in the braces")
    if spec or conversion:
        raise TaskError(
            f"the template may not format a field ({shown(field)} has ':' or '!'): write the "
            "field's name alone, and change the data instead"
        )
    if "." in field or "[" in field:
        raise TaskError(
            f"the template may not reach into a field ({shown(field)}): make what it needs a "
            "field of its own"
        )
