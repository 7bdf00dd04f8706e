"""A run of 100,000 rows: `python scripts/bench_memory.py` prints what memory and time it takes.

The run is a process of its own; the planted concept that answers it is a part of it, and so are
its rows. Rows are of about 46 tokens, so that 64 demos make contexts of about 3,200.
"""

import resource
import subprocess
import sys
import tempfile
import time
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
import orjson
from rich.console import Console
from rich.table import Table

from icm_client import Task, label, rows_from
from icm_client.testing import PlantedConcept

PEAK_MB = 1000.0
WORDS = 40
BYTES_A_UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss


@dataclass(frozen=True, slots=True)
class Took:
    """What a run took.

    Attributes:
        seconds: wall clock, from rows in memory to labels.
        peak_mb: the process's largest resident size until then, in MB.
        asked: rows' reads that the endpoint answered; the others came from the store.
        sweeps: of the search.
    """

    seconds: float
    peak_mb: float
    asked: int
    sweeps: int


@click.command()
@click.option("--rows", default=100_000, show_default=True, type=click.IntRange(1000))
@click.option("--store", type=click.Path(path_type=Path), help="[default: a temporary file]")
def memory(rows: int, store: Path | None) -> None:
    """Peak memory of a run, and of the same run again from its store."""
    with tempfile.TemporaryDirectory() as folder:
        path = store or Path(folder) / "scores.sqlite3"
        runs = [_in_a_process(rows, path) for _ in range(2)]
    table = Table(title=f"the fast preset on {rows:,} rows")
    for column in ("", "peak memory", "seconds", "reads asked", "sweeps"):
        table.add_column(column)
    for name, took in zip(("asked", "from the store"), runs, strict=True):
        table.add_row(
            name,
            f"{took.peak_mb:,.0f} MB",
            f"{took.seconds:,.1f}",
            f"{took.asked:,}",
            str(took.sweeps),
        )
    Console(width=100).print(table)
    if runs[1].asked:
        raise click.ClickException("the run from the store asked again")
    if max(took.peak_mb for took in runs) >= PEAK_MB:
        raise click.ClickException(f"more than the {PEAK_MB:,.0f} MB that are promised")


def _in_a_process(rows: int, store: Path) -> Took:
    done = subprocess.run(
        [sys.executable, __file__, "measure", str(rows), str(store)],
        stdout=subprocess.PIPE,
        check=True,
    )
    return Took(**orjson.loads(done.stdout))


def measure(rows: int, store: Path) -> Took:
    """Label so many rows in this process."""
    task = Task(template="Review: {text}\nSentiment:", labels=("positive", "negative"))
    data = rows_from(map(_text, range(rows)))
    planted = {prompt: n * 7 % 5 % 2 for n, prompt in enumerate(task.render_all(data))}
    endpoint = PlantedConcept(planted, task.label_texts, strength=3.0)
    started = time.perf_counter()
    runs = store.parent / "runs"  # with its record and report, as on the command line
    found = anyio.run(partial(label, data, task=task, endpoint=endpoint, store=store, runs=runs))
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * BYTES_A_UNIT
    return Took(seconds, peak / 1e6, found.cost.from_server, len(found.history))


def _text(row: int) -> str:
    words = " ".join(f"w{(row * 31 + place * 17) % 997}" for place in range(WORDS))
    return f"words of row {row} {words}"


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:  # as `_in_a_process` starts it
        sys.stdout.buffer.write(orjson.dumps(measure(int(sys.argv[2]), Path(sys.argv[3]))))
    else:
        memory()
