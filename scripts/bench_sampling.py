"""Labels sampled in proportion to their coherence, against `confidence`: `scripts/bench sampling`.

A search returns the labels of highest calibrated `U`. Labels may be sampled instead, so that

    P(D) ~ exp(beta * N * U(D)),

and how often an item has its label among the samples says how sure it is. Two samplers:

- `metropolis`: an item chosen at random takes another label with probability
  `min(1, exp(beta * N * (U' - U)))`. `U` is that of leave-one-out contexts, laid out in folds,
  which lack an eighth of the demos. A step takes `N` reads: planted concepts only.
- `gibbs`: the labels of a random half of the items are drawn from `exp(beta * s(i, y))`, where `s`
  is the calibrated score, given up to 32 demos drawn from the other half with the labels that they
  have. A label takes one read. Where the model's conditional probabilities belong to one joint
  distribution, and contexts hold all other items, this samples from its softmax (arXiv 2601.13566);
  neither is quite so here.

Both start from the labels of the preset fast. Shares of samples and `confidence` are then compared
by how well they say which labels are right: Brier score and expected calibration error.
"""

import math
import random
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import anyio
import click
import numpy as np
from bench_quality import drawn
from rich.console import Console
from rich.table import Table

import icm_client
from icm_client import EmbeddedEndpoint, SweepSettings
from icm_client.coherence.calibration import (
    log_softmax,
    pointwise_mutual_information,
    utility_of,
)
from icm_client.coherence.confidence import confidences
from icm_client.coherence.fast import search
from icm_client.coherence.objective import LeaveOneOut
from icm_client.coherence.problem import (
    BoolArray,
    Context,
    Demo,
    FloatArray,
    IntArray,
    Problem,
    Query,
    Score,
)
from icm_client.scoring import Scorer, ScoreStore, tokenize_pieces
from icm_client.stats.calibration_curve import reliability

BURN_IN = 0.1
"""The share of the samples left out at the beginning."""

TAUGHT = 0.7
"""What part of a planted concept the demos teach; the label words say the rest."""

Density = Callable[[IntArray], Awaitable[float]]
"""`beta * N * U(D)` of labels, shape `[N]`: the logarithm of their weight."""


async def metropolis(
    labels: IntArray, log_weight: Density, n_labels: int, steps: int, rng: random.Random
) -> list[IntArray]:
    """Labels `[N]` after each step, at which one item may take another label.

    Args:
        labels: shape `[N]`, to start from.
        log_weight: of labels; they are sampled in proportion to its exponential.
        n_labels: `K`.
        steps: how many.
        rng: the only source of chance.
    """
    now, samples = await log_weight(labels), []
    for _ in range(steps):
        proposed = labels.copy()
        item = rng.randrange(len(labels))
        proposed[item] = (labels[item] + rng.randrange(1, n_labels)) % n_labels
        then = await log_weight(proposed)
        if math.log(1 - rng.random()) <= then - now:
            labels, now = proposed, then
        samples.append(labels)
    return samples


def weight_by_coherence(score: Score, order: IntArray, beta: float) -> Density:
    """`beta * N * U(D)`, with the calibrated `U` of leave-one-out contexts in `order`."""

    def weight(read: FloatArray, labels: IntArray) -> float:
        return beta * len(labels) * utility_of(pointwise_mutual_information(read), labels)

    return LeaveOneOut(score, order, "folds", None, weight)


async def gibbs(
    labels: IntArray,
    score: Score,
    *,
    beta: float,
    demos: int,
    sweeps: int,
    rng: np.random.Generator,
) -> list[IntArray]:
    """Labels `[N]` after each sweep, at which one half of the items is drawn, and then the other.

    Args:
        labels: shape `[N]`, to start from.
        score: read for each item once a sweep.
        beta: inverse temperature; 1 samples what the calibrated scores say.
        demos: the most in a context.
        sweeps: how many.
        rng: the only source of chance.
    """
    labels, samples = labels.copy(), []
    for _ in range(sweeps):
        halves = np.array_split(rng.permutation(len(labels)), 2)
        for targets, others in (halves, halves[::-1]):
            shown = rng.permutation(others)[:demos]
            context = tuple(Demo(int(item), int(labels[item])) for item in shown)
            read = await score([Query(context, int(target)) for target in targets])
            weights = beta * pointwise_mutual_information(read)
            labels[targets] = (weights + rng.gumbel(size=weights.shape)).argmax(axis=1)
        samples.append(labels.copy())
    return samples


