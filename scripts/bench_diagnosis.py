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
from typing import Literal, get_args

import anyio
import click
import numpy as np
from rich.console import Console
from rich.table import Table

from icm_client import Labels, SweepSettings, Task, label
from icm_client.coherence.anneal import AnnealSettings
from icm_client.coherence.matching import best_permutation, pair_counts
from icm_client.runs.presets import InContextSettings
from icm_client.testing import Axis, PlantedConcept

TEMPLATE = "Note: {text}\nKind:"
LABELS = ("left", "right", "upper", "lower", "middle")
WORDS = ("the", "a", "of", "road", "tree", "cup", "rain", "dog", "blue", "slow", "light", "house")

Outcome = Literal["sound", "inverted", "misnamed", "degenerate", "wrong axis", "middling"]

SOUND, INVERTED, ONE_LABEL, MISNAMED, FOLLOWED = 0.9, 0.2, 0.97, 0.1, 0.8
"""Accuracy from which on a run is sound, and up to which it is inverted; the share of one label
from which on it is degenerate, where the truth is not; by how much the best names of three and more
must be better for a run to be misnamed; the accuracy on the second axis, up to an exchange of names,
from which on a run follows it, unless its accuracy is as high."""

FLAGGED, FALSE_ALARMS, FALSE_TRUST = 0.99, 0.02, 0.05
"""What is promised: how many inverted and degenerate runs are not trusted at least, how many sound
ones at most, and how many runs that follow the second axis are trusted at most."""

GRADED, WORDLESS, COLLAPSE = "graded", "words that say nothing", "paper, with a bias"
SEVERAL, TWO_AXES = "three to five labels", "two axes"


@dataclass(frozen=True, slots=True)
class Second:
    """Another axis, which the label words do not name.

    Attributes:
        agreement: the share of the rows of each class that have the same class on it.
        strength: how far demos that follow it move the log-odds, nats.
        meaning: what the words say of it all the same, nats.
    """

    agreement: float
    strength: float
    meaning: float


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
        labels: how many; more than two are equally common.
        second: the second axis, where there is one.
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
    labels: int = 2
    second: Second | None = None


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


def several(runs: int, draw: int = 0) -> list[Setting]:
    """Three to five labels, graded; their words say 10 to 100% of what the demos do."""
    chance = random.Random(f"several {draw}")  # noqa: S311 - as above
    made = []
    for seed in range(draw * 10_000, draw * 10_000 + runs):
        strength = chance.choice([1.0, 2.0, 3.0, 4.0])
        made.append(
            Setting(
                SEVERAL,
                share=0.5,
                strength=strength,
                meaning=strength * chance.choice([0.1, 0.2, 0.3, 0.5, 1.0]),
                bias=chance.choice([-1.5, 0.0, 1.5]),
                noise=chance.choice([0.5, 1.0]),
                seed=seed,
                rows=chance.choice([60, 96, 150]),
                labels=chance.choice([3, 4, 5]),
            )
        )
    return made


def two_axes(runs: int, draw: int = 0) -> list[Setting]:
    """Two labels, and a second split of the rows, of half the first one's strength to thrice it.

    The words say 30 to 100% of what demos on the first axis do, and of the second nothing or 30% of
    what they say of the first.
    """
    chance = random.Random(f"two axes {draw}")  # noqa: S311 - as above
    made = []
    for seed in range(draw * 10_000, draw * 10_000 + runs):
        strength = chance.choice([1.0, 2.0, 3.0])
        meaning = strength * chance.choice([0.3, 0.5, 1.0])
        second = Second(
            agreement=chance.choice([0.5, 0.6, 0.7, 0.75]),
            strength=strength * chance.choice([0.5, 1.0, 2.0, 3.0]),
            meaning=meaning * chance.choice([0.0, 0.3]),
        )
        made.append(
            Setting(
                TWO_AXES,
                share=chance.choice([0.5, 0.3, 0.2]),
                strength=strength,
                meaning=meaning,
                bias=chance.choice([-1.5, 0.0, 1.5]),
                noise=chance.choice([0.5, 1.0]),
                seed=seed,
                rows=chance.choice([64, 96, 128, 192]),
                second=second,
            )
        )
    return made


