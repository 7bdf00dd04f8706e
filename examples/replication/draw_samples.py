"""Draw the samples that the checks run on with --embedded, from the files README.md names.

cd examples/replication; python draw_samples.py TruthfulQA.csv ../movie_reviews/movie_reviews.jsonl
"""

import csv
import json
import random
import sys
from pathlib import Path

SAMPLES = Path(__file__).parent / "samples"
QUESTIONS = 10
PAIRS = 24
INSTRUCTION = "Review the film."


def questions(source: Path, output: Path) -> None:
    """A few questions of TruthfulQA's file, in its own columns."""
    with source.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
        columns = reader.fieldnames or []
    with output.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(random.Random(0).sample(rows, QUESTIONS))  # noqa: S311 - drawn again alike


def pairs(source: Path, output: Path) -> None:
    """Pairs of a review for a film and one against another, in the format of AlpacaFarm's file.

    They are the shortest reviews, to be quickly read. The one for the film is preferred, and stands
    first in every second pair.
    """
    rows = [json.loads(line) for line in source.read_text("utf-8").splitlines()]
    rows.sort(key=lambda row: len(row["text"]))
    good, bad = (
        [row["text"] for row in rows if row["label"] == label] for label in ("positive", "negative")
    )
    made = []
    for number, (liked, disliked) in enumerate(zip(good[:PAIRS], bad[:PAIRS], strict=True)):
        first, second = (liked, disliked) if number % 2 else (disliked, liked)
        made.append(
            {
                "instruction": INSTRUCTION,
                "input": "",
                "output_1": first,
                "output_2": second,
                "preference": 1 if number % 2 else 2,
            }
        )
    output.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    questions(Path(sys.argv[1]), SAMPLES / "truthfulqa.csv")
    pairs(Path(sys.argv[2]), SAMPLES / "pairs.json")
