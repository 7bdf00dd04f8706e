"""Why rows have their labels, as a run's folder keeps it: why.jsonl, a line a row."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from icm_client.data.values import read_json, write_json
from icm_client.data.whole_files import locked, replace_file
from icm_client.errors import RunError
from icm_client.record.layout import WHY

_PATIENCE_S = 10.0


def read_explanations(folder: Path) -> list[dict[str, Any]]:
    """Return the fields of each `icm_client.runs.why_result.Explanation`, in the order they came.

    Raises:
        RunError: the file cannot be read, or is damaged.
    """
    path = folder / WHY
    try:
        found = [read_json(line) for line in path.read_bytes().splitlines()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}") from error
    except orjson.JSONDecodeError:
        found = [None]
    if not all(isinstance(one, dict) and {"row", "label", "demos"} <= one.keys() for one in found):
        raise RunError(f"{path}: some lines explain no row: delete the file, and ask again")
    return found


def keep_explanation(folder: Path, explanation: Mapping[str, Any]) -> None:
    """Add an explanation, in one step; it takes the place of an earlier one of the same row.

    Raises:
        RunError: the file cannot be read or written.
    """
    path = folder / WHY
    busy = RunError(f"{path}: another process is writing it: try again")
    try:
        with locked(path.with_suffix(".lock"), busy, timeout_s=_PATIENCE_S):
            kept = [one for one in read_explanations(folder) if one["row"] != explanation["row"]]
            replace_file(path, b"".join(write_json(one) + b"\n" for one in [*kept, explanation]))
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}") from error
