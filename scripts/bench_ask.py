"""What it is worth which rows a person is asked about: `scripts/bench ask`.

Rows are labelled, some of them are chosen, and the rows are labelled again with gold labels pinned
on those. Chosen are the rows of `icm-client ask`, random ones, and those of the smallest margin.
Beside the accuracy of all rows stands that of the rows that none of the three has asked about.

Planted rows have no meaning that a model could carry from one row to another that reads alike, so
they show nothing of that part of the choice. With --data the rows are reviews, labelled by the real
embedded server.
"""

import random
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

import anyio
import click
import numpy as np
from bench_quality import REVIEWS, drawn

from icm_client import EmbeddedEndpoint, Labels, Task, label
from icm_client.coherence import asking
from icm_client.coherence.calibration import margin
from icm_client.data.job import Job
from icm_client.endpoints import Endpoint
from icm_client.record.archive import read_folder
from icm_client.runs.ask import choose_rows
from icm_client.testing import PlantedConcept

WORDS = ("left", "right", "upper")


class Planted(NamedTuple):
    """What is planted: how common each class is, what the label words say, and the bias, nats."""

    shares: tuple[float, ...]
    meaning: float = 1.0
    bias: float = 0.0


SETTINGS: Mapping[str, Planted] = {
    "two labels": Planted((0.5, 0.5)),
    "20% of the rows": Planted((0.8, 0.2)),
    "10% of the rows": Planted((0.9, 0.1)),
    "10%, a bias to the rare label": Planted((0.9, 0.1), bias=1.5),
    "words that say nothing": Planted((0.5, 0.5), meaning=0.0),
    "three labels": Planted((1 / 3, 1 / 3, 1 / 3)),
    "60, 30 and 10%": Planted((0.6, 0.3, 0.1)),
    "three, words say nothing": Planted((1 / 3, 1 / 3, 1 / 3), meaning=0.0),
}
WAYS = ("random", "least certain", "ask")


@click.command("ask")
@click.option("--seeds", default=10, show_default=True, type=click.IntRange(2))
@click.option("--rows", default=128, show_default=True, type=click.IntRange(16))
@click.option("--budget", default=20, show_default=True, type=click.IntRange(1))
@click.option("--noise", default=2.5, show_default=True, help="An item's own deviation, nats.")
@click.option(
    "--sure",
    default=asking.SURE,
    show_default=True,
    type=click.IntRange(0),
    help="Sure rows of each label that `ask` begins with.",
)
@click.option(
    "--setting", "chosen", multiple=True, type=click.Choice([*SETTINGS]), help="[default: all]"
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder with vader_reviews/{movies,products}.jsonl: measure on reviews, not planted rows.",
)
@click.option("--share", "shares", multiple=True, default=("natural", "0.1"), show_default=True)
@click.option("--store", type=click.Path(path_type=Path), help="[default: a temporary file]")
def asks(
    *,
    seeds: int,
    rows: int,
    budget: int,
    noise: float,
    sure: int,
    chosen: tuple[str, ...],
    data: Path | None,
    shares: tuple[str, ...],
    store: Path | None,
) -> None:
    """Accuracy after as many answers, by which rows were asked about."""
    asking.SURE = sure  # type: ignore[misc]  # the number that is measured
    click.echo(f"| rows | before | {' | '.join(WAYS)} | ask - random | ask - least certain |")
    click.echo(f"|{' --- |' * (len(WAYS) + 4)}")
    if data is None:
        for name in chosen or SETTINGS:
            jobs = [_planted(SETTINGS[name], rows, noise, seed) for seed in range(seeds)]
            _print(name, [anyio.run(partial(_measured, *job, budget, store)) for job in jobs])
        return
    for sample in REVIEWS:
        for share in shares:
            reviews = [
                (drawn(data, sample, share, rows, seed), None, seed) for seed in range(seeds)
            ]
            found = [anyio.run(partial(_measured, *job, budget, store)) for job in reviews]
            _print(f"{sample}, {share}", found)


