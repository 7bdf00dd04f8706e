"""Two concepts in the same rows: are both found, and do easy rows choose? `scripts/bench concepts`.

Planted: 128 rows that two concepts of equal strength split, each in half and independently, with
words that say nothing. With --data FOLDER also real rows on the embedded server: movie and product
reviews of either sign, 32 of each kind, named A and B, which sentiment and domain split.
"""

import json
import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import click
import numpy as np
from rich.console import Console

from icm_client import EmbeddedEndpoint, Labels, Task
from icm_client.coherence import fast
from icm_client.coherence.calibration import log_softmax
from icm_client.coherence.problem import (
    UNLABELLED,
    Context,
    FloatArray,
    IntArray,
    Problem,
    Query,
)
from icm_client.coherence.result import SearchResult
from icm_client.coherence.settings import SweepSettings
from icm_client.coherence.unlike import classes_of
from icm_client.runs.concepts import find_concepts
from icm_client.runs.request import LabelRequest
from icm_client.scoring import open_store
from icm_client.stats.agreement import agreement
from icm_client.verdict.diagnosis import diagnose, verdict_of

ROWS, NOISE = 128, 1.0
FOUND, APART = 0.95, 0.2
"""Share of the rows that a found concept has right, and the most kappa of two concepts."""

MIXED = Task(template="Review: {text}\nGroup:", labels=("A", "B"))


class TwoAxes:
    """A model that demos teach each axis as far as its strength; the words say nothing."""

    def __init__(self, axes: Sequence[IntArray], strengths: Sequence[float], seed: int) -> None:
        self._axes, self._strengths = axes, strengths
        self._own = np.random.default_rng((seed, 1)).uniform(-NOISE, NOISE, (len(axes[0]), 2))

    async def __call__(self, queries: Sequence[Query]) -> FloatArray:
        """Log-probs of both labels, shape `[n, 2]`, nats."""
        return log_softmax(np.array([self._of(*query) for query in queries]))

    def _of(self, context: Context, target: int) -> FloatArray:
        scores: FloatArray = self._own[target].copy()
        if context:
            items, labels = np.array(context).T
            for axis, strength in zip(self._axes, self._strengths, strict=True):
                same = axis[items] == axis[target]
                for k in range(2):
                    scores[k] += strength / 2 * np.where(same == (labels == k), 1, -1).mean()
        return scores


@click.command()
@click.option("--seeds", default=60, show_default=True, type=click.IntRange(1))
@click.option("--data", type=click.Path(exists=True, path_type=Path))
@click.option("--real-seeds", default="0,1,2,3", show_default=True)
@click.option("--store", type=click.Path(path_type=Path), help="Of the real rows' scores.")
def concepts(*, seeds: int, data: Path | None, real_seeds: str, store: Path | None) -> None:
    """Both concepts, one alone, easy rows; and mixed reviews."""
    console = Console(width=120, highlight=False)
    both, apart, second_trusted = 0, [], 0
    for seed in range(seeds):
        axes, first, second = anyio.run(_two_searches, seed, (3.0, 3.0))
        one, other = sorted(range(2), key=lambda number: -_follows(first.labels, axes[number]))
        both += (
            _follows(first.labels, axes[one]) >= FOUND
            and _follows(second.labels, axes[other]) >= FOUND
        )
        apart.append(_kappa(first.labels, second.labels))
        _, _, lone = anyio.run(_two_searches, seed, (3.0, 0.0))
        second_trusted += verdict_of(diagnose(lone, ("A", "B"))) == "trust"
    console.print(
        f"planted, two axes: both found in {both} of {seeds}; kappa {np.mean(apart):.2f} on "
        f"average, under {APART} in {sum(kappa < APART for kappa in apart)}"
    )
    console.print(f"planted, one axis: a second concept is trusted in {second_trusted} of {seeds}")
    for easy in (0, 2, 4, 8):
        followed = [anyio.run(_with_easy, seed, easy) for seed in range(seeds)]
        console.print(
            f"planted, {easy} easy rows: {followed.count('meant')} follow the axis that is meant, "
            f"{followed.count('exchanged')} with names exchanged, {followed.count('other')} the "
            "other"
        )
    if data is not None:
        rows = mixed_reviews(data)
        for seed in map(int, real_seeds.split(",")):
            found = anyio.run(partial(_mixed, rows, seed, store))
            console.print(
                f"mixed reviews, seed {seed}: {'; '.join(map(partial(_told, rows), found))}",
                soft_wrap=True,
            )


