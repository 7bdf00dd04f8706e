"""Every preset that trains no model, side by side: `scripts/bench presets`, on the embedded server.

The rows are those of the examples: reviews of films and products, support tickets with five topics,
pairs of reviews, and comparisons of number words, which this model cannot judge. Each run has a
store of its own, so tokens and seconds are those of a run that begins with nothing, its verdict
included. The table is Markdown: docs/methods.md has it.

The gap is that between zero-shot and golden demos, as Shrivastava et al. (2026) measure it: golden
is the preset `random` with gold labels in the place of random ones, so every row is predicted given
the gold labels of others. Algorithm 1 takes minutes where the others take seconds: `paper` and
`official` make --steps steps, with the first seed alone.
"""

import json
import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import anyio
import click

from icm_client import EmbeddedEndpoint, Labels, label
from icm_client.coherence.anneal import AnnealSettings
from icm_client.coherence.anneal_official import OfficialSettings
from icm_client.coherence.simple import FewShotSettings
from icm_client.data.job import Job
from icm_client.runs.presets import InContextPreset, InContextSettings, preset_settings

EXAMPLES = Path(__file__).parents[1] / "examples"

Sample = Literal["movies", "products", "tickets", "pairs", "larger_than"]

DATA: Mapping[Sample, str] = {
    "movies": "movie_reviews/movie_reviews.jsonl",
    "products": "product_reviews/product_reviews.jsonl",
    "tickets": "support_tickets/support_tickets.csv",
    "pairs": "movie_pairs/movie_pairs.jsonl",
    "larger_than": "larger_than/larger_than.jsonl",
}

GOLDEN: Literal["golden demos"] = "golden demos"
PRESETS: tuple[InContextPreset, ...] = (
    *("zero-shot", "zero-shot-calibrated", "random", "bootstrap"),
    *("fast", "paper", "official"),
)
SLOW = ("paper", "official")


@click.command()
@click.option("--sample", "samples", multiple=True, type=click.Choice(get_args(Sample)))
@click.option("--preset", "chosen", multiple=True, type=click.Choice(PRESETS))
@click.option("--rows", "count", default=64, show_default=True, type=click.IntRange(8))
@click.option("--seeds", default="0,1,2", show_default=True)
@click.option("--steps", default=100, show_default=True, type=click.IntRange(1))
def presets(
    *,
    samples: tuple[Sample, ...],
    chosen: tuple[InContextPreset, ...],
    count: int,
    seeds: str,
    steps: int,
) -> None:
    """Accuracy, gap recovered, cost and verdict of every preset on the examples."""
    numbers = [int(seed) for seed in seeds.split(",")]
    click.echo("| rows | preset | right | gap recovered | tokens computed | seconds | verdict |")
    click.echo("| --- | --- | --- | --- | --- | --- | --- |")
    for sample in samples or get_args(Sample):
        path = EXAMPLES / DATA[sample]
        job = Job.prepare(path, path.parent / "task.toml", limit=count)
        mean: dict[str, float] = {}
        # Zero-shot and golden come first: the others are measured between them.
        for name in (
            GOLDEN,
            *(one for one in PRESETS if not chosen or one in ("zero-shot", *chosen)),
        ):
            settings = _settings(name, steps)
            runs = [
                anyio.run(partial(_run, job, settings, seed, golden=name == GOLDEN))
                for seed in (numbers[:1] if name in SLOW else numbers)
            ]
            right = [run.accuracy or 0.0 for run in runs]
            mean[name] = statistics.mean(right)
            tokens = statistics.mean(run.cost.computed_tokens for run in runs)
            seconds = statistics.mean(run.cost.seconds for run in runs)
            verdicts = ", ".join(_verdict(run) for run in runs) if name != GOLDEN else ""
            click.echo(
                f"| {sample} ({len(job.dataset.rows)}) | {name} | {_spread(right)} | "
                f"{_gap(name, mean)} | {tokens:,.0f} | {seconds:.0f} | {verdicts} |"
            )


def _settings(name: InContextPreset | Literal["golden demos"], steps: int) -> InContextSettings:
    if name == "golden demos":
        return FewShotSettings(rounds=0)
    settings = preset_settings(name)
    if isinstance(settings, AnnealSettings | OfficialSettings):
        settings = replace(settings, iterations=steps)
    return settings


async def _run(job: Job, settings: InContextSettings, seed: int, *, golden: bool) -> Labels:
    """A run over a store of its own; gold is shown to the one that measures golden demos alone."""
    with tempfile.TemporaryDirectory() as folder:
        start = Path(folder) / "gold.jsonl"
        given = zip(job.dataset.rows, job.dataset.gold or (), strict=True)
        start.write_text(
            "".join(json.dumps({"id": row.id, "label": word}) + "\n" for row, word in given),
            "utf-8",
        )
        async with EmbeddedEndpoint() as server:
            return await label(
                job.dataset,
                task=job.task,
                endpoint=server,
                settings=settings,
                start=start if golden else None,
                seed=seed,
                store=Path(folder) / "scores.sqlite3",
            )


def _spread(right: list[float]) -> str:
    if len(right) == 1:
        return f"{right[0]:.1%}"
    return f"{statistics.mean(right):.1%} ({min(right):.0%} to {max(right):.0%})"


def _gap(name: str, mean: Mapping[str, float]) -> str:
    """The share of the way from zero-shot to golden demos that the mean accuracy has come."""
    if name == GOLDEN:
        return "1"
    if name == "zero-shot":
        return "0"
    gap = mean[GOLDEN] - mean["zero-shot"]
    return f"{(mean[name] - mean['zero-shot']) / gap:.2f}" if gap > 0 else "no gap"


def _verdict(run: Labels) -> str:
    codes = ", ".join(finding.code for finding in run.findings if finding.severity != "note")
    return f"{run.verdict} ({codes})" if codes else run.verdict
