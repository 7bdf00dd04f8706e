"""Claims of TruthfulQA: read from its file, and drawn so that no question stands on both sides."""

import random
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from icm_client import Task, read_rows
from icm_client.data.job import Job
from icm_client.errors import InputError
from icm_client.experiments.evaluation import Split

TASK: Final = Task.builtin("truthfulqa")
ASKED: Final = Task(template=TASK.template, labels=TASK.labels, gold="label")
"""The built-in task for rows that have been read already."""


class Claim(NamedTuple):
    """One row of the data."""

    question: str
    claim: str
    label: str


class Sizes(NamedTuple):
    """Claims to train on, and held out."""

    train: int
    test: int


def read_claims(path: Path) -> list[Claim]:
    """The claims of a file that have a known label, each once.

    Raises:
        InputError: it cannot be read.
    """
    data = read_rows(path, gold="label", loader=TASK.loader, template_fields=TASK.template_fields)
    claims = (
        Claim(str(row.fields["question"]), str(row.fields["claim"]), gold)
        for row, gold in zip(data.rows, data.gold or (), strict=True)
        if gold is not None
    )
    return list(dict.fromkeys(claims))


def draw(claims: list[Claim], count: int, chance: random.Random, without: set[str]) -> list[Claim]:
    """So many claims, question by question in random order; the last question may be cut.

    Args:
        claims: to draw from.
        count: how many.
        chance: decides which.
        without: questions that are not to be drawn.

    Raises:
        InputError: there are not enough.
    """
    by_question: dict[str, list[Claim]] = {}
    for claim in claims:
        if claim.question not in without:
            by_question.setdefault(claim.question, []).append(claim)
    questions = list(by_question)
    chance.shuffle(questions)
    drawn = [claim for question in questions for claim in by_question[question]]
    if len(drawn) < count:
        raise InputError(
            f"{count} claims are wanted, and the file has {len(drawn)} whose question is not on "
            "the other side: change --train and --test"
        )
    return drawn[:count]


class Draw(NamedTuple):
    """What is drawn for all seeds.

    Attributes:
        job: every claim that some seed has, with gold.
        splits: one a seed, by the job's rows.
        questions: the number of each row's question, shape `[rows]`.
    """

    job: Job
    splits: tuple[Split, ...]
    questions: np.ndarray[tuple[int], np.dtype[np.int64]]


def draw_all(train: list[Claim], test: list[Claim], sizes: Sizes, seeds: int) -> Draw:
    """Draw each seed's claims.

    Args:
        train: claims to draw those with labels from.
        test: claims to draw the held-out ones from.
        sizes: how many of each.
        seeds: `0..seeds-1`.

    Raises:
        InputError: there are not enough claims.
    """
    numbers: dict[Claim, int] = {}
    splits = []
    for seed in range(seeds):
        chance = random.Random(seed)  # noqa: S311 - rows that can be drawn again
        held_out = draw(test, sizes.test, chance, set())
        shown = draw(train, sizes.train, chance, {claim.question for claim in held_out})
        sides = [
            np.array(sorted(numbers.setdefault(claim, len(numbers)) for claim in side))
            for side in (shown, held_out)
        ]
        splits.append(Split(train=sides[0], test=sides[1]))
    questions = {claim.question: number for claim, number in reversed(numbers.items())}
    job = Job.prepare(
        [{"id": f"claim {number}", **claim._asdict()} for claim, number in numbers.items()], ASKED
    )
    return Draw(job, tuple(splits), np.array([questions[claim.question] for claim in numbers]))