def _planted(setting: Planted, rows: int, noise: float, seed: int) -> tuple[Job, Endpoint, int]:
    task = Task(template="Note: {text}\nKind:", labels=WORDS[: len(setting.shares)])
    ends = np.rint(np.cumsum(setting.shares) * rows)
    classes = np.searchsorted(ends, np.arange(rows), side="right").tolist()
    random.Random(seed).shuffle(classes)  # noqa: S311 - can be drawn again
    made = [
        {"text": f"number {number}", "gold": task.labels[its_class]}
        for number, its_class in enumerate(classes)
    ]
    job = Job.prepare(made, task, gold="gold")
    concept = PlantedConcept(
        dict(zip(job.prompts, classes, strict=True)),
        task.label_texts,
        meaning=setting.meaning,
        bias=[0.0] * (len(task.labels) - 1) + [setting.bias],
        noise=noise,
        seed=seed,
    )
    return job, concept, seed


async def _measured(
    job: Job, endpoint: Endpoint | None, seed: int, budget: int, store: Path | None
) -> dict[str, tuple[float, float]]:
    """Accuracy of all rows and of those that nobody asked about: before, and each way."""
    gold = dict(zip((str(row.id) for row in job.dataset.rows), job.dataset.gold or (), strict=True))
    with tempfile.TemporaryDirectory() as folder:
        opened = EmbeddedEndpoint() if endpoint is None else nullcontext(endpoint)
        async with opened as server:
            labelled = partial(
                label,
                job.dataset,
                task=job.task,
                endpoint=server,
                seed=seed,
                store=store or Path(folder) / "scores.sqlite3",
                runs=folder,
            )
            before = await labelled()
            asked = _ways(before, budget, seed)
            after = {
                way: await labelled(pins={row_id: str(gold[row_id]) for row_id in ids})
                for way, ids in asked.items()
            }
    untouched = gold.keys() - {row_id for ids in asked.values() for row_id in ids}
    found = {"before": before, **after}
    return {way: (_right(one, gold), _right(one, gold, untouched)) for way, one in found.items()}


def _ways(found: Labels, budget: int, seed: int) -> dict[str, list[str]]:
    """The ids of the rows to ask about, each way."""
    ids = [str(row.row.id) for row in found.rows]
    log_probs = np.array([[row.log_probs[word] for word in found.labels] for row in found.rows])
    by_chance = np.random.default_rng((seed, 7)).permutation(len(ids))[:budget]
    least = np.argsort(margin(log_probs), kind="stable")[:budget]
    if found.run is None:
        raise TypeError(found.run)
    chosen = choose_rows(read_folder(found.run), budget)
    return {
        "random": [ids[number] for number in by_chance],
        "least certain": [ids[number] for number in least],
        "ask": [str(row.id) for row in chosen],
    }


def _right(found: Labels, gold: Mapping[str, str | None], ids: set[str] | None = None) -> float:
    labels = {row_id: word for row_id, word in found.by_id.items() if ids is None or row_id in ids}
    return sum(gold[row_id] == word for row_id, word in labels.items()) / max(len(labels), 1)


def _print(name: str, found: Sequence[Mapping[str, tuple[float, float]]]) -> None:
    cells = [
        f"{statistics.mean(every):.1%} ({min(every):.0%} to {max(every):.0%}), {rest:.1%}"
        for way in ("before", *WAYS)
        for every in [[run[way][0] for run in found]]
        for rest in [statistics.mean(run[way][1] for run in found)]
    ]
    gains = []
    for way in WAYS[:-1]:
        gained = [100 * (run["ask"][0] - run[way][0]) for run in found]
        error = statistics.stdev(gained) / len(gained) ** 0.5
        gains.append(f"{statistics.mean(gained):+.1f} \u00b1 {error:.1f}")
    click.echo(f"| {name} | {' | '.join([*cells, *gains])} |")
