"""The search without the help of words: `scripts/bench neutral`, on the real embedded server.

With --store every score is kept: a run that was interrupted goes on, and one that is repeated takes
seconds; the tokens and seconds printed are those of this time.
"""

import json
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import click
from rich.console import Console
from rich.table import Table

from icm_client import EmbeddedEndpoint, Task, label

MOVIES = Path(__file__).parents[1] / "examples" / "movie_reviews"
NEUTRAL = Task(template="Review: {text}\nGroup:", labels=("A", "B"))
ENOUGH, TOKENS, OF_FIVE = 0.9, 100_000, 4
"""What is promised of neutral words: accuracy, prompt tokens, seeds."""


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


@contextmanager
def _store(named: Path | None) -> Iterator[Path]:
    """The store named, or one that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        yield named or Path(folder) / "scores.sqlite3"