async def _two_searches(
    seed: int, strengths: tuple[float, float]
) -> tuple[list[IntArray], SearchResult, SearchResult]:
    axes = _axes(seed)
    score = TwoAxes(axes, strengths, seed)
    first = await _search(Problem(ROWS, 2), score, seed)
    other = Problem(ROWS, 2, unlike=classes_of([first.labels]))
    return axes, first, await _search(other, score, seed)


async def _with_easy(seed: int, easy: int) -> str:
    """Which axis is followed where the first one is meant, as so many rows of known label say."""
    first, second = _axes(seed)
    known = np.arange(easy) % 2
    chance = np.random.default_rng((seed, 2))
    axes = [np.concatenate([first, known]), np.concatenate([second, chance.permutation(known)])]
    pinned = np.concatenate([np.full(ROWS, UNLABELLED), known]) if easy else None
    problem = Problem(ROWS + easy, 2, pinned=pinned)
    labels = (await _search(problem, TwoAxes(axes, (3.0, 3.0), seed), seed)).labels[:ROWS]
    right = float((labels == first).mean())
    if max(right, 1 - right) < _follows(labels, second):
        return "other"
    return "meant" if right > 0.5 else "exchanged"  # noqa: PLR2004


def _axes(seed: int) -> list[IntArray]:
    chance = np.random.default_rng(seed)
    return [chance.permutation(np.arange(ROWS) % 2) for _ in range(2)]


async def _search(problem: Problem, score: TwoAxes, seed: int) -> SearchResult:
    rng = np.random.default_rng(seed)
    return await fast.search(problem, score, settings=SweepSettings(), rng=rng)


def _follows(labels: IntArray, axis: IntArray) -> float:
    right = float((labels == axis).mean())
    return max(right, 1 - right)


def _kappa(first: IntArray, second: IntArray) -> float:
    one, other = (
        {str(row): str(word) for row, word in enumerate(labels)} for labels in (first, second)
    )
    return agreement(one, other).exchanged_kappa or 0.0


def mixed_reviews(data: Path) -> list[dict[str, Any]]:
    """32 reviews of each sign and domain, clear ones of 40 to 140 characters, in random order."""
    chance = random.Random(7)  # noqa: S311 - a sample that can be drawn again
    rows = []
    for domain in ("movies", "products"):
        lines = (data / "vader_reviews" / f"{domain}.jsonl").read_text("utf-8").splitlines()
        clear = [
            row
            for row in map(json.loads, lines)
            if 40 <= len(row["text"]) <= 140 and abs(row["mean"]) >= 1  # noqa: PLR2004
        ]
        for sign in (1, -1):
            for row in chance.sample([row for row in clear if row["mean"] * sign > 0], 32):
                about = {"sentiment": sign > 0, "domain": domain == "movies"}
                rows.append({"id": f"{domain}{row['id']}", "text": row["text"], **about})
    chance.shuffle(rows)
    return rows


async def _mixed(rows: Sequence[dict[str, Any]], seed: int, store: Path | None) -> list[Labels]:
    told = [{"id": row["id"], "text": row["text"]} for row in rows]
    with open_store(store) as kept:
        async with EmbeddedEndpoint() as server:
            found = await find_concepts(
                LabelRequest(told, MIXED, seed=seed).read(), 2, endpoint=server, store=kept
            )
    return [*found.concepts, *([found.nothing] if found.nothing else [])]


def _told(rows: Sequence[dict[str, Any]], found: Labels) -> str:
    said = {str(row.row.id): row.label == "A" for row in found.rows}
    right = {
        name: np.mean([said[row["id"]] == row[name] for row in rows if row["id"] in said])
        for name in ("sentiment", "domain")
    }
    shares = ", ".join(f"{name} {max(one, 1 - one):.0%}" for name, one in right.items())
    codes = ", ".join(finding.code for finding in found.findings if finding.severity != "note")
    return f"{shares}, coherence {found.coherence:.0%}, {found.verdict} ({codes})"
