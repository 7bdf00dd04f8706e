"""Is chance believed, and are good labels? `scripts/bench chance`, on the real embedded server.

The null: claims that gemma-3-270m cannot judge, with golden demos within 5 points of chance. Beside
them movies, products and tickets at natural shares. Each draw takes rows of its own; its number is
also the search's seed. With --store every score is kept: a run that was interrupted goes on.

DATA holds `truthfulqa/TruthfulQA_817.csv`, `ue_challenges/test_larger_than.json` and
`vader_reviews/{movies,products}.jsonl` (examples/README.md says where they come from); tickets are
read where --tickets names a CSV with the columns `comment`, `gold3` and `topic`.
"""

import csv
import json
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast, get_args

import anyio
import click
import numpy as np
from rich.console import Console

from icm_client import EmbeddedEndpoint, Labels, Task, label
from icm_client.coherence.confidence import fit_label_groups
from icm_client.data.loaders import made_rows

Sample = Literal["claims", "comparisons", "movies", "products", "gold3", "topic"]

CHANCE: tuple[Sample, ...] = ("claims", "comparisons")
"""What the model cannot judge."""

GOOD, BELIEVED_TOO_LITTLE, CHECKED = 0.88, 1, 2
"""Accuracy from which on labels are to be trusted; how many of those may be otherwise; how many
draws at chance may end with `check` (none with `trust`)."""

_CLAIM = "Claim: {claim}\nI think this claim is"
TASKS: dict[Sample, Task] = {
    "claims": Task(template="Question: {question}\n" + _CLAIM, labels=("True", "False")),
    "comparisons": Task(template=_CLAIM, labels=("True", "False")),
    "movies": Task(template="Review: {text}\nSentiment:", labels=("positive", "negative")),
    "products": Task(template="Review: {text}\nSentiment:", labels=("positive", "negative")),
    "gold3": Task(
        template="Ticket: {text}\nSentiment:", labels=("negative", "neutral", "positive")
    ),
    "topic": Task(
        template="Ticket: {text}\nTopic:",
        labels=("bug", "billing", "feature", "praise", "question"),
    ),
}

Raw = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Draw:
    """One run. `rows` are drawn with `number`, the search's seed too."""

    sample: Sample
    rows: int
    number: int