async def judged(setting: Setting, store: Path) -> Judged:
    """Label the planted rows, and only then look at what was planted."""
    chance = random.Random(setting.seed)  # noqa: S311
    task = Task(template=TEMPLATE, labels=LABELS[: setting.labels])
    texts = [
        f"{number} " + " ".join(chance.choices(WORDS, k=chance.randint(4, 16)))
        for number in range(setting.rows)
    ]
    if setting.labels > 2:  # noqa: PLR2004
        planted = [row % setting.labels for row in range(setting.rows)]
    else:
        second = round(setting.rows * setting.share)
        planted = [1] * second + [0] * (setting.rows - second)
    classes = chance.sample(planted, setting.rows)
    prompts = [task.template.replace("{text}", text) for text in texts]
    second, classes_of_second = None, None
    if setting.second is not None:
        classes_of_second = _classes_of_second(classes, setting.second.agreement, chance)
        second = Axis(
            dict(zip(prompts, classes_of_second, strict=True)),
            setting.second.strength,
            setting.second.meaning,
        )
    concept = PlantedConcept(
        dict(zip(prompts, classes, strict=True)),
        task.label_texts,
        strength=setting.strength,
        meaning=setting.meaning,
        bias=[0.0, setting.bias, *[0.0] * (setting.labels - 2)],
        noise=setting.noise,
        second=second,
        seed=setting.seed,
    )
    found = await label(
        texts,
        task=task,
        endpoint=concept,
        settings=setting.search,
        seed=setting.seed,
        store=store,
    )
    held = np.array([task.labels.index(row.label) for row in found.rows])
    table = pair_counts(held, np.array(classes), setting.labels)
    accuracy = float(np.trace(table)) / setting.rows
    renamed = float(table[range(setting.labels), best_permutation(table)].sum()) / setting.rows
    followed = 0.0
    if classes_of_second is not None:
        alike = float((held == np.array(classes_of_second)).mean())
        followed = max(alike, 1 - alike)
    return Judged(setting, _outcome(accuracy, renamed, followed, found), accuracy, found)


def _classes_of_second(classes: list[int], agreement: float, chance: random.Random) -> list[int]:
    """The classes on the second axis of two: in each class of the first so many are the same."""
    other = classes.copy()
    for one in (0, 1):
        rows = [row for row, its_class in enumerate(classes) if its_class == one]
        for row in chance.sample(rows, round((1 - agreement) * len(rows))):
            other[row] = 1 - one
    return other


def _outcome(accuracy: float, renamed: float, followed: float, found: Labels) -> Outcome:
    """`renamed`: the accuracy under the best names; `followed`: the same on the second axis."""
    if max(found.counts.values()) >= ONE_LABEL * len(found.rows):
        return "degenerate"
    if accuracy >= SOUND:
        return "sound"
    if followed >= FOLLOWED and accuracy < FOLLOWED:
        return "wrong axis"
    if len(found.counts) > 2:  # noqa: PLR2004
        return "misnamed" if renamed - accuracy >= MISNAMED else "middling"
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
@click.option(
    "--several",
    "of_several",
    default=200,
    show_default=True,
    type=click.IntRange(0),
    help="Runs with three to five labels beside them.",
)
@click.option("--draw", default=0, show_default=True, type=click.IntRange(0))
@click.option("-v", "--verbose", is_flag=True, help="Say each run that was judged wrongly.")
def diagnosis(*, count: int, of_several: int, draw: int, verbose: bool) -> None:
    """Verdicts against planted truth, over graded strength, shares and bias.

    Fails where fewer than 99% of the inverted, misnamed and degenerate runs are "do not trust", or
    more than 2% of the sound ones with two labels whose words say something.
    """
    runs = [*settings(count, draw), *several(of_several, draw)]
    done = anyio.run(partial(judge_all, runs))
    table = Table(title=f"{len(runs)} runs over planted concepts, draw {draw}")
    for column in ("runs", "outcome", "number", "do not trust", "check", "trust", "says"):
        table.add_column(column)
    for group in (GRADED, WORDLESS, COLLAPSE, SEVERAL):
        for outcome in get_args(Outcome):
            some = [run for run in done if run.setting.group == group and run.outcome == outcome]
            if some:
                table.add_row(group, outcome, *_row(some))
        table.add_section()
    wrong = [run for run in done if run.outcome in {"inverted", "misnamed", "degenerate"}]
    told = {GRADED, COLLAPSE}
    sound = [run for run in done if run.outcome == "sound" and run.setting.group in told]
    table.add_row("all", "inverted, misnamed, degenerate", *_row(wrong))
    table.add_row("two labels, words that say something", "sound", *_row(sound))
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
