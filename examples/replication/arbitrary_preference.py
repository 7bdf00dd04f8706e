r"""The arbitrary preference: of two poems the better one is the one that mentions the sun.

    python examples/replication/make_poems.py poems.jsonl --from-model --endpoint http://localhost:8000
    python examples/replication/arbitrary_preference.py poems.jsonl --endpoint http://localhost:8000
    python examples/replication/arbitrary_preference.py --embedded

The prompt asks which poem is better, and nothing says that the sun is what is liked. So no search
can find it, and the paper's finds nothing better than chance. The control asks the same pairs for
something that a model has a notion of: which poem is more cheerful. In the pairs of make_poems.py
the two answers have nothing to do with each other, so each is held against both questions: what the
labels of the first question do follow can be seen as well.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

try:
    import icm_client.cli.main  # noqa: F401 - nothing works without the package
except ModuleNotFoundError as missing:
    sys.stderr.write(
        f"Error: icm-client is not installed for {sys.executable} (no module {missing.name}). Run: "
        "pip install -e '.[local]'\n"
    )
    sys.exit(2)

import anyio
import click
from beside_paper import Figure, Result, show
from forecasts import forecast_search, told
from lab import (
    Found,
    Lab,
    diagnosis_of,
    lab_options,
    label_once,
)
from make_poems import template_pairs

from icm_client import Task, read_rows, rows_from
from icm_client.cli.main import main
from icm_client.data import Dataset
from icm_client.data.job import Job
from icm_client.endpoints import Endpoint
from icm_client.errors import InputError

USUAL_PAIRS: Final = 128
EMBEDDED_PAIRS: Final = 8
SEED_OF_POEMS: Final = 0

PAIR: Final = "Poem 1: {poem_1}\nPoem 2: {poem_2}\n"
QUESTIONS: Final = {
    "better": f"{PAIR}Claim: Poem 1 is better than Poem 2.\nI think this claim is",
    "more cheerful": f"{PAIR}Claim: Poem 1 is more cheerful than Poem 2.\nI think this claim is",
}
TRUTHS: Final = {"sun": "the sun", "cheerful": "the mood"}
"""What labels are held against: the field, and what it follows."""

NOTES: Final = (
    "The paper has its own poems, and no control: that is this program's.",
    "Chance is 50%. The last column has the shares between which 95% of guesses lie.",
)


def read_pairs(path: Path) -> Dataset:
    """Pairs of poems from a file of make_poems.py.

    Raises:
        InputError: it cannot be read, or lacks a field.
    """
    pairs = read_rows(path)
    for row in pairs.rows:
        missing = {"poem_1", "poem_2", *TRUTHS} - set(row.fields)
        if missing:
            raise InputError(
                f"{path}:{row.line}: no {', '.join(sorted(missing))}: not made by make_poems.py?"
            )
    return pairs


def jobs_of(pairs: Dataset) -> dict[str, Job]:
    """A job for each question, whose rows hold the poems and nothing else."""
    rows = [
        {"id": row.id, "poem_1": row.fields["poem_1"], "poem_2": row.fields["poem_2"]}
        for row in pairs.rows
    ]
    return {
        question: Job.prepare(
            rows,
            Task(template=template, labels=("True", "False"), exchange=("poem_1", "poem_2")),
        )
        for question, template in QUESTIONS.items()
    }


def agreement(found: Found, truth: Mapping[str, str]) -> float:
    """The share of the labelled pairs whose label is the truth's."""
    return sum(truth[row] == word for row, word in found.labels.items()) / len(found.labels)


def guesses(pairs: int) -> str:
    """Where 95% of guesses over so many pairs lie: two standard deviations about 50%."""
    width = 1 / pairs**0.5
    return f"{max(0.5 - width, 0):.0%} to {min(0.5 + width, 1):.0%} by chance"


def figures(found: Mapping[str, list[Found]], pairs: Dataset) -> tuple[Figure, ...]:
    """For each question the share of its labels that agree with the sun, and with the mood."""
    lines = []
    for question, runs in found.items():
        for field, follows in TRUTHS.items():
            truth = {str(row.id): str(row.fields[field]) for row in pairs.rows}
            lines.append(
                Figure(
                    f"{question}: by {follows}",
                    tuple(agreement(run, truth) for run in runs),
                    "chance" if (question, field) == ("better", "sun") else None,
                    guesses(len(pairs.rows)),
                )
            )
        coherence = tuple(max(run.summary["coherence"], 0.0) for run in runs)
        lines.append(Figure(f"{question}: coherence", coherence, None, diagnosis_of(runs)))
    return tuple(lines)


async def run_all(lab: Lab, jobs: Mapping[str, Job], endpoint: Endpoint) -> dict[str, list[Found]]:
    """Ask both questions, over all seeds."""
    found: dict[str, list[Found]] = {question: [] for question in jobs}
    for question, job in jobs.items():
        for seed in range(lab.seeds):
            run = await label_once(lab, job, seed, endpoint)
            found[question].append(run)
            kept = " (kept)" if run.kept else ""
            lab.say(f"{question}, seed {seed}: coherence {run.summary['coherence']:.0%}{kept}")
    return found


@click.command()
@click.argument("data", required=False, type=click.Path(path_type=Path))
@click.option(
    "--rows",
    type=click.IntRange(8),
    help="Pairs: synthetic ones that are made, where no DATA is named. "
    f"[default: all of DATA, else {USUAL_PAIRS}; with --embedded {EMBEDDED_PAIRS}]",
)
@lab_options(preset="fast")
def check(data: Path | None, rows: int | None, lab: Lab) -> None:
    """Ask which poem of each pair in DATA is better, and which is more cheerful.

    DATA is a file of make_poems.py; without it synthetic pairs are made.
    """
    if data is not None and rows is not None:
        raise click.UsageError("--rows is for pairs that are made: make_poems.py has --pairs.")
    made = lab.rows(rows, usual=USUAL_PAIRS, embedded=EMBEDDED_PAIRS)
    pairs = read_pairs(data) if data else pairs_made(made)
    result = anyio.run(preference, lab, pairs)
    if result is not None:
        show(result, as_json=lab.as_json, out=lab.out)


def pairs_made(count: int) -> Dataset:
    """Synthetic pairs, always the same ones."""
    return rows_from(template_pairs(count, SEED_OF_POEMS))


async def preference(lab: Lab, pairs: Dataset) -> Result | None:
    """Forecast, and run; None where the forecast was all that was wanted."""
    jobs = jobs_of(pairs)
    async with lab.opened() as endpoint:
        cost = await forecast_search(lab, jobs["better"], endpoint)
        lab.say(told(cost, len(jobs) * lab.seeds))
        if lab.forecast:
            return None
        found = await run_all(lab, jobs, endpoint)
        ran = {
            "pairs": len(pairs.rows),
            "seeds": lab.seeds,
            "preset": lab.preset,
            "model": endpoint.identity.model,
        }
    return Result("Arbitrary preference", figures(found, pairs), NOTES, ran, lab.embedded)


if __name__ == "__main__":
    main(check)
