"""The three searches side by side, and the search without the help of words.

`scripts/bench presets` and `scripts/bench neutral`, on the real embedded server. With --store every
score is kept: a run that was interrupted goes on, and one that is repeated takes seconds; the
tokens and seconds printed are those of this time, the reads are the run's own.
"""

import json
import random
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import anyio
import click
from rich.console import Console
from rich.table import Table

from icm_client import EmbeddedEndpoint, Labels, Progress, Task, label
from icm_client.coherence.anneal import AnnealSettings
from icm_client.coherence.anneal_official import OfficialSettings
from icm_client.runs.presets import Preset, Settings, preset_settings

MOVIES = Path(__file__).parents[1] / "examples" / "movie_reviews"
NEUTRAL = Task(template="Review: {text}\nGroup:", labels=("A", "B"))
ENOUGH, TOKENS, OF_FIVE = 0.9, 100_000, 4
"""What is promised of neutral words: accuracy, prompt tokens, seeds."""


@click.command()
@click.option("--rows", "count", default=64, show_default=True, type=click.IntRange(4))
@click.option("--steps", default=300, show_default=True, type=click.IntRange(1))
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option("--preset", "presets_", multiple=True, type=click.Choice(get_args(Preset)))
@click.option("--store", type=click.Path(path_type=Path), help="[default: a temporary file]")
def presets(
    count: int, steps: int, seed: int, presets_: tuple[Preset, ...], store: Path | None
) -> None:
    """Fast, paper and official on movie reviews, half of each label, without a constraint."""
    with _store(store) as kept:
        anyio.run(_presets, count, steps, seed, presets_ or get_args(Preset), kept)


async def _presets(
    count: int, steps: int, seed: int, chosen: tuple[Preset, ...], store: Path
) -> None:
    rows = balanced_rows(count)
    table = Table(title=f"{count} movie reviews, gemma-3-270m embedded, {steps} steps, seed {seed}")
    for column in (
        *("preset", "accuracy", "coherence", "labels", "left open", "accepted", "reads"),
        *("computed", "cached", "s", "says"),
    ):
        table.add_column(column)
    for preset in chosen:
        settings = preset_settings(preset)
        if isinstance(settings, AnnealSettings | OfficialSettings):
            settings = replace(settings, iterations=steps)
        found = await _labelled(rows, settings, seed, store)
        accepted = sum(step.accepted for step in found.steps)
        table.add_row(
            preset,
            f"{found.accuracy:.1%}",
            f"{found.coherence:.0%}",
            ", ".join(f"{number} {word}" for word, number in found.counts.items()),
            _left_open(found),
            f"{accepted} of {len(found.steps)}" if found.steps else "-",
            f"{found.cost.from_server + found.cost.from_store:,}",
            f"{found.cost.computed_tokens:,}",
            f"{found.cost.cached_tokens:,}",
            f"{found.cost.seconds:.0f}",
            ", ".join(finding.code for finding in found.findings) or "-",
        )
    Console(width=160).print(table)


def _left_open(found: Labels) -> str:
    """What the search left to be decided after it, in the diagnosis's words."""
    said = [finding.message for finding in found.findings if finding.code == "settled"]
    return said[0].partition(" were")[0] if said else "-"


async def _labelled(
    rows: list[dict[str, Any]], settings: Settings, seed: int, store: Path
) -> Labels:
    console = Console(stderr=True, highlight=False)
    told = [0]

    def show(progress: Progress) -> None:
        step = getattr(progress.last, "n", 0)
        if step > told[0] and step % 10 == 0:
            told[0] = step
            tokens = f"{progress.cost.computed_tokens:,} tokens"
            console.print(f"step {step}: {tokens}, {progress.cost.seconds:.0f} s")

    async with EmbeddedEndpoint() as server:
        return await label(
            rows,
            task=MOVIES / "task.toml",
            endpoint=server,
            gold="label",
            settings=settings,
            seed=seed,
            store=store,
            progress=show,
        )


@click.command()
@click.option("--seeds", default="0,1,2,3,4", show_default=True)
@click.option("--store", type=click.Path(path_type=Path), help="[default: a temporary file]")
def neutral(seeds: str, store: Path | None) -> None:
    """Movie reviews named ` A` and ` B`: accuracy up to the exchange of the two names.

    Fails where fewer than four of five seeds reach 90% within 100,000 prompt tokens each, or one
    that is coherent does not say that its names are in doubt.
    """
    with _store(store) as kept:
        anyio.run(_neutral, [int(seed) for seed in seeds.split(",")], kept)


async def _neutral(seeds: list[int], store: Path) -> None:
    words = {"positive": "A", "negative": "B"}
    rows = [{**row, "label": words[row["label"]]} for row in movie_rows()]
    table = Table(title=f"{len(rows)} movie reviews as A and B, gemma-3-270m embedded")
    for column in (
        *("seed", "accuracy", "as named", "coherence", "sweeps", "computed", "cached", "s", "says"),
    ):
        table.add_column(column)
    reached, unsaid, accuracies = 0, [], []
    for seed in seeds:
        async with EmbeddedEndpoint() as server:
            found = await label(
                rows, task=NEUTRAL, endpoint=server, gold="label", seed=seed, store=store
            )
        named = found.accuracy or 0.0
        accuracies.append(max(named, 1 - named))
        codes = [finding.code for finding in found.findings]
        reached += accuracies[-1] >= ENOUGH and found.cost.computed_tokens <= TOKENS
        if not {"ambiguous-names", "weak-names", "incoherent"} & set(codes):
            unsaid.append(seed)
        table.add_row(
            str(seed),
            f"{accuracies[-1]:.1%}",
            f"{named:.1%}",
            f"{found.coherence:.0%}",
            str(len(found.history)),
            f"{found.cost.computed_tokens:,}",
            f"{found.cost.cached_tokens:,}",
            f"{found.cost.seconds:.0f}",
            ", ".join(codes) or "-",
        )
    table.add_section()
    table.add_row("mean", f"{statistics.mean(accuracies):.1%}")
    Console(width=120).print(table)
    if unsaid:
        raise click.ClickException(f"seeds {unsaid}: nothing says that the names are in doubt")
    if reached * 5 < OF_FIVE * len(seeds):
        raise click.ClickException(
            f"{reached} of {len(seeds)} seeds reach {ENOUGH:.0%} within {TOKENS:,} tokens"
        )


def movie_rows() -> list[dict[str, Any]]:
    """The example's rows: id, text, and the label that nobody but the accuracy sees."""
    lines = (MOVIES / "movie_reviews.jsonl").read_text("utf-8").splitlines()
    return [{key: json.loads(line)[key] for key in ("id", "text", "label")} for line in lines]


def balanced_rows(count: int) -> list[dict[str, Any]]:
    """A seeded sample of the example, half of each label, in random order."""
    chance = random.Random(0)  # noqa: S311 - a sample that can be drawn again
    rows = movie_rows()
    drawn = [
        row
        for word in ("positive", "negative")
        for row in chance.sample([row for row in rows if row["label"] == word], count // 2)
    ]
    chance.shuffle(drawn)
    return drawn


@contextmanager
def _store(named: Path | None) -> Iterator[Path]:
    """The store named, or one that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        yield named or Path(folder) / "scores.sqlite3"
