"""The figures behind the claims, measured on the real embedded server: `scripts/bench quality`.

`scripts/bench --help` lists the others.

With --store every score is kept, so that a second run prints the same accuracies in seconds; its
tokens and seconds are then those of the second run.
"""

import statistics
import sys
import tempfile
from pathlib import Path

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
from bench_diagnosis import diagnosis
from bench_finetune import finetune
from bench_memory import memory
from bench_planner import planner
from bench_salience import salience_bench
from bench_search import neutral, presets
from bench_store import store
from bench_wire import wire
from rich.console import Console
from rich.table import Table

import icm_client
from icm_client import EmbeddedEndpoint, SweepSettings
from icm_client.coherence.fold_scores import ScoredFold, fold_contexts, score_folds
from icm_client.data import JsonValue
from icm_client.endpoints import Endpoint
from icm_client.runs.fitting import fit
from icm_client.runs.job import Job
from icm_client.scoring import Scorer, ScoreStore, tokenize_pieces

EXAMPLES = Path(__file__).parents[1] / "examples"
SAMPLES = ("movie_reviews", "product_reviews")


@click.group()
def bench() -> None:
    """Measure."""


bench.add_command(diagnosis)
bench.add_command(finetune)
bench.add_command(neutral)
bench.add_command(memory)
bench.add_command(planner)
bench.add_command(presets)
bench.add_command(salience_bench)
bench.add_command(store)
bench.add_command(wire)


@bench.command()
@click.option("--seeds", default="0,1,2,3,4", show_default=True)
@click.option("--sample", "samples", multiple=True, default=SAMPLES, show_default=True)
@click.option("--store", type=click.Path(path_type=Path), help="[default: a temporary file]")
def quality(seeds: str, samples: tuple[str, ...], store: Path | None) -> None:
    """Accuracy and cost of the fast preset on the example rows, and what to hold them against."""
    with tempfile.TemporaryDirectory() as folder:
        anyio.run(
            _quality,
            [int(seed) for seed in seeds.split(",")],
            samples,
            store or Path(folder) / "scores.sqlite3",
        )


async def _quality(seeds: list[int], samples: tuple[str, ...], store: Path) -> None:
    console = Console(width=120)
    for sample in samples:
        job = Job.prepare(EXAMPLES / sample / f"{sample}.jsonl", EXAMPLES / sample / "task.toml")
        table = Table(title=f"{sample}: {len(job.prompts)} rows, gemma-3-270m embedded")
        for column in ("seed", "accuracy", "golden demos", "U", "computed", "cached", "s", "says"):
            table.add_column(column)
        accuracies, golden = [], []
        for seed in seeds:
            async with EmbeddedEndpoint() as server:
                found = await icm_client.label(
                    job.dataset, task=job.task, endpoint=server, seed=seed, store=store
                )
                accuracies.append(found.accuracy or 0.0)
                golden.append(await golden_accuracy(job, server, store, seed))
            table.add_row(
                str(seed),
                f"{accuracies[-1]:.1%}",
                f"{golden[-1]:.1%}",
                f"{found.utility:+.3f} ({found.coherence:.0%})",
                f"{found.cost.computed_tokens:,}",
                f"{found.cost.cached_tokens:,}",
                f"{found.cost.seconds:.0f}",
                ", ".join(finding.code for finding in found.findings) or "-",
            )
        table.add_section()
        table.add_row(
            "mean", f"{statistics.mean(accuracies):.1%}", f"{statistics.mean(golden):.1%}"
        )
        console.print(table)
        if "ratings" in job.dataset.rows[0].fields:
            console.print(f"mean single rater: {single_rater(job):.1%}\n")


