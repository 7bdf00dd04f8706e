"""Finished runs of both kinds of task, found by the search on planted concepts."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import orjson

from icm_client import SweepSettings, Task, label
from icm_client.data import rows_from
from icm_client.data.items import items_of, render_items
from icm_client.record.archive import Run, list_runs, read_run
from icm_client.testing import PlantedConcept

REVIEWS = Task(template="Review: {text}\nSentiment:", labels=("positive", "negative"))
PAIRS = Task(
    template="Prompt: {prompt}\nA: {one}\nB: {two}\nClaim: A is better.\nI think this claim is",
    labels=("True", "False"),
    exchange=("one", "two"),
)
SETTINGS = SweepSettings(
    initial=4, demos=4, second_demos=4, min_sweeps=2, max_sweeps=3, restarts=1, clear=1.1
)  # none are: confidence is not 1


def review_rows() -> list[dict[str, Any]]:
    """With a name that the export has a column of, a text that CSV must quote, and gold."""
    return [
        {
            "id": f"r{n}",
            "text": f'words "of", row {n}\nand more',
            "label": f"shelf {n}",
            "stars": n % 5,
            "gold": REVIEWS.labels[n * 7 % 5 % 2],
        }
        for n in range(16)
    ]


def pair_rows() -> list[dict[str, Any]]:
    """The better answer is the first one in every other row; one row compares nothing."""
    rows = [
        {
            "prompt": f"question {n}?",
            "one": f"good answer {n}" if n % 2 == 0 else f"bad answer {n}",
            "two": f"bad answer {n}" if n % 2 == 0 else f"good answer {n}",
        }
        for n in range(12)
    ]
    return [*rows, {"prompt": "question 12?", "one": "same", "two": "same"}]


def reviews_run(folder: Path) -> Run:
    rows = review_rows()
    classes = [REVIEWS.labels.index(row["gold"]) for row in rows]
    prompts = REVIEWS.render_all(rows_from(rows, gold="gold"))
    concept = PlantedConcept(
        dict(zip(prompts, classes, strict=True)),
        REVIEWS.label_texts,
        strength=1.5,
        meaning=0.8,
        noise=0.6,
    )
    return _found(folder, rows, REVIEWS, concept, gold="gold")


def pairs_run(folder: Path) -> Run:
    rows = pair_rows()
    data = rows_from(rows)
    items = items_of(PAIRS, data)
    planted = {}
    for item, prompt in zip(items, render_items(PAIRS, data, items), strict=True):
        first_is_better = rows[item.row]["one"].startswith("good")
        planted[prompt] = int(first_is_better == item.exchanged)
    return _found(folder, rows, PAIRS, PlantedConcept(planted, PAIRS.label_texts))


def _found(
    folder: Path,
    rows: list[dict[str, Any]],
    task: Task,
    concept: PlantedConcept,
    gold: str | None = None,
) -> Run:
    work = partial(
        label,
        rows,
        task=task,
        endpoint=concept,
        gold=gold,
        settings=SETTINGS,
        store=folder / "store",
        runs=folder / "runs",
    )
    anyio.run(work)
    (run,) = list_runs(folder / "runs").runs
    return run


def with_result(run: Run, change: Callable[[dict[str, Any]], None]) -> Run:
    """The run, after its summary has been changed."""
    path = run.path / "result.json"
    result = orjson.loads(path.read_bytes())
    change(result)
    path.write_bytes(orjson.dumps(result))
    return read_run(run.name, run.path.parent)