def marginals(samples: Sequence[IntArray], n_labels: int) -> FloatArray:
    """In what share of the samples an item has each label, `[N, K]`, the first ones left out."""
    kept = np.stack(samples[int(BURN_IN * len(samples)) :])
    shares: FloatArray = np.stack([(kept == k).mean(axis=0) for k in range(n_labels)], axis=1)
    return shares


class Judged(NamedTuple):
    """What a method says of a run's labels: how sure it is of each, and which are right."""

    sure: FloatArray
    right: BoolArray

    @property
    def brier(self) -> float:
        """The mean squared difference of the two."""
        return float(((self.sure - self.right) ** 2).mean())


def judged(probabilities: FloatArray, classes: IntArray) -> Judged:
    """The label with the largest probability, of `[N, K]`, against the class `[N]`."""
    labels = probabilities.argmax(axis=1)
    return Judged(probabilities.max(axis=1), labels == classes)


class PlantedItems:
    """A `Score` whose right answer is known: items with two classes, and what shows of them.

    An item of class `c` (-1 or 1) shows `v = difficulty * c + z`, with `z` normal of variance 1, so
    that `2 * difficulty * v` are the log-odds of its class. What is read is `scale` times these
    log-odds, if all demos are labelled by what they show. A part `TAUGHT` of it follows the demos'
    agreement with that, from -1 to 1.

    Args:
        n_items: `N`, half of each class.
        difficulty: a share `Phi(difficulty)` of the items can be told right.
        scale: 1 for a model whose probabilities are calibrated, less for a modest one.
        rng: draws classes and evidence.
    """

    def __init__(
        self, n_items: int, difficulty: float, scale: float, rng: np.random.Generator
    ) -> None:
        self.classes: IntArray = rng.permutation(n_items) % 2
        self._shown = difficulty * (2.0 * self.classes - 1) + rng.normal(size=n_items)
        self._slope, self._scale = 2 * difficulty, scale

    @property
    def posterior(self) -> FloatArray:
        """The probability of each class given what an item shows, `[N, 2]`."""
        return np.exp(_of_two(self._slope * self._shown))

    async def __call__(self, queries: Sequence[Query]) -> FloatArray:
        """As `Score`."""
        agreement: dict[Context, float] = {
            (): 0.0
        }  # contexts are shared: each is gone through once
        for context in {query.context for query in queries} - {()}:
            items, labels = np.array(context).T
            shown = self._shown[items]
            agreement[context] = float(((2 * labels - 1) * shown).sum() / np.abs(shown).sum())
        agrees = np.array([agreement[query.context] for query in queries])
        shown = self._shown[[query.target for query in queries]]
        return _of_two(self._scale * self._slope * shown * (TAUGHT * agrees + 1 - TAUGHT))


def _of_two(log_odds: FloatArray) -> FloatArray:
    """Log-probs `[n, 2]` from the log-odds of the second label, `[n]`."""
    return log_softmax(np.stack([np.zeros(len(log_odds)), log_odds], axis=1))


@click.command()
@click.option("--rows", default=64, show_default=True, type=click.IntRange(8))
@click.option("--seeds", default="0,1,2,3,4,5,6,7", show_default=True)
@click.option("--beta", "betas", multiple=True, type=float, default=(1.0, 2.0), show_default=True)
@click.option("--sweeps", default=200, show_default=True, type=click.IntRange(10))
@click.option(
    "--difficulty",
    "difficulties",
    multiple=True,
    type=float,
    default=(0.8, 1.2, 1.65),
    show_default=True,
    help="78.8, 88.5 and 95.1% of planted items can be told right.",
)
@click.option(
    "--scale",
    "scales",
    multiple=True,
    type=float,
    default=(0.5, 1.0, 2.0),
    show_default=True,
    help="How sure the planted model is, against how sure it may be.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder with vader_reviews/movies.jsonl: movie reviews, not planted concepts.",
)
@click.option("--store", type=click.Path(path_type=Path), help="[default: a temporary file]")
def sampling(
    *,
    rows: int,
    seeds: str,
    betas: tuple[float, ...],
    sweeps: int,
    difficulties: tuple[float, ...],
    scales: tuple[float, ...],
    data: Path | None,
    store: Path | None,
) -> None:
    """How well sampled labels and `confidence` say which labels are right."""
    numbers = [int(seed) for seed in seeds.split(",")]
    console = Console(width=130)
    if data is not None:
        with tempfile.TemporaryDirectory() as folder:
            kept = store or Path(folder) / "scores.sqlite3"
            runs = [
                anyio.run(
                    partial(
                        _reviews,
                        data=data,
                        rows=rows,
                        betas=betas,
                        sweeps=sweeps,
                        store=kept,
                        seed=seed,
                    )
                )
                for seed in numbers
            ]
        console.print(_table(f"{rows} movie reviews, gemma-3-270m embedded", runs))
        return
    for difficulty in difficulties:
        for scale in scales:
            runs = [
                anyio.run(
                    partial(
                        _planted,
                        rows=rows,
                        difficulty=difficulty,
                        scale=scale,
                        betas=betas,
                        sweeps=sweeps,
                        seed=seed,
                    )
                )
                for seed in numbers
            ]
            console.print(_table(f"{rows} items, difficulty {difficulty}, scale {scale}", runs))


