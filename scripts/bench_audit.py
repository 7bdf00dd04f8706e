"""How many wrong labels an audit finds, and how many it says there are: `scripts/bench audit`.

Reviews are drawn at natural shares, and some of their labels are exchanged. Beside the audit's
order and share stand those of cleanlab, by its formulas, on the same probabilities: rows by
normalised margin (by self-confidence the order is the same where there are two labels), and the
off-diagonal share of confident learning's joint (Northcutt et al. 2021, arXiv 1911.00068).
docs/audit.md has the figures.
"""

import tempfile
from functools import partial
from pathlib import Path

import anyio
import click
import numpy as np
from bench_quality import REVIEWS, drawn
from rich.console import Console

from icm_client import EmbeddedEndpoint
from icm_client.coherence.problem import BoolArray, FloatArray, IntArray
from icm_client.runs.audit import audit

FIRST = 0.15


@click.command("audit")
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder with vader_reviews/{movies,products}.jsonl.",
)
@click.option("--seeds", default="0,1,2,3,4", show_default=True)
@click.option("--sample", "samples", multiple=True, default=tuple(REVIEWS), show_default=True)
@click.option("--rows", default=200, show_default=True, type=click.IntRange(24))
@click.option("--flipped", multiple=True, type=float, default=(0.1, 0.0), show_default=True)
@click.option("--contexts", default=1, show_default=True, type=click.IntRange(1))
@click.option("--store", type=click.Path(path_type=Path), help="[default: a temporary file]")
def audits(
    *,
    data: Path,
    seeds: str,
    samples: tuple[str, ...],
    rows: int,
    flipped: tuple[float, ...],
    contexts: int,
    store: Path | None,
) -> None:
    """Audit reviews of which some labels were exchanged."""
    numbers = [int(seed) for seed in seeds.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        kept = store or Path(folder) / "scores.sqlite3"
        work = partial(_audits, data, samples, numbers, flipped, rows=rows, contexts=contexts)
        anyio.run(partial(work, store=kept))


async def _audits(
    data: Path,
    samples: tuple[str, ...],
    seeds: list[int],
    flipped: tuple[float, ...],
    *,
    rows: int,
    contexts: int,
    store: Path,
) -> None:
    console = Console(width=140, highlight=False)
    console.print(
        f"sample    seed flipped  estimated (95%)          read as another  first {FIRST:.0%}: "
        "audit, cleanlab's margin   confident joint"
    )
    for sample in samples:
        for share in flipped:
            for seed in seeds:
                job = drawn(data, sample, "natural", rows, seed)
                truth = list(job.dataset.gold or ())
                shuffled = np.random.default_rng((seed, 99)).permutation(rows)
                wrong = np.isin(np.arange(rows), shuffled[: round(share * rows)])
                given = [
                    next(other for other in job.labels if other != word) if one else word
                    for word, one in zip(truth, wrong, strict=True)
                ]
                labelled = [
                    {**row.fields, "id": row.id, "given": word}
                    for row, word in zip(job.dataset.rows, given, strict=True)
                ]
                async with EmbeddedEndpoint() as server:
                    found = await audit(
                        labelled,
                        task=job.task,
                        given="given",
                        endpoint=server,
                        contexts=contexts,
                        seed=seed,
                        store=store,
                    )
                head = f"{sample:9} {seed:4} {share:7.0%}  "
                if found.noise is None:
                    console.print(f"{head}{found.sentence()}", soft_wrap=True)
                    continue
                low, high = found.noise.interval
                numbers, predicted = found.pred_probs()
                first = round(FIRST * rows)
                of = f"of {wrong.sum()}"
                console.print(
                    f"{head}{found.noise.share:6.1%} ({low:5.1%} to {high:5.1%})   "
                    f"{(predicted.argmax(axis=1) != numbers).mean():15.0%}  "
                    f"{found_first(-found.noise.wrong, wrong, first):6} {of}, "
                    f"{found_first(normalised_margin(numbers, predicted), wrong, first):4} {of}   "
                    f"{confident_share(numbers, predicted):12.1%}",
                    soft_wrap=True,
                )


def found_first(order: FloatArray, wrong: BoolArray, first: int) -> int:
    """Wrong labels among the first rows, the lowest in `order` first."""
    return int(wrong[np.argsort(order, kind="stable")[:first]].sum())


def normalised_margin(given: IntArray, predicted: FloatArray) -> FloatArray:
    """Probability of the given label minus that of the likeliest other; cleanlab's order."""
    rows = np.arange(len(given))
    others = predicted.copy()
    others[rows, given] = -np.inf
    margin: FloatArray = predicted[rows, given] - others.max(axis=1)
    return margin


def confident_share(given: IntArray, predicted: FloatArray) -> float:
    """The share of wrong labels by confident learning's calibrated joint (equations 1 to 3)."""
    n_labels = predicted.shape[1]
    thresholds = np.array([predicted[given == k, k].mean() for k in range(n_labels)])
    above = np.where(predicted >= thresholds, predicted, -1.0)
    counted = above.max(axis=1) >= 0
    joint = np.zeros((n_labels, n_labels))
    np.add.at(joint, (given[counted], above.argmax(axis=1)[counted]), 1)
    joint *= (np.bincount(given, minlength=n_labels) / np.maximum(joint.sum(axis=1), 1))[:, None]
    return float(1 - np.trace(joint) / joint.sum())