@bench.command()
@click.option("--sample", "samples", multiple=True, default=SAMPLES, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--store", type=click.Path(path_type=Path), help="[default: a temporary file]")
def imbalance(samples: tuple[str, ...], seed: int, store: Path | None) -> None:
    """Accuracy with 10, 20, 50, 80 and 90% positives, against that at the best threshold."""
    with tempfile.TemporaryDirectory() as folder:
        anyio.run(_imbalance, samples, seed, store or Path(folder) / "scores.sqlite3")


async def _imbalance(samples: tuple[str, ...], seed: int, store: Path) -> None:
    console = Console(width=120)
    for sample in samples:
        job = Job.prepare(EXAMPLES / sample / f"{sample}.jsonl", EXAMPLES / sample / "task.toml")
        table = Table(title=f"{sample}: uneven shares, seed {seed}")
        for column in ("positive", "rows", "accuracy", "best threshold", "shares from", "says"):
            table.add_column(column)
        for share in (0.1, 0.2, 0.5, 0.8, 0.9):
            rows = _with_share(job, share)
            async with EmbeddedEndpoint() as server:
                found = await icm_client.label(
                    rows, task=job.task, endpoint=server, gold="label", seed=seed, store=store
                )
            table.add_row(
                f"{share:.0%}",
                str(len(rows)),
                f"{found.accuracy:.1%}",
                f"{_best_threshold(found):.1%}",
                found.prior_source,
                ", ".join(finding.code for finding in found.findings) or "-",
            )
        console.print(table)


def _with_share(job: Job, share: float) -> list[dict[str, JsonValue]]:
    """As many rows as there are with this share of positive ones."""
    gold = job.dataset.gold or ()
    kept = {"positive": min(1.0, share / (1 - share)), "negative": min(1.0, (1 - share) / share)}
    left = {word: round(gold.count(word) * part) for word, part in kept.items()}
    rows = []
    for row, word in zip(job.dataset.rows, gold, strict=True):
        if word is not None and left[word] > 0:
            left[word] -= 1
            rows.append({"text": row.fields["text"], "label": word})
    return rows


def _best_threshold(found: icm_client.Labels) -> float:
    """Accuracy at the threshold on the log-odds that suits gold best."""
    log_odds = np.array([r.log_probs["positive"] - r.log_probs["negative"] for r in found.rows])
    positive = np.array(found.dataset.gold) == "positive"
    return max(
        float(((log_odds > threshold) == positive).mean())
        for threshold in (-np.inf, *log_odds.tolist())
    )


async def golden_accuracy(job: Job, server: Endpoint, store: Path, seed: int) -> float:
    """Accuracy where the demos bear gold labels: contexts drawn and averaged as the search does."""
    gold = np.array([job.labels.index(word) for word in job.dataset.gold or () if word])
    rng = np.random.default_rng(seed)
    unsure = np.zeros((len(gold), len(job.labels)))
    with ScoreStore.open(store) as kept:
        pieces = await tokenize_pieces(
            job.prompts, job.label_texts, job.task.separator, server, kept
        )
        settings = fit(SweepSettings(), pieces, server)
        if not isinstance(settings, SweepSettings):
            raise TypeError(settings)
        total = np.zeros_like(unsure)
        for _ in range(settings.averaged):
            contexts = fold_contexts(2, gold, unsure, rng, settings)
            folds: list[ScoredFold] = await score_folds(contexts, Scorer(server, kept, pieces))
            for fold in folds:
                total[fold.targets] += fold.calibrated
    return float((total.argmax(axis=1) == gold).mean())


def single_rater(job: Job) -> float:
    """Mean share of a row's raters whose sign is the mean's; ratings of 0 have none."""
    agreement = []
    for row in job.dataset.rows:
        ratings, mean = row.fields["ratings"], row.fields["mean"]
        if not isinstance(ratings, list) or not isinstance(mean, float):
            raise TypeError(row.id)
        signed = [rating * mean > 0 for rating in ratings if isinstance(rating, int) and rating]
        agreement.append(statistics.mean(signed))
    return statistics.mean(agreement)


if __name__ == "__main__":
    bench()
