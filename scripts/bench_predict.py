"""What `predict` reaches and costs: `scripts/bench predict --data FOLDER`, and `--rows N`.

With --data: a run on some rows, then new rows of the same kind in frozen contexts, beside
the same contexts with gold labels, and a run on the new rows themselves. With --rows: planted
rows over HTTP, the server and the client in processes of their own.
"""

import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

try:
    import icm_client.cli.main
except ModuleNotFoundError as missing:
    sys.stderr.write(
        f"Error: icm-client is not installed for {sys.executable} (no module {missing.name}). Run: "
        "pip install -e '.[dev]'\n"
    )
    sys.exit(2)

import anyio
import click
import numpy as np
import orjson
from bench_quality import EXAMPLES, REVIEWS, best_accuracy, reviews
from rich.console import Console
from rich.table import Table

import icm_client
from icm_client import EmbeddedEndpoint, LabelledRow, Task
from icm_client.data.job import Job
from icm_client.endpoints import Endpoint
from icm_client.runs.predict_file import predict_file
from icm_client.runs.predictor import Predictor
from icm_client.scoring import ScoreStore, open_store
from icm_client.testing import PlantedConcept, PlantedServer

CONTEXTS = (1, 2, 3, 5)
BYTES_A_UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
PLANTED_TASK = Task(template="Review: {text}\nSentiment:", labels=("positive", "negative"))
PLANTED_RUN = 256
THREE = Task(template="Text: {text}\nKind:", labels=("red", "green", "blue"))
CLASSES = ("red",) * 5 + ("green",) * 3 + ("blue",) * 2  # at these shares
PLANTED_NOISE = 2.0
WORDS = 20
MOST_MB, MOST_MS = 500.0, 0.25

Raw = dict[str, Any]


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--tickets", type=click.Path(path_type=Path, exists=True))
@click.option("--sample", "samples", multiple=True, default=tuple(REVIEWS), show_default=True)
@click.option("--seeds", default="0,1,2,3,4", show_default=True)
@click.option("--run-rows", default=128, show_default=True, type=click.IntRange(16))
@click.option("--new-rows", default=200, show_default=True, type=click.IntRange(8))
@click.option("--contexts", default=",".join(map(str, CONTEXTS)), show_default=True)
@click.option(
    "--beside/--no-beside", default=True, help="Label the new rows by a run of their own."
)
@click.option("--store", type=click.Path(path_type=Path), help="[default: a temporary file]")
@click.option("--rows", help="Planted rows over HTTP instead: 10000,1000000.")
@click.option("--labels", default=0, help="With --rows: label so many with `label` too.")
def predict(
    *,
    data: Path | None,
    tickets: Path | None,
    samples: tuple[str, ...],
    seeds: str,
    run_rows: int,
    new_rows: int,
    contexts: str,
    beside: bool,
    store: Path | None,
    rows: str | None,
    labels: int,
) -> None:
    """Accuracy and tokens of new rows by the number of contexts; or memory and CPU of many."""
    if rows is not None:
        _many([int(count) for count in rows.split(",")], labels)
        return
    if data is None:
        raise click.UsageError("--data FOLDER, or --rows N")
    with tempfile.TemporaryDirectory() as folder:
        kept = store or Path(folder) / "scores.sqlite3"
        for sample in samples:
            anyio.run(
                partial(
                    _sample,
                    data=data,
                    tickets=tickets,
                    sample=sample,
                    seeds=[int(seed) for seed in seeds.split(",")],
                    run_rows=run_rows,
                    new_rows=new_rows,
                    contexts=[int(number) for number in contexts.split(",")],
                    beside=beside,
                    store=kept,
                )
            )


