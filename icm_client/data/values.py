"""JSON values: what a field of a row may hold, and JSON text with every digit of a whole number.

orjson reads a whole number past 64 bits as a float and refuses to write one. Where a text may hold
one, or a value does, the standard library does the work: exact, and slower.
"""

import datetime as dt
import decimal
import json
import math
import re
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import numpy as np
import orjson

from icm_client.data.messages import shown

JsonValue: TypeAlias = "str | int | float | bool | list[JsonValue] | dict[str, JsonValue] | None"

# orjson writes at most 254 levels, and what is read must be writable beside its label.
_DEEPEST = 200
_UNWRITABLE = re.compile("[\x00\ud800-\udfff]")
# Neither JSON parser here accepts a larger number.
_MOST_BITS = 1000
# 2**63 has 19 digits: a number with fewer digits fits into 64 bits.
_MAYBE_TOO_LONG = re.compile(r"\d{19}")
_MAYBE_TOO_LONG_BYTES = re.compile(rb"\d{19}")
_NOT_JSON = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
_KINDS: Mapping[type, str] = {
    type(None): "null",
    bool: "true or false",
    str: "text",
    int: "a number",
    float: "a number",
    list: "a list",
    tuple: "a list",
    dict: "an object",
}


class Unusable(Exception):
    """Why a row's value cannot be used; code that knows the row's place makes it a `RowError`.

    A reader that can go on after such a row yields this error in the row's place.
    """


BLANK: Final = object()
"""A reader yields it for a table's empty row, which has a number but is not read as a row."""


def json_value(value: object, depth: int = 0) -> JsonValue:
    """Return the value as JSON has it: dates as ISO text, decimals as text, NumPy unwrapped.

    Raises:
        Unusable: JSON or UTF-8 cannot hold it; the reason continues `field 'x' holds`.
    """
    if type(value) is str:  # as most are, in files of many rows
        return _text(value)
    if isinstance(value, np.ndarray) and value.ndim:  # pandas' cells of lists
        value = list(value)
    if not isinstance(value, Mapping | list | tuple):
        return _scalar(value)
    if depth == _DEEPEST:
        raise Unusable(f"lists or objects nested more than {_DEEPEST} deep")
    if isinstance(value, Mapping):
        return {_key(key): json_value(item, depth + 1) for key, item in value.items()}
    return [json_value(item, depth + 1) for item in value]


def kind_of(value: object) -> str:
    """Return what JSON calls a value of this kind, with its article."""
    return _KINDS.get(type(value), f"a value of type {type(value).__name__}")


def as_written(number: np.floating[Any]) -> float:
    """Return a short float as the number of its shortest decimal form: 0.1 for 32 bits of it."""
    return float(str(number))


def _scalar(value: object) -> str | float | bool | None:
    if isinstance(value, np.float32 | np.float16):
        value = as_written(value)
    elif isinstance(value, np.number | np.bool_):
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int | float):
        return _number(value)
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal | dt.timedelta):
        return str(value)
    raise Unusable(f"{kind_of(value)}, which is not JSON: turn it into text, or leave it out")


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise Unusable(f"an object with the key {shown(key)}: keys must be text")
    return _text(key)


def _text(text: str) -> str:
    if text.isascii() and "\0" not in text:  # quicker than the search
        return str(text)
    if bad := _UNWRITABLE.search(text):
        what = (
            "a NUL character"
            if bad.group() == "\0"
            else f"half of a surrogate pair (\\u{ord(bad.group()):04x}), which UTF-8 cannot hold"
        )
        raise Unusable(f"{what}: remove it from {shown(text)}")
    return str(text)


def _number(number: float) -> int | float:
    if isinstance(number, float):
        if not math.isfinite(number):
            raise Unusable(
                f"{_NOT_JSON[str(number)]}, which is not JSON: use null where there is no value"
            )
        return float(number)
    if number.bit_length() > _MOST_BITS:
        raise Unusable("a whole number of more than 300 digits: write it as text")
    return int(number)


def read_json(text: str | bytes) -> Any:
    """Return the value; whole numbers are exact, whatever their size."""
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
    """Return the value as UTF-8; of orjson's `option`s those for indent, keys and newline count."""
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
