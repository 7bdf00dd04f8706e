"""How often the verdict is right, on planted concepts: `scripts/bench diagnosis`.

A planted concept has a truth that no search and no diagnosis sees. Each run is classified by it
afterwards, and held against the verdict.
"""

import random
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import anyio
import click
from rich.console import Console
from rich.table import Table

from icm_client import Labels, SweepSettings, Task, label
from icm_client.coherence.anneal import AnnealSettings
from icm_client.runs.presets import InContextSettings
from icm_client.testing import PlantedConcept

TASK = Task(template="Note: {text}\nKind:", labels=("left", "right"))
WORDS = ("the", "a", "of", "road", "tree", "cup", "rain", "dog", "blue", "slow", "light", "house")

Outcome = Literal["sound", "inverted", "degenerate", "middling"]

SOUND, INVERTED, ONE_LABEL = 0.9, 0.2, 0.97
"""Accuracy from which on a run is sound, and up to which it is inverted; the share of one label
from which on it is degenerate, where the truth is not."""

FLAGGED, FALSE_ALARMS = 0.99, 0.02
"""What is promised: how many inverted and degenerate runs are not trusted at least, and how many
sound ones at most."""

GRADED, WORDLESS, COLLAPSE = "graded", "words that say nothing", "paper, with a bias"


@dataclass(frozen=True, slots=True)
class Setting:
    """One run: what is planted, and how it is searched.

    Attributes:
        group: which part of the table it is counted in.
        share: of the rows that are of the second class.
        strength: how far demos move the log-odds, nats.
        meaning: what the words say, nats: 0.3 to 1 of `strength`, or nothing.
        bias: the model's taste for the second label, nats.
        noise: the largest size of an item's own deviation, nats.
        seed: of the rows, the deviations and the search.
        rows: how many.
        search: which search, with its numbers.
    """

    group: str
    share: float
    strength: float
    meaning: float
    bias: float
    noise: float
    seed: int
    rows: int = 96
    search: InContextSettings = field(default_factory=SweepSettings)


@dataclass(frozen=True, slots=True)
class Judged:
    """A run with its outcome, which takes the truth, and its verdict, which does not."""

    setting: Setting
    outcome: Outcome
    accuracy: float
    found: Labels


def settings(runs: int, draw: int = 0) -> list[Setting]:
    """Seven of ten runs graded, two with words that say nothing, one a collapse of `paper`.

    Args:
        runs: how many.
        draw: another one has other settings, rows and seeds.
    """
    chance = random.Random(draw)  # noqa: S311 - a design that can be drawn again
    made = []
    for seed in range(draw * 10_000, draw * 10_000 + runs):
        share, bias = chance.choice([0.5, 0.3, 0.2]), chance.choice([-3.0, -1.5, 0.0, 1.5, 3.0])
        strength = chance.choice([0.0, 0.5, 1.0, 2.0, 3.0, 4.0])
        part = seed % 10
        if part < 7:  # noqa: PLR2004
            meaning = strength * chance.choice([0.3, 0.5, 1.0])
            noise = chance.choice([0.5, 1.0])
            made.append(Setting(GRADED, share, strength, meaning, bias, noise, seed))
        elif part < 9:  # noqa: PLR2004
            strength = max(strength, 2.0)
            made.append(Setting(WORDLESS, share, strength, 0.0, bias, 0.5, seed))
        else:
            search = AnnealSettings(iterations=200)
            made.append(Setting(COLLAPSE, share, 3.0, 1.0, 6.0, 0.5, seed, 24, search))
    return made