async def _sample(
    *,
    data: Path,
    tickets: Path | None,
    sample: str,
    seeds: list[int],
    run_rows: int,
    new_rows: int,
    contexts: list[int],
    beside: bool,
    store: Path,
) -> None:
    names = ["seed", "verdict", "run", "own run of the new rows", "best threshold"]
    names += [f"{m} context{'s' * (m > 1)}" for m in contexts]
    names += ["golden demos, 1", "tokens a row", "confidence, 1", "findings"]
    table = Table(title=f"{sample}: {run_rows} rows searched, {new_rows} new ones, accuracy")
    for name in names:
        table.add_column(name)
    columns: dict[str, list[float]] = {name: [] for name in names}

    def put(name: str, value: float) -> str:
        columns[name].append(value)
        return f"{value:.1%}" if name != "tokens a row" else f"{value:.1f}"

    for seed in seeds:
        own, new, task, gold = _rows(data, tickets, sample, run_rows, new_rows, seed)
        async with _server(sample, task, [*own, *new]) as server:
            with open_store(store) as kept:
                found = await icm_client.label(
                    own, task=task, endpoint=server, seed=seed, store=kept, gold=gold
                )
                cells = [str(seed), found.verdict, put("run", found.accuracy or 0.0)]
                if beside:
                    again = await icm_client.label(
                        new, task=task, endpoint=server, seed=seed, store=kept, gold=gold
                    )
                    cells.append(put(names[3], again.accuracy or 0.0))
                else:
                    cells.append("-")
                predictor = Predictor.of(found)
                shown: dict[int, str] = {}
                for m in contexts:
                    done = await _predicted(predictor, new, gold, server, kept, m=m)
                    shown[m] = put(f"{m} context{'s' * (m > 1)}", _right(done))
                    if m == contexts[0]:
                        cells.append(put("best threshold", _best(done, task)))
                        first, tokens, findings = done, done.tokens, done.findings
                cells += shown.values()
                golden = Predictor(
                    replace(
                        predictor.found,
                        rows=[
                            replace(row, label=str(known))
                            for row, known in zip(found.rows, found.dataset.gold or (), strict=True)
                        ],
                    )
                )
                done = await _predicted(golden, new, gold, server, kept, m=1)
                cells.append(put("golden demos, 1", _right(done)))
                cells.append(put("tokens a row", tokens / len(new)))
                sure = [row.confidence for row in first.rows if row.confidence is not None]
                cells.append(put("confidence, 1", statistics.mean(sure)) if sure else "-")
                cells.append(", ".join(findings) or "-")
        table.add_row(*cells)
    table.add_section()
    table.add_row(
        "mean",
        "",
        *(
            ("-" if not columns[name] else f"{statistics.mean(columns[name]):.1%}")
            if name != "tokens a row"
            else f"{statistics.mean(columns[name]):.1f}"
            for name in names[2:-1]
        ),
    )
    Console(width=240).print(table)


class _Done:
    """New rows, predicted."""

    def __init__(self, rows: list[LabelledRow], gold: list[str | None]) -> None:
        self.rows, self.gold = rows, gold
        self.tokens = 0
        self.findings: tuple[str, ...] = ()


async def _predicted(
    predictor: Predictor, new: list[Raw], gold: str, server: Endpoint, store: ScoreStore, *, m: int
) -> _Done:
    prediction = await predictor.begin(server, store, contexts=m, gold=gold)
    before = server.usage.computed_tokens
    done = _Done([], [])
    async for batch in prediction.batches(new):
        done.rows += batch.rows
        done.gold += batch.gold or ()
    done.tokens = server.usage.computed_tokens - before
    done.findings = tuple(one.code for one in prediction.findings)
    return done


def _right(done: _Done) -> float:
    pairs = zip(done.rows, done.gold, strict=True)
    return statistics.mean(float(row.label == known) for row, known in pairs)


def _best(done: _Done, task: Task) -> float:
    if len(task.labels) > 2:  # noqa: PLR2004
        return _right(done)
    one, other = task.labels
    log_odds = np.array([row.log_probs[one] - row.log_probs[other] for row in done.rows])
    return best_accuracy(log_odds, np.array(done.gold) == one)


def _rows(  # noqa: PLR0917
    data: Path, tickets: Path | None, sample: str, run_rows: int, new_rows: int, seed: int
) -> tuple[list[Raw], list[Raw], Task, str]:
    """Rows of a run (those of `bench quality`), new ones, their task, and the field with gold."""
    if sample == "planted":
        classes = random.Random(seed).choices(CLASSES, k=2 * (run_rows + new_rows))  # noqa: S311
        pool = [{"id": row, "text": _text(row), "gold": word} for row, word in enumerate(classes)]
        return *_drawn(pool, run_rows, new_rows, seed), THREE, "gold"
    if sample in REVIEWS:
        pool = reviews(data / "vader_reviews" / f"{sample}.jsonl")
        task = Task.from_toml(EXAMPLES / REVIEWS[sample] / "task.toml")
        return *_drawn(pool, run_rows, new_rows, seed), task, "label"
    folder = EXAMPLES / "support_tickets"
    job = Job.prepare(tickets or folder / "support_tickets.csv", folder / "task.toml")
    known = zip(job.dataset.rows, job.dataset.gold or (), strict=True)
    every = [dict(row.fields) | {"gold": word} for row, word in known]
    task = Task(**{**job.task.model_dump(), "gold": None})
    return *_drawn(every, run_rows, new_rows, seed), task, "gold"


@asynccontextmanager
async def _server(sample: str, task: Task, rows: list[Raw]) -> AsyncIterator[Endpoint]:
    """The embedded server, or one that knows the planted rows, of which it finds some unclear."""
    if sample != "planted":
        async with EmbeddedEndpoint() as server:
            yield server
        return
    prompts = task.render_all(icm_client.rows_from(rows, gold="gold"))
    classes = [task.labels.index(row["gold"]) for row in rows]
    planted = dict(zip(prompts, classes, strict=True))
    yield PlantedConcept(planted, task.label_texts, noise=PLANTED_NOISE)


