"""The score store at size: `python scripts/bench_store.py` prints what is promised of it.

Reads are as a run makes them: prompts of 600 ids, two labels.
"""

import sqlite3
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

try:
    import icm_client.cli.main  # noqa: F401 - nothing works without the package
except ModuleNotFoundError as missing:
    sys.stderr.write(
        f"Error: icm-client is not installed for {sys.executable} (no module {missing.name}). Run: "
        "pip install -e '.[dev]'\n"
    )
    sys.exit(2)

import anyio
import click
import numpy as np
from rich.console import Console
from rich.table import Table

from icm_client import Task, label, rows_from
from icm_client.endpoints import Answer, Exactness, Read
from icm_client.record.journal import Journal
from icm_client.scoring import ScoreStore
from icm_client.scoring.store_upkeep import check, describe
from icm_client.testing import PlantedConcept

OPEN_S = 1.0
LOOK_UP_S = 50e-6
REPLAY_S = 10.0
RUN_ROWS = 2560
BATCH = 256
PROMPT_IDS = 600
FINGERPRINT = "0123456789abcdef" * 2


@dataclass(frozen=True, slots=True)
class Figure:
    """A measurement: `unit` follows `value`; `limit` is what is promised, None for nothing."""

    name: str
    value: float
    unit: str
    limit: float | None = None


@click.command()
@click.option("--scores", default=1_000_000, show_default=True, type=click.IntRange(10_000))
@click.option("--store", type=click.Path(path_type=Path), help="[default: a temporary file]")
def store(scores: int, store: Path | None) -> None:
    """Open, look-up, writing and checking of a store with that many scores."""
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(scores, store or Path(folder) / "scores.sqlite3", Path(folder))
    table = Table(title=f"the score store with {scores:,} scores")
    for column in ("", "measured", "promised"):
        table.add_column(column)
    for figure in figures:
        limit = "" if figure.limit is None else f"under {figure.limit:g} {figure.unit}"
        table.add_row(figure.name, f"{figure.value:,.3g} {figure.unit}", limit)
    Console(width=100).print(table)
    if any(figure.limit is not None and figure.value >= figure.limit for figure in figures):
        raise click.ClickException("slower than promised")


def measure(scores: int, path: Path, folder: Path) -> list[Figure]:
    """Fill the store at `path`, which may be full already, and time what runs do with it."""
    figures = [Figure("filling it, a score", fill(path, scores) / scores * 1e6, "us")]
    started = time.perf_counter()
    ScoreStore.open(path).close()
    figures.append(Figure("opening it", time.perf_counter() - started, "s", OPEN_S))
    rng = np.random.default_rng(1)
    for name, first in (("there", 0), ("not there", scores)):
        numbers = (first + rng.integers(scores, size=100 * BATCH)).tolist()
        batches = [
            [read(n) for n in numbers[start : start + BATCH]]
            for start in range(0, len(numbers), BATCH)
        ]
        with ScoreStore.open(path) as kept:
            seconds = look_up_s(kept, batches)
            sample = kept.get_many(FINGERPRINT, batches[0])
        if (name == "there") != all(answer is not None for answer in sample):
            raise RuntimeError(f"{name}: the store does not hold what it should")
        limit = LOOK_UP_S * 1e6
        figures.append(
            Figure(f"looking one up that is {name}", seconds / len(numbers) * 1e6, "us", limit)
        )
    started = time.perf_counter()
    info = describe(path)
    figures.append(Figure("store info", time.perf_counter() - started, "s"))
    started = time.perf_counter()
    checked = check(path)
    figures.append(Figure("store check", time.perf_counter() - started, "s"))
    if not checked.whole or info.scores < scores:
        raise RuntimeError("the store is not whole")
    figures.append(Figure("bytes a score", info.bytes / info.scores, "B"))
    figures.append(Figure("a journal's line", journal_s(folder / "journal.jsonl") * 1e6, "us"))
    name = f"replaying a run of {RUN_ROWS:,} rows"
    figures.append(Figure(name, replay_s(folder / "run.sqlite3"), "s", REPLAY_S))
    return figures


def read(number: int) -> Read:
    """A read of its own, as long as a run's."""
    return Read((*range(PROMPT_IDS - 1), number), (5676, 4414))


def fill(path: Path, scores: int) -> float:
    """Store `scores` answers in groups of 16, as runs do; seconds, 0.0 where they are there."""
    with ScoreStore.open(path) as kept:
        if sqlite3.connect(path).execute("SELECT count(*) FROM scores").fetchone()[0] >= scores:
            return 0.0
        answer = Answer((-0.25, -1.5), Exactness.EXACT)
        started = time.perf_counter()
        for start in range(0, scores, 16):
            some = [read(n) for n in range(start, min(start + 16, scores))]
            kept.put_many(FINGERPRINT, some, [answer] * len(some))
        return time.perf_counter() - started


def look_up_s(kept: ScoreStore, batches: Sequence[list[Read]]) -> float:
    """Seconds that all batches take."""
    started = time.perf_counter()
    for batch in batches:
        kept.get_many(FINGERPRINT, batch)
    return time.perf_counter() - started


def journal_s(path: Path, lines: int = 20_000) -> float:
    """Seconds that one line of a step takes."""
    with Journal.open(path) as journal:
        started = time.perf_counter()
        for n in range(lines):
            journal.append("step", n=n, T=1.0 / (n + 1), item=n % 64, U=-0.1 * n, accepted=True)
        return (time.perf_counter() - started) / lines


def replay_s(path: Path) -> float:
    """Seconds that a whole run takes whose every answer is in the store."""
    task = Task(template="Review: {text}\nSentiment:", labels=("positive", "negative"))
    rows = rows_from(f"words of row {n}" for n in range(RUN_ROWS))
    planted = {prompt: n * 7 % 5 % 2 for n, prompt in enumerate(task.render_all(rows))}
    runs = []
    for _ in range(2):
        endpoint = PlantedConcept(planted, task.label_texts, strength=3.0)
        runs.append(anyio.run(partial(label, rows, task=task, endpoint=endpoint, store=path)))
    if runs[1].cost.from_server or runs[1].rows != runs[0].rows:
        raise RuntimeError("the replay is another run")
    return runs[1].cost.seconds


if __name__ == "__main__":
    store()
