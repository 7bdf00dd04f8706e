"""Draw the example rows from the files they come from, which examples/README.md names.

python examples/make_samples.py FOLDER

FOLDER holds `vader_reviews/{movies,products}.jsonl` and `ue_challenges/test_larger_than.json`.
Rows are split in two halves by the MD5 digest of their id: examples come from the even half, and
the search's defaults were chosen on the odd one.
"""

import hashlib
import json
import random
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def in_even_half(row_id: str) -> bool:
    """Whether the row may be an example."""
    return int(hashlib.md5(row_id.encode(), usedforsecurity=False).hexdigest(), 16) % 2 == 0


def reviews(path: Path, *, of_each: int = 64) -> list[dict[str, Any]]:
    """Clear reviews of 40 to 140 characters, equally many of each sign, in random order."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    clear = [
        row
        for row in rows
        if abs(row["mean"]) >= 1 and 40 <= len(row["text"]) <= 140 and in_even_half(row["id"])  # noqa: PLR2004
    ]
    chance = random.Random(0)  # noqa: S311 - a sample that can be drawn again
    drawn = [
        {
            "id": row["id"],
            "text": row["text"],
            "label": "positive" if sign > 0 else "negative",
            "mean": row["mean"],
            "ratings": row["ratings"],
        }
        for sign in (1, -1)
        for row in chance.sample([row for row in clear if row["mean"] * sign > 0], of_each)
    ]
    chance.shuffle(drawn)
    return drawn


def comparisons(path: Path, *, of_each: int = 64) -> list[dict[str, Any]]:
    """Claims that one number word is larger than another, equally many true and false."""
    rows = json.loads(path.read_text("utf-8"))
    chance = random.Random(0)  # noqa: S311
    drawn = [
        {"claim": row["choice"], "label": str(row["label"])}
        for truth in (True, False)
        for row in chance.sample([row for row in rows if row["label"] is truth], of_each)
    ]
    chance.shuffle(drawn)
    return [{"id": number, **row} for number, row in enumerate(drawn, start=1)]


def write(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Write JSON Lines."""
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )


if __name__ == "__main__":
    source = Path(sys.argv[1])
    for kind in ("movie", "product"):
        write(
            reviews(source / "vader_reviews" / f"{kind}s.jsonl"),
            HERE / f"{kind}_reviews" / f"{kind}_reviews.jsonl",
        )
    write(
        comparisons(source / "ue_challenges" / "test_larger_than.json"),
        HERE / "larger_than" / "larger_than.jsonl",
    )
