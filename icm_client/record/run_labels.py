"""The labels that a run found, and those after each sweep, as its folder keeps them.

Those after a sweep are for looking at, not for searching. The journal has them as one word: the
rows' labels, numbered as in the event's `counts`, -1 where a row has none, as little-endian 16-bit
integers, deflated, in base64. 100,000 rows take 26 kB with two labels, 52 kB with five. A pair's
other order is left out: its label follows from the row's.
"""

import base64
import binascii
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from icm_client.coherence.problem import IntArray
from icm_client.data import Dataset, LabelledRow, Row, Task
from icm_client.data.messages import shown
from icm_client.data.outputs import columns_before_fields
from icm_client.data.values import read_json
from icm_client.errors import InputError, RunError
from icm_client.record.archive import runs_command
from icm_client.record.journal import PASS, SWEEP, read
from icm_client.record.layout import LABELS, RECORD, RESULT


@dataclass(frozen=True, slots=True)
class RunLabels:
    """The labels that a run found.

    Attributes:
        name: of the run.
        task: as the run was given it.
        dataset: the rows that have a label, without label and gold.
        labels: the rows' label words, aligned with `dataset.rows`.
        records: the lines of labels.jsonl, aligned with them.
        result: the run's summary; empty where it cannot be read.
        cuts: whether the run has cut rows that were too long.
    """

    name: str
    task: Task
    dataset: Dataset
    labels: tuple[str, ...]
    records: tuple[Mapping[str, Any], ...]
    result: Mapping[str, Any]
    cuts: bool = False

    @property
    def gold_column(self) -> str | None:
        """The column of labels.jsonl that holds gold, its last; None where no row has any."""
        return [*self.records[0]][-1] if self.result.get("rows_with_gold") else None

    @property
    def labelled(self) -> tuple[LabelledRow, ...]:
        """The rows with labels, confidence and log-probs, as the run returned them; no gold."""
        gold = (self.result.get("gold_field"), self.gold_column)
        return tuple(
            LabelledRow(
                replace(
                    row, fields={name: row.fields[name] for name in row.fields if name not in gold}
                ),
                label,
                record["confidence"],
                {word: float(record[f"log_prob_{word}"]) for word in self.task.labels},
                str(record["exactness"]),
                pinned=record.get("pinned") is True,
                cut_tokens=record["cut_tokens"] if self.cuts else None,
            )
            for row, label, record in zip(self.dataset.rows, self.labels, self.records, strict=True)
        )

    def only(self, numbers: Sequence[int]) -> "RunLabels":
        """Return some of the rows, by their numbers from 0."""
        rows = tuple(self.dataset.rows[n] for n in numbers)
        return replace(
            self,
            dataset=replace(self.dataset, rows=rows),
            labels=tuple(self.labels[n] for n in numbers),
            records=tuple(self.records[n] for n in numbers),
        )


def read_labels(folder: Path) -> RunLabels:
    """Read a finished run's labels from its folder.

    Raises:
        InputError: it is no run's folder, or the run has no labels yet.
        RunError: a file is damaged.
    """
    if not (folder / RECORD).is_file():
        raise InputError(
            f"{folder} is no run's folder: it has no run.json. List all runs: "
            f"{runs_command('list', base=folder.parent)}"
        )
    if not (folder / LABELS).is_file():
        raise InputError(
            f"{folder}: this run has no labels yet. Continue it: "
            f"{runs_command('resume', folder.name, base=folder.parent)}"
        )
    try:
        described = orjson.loads((folder / RECORD).read_bytes())
        task = Task.model_validate(described["task"])
        cuts = bool(described["settings"].get("truncate"))
        lines = (folder / LABELS).read_bytes().splitlines()
        records = tuple(read_json(line) for line in lines)
        labels = tuple(str(record["label"]) for record in records)
        rows = tuple(
            Row(record["id"], _fields(record, task, cuts=cuts), number, number)
            for number, record in enumerate(records, start=1)
        )
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise RunError(f"{folder}: labels or task cannot be read ({error!r})") from error
    if unknown := sorted(set(labels) - set(task.labels)):
        raise RunError(f"{folder}: {shown(unknown[0])} is not one of the task's labels")
    dataset = Dataset(str(folder / LABELS), rows, None, None, ())
    return RunLabels(folder.name, task, dataset, labels, records, _summary(folder), cuts)


def _fields(record: Mapping[str, Any], task: Task, *, cuts: bool) -> dict[str, Any]:
    """Return the row's own fields; one that has the name of our column is called `row_<name>`."""
    ours = {*columns_before_fields(task.labels)} - {"id"}
    if "row_pinned" in record:  # there are pins, and rows with a field of that name
        ours.add("pinned")
    if cuts:
        ours.add("cut_tokens")
    fields = {name: value for name, value in record.items() if name not in ours}
    for name in ours & {*task.template_fields}:
        longer = [other for other in record if other.endswith(name) and other != name]
        renamed = [other for other in longer if set(other[: -len(name)].split("row_")) == {""}]
        if renamed:
            fields[name] = record[max(renamed, key=len)]
    return fields


def _summary(folder: Path) -> Mapping[str, Any]:
    try:
        found = orjson.loads((folder / RESULT).read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


_NUMBERS = "<i2"
_SAME = ("utility", "coherence", "moved")
"""A sweep's event and the run's result agree in these, or belong to different searches."""


def packed(labels: IntArray) -> str:
    """Return a sweep's labels as one word."""
    return base64.b64encode(zlib.compress(labels.astype(_NUMBERS).tobytes())).decode()


def unpacked(word: str) -> IntArray:
    """Return the labels that `packed` was given, or raise `ValueError`."""
    try:
        content = zlib.decompress(base64.b64decode(word, validate=True))
        return np.frombuffer(content, _NUMBERS).astype(np.int64)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"no packed labels: {error}") from error


def labels_by_sweep(
    journal: Path, sweeps: Sequence[Mapping[str, Any]], words: Sequence[str]
) -> list[IntArray | None]:
    """Return the labels after each of a result's sweeps, or None where they are unknown.

    A search that started again recorded some sweeps twice, and an older version recorded no
    labels: they are known where the journal's last event of a sweep agrees with the result.

    Args:
        journal: of the run.
        sweeps: as the run's result lists them; those with `trained_on` are passes.
        words: the labels that the numbers returned are to stand for.

    Returns:
        For each sweep all rows of the data, as numbers in `words`, -1 where a row has no label.
    """
    last: dict[object, Mapping[str, Any]] = {}
    for event in read(journal):
        if event["event"] in (SWEEP, PASS):
            last[event["event"], event.get("restart"), event.get("sweep")] = event
    found: list[IntArray | None] = []
    for sweep in sweeps:
        kind = PASS if "trained_on" in sweep else SWEEP
        recorded = last.get((kind, sweep["restart"], sweep["sweep"]), {})
        same = all(recorded.get(name) == sweep.get(name) for name in _SAME)
        found.append(_labels(recorded, words, journal) if same and "labels" in recorded else None)
    return found


def _labels(event: Mapping[str, Any], words: Sequence[str], journal: Path) -> IntArray:
    try:
        numbers = np.array([words.index(word) for word in event["counts"]] + [-1])
        return numbers[unpacked(event["labels"])]  # -1 is the last
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise RunError(
            f"{journal}: the labels of a sweep cannot be read ({error}): the file was damaged"
        ) from None
