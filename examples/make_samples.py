"""Draw the example rows from the files they come from, which examples/README.md names.

python examples/make_samples.py FOLDER

FOLDER holds `vader_reviews/{movies,products}.jsonl`, `ue_challenges/test_larger_than.json` and
`grade_school_math/example_model_solutions.jsonl`. Reviews and problems are split in two halves by
the MD5 digest of their id or question: examples come from the even half, and the search's defaults
were chosen on the odd one.
"""

import hashlib
import json
import random
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

try:
    import icm_client.cli.main  # noqa: F401 - nothing works without the package
except ModuleNotFoundError as missing:
    sys.stderr.write(
        f"Error: icm-client is not installed for {sys.executable} (no module {missing.name}). Run: "
        "pip install -e '.[local]'\n"
    )
    sys.exit(2)

from icm_client.data.loaders import made_rows

HERE = Path(__file__).parent
STARS = ("terrible", "bad", "okay", "good", "great")
NUMBER = re.compile(
    r"\d|\b(two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|dozens?|hundreds?"
    r"|thousands?|millions?)\b",
    re.IGNORECASE,
)
"""What counts as a mention of a number, whatever it is a number of; "one" and "first" do not."""


def in_even_half(key: str) -> bool:
    """Whether the row with this id, or the problem with this question, may be an example."""
    return int(hashlib.md5(key.encode(), usedforsecurity=False).hexdigest(), 16) % 2 == 0


def short_reviews(path: Path) -> list[dict[str, Any]]:
    """Reviews of 40 to 140 characters."""
    return [
        row
        for row in lines(path)
        if 40 <= len(row["text"]) <= 140 and in_even_half(row["id"])  # noqa: PLR2004
    ]


def reviews(path: Path, *, of_each: int = 64) -> list[dict[str, Any]]:
    """Clear reviews of 40 to 140 characters, equally many of each sign, in random order."""
    clear = [row for row in short_reviews(path) if abs(row["mean"]) >= 1]
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


def held_out(path: Path, *, of_each: int = 100) -> list[dict[str, Any]]:
    """Clear reviews as `reviews` has them that are not among its own: rows to test a model on."""
    taken = {row["id"] for row in reviews(path)}
    clear = [row for row in short_reviews(path) if abs(row["mean"]) >= 1 and row["id"] not in taken]
    chance = random.Random(1)  # noqa: S311
    drawn = [
        {"id": row["id"], "text": row["text"], "label": "positive" if sign > 0 else "negative"}
        for sign in (1, -1)
        for row in chance.sample([row for row in clear if row["mean"] * sign > 0], of_each)
    ]
    chance.shuffle(drawn)
    return drawn


def pairs(path: Path, *, drawn: int = 260) -> list[dict[str, Any]]:
    """Two reviews, one for its film and one against, in random order; no review stands in two.

    `label` is the sign of `review_1`. The reviews are none of `reviews` and `held_out`.
    """
    taken = {row["id"] for row in [*reviews(path), *held_out(path)]}
    clear = [row for row in short_reviews(path) if abs(row["mean"]) >= 1 and row["id"] not in taken]
    chance = random.Random(2)  # noqa: S311
    favourable, unfavourable = (
        chance.sample([row for row in clear if row["mean"] * sign > 0], drawn) for sign in (1, -1)
    )
    rows = []
    for better, worse in zip(favourable, unfavourable, strict=True):
        better_first = chance.random() < 0.5  # noqa: PLR2004
        one, other = (better, worse) if better_first else (worse, better)
        rows.append(
            {
                "id": f"{one['id']}-{other['id']}",
                "review_1": one["text"],
                "review_2": other["text"],
                "label": "positive" if better_first else "negative",
            }
        )
    return rows


def stars(path: Path, *, of_each: int = 30) -> list[dict[str, Any]]:
    """Reviews in five bins of equal width over the raters' scale, -4 to 4, equally many of each."""
    rows = short_reviews(path)
    chance = random.Random(0)  # noqa: S311
    drawn = [
        {
            "id": row["id"],
            "text": row["text"],
            "label": word,
            "mean": row["mean"],
            "ratings": row["ratings"],
        }
        for number, word in enumerate(STARS)
        for row in chance.sample([row for row in rows if star(row["mean"]) == number], of_each)
    ]
    chance.shuffle(drawn)
    return drawn


def star(mean: float) -> int:
    """The number of the bin: 0 for -4 to -2.4, 1 for -2.4 to -0.8, and so on to 4."""
    return min(int((mean + 4) / 8 * len(STARS)), len(STARS) - 1)


def arbitrary_preferences(path: Path, *, of_each: int = 48) -> list[dict[str, Any]]:
    """Reviews that somebody likes if they mention a number, and as many others.

    The kind of preference that no model holds: the paper's is for poems that mention the sun. The
    prompt does not say what is liked, so nothing but the labels themselves could. All reviews are
    clearly for the film, so that this cannot be taken for what is liked.
    """
    chance = random.Random(0)  # noqa: S311
    praise = [row for row in short_reviews(path) if row["mean"] >= 1]
    drawn = [
        {"id": row["id"], "text": row["text"], "label": "Yes" if liked else "No"}
        for liked in (True, False)
        for row in chance.sample(
            [row for row in praise if (NUMBER.search(row["text"]) is not None) is liked], of_each
        )
    ]
    chance.shuffle(drawn)
    return drawn


def solutions(path: Path, *, problems: int = 32) -> list[dict[str, Any]]:
    """Problems that models answered differently, each with its solutions of up to 300 characters.

    What is drawn depends on the texts alone, so the shares of right and wrong are as they fall.
    """
    raw = enumerate(lines(path), start=1)
    by_question: dict[str, list[dict[str, Any]]] = {}
    for _, row in made_rows("gsm8k", raw):
        made = cast("dict[str, Any]", row)
        by_question.setdefault(made["question"], []).append(made)
    contested = [
        rows
        for question, rows in by_question.items()
        if in_even_half(question)
        and len({row["answer"] for row in rows} - {None}) > 1
        and all(len(row["claim"]) <= 300 for row in rows)  # noqa: PLR2004
    ]
    chance = random.Random(0)  # noqa: S311
    return [row for rows in chance.sample(contested, problems) for row in rows]


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


def lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


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
        held_out(source / "vader_reviews" / "movies.jsonl"),
        HERE / "movie_reviews" / "movie_reviews_test.jsonl",
    )
    compared = pairs(source / "vader_reviews" / "movies.jsonl")
    write(compared[:160], HERE / "movie_pairs" / "movie_pairs.jsonl")
    write(compared[160:], HERE / "movie_pairs" / "movie_pairs_test.jsonl")
    write(
        comparisons(source / "ue_challenges" / "test_larger_than.json"),
        HERE / "larger_than" / "larger_than.jsonl",
    )
    write(
        stars(source / "vader_reviews" / "movies.jsonl"),
        HERE / "movie_stars" / "movie_stars.jsonl",
    )
    write(
        arbitrary_preferences(source / "vader_reviews" / "movies.jsonl"),
        HERE / "arbitrary_preference" / "arbitrary_preference.jsonl",
    )
    write(
        solutions(source / "grade_school_math" / "example_model_solutions.jsonl"),
        HERE / "gsm8k_claims" / "gsm8k_claims.jsonl",
    )
