"""The real tasks of `scripts/bench salience`: rows with gold, from the examples and from a folder.

What the concept is, how far the words say it and how well gemma-3-270m holds it differs on purpose.
"""

import csv
import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from icm_client import Task

EXAMPLES = Path(__file__).parents[1] / "examples"
LONGEST_CLAIM = 300
"""Characters of question and solution; the embedded server reads long ones for minutes."""

LONGEST_OPINION = 300

Row = dict[str, Any]


class RealTask(NamedTuple):
    """Rows to draw from, with their gold label under `label`, and what is asked of them.

    `whole`: all rows are run, in their order, as `scripts/bench quality` and `neutral` do; their
    scores may be in a store already.
    """

    name: str
    task: Task
    rows: list[Row]
    whole: bool = False

    def drawn(self, count: int, seed: int) -> list[Row]:
        """At most `count` rows, equally many of each gold label, in random order; or all."""
        if self.whole:
            return self.rows
        chance = random.Random(seed)  # noqa: S311 - a sample that can be drawn again
        by_word = {word: [r for r in self.rows if r["label"] == word] for word in self.task.labels}
        share = min(count // len(by_word), *map(len, by_word.values()))
        drawn = [row for rows in by_word.values() for row in chance.sample(rows, share)]
        chance.shuffle(drawn)
        return drawn


def real_tasks(folder: Path | None) -> list[RealTask]:
    """The tasks over the example rows, and those over a folder as `make_samples.py` takes it.

    Args:
        folder: holds `ue_challenges` and `truthfulqa` too; None leaves their tasks out.
    """
    movies, products = _example("movie_reviews"), _example("product_reviews")
    both = [{"text": row["text"], "label": "movie"} for row in movies.rows]
    both += [{"text": row["text"], "label": "product"} for row in products.rows]
    plain = [{key: row[key] for key in ("id", "text", "label")} for row in movies.rows]
    signs = {"positive": "A", "negative": "B"}
    kinds = {"movie": "A", "product": "B"}
    review = "Review: {text}\n"
    tasks = [
        movies._replace(whole=True),
        products,
        _example("larger_than"),
        _example("arbitrary_preference"),
        _renamed("movies as A and B", review + "Group:", plain, signs)._replace(whole=True),
        _renamed("products as A and B", review + "Group:", products.rows, signs),
        _renamed(
            "movies as weather",
            review + "Weather:",
            movies.rows,
            {"positive": "rainy", "negative": "sunny"},
        ),
        _renamed(
            "movie or product", review + "About a", both, {"movie": "movie", "product": "product"}
        ),
        _renamed("movie or product as A and B", review + "Group:", both, kinds),
        _renamed(
            "length",
            review + "Length:",
            _by_length(movies.rows),
            {"long": "long", "short": "short"},
        ),
        _renamed(
            "even or odd length",
            review + "Letters:",
            [{**row, "label": len(row["text"]) % 2} for row in movies.rows],
            {0: "even", 1: "odd"},
        ),
    ]
    if folder is not None:
        tasks += _from_folder(folder)
    return tasks


def _from_folder(folder: Path) -> list[RealTask]:
    claim = "Question: {question}\nClaim: {claim}\nI think this claim is"
    truth = {True: "True", False: "False"}
    solved = json.loads((folder / "ue_challenges" / "test_gsm8k.json").read_text("utf-8"))
    sides = json.loads(
        (folder / "ue_challenges" / "test_political_normative.json").read_text("utf-8")
    )
    with (folder / "truthfulqa" / "TruthfulQA_817.csv").open(encoding="utf-8") as file:
        asked = list(csv.DictReader(file))
    return [
        _renamed("gsm8k claims", claim, _short_claims(solved, "label"), truth),
        _renamed("truthfulqa claims", claim, _answers(asked), truth),
        _renamed(
            "truthfulqa topics",
            "Question: {question}\nTopic:",
            [{"question": row["Question"], "label": row["Category"]} for row in asked],
            {"Health": "health", "Law": "law"},
        ),
        _renamed(
            "adversarial questions",
            "Question: {question}\nThis question is",
            [{"question": row["Question"], "label": row["Type"]} for row in asked],
            {"Adversarial": "tricky", "Non-Adversarial": "plain"},
        ),
        _renamed(
            "political views",
            "Opinion: {claim}\nThis opinion is",
            [
                {"claim": row["choice"], "label": row["is_liberal"]}
                for row in sides
                if len(row["choice"]) <= LONGEST_OPINION
            ],
            {True: "liberal", False: "conservative"},
        ),
    ]


def _example(name: str) -> RealTask:
    lines = (EXAMPLES / name / f"{name}.jsonl").read_text("utf-8").splitlines()
    return RealTask(
        name, Task.from_toml(EXAMPLES / name / "task.toml"), [json.loads(x) for x in lines]
    )


def _renamed(name: str, template: str, rows: Iterable[Row], words: dict[Any, str]) -> RealTask:
    """A task over the rows whose label is in `words`, called as it says there."""
    task = Task(template=template, labels=tuple(words.values()))
    kept = [{**row, "label": words[row["label"]]} for row in rows if row["label"] in words]
    return RealTask(name, task, kept)


def _by_length(rows: list[Row]) -> list[Row]:
    middle = sorted(len(row["text"]) for row in rows)[len(rows) // 2]
    return [{**row, "label": "long" if len(row["text"]) >= middle else "short"} for row in rows]


def _short_claims(rows: list[Row], gold: str) -> list[Row]:
    return [
        {"question": row["question"], "claim": row["choice"], "label": row[gold]}
        for row in rows
        if len(row["question"]) + len(row["choice"]) <= LONGEST_CLAIM
    ]


def _answers(asked: list[Row]) -> list[Row]:
    """For every question its best answer or its first incorrect one, in turns."""
    takes: tuple[Callable[[Row], Row], ...] = (
        lambda row: {"claim": row["Best Answer"], "label": True},
        lambda row: {"claim": row["Incorrect Answers"].split(";")[0], "label": False},
    )
    return [
        {"question": row["Question"], **takes[number % 2](row)} for number, row in enumerate(asked)
    ]