async def judged(setting: Setting, store: Path) -> Judged:
    """Label the planted rows, and only then look at what was planted."""
    chance = random.Random(setting.seed)  # noqa: S311
    texts = [
        f"{number} " + " ".join(chance.choices(WORDS, k=chance.randint(4, 16)))
        for number in range(setting.rows)
    ]
    second = round(setting.rows * setting.share)
    classes = chance.sample([1] * second + [0] * (setting.rows - second), setting.rows)
    prompts = [TASK.template.replace("{text}", text) for text in texts]
    concept = PlantedConcept(
        dict(zip(prompts, classes, strict=True)),
        TASK.label_texts,
        strength=setting.strength,
        meaning=setting.meaning,
        bias=[0.0, setting.bias],
        noise=setting.noise,
        seed=setting.seed,
    )
    found = await label(
        texts,
        task=TASK,
        endpoint=concept,
        settings=setting.search,
        seed=setting.seed,
        store=store,
    )
    right = [row.label == TASK.labels[of] for row, of in zip(found.rows, classes, strict=True)]
    accuracy = sum(right) / len(right)
    return Judged(setting, _outcome(accuracy, found), accuracy, found)


def _outcome(accuracy: float, found: Labels) -> Outcome:
    if max(found.counts.values()) >= ONE_LABEL * len(found.rows):
        return "degenerate"
    if accuracy >= SOUND:
        return "sound"
    return "inverted" if accuracy <= INVERTED else "middling"


async def judge_all(runs: Sequence[Setting]) -> list[Judged]:
    """Each run on a store of its own, that is gone afterwards."""
    done = []
    for setting in runs:
        with tempfile.TemporaryDirectory() as folder:
            done.append(await judged(setting, Path(folder) / "scores.sqlite3"))
    return done


def not_trusted(runs: Sequence[Judged]) -> float:
    """The share whose verdict is "do not trust"; 0 of none."""
    return sum(run.found.verdict == "do not trust" for run in runs) / max(len(runs), 1)


@click.command()
@click.option("--runs", "count", default=200, show_default=True, type=click.IntRange(10))
@click.option("--draw", default=0, show_default=True, type=click.IntRange(0))
@click.option("-v", "--verbose", is_flag=True, help="Say each run that was judged wrongly.")
def diagnosis(count: int, draw: int, verbose: bool) -> None:
    """Verdicts against planted truth, over graded strength, shares and bias.

    Fails where fewer than 99% of the inverted and degenerate runs are "do not trust", or more than
    2% of the sound ones whose words say something.
    """
    done = anyio.run(partial(judge_all, settings(count, draw)))
    table = Table(title=f"{count} runs over planted concepts, draw {draw}")
    for column in ("runs", "outcome", "number", "do not trust", "check", "trust", "says"):
        table.add_column(column)
    for group in (GRADED, WORDLESS, COLLAPSE):
        for outcome in ("sound", "inverted", "degenerate", "middling"):
            runs = [r for r in done if r.setting.group == group and r.outcome == outcome]
            if runs:
                table.add_row(group, outcome, *_row(runs))
        table.add_section()
    wrong = [run for run in done if run.outcome in {"inverted", "degenerate"}]
    sound = [run for run in done if run.outcome == "sound" and run.setting.group != WORDLESS]
    table.add_row("all", "inverted, degenerate", *_row(wrong))
    table.add_row("all but wordless", "sound", *_row(sound))
    console = Console(width=150)
    console.print(table)
    if verbose:
        for run in done:
            flagged = run.found.verdict == "do not trust"
            bad = run in wrong
            if (bad and not flagged) or (run in sound and flagged):
                console.print(f"{run.setting}: {run.accuracy:.0%}, {run.found.verdict}")
                for finding in run.found.findings:
                    console.print(f"    {finding.severity} {finding.code}: {finding.message}")
    if not_trusted(wrong) < FLAGGED or not_trusted(sound) > FALSE_ALARMS:
        raise click.ClickException("the verdicts do not keep what is promised of them")


def _row(runs: Sequence[Judged]) -> tuple[str, ...]:
    verdicts = Counter(run.found.verdict for run in runs)
    codes = Counter(finding.code for run in runs for finding in run.found.findings)
    return (
        str(len(runs)),
        *(
            f"{verdicts[verdict]} ({verdicts[verdict] / max(len(runs), 1):.1%})"
            for verdict in ("do not trust", "check", "trust")
        ),
        ", ".join(f"{code} {times}" for code, times in codes.most_common()) or "-",
    )
