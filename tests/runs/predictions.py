"""Runs over a planted concept whose labels new rows are given, and what is predicted from them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
from planted_reviews import TASK, _of, reviews

from icm_client import Labels, Task, label
from icm_client.data import LabelledRow
from icm_client.endpoints import Endpoint
from icm_client.runs.predict_file import Predicted, predict_file
from icm_client.runs.predictor import Predictor
from icm_client.scoring import open_store
from icm_client.testing import PlantedConcept

RUN = 48
"""Rows that are searched."""

NEW = 40
"""Rows that come later."""

Row = dict[str, Any]


def concept(task: Task = TASK, **formula: Any) -> PlantedConcept:
    """It knows the rows of the run, and the new ones."""
    return PlantedConcept(*_of(RUN + NEW, task), **{"strength": 4.0, "meaning": 1.5, **formula})


def new_rows(task: Task = TASK) -> list[Row]:
    """New rows, with gold labels in the field `label`, and ids of their own."""
    return [{"id": f"n{n}", **row} for n, row in enumerate(reviews(RUN + NEW, task)[RUN:])]


async def run_in(
    folder: Path,
    endpoint: Endpoint | str | None = None,
    *,
    rows: Sequence[Row] | None = None,
    task: Task = TASK,
    **options: Any,
) -> Labels:
    """A run with a record, by default over the first `RUN` rows."""
    return await label(
        reviews(RUN, task) if rows is None else rows,
        task=task,
        endpoint=concept(task) if endpoint is None else endpoint,
        gold="label",
        store=folder / "store",
        runs=folder / "runs",
        **options,
    )


async def labelled(
    predictor: Predictor, rows: Sequence[Row], endpoint: Endpoint, store: Path, **options: Any
) -> list[LabelledRow]:
    """What a predictor says of rows whose gold is in `label`."""
    found = predictor.label(rows, endpoint=endpoint, store=store, gold="label", **options)
    return [row async for row in found]


def write(path: Path, rows: Sequence[Row]) -> Path:
    """Write rows as JSON Lines."""
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return path


async def predicted(
    folder: Path,
    rows: Path,
    endpoint: Endpoint | str,
    *,
    run: Path | None = None,
    output: str = "out.jsonl",
    store: str = "store",
    **options: Any,
) -> Predicted:
    """Label a file from the run in the folder, as the command does."""
    (only,) = [run] if run is not None else (folder / "runs").iterdir()
    with open_store(folder / store) as kept:
        return await predict_file(
            Predictor.load(only),
            rows,
            folder / output,
            endpoint=endpoint,
            store=kept,
            gold="label",
            **options,
        )
