"""JSON in and out with every digit of a whole number.

orjson reads a whole number past 64 bits as a float and refuses to write one. Where a text may hold
one, or a value does, the standard library does the work: exact, and slower.
"""

import json
import re
from typing import Any

import orjson

# 2**63 has 19 digits: a number of fewer is a 64-bit one for certain.
_MAYBE_TOO_LONG = re.compile(r"\d{19}")
_MAYBE_TOO_LONG_BYTES = re.compile(rb"\d{19}")


def read_json(text: str | bytes) -> Any:
    """Return the value; whole numbers are exact, whatever their size.

    Raises:
        orjson.JSONDecodeError: it is not JSON.
    """
    value = orjson.loads(text)
    long = (
        _MAYBE_TOO_LONG.search(text)
        if isinstance(text, str)
        else _MAYBE_TOO_LONG_BYTES.search(text)
    )
    if long is None:
        return value
    try:
        return json.loads(text)
    except RecursionError:  # nested deeper than any row may be
        return value


def write_json(value: object, option: int = 0) -> bytes:
    """Return the value as UTF-8; `option` is orjson's, of which indent, keys and newline count.

    Raises:
        orjson.JSONEncodeError: it is no JSON value.
    """
    try:
        return orjson.dumps(value, option=option)
    except orjson.JSONEncodeError as problem:
        if "64-bit" not in str(problem):
            raise
    indented = bool(option & orjson.OPT_INDENT_2)
    text = json.dumps(
        value,
        ensure_ascii=False,
        allow_nan=False,
        indent=2 if indented else None,
        separators=(",", ": ") if indented else (",", ":"),
        sort_keys=bool(option & orjson.OPT_SORT_KEYS),
    )
    return text.encode() + (b"\n" if option & orjson.OPT_APPEND_NEWLINE else b"")