def drawn(draw: Draw, data: Path, tickets: Path | None) -> list[Raw]:
    """The rows, in random order, with `label` for the accuracy alone.

    Claims are half true and half false, so that the shares of the labels say nothing. Reviews are
    those of 40 to 140 characters with a clear sign, at their natural shares.
    """
    chance = random.Random(draw.number)  # noqa: S311 - a sample that can be drawn again
    if draw.sample in CHANCE:
        pool = _claims(data) if draw.sample == "claims" else _comparisons(data)
        rows = [
            row
            for word in ("True", "False")
            for row in chance.sample([row for row in pool if row["label"] == word], draw.rows // 2)
        ]
    else:
        if draw.sample in ("movies", "products"):
            pool = _reviews(data / "vader_reviews" / f"{draw.sample}.jsonl")
        else:
            pool = _tickets(tickets, draw.sample) if tickets else []
        rows = chance.sample(pool, min(draw.rows, len(pool)))
    chance.shuffle(rows)
    return rows


def _claims(data: Path) -> list[Raw]:
    path = data / "truthfulqa" / "TruthfulQA_817.csv"
    with path.open(encoding="utf-8", newline="") as file:
        raw = list(enumerate(csv.DictReader(file), start=1))
    rows = [cast("Raw", row) for _, row in made_rows("truthfulqa", raw)]
    return [{**row, "label": str(row["label"])} for row in rows]


def _comparisons(data: Path) -> list[Raw]:
    rows = json.loads((data / "ue_challenges" / "test_larger_than.json").read_text("utf-8"))
    return [{"claim": row["choice"], "label": str(row["label"])} for row in rows]


def _reviews(path: Path) -> list[Raw]:
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [
        {"text": row["text"], "label": "positive" if row["mean"] > 0 else "negative"}
        for row in rows
        if 40 <= len(row["text"]) <= 140 and abs(row["mean"]) >= 1  # noqa: PLR2004
    ]


def _tickets(path: Path, column: str) -> list[Raw]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return [{"text": row["comment"], "label": row[column]} for row in csv.DictReader(file)]


async def searched(draw: Draw, rows: Sequence[Raw], store: Path) -> Labels:
    """Label the rows; gold has no part in it but the accuracy."""
    async with EmbeddedEndpoint() as server:
        return await label(
            rows,
            task=TASKS[draw.sample],
            endpoint=server,
            gold="label",
            seed=draw.number,
            store=store,
        )


def gain_of(found: Labels) -> tuple[float, float]:
    """By how much groups explain the scores of a run, and by how much they must (`no-groups`)."""
    scores = np.array([[row.log_probs[word] for word in found.labels] for row in found.rows])
    labels = np.array([found.labels.index(row.label) for row in found.rows])
    groups = fit_label_groups(scores, labels)
    return (float("nan"), float("nan")) if groups is None else (groups.gain, groups.needed)


def told(draw: Draw, found: Labels) -> str:
    """One line on a draw."""
    gain, needed = gain_of(found)
    said = "-" if found.confidence is None else f"{found.confidence:.0%}"
    codes = ", ".join(one.code for one in found.findings if one.severity != "note") or "-"
    return (
        f"{draw.sample:11} {len(found.rows):4} {draw.number:4} {found.accuracy:7.1%} "
        f"{found.coherence:5.0%} {gain:6.1f} of {needed:4.1f} {said:>5} "
        f"{found.cost.computed_tokens:7,}  {found.verdict:12} {codes}"
    )


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--tickets", type=click.Path(exists=True, path_type=Path))
@click.option("--sample", "samples", multiple=True, type=click.Choice(get_args(Sample)))
@click.option("--rows", "sizes", multiple=True, type=click.IntRange(16), default=(64, 128))
@click.option("--draws", default=5, show_default=True, type=click.IntRange(1), help="Of each.")
@click.option("--first", default=0, show_default=True, type=click.IntRange(0))
@click.option("--store", type=click.Path(path_type=Path), help="[default: a temporary file]")
def chance(
    *,
    data: Path,
    tickets: Path | None,
    samples: tuple[Sample, ...],
    sizes: tuple[int, ...],
    draws: int,
    first: int,
    store: Path | None,
) -> None:
    """Verdicts on claims that the model cannot judge, and on rows that it can.

    Fails where one draw at chance is trusted or more than 2 are to be checked, or more than one of
    the others that is over 88% right is not trusted.
    """
    made = [
        Draw(sample, rows, first + number)
        for sample in samples or CHANCE
        for rows in sizes
        for number in range(draws)
    ]
    console = Console(width=150, highlight=False)
    console.print("sample      rows draw   right   coh. groups, nats   said  tokens  verdict")
    done = []
    with tempfile.TemporaryDirectory() as folder:
        for draw in made:
            rows = drawn(draw, data, tickets)
            if not rows:
                raise click.UsageError("tickets: name their file (--tickets)")
            kept = store or Path(folder) / "scores.sqlite3"
            found = anyio.run(partial(searched, draw, rows, kept))
            console.print(told(draw, found), soft_wrap=True)
            done.append((draw, found))
    nothing = [found.verdict for draw, found in done if draw.sample in CHANCE]
    good = [
        found.verdict
        for draw, found in done
        if draw.sample not in CHANCE and (found.accuracy or 0.0) > GOOD
    ]
    console.print(
        f"at chance: {len(nothing)} draws, {nothing.count('trust')} trusted, "
        f"{nothing.count('check')} to be checked. Over {GOOD:.0%} right: {len(good)} draws of "
        f"{len(done) - len(nothing)}, {len(good) - good.count('trust')} not trusted."
    )
    if (
        nothing.count("trust")
        or nothing.count("check") > CHECKED
        or len(good) - good.count("trust") > BELIEVED_TOO_LITTLE
    ):
        raise click.ClickException("the verdicts do not keep what is promised of them")