def _drawn(pool: list[Raw], first: int, then: int, seed: int) -> tuple[list[Raw], list[Raw]]:
    own = random.Random(seed).sample(pool, min(first, len(pool) // 2))  # noqa: S311 - repeatable
    taken = {id(row) for row in own}
    rest = [row for row in pool if id(row) not in taken]
    return own, random.Random(f"new {seed}").sample(rest, min(then, len(rest)))  # noqa: S311


def _many(counts: list[int], labels: int) -> None:
    """Peak memory and CPU of planted rows over HTTP, in processes of their own."""
    table = Table(title="Planted rows over HTTP, the client's process alone")
    for column in ("", "rows", "peak memory", "CPU, ms a row", "seconds", "reads", "accuracy"):
        table.add_column(column)
    took: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        most = max(*counts, labels) + PLANTED_RUN
        with subprocess.Popen(
            [sys.executable, __file__, "serve", str(most)], stdout=subprocess.PIPE, text=True
        ) as server:
            try:
                assert server.stdout is not None  # noqa: S101 - for the type checker
                url = server.stdout.readline().strip()
                for kind, count in [
                    *(("predict", count) for count in counts),
                    *([("label", labels)] if labels else []),
                ]:
                    done = subprocess.run(
                        [sys.executable, __file__, kind, url, str(count), folder],
                        stdout=subprocess.PIPE,
                        check=True,
                    )
                    one = orjson.loads(done.stdout)
                    took += [one] if kind == "predict" else []
                    table.add_row(
                        kind,
                        f"{count:,}",
                        f"{one['peak_mb']:,.0f} MB",
                        f"{one['cpu_s'] / count * 1000:.3f}",
                        f"{one['seconds']:,.1f}",
                        f"{one['reads']:,}",
                        f"{one['accuracy']:.1%}",
                    )
            finally:
                server.terminate()
    Console(width=120).print(table)
    last = took[-1]
    if last["peak_mb"] > MOST_MB or last["cpu_s"] / counts[-1] * 1000 > MOST_MS:
        raise click.ClickException(f"more than {MOST_MB:g} MB, or {MOST_MS:g} ms of CPU a row")


def _text(row: int) -> str:
    words = " ".join(f"w{(row * 31 + place * 17) % 997}" for place in range(WORDS))
    return f"words of row {row} {words}"


def _class(row: int) -> int:
    return row * 7 % 5 % 2


def _planted(first: int, count: int) -> Iterator[Raw]:
    for row in range(first, first + count):
        yield {"id": row, "text": _text(row), "gold": PLANTED_TASK.labels[_class(row)]}


class _Forgetful(list[Any]):
    """What the server received, forgotten: a million requests would not fit."""

    def append(self, _: object) -> None:
        """Do nothing."""


async def _serve(count: int) -> None:
    start, end = PLANTED_TASK.template.split("{text}")
    planted = {f"{start}{_text(row)}{end}": _class(row) for row in range(count)}
    async with PlantedServer(PlantedConcept(planted, PLANTED_TASK.label_texts)) as server:
        server.received = _Forgetful()
        sys.stdout.write(f"{server.url}\n")
        sys.stdout.flush()
        await anyio.sleep_forever()


def _written(path: Path, first: int, count: int) -> Path:
    with path.open("wb") as file:
        for row in _planted(first, count):
            file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
    return path


async def _predict_many(url: str, count: int, folder: Path) -> dict[str, Any]:
    new = _written(folder / f"{count}.jsonl", PLANTED_RUN, count)
    with open_store(folder / f"{count}.sqlite3") as store:
        found = await icm_client.label(
            list(_planted(0, PLANTED_RUN)),
            task=PLANTED_TASK,
            endpoint=url,
            store=store,
            gold="gold",
        )
        cpu, began = time.process_time(), time.perf_counter()
        done = await predict_file(
            Predictor.of(found),
            new,
            folder / f"{count}.labels.jsonl",
            endpoint=url,
            store=store,
            gold="gold",
        )
        return {
            "cpu_s": time.process_time() - cpu,
            "seconds": time.perf_counter() - began,
            "reads": done.cost.from_server,
            "accuracy": done.accuracy,
        }


async def _label_many(url: str, count: int, folder: Path) -> dict[str, Any]:
    rows = _written(folder / f"label{count}.jsonl", 0, count)
    cpu, began = time.process_time(), time.perf_counter()
    found = await icm_client.label(
        rows,
        task=PLANTED_TASK,
        endpoint=url,
        store=folder / "label.sqlite3",
        gold="gold",
        runs=folder / "runs",
    )
    return {
        "cpu_s": time.process_time() - cpu,
        "seconds": time.perf_counter() - began,
        "reads": found.cost.from_server,
        "accuracy": found.accuracy,
    }


if __name__ == "__main__":  # as `_many` starts it
    if sys.argv[1] == "serve":
        anyio.run(_serve, int(sys.argv[2]))
    else:
        work = _predict_many if sys.argv[1] == "predict" else _label_many
        figures = anyio.run(work, sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
        figures["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * BYTES_A_UNIT / 1e6
        sys.stdout.buffer.write(orjson.dumps(figures))