async def _planted(
    *, rows: int, difficulty: float, scale: float, betas: Sequence[float], sweeps: int, seed: int
) -> dict[str, Judged]:
    """Each method on the items of one seed."""
    rng = np.random.default_rng(seed)
    items = PlantedItems(rows, difficulty, scale, rng)
    found = await search(Problem(rows, 2), items, settings=SweepSettings(), rng=rng)
    sure = confidences(found.log_probs, found.labels)
    methods = {
        "known posterior": judged(items.posterior, items.classes),
        "share of the probability": judged(np.exp(found.log_probs), items.classes),
        "confidence": Judged(sure, found.labels == items.classes),
    }
    order = rng.permutation(rows)
    for beta in betas:
        every = await metropolis(
            found.labels,
            weight_by_coherence(items, order, beta),
            2,
            rows * sweeps,
            random.Random(seed),  # noqa: S311 - a chain that can be drawn again
        )
        samples = every[rows - 1 :: rows]
        methods[f"metropolis, beta {beta:g}"] = judged(marginals(samples, 2), items.classes)
        samples = await gibbs(
            found.labels, items, beta=beta, demos=32, sweeps=sweeps, rng=np.random.default_rng(seed)
        )
        methods[f"gibbs, beta {beta:g}"] = judged(marginals(samples, 2), items.classes)
    return methods


async def _reviews(
    *, data: Path, rows: int, betas: Sequence[float], sweeps: int, store: Path, seed: int
) -> dict[str, Judged]:
    """Each method on the reviews of one seed."""
    job = drawn(data, "movies", "natural", rows, seed)
    gold = np.array([job.labels.index(word) for word in job.dataset.gold or () if word])
    async with EmbeddedEndpoint() as server:
        found = await icm_client.label(
            job.dataset, task=job.task, endpoint=server, seed=seed, store=store
        )
        log_probs = np.array([[row.log_probs[word] for word in job.labels] for row in found.rows])
        labels = np.array([job.labels.index(row.label) for row in found.rows])
        methods = {
            "share of the probability": judged(np.exp(log_probs), gold),
            "confidence": Judged(confidences(log_probs, labels), labels == gold),
        }
        with ScoreStore.open(store) as kept:
            pieces = await tokenize_pieces(
                job.prompts, job.label_texts, job.task.separator, server, kept
            )
            for beta in betas:
                samples = await gibbs(
                    labels,
                    Scorer(server, kept, pieces),
                    beta=beta,
                    demos=32,
                    sweeps=sweeps,
                    rng=np.random.default_rng(seed),
                )
                methods[f"gibbs, beta {beta:g}"] = judged(marginals(samples, 2), gold)
    return methods


def _table(title: str, runs: Sequence[dict[str, Judged]]) -> Table:
    """A row for each method: means over the runs, and the error of all their rows together."""
    table = Table(title=f"{title}, {len(runs)} seeds")
    for column in ("", "right", "says", "error, all rows", "Brier", "over confidence", "better in"):
        table.add_column(column, justify="left" if not column else "right")
    by_method: dict[str, list[Judged]] = defaultdict(list)
    for run in runs:
        for method, one in run.items():
            by_method[method].append(one)
    for method, found in by_method.items():
        sure, right = (np.concatenate(both) for both in zip(*found, strict=True))
        briers = [one.brier for one in found]
        more = [
            one.brier - other.brier
            for one, other in zip(found, by_method["confidence"], strict=True)
        ]
        table.add_row(
            method,
            f"{right.mean():.1%}",
            f"{sure.mean():.1%}",
            f"{100 * reliability(sure, right).error:.1f} points",
            f"{statistics.mean(briers):.3f} ± {_deviation(briers):.3f}",
            ""
            if method == "confidence"
            else f"{statistics.mean(more):+.3f} ± {_deviation(more):.3f}",
            "" if method == "confidence" else f"{sum(one < 0 for one in more)} of {len(more)}",
        )
    return table


def _deviation(numbers: Sequence[float]) -> float:
    return statistics.stdev(numbers) if len(numbers) > 1 else 0.0
