"""A majority, and Dawid and Skene's estimate, on simulated labellings: `scripts/bench votes`.

Each labelling is right for 70 to 95% of the rows, drawn evenly. Where they lean, each label has an
accuracy of its own and is taken for some labels more than for others; else the wrong labels are
equally likely. The shares of the labels are drawn, too. The table is Markdown:
docs/second_opinions.md has it.
"""

from itertools import product

import click
import numpy as np

from icm_client.coherence.problem import FloatArray, IntArray
from icm_client.stats.votes import dawid_skene


@click.command()
@click.option("--draws", default=200, show_default=True, type=click.IntRange(1))
@click.option("--smoothing", default=(8.0,), show_default=True, multiple=True, type=float)
def votes(*, draws: int, smoothing: tuple[float, ...]) -> None:
    """Print how many labels are right: of a majority, then estimated with each smoothing."""
    per_label = (25, 50, 100, 200)
    click.echo(f"| labellings, labels | {' | '.join(f'{rows} rows' for rows in per_label)} |")
    click.echo(f"|{' --- |' * (len(per_label) + 1)}")
    for labels, labellings, leaning in product((2, 3, 5), (3, 4, 5), (False, True)):
        cells = []
        for rows in per_label:
            chance = np.random.default_rng((labellings, labels, rows, leaning))
            right = [
                _right(_drawn(labellings, labels, rows, chance, leaning=leaning), smoothing, chance)
                for _ in range(draws)
            ]
            cells.append(", ".join(f"{100 * share:.1f}" for share in np.mean(right, axis=0)))
        kind = "leaning" if leaning else "even"
        click.echo(f"| {labellings}, {labels}, {kind} | {' | '.join(cells)} |")


def _drawn(
    labellings: int, labels: int, per_label: int, chance: np.random.Generator, *, leaning: bool
) -> tuple[IntArray, IntArray]:
    """The right labels `[N]`, and the votes `[N, R]`."""
    right = chance.choice(
        labels, size=per_label * labels, p=chance.dirichlet(np.full(labels, 10.0))
    )
    votes = [
        _given(right, _confusion(labels, chance, leaning=leaning), chance)
        for _ in range(labellings)
    ]
    return right, np.stack(votes, axis=1)


def _confusion(labels: int, chance: np.random.Generator, *, leaning: bool) -> FloatArray:
    accuracy = chance.uniform(0.7, 0.95, size=labels if leaning else 1) * np.ones(labels)
    confusion: FloatArray = np.diag(accuracy)
    for label in range(labels):
        wrong = np.full(labels - 1, 1 / (labels - 1))
        if leaning:
            wrong = chance.dirichlet(np.full(labels - 1, 0.5))
        confusion[label, np.arange(labels) != label] = (1 - accuracy[label]) * wrong
    return confusion


def _given(right: IntArray, confusion: FloatArray, chance: np.random.Generator) -> IntArray:
    passed = chance.random(len(right))[:, np.newaxis] >= confusion.cumsum(axis=1)[right]
    given: IntArray = np.minimum(passed.sum(axis=1), len(confusion) - 1)
    return given


def _right(
    drawn: tuple[IntArray, IntArray], smoothing: tuple[float, ...], chance: np.random.Generator
) -> list[float]:
    """The share that a majority has right, ties drawn, and each estimate."""
    right, votes = drawn
    labels = int(votes.max()) + 1
    counts = np.eye(labels)[votes].sum(axis=1)
    found = [counts + 1e-6 * chance.random(counts.shape)]
    found += [dawid_skene(votes, labels, smoothing=rows) for rows in smoothing]
    return [float(np.mean(one.argmax(axis=1) == right)) for one in found]
