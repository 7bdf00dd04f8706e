r"""The consistency ablation: pairs with and without the rule that their two orders are opposite.

    python examples/replication/consistency_ablation.py alpaca.json --endpoint http://localhost:8000
    python examples/replication/consistency_ablation.py --embedded

Without the rule the printed objective is highest where everything has one label, and the paper's
search ends there on Alpaca. Every pair is shown in both orders, each a row of its own here, so that
a search without the rule is free to say the same of both.
"""

import sys
from collections import Counter
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

from icm_client import Task, read_rows
from icm_client.cli.main import main
from icm_client.data.constraint_spec import ConstraintSpec
from icm_client.data.job import Job
from icm_client.endpoints import Endpoint
from icm_client.errors import InputError

SAMPLE: Final = Path(__file__).parent / "samples" / "pairs.json"
USUAL_PAIRS: Final = 128
EMBEDDED_PAIRS: Final = 4

TASK: Final = Task.builtin("alpaca")
BOTH_ORDERS: Final = Task(
    template=TASK.template,
    labels=TASK.labels,
    gold="label",
    constraint=ConstraintSpec(kind="asymmetry", group=("pair",), true="True", false="False"),
)
"""The built-in task's prompt and rule, for rows that hold both orders."""

OF_ACCURACY: Final = (
    "The paper's 68.0 is the accuracy on 933 held-out pairs of Llama 3.1 70B, fine-tuned on ICM's "
    "labels of 2,048. Here it is that of the labels themselves."
)
OF_COLLAPSE: Final = (
    "Of the search without the rule the paper says that everything gets the same label. Then every "
    "pair contradicts itself, and half of the labels are as people's."
)


def both_orders(data: Path, pairs: int) -> Job:
    """A seeded sample of the file's pairs that have gold, each as two rows.

    Raises:
        InputError: the file cannot be read, or has too few pairs.
    """
    file = read_rows(data, gold="label", loader=TASK.loader, template_fields=TASK.template_fields)
    with_gold = [
        {**row.fields, "id": row.id, "label": gold}
        for row, gold in zip(file.rows, file.gold or (), strict=True)
        if gold is not None
    ]
    if not with_gold:
        raise InputError(f"{data}: no pair has a known label, and there is nothing to compare with")
    sample = Job.prepare(with_gold, without_rule(TASK.template), limit=pairs).dataset
    rows = []
    for row, gold in zip(sample.rows, sample.gold or (), strict=True):
        question, one, other = (str(row.fields[name]) for name in TASK.template_fields)
        opposite = {"True": "False", "False": "True"}[str(gold)]
        for order, first, second, label in (
            ("as it stands", one, other, gold),
            ("exchanged", other, one, opposite),
        ):
            rows.append(
                {
                    "id": f"{row.id} {order}",
                    "pair": str(row.id),
                    "question": question,
                    "response_1": first,
                    "response_2": second,
                    "label": label,
                }
            )
    return Job.prepare(rows, BOTH_ORDERS)


def without_rule(template: str) -> Task:
    """The same question, under no rule."""
    return Task(template=template, labels=TASK.labels, gold="label")


def one_label(found: Found) -> float:
    """The share of the rows that have the commonest label."""
    return max(Counter(found.labels.values()).values()) / len(found.labels)


def contradicting(found: Found) -> float:
    """The share of the pairs whose two orders have the same label."""
    of_pair: dict[str, list[str]] = {}
    for row, word in found.labels.items():
        of_pair.setdefault(row.removesuffix(" as it stands").removesuffix(" exchanged"), []).append(
            word
        )
    whole = [words for words in of_pair.values() if len(words) == 2]  # noqa: PLR2004 - both orders
    return sum(len(set(words)) == 1 for words in whole) / len(whole)


async def run_all(lab: Lab, job: Job, endpoint: Endpoint) -> dict[str, list[Found]]:
    """Search with the rule and without it, over all seeds."""
    free = Job.prepare(job.dataset, job.task, constraint=ConstraintSpec(kind="none"))
    found: dict[str, list[Found]] = {"with the rule": [], "without it": []}
    for name, ruled in (("with the rule", job), ("without it", free)):
        for seed in range(lab.seeds):
            run = await label_once(lab, ruled, seed, endpoint)
            found[name].append(run)
            lab.say(
                f"{name}, seed {seed}: {one_label(run):.0%} have one label, accuracy "
                f"{run.summary['accuracy']:.1%}{' (kept)' if run.kept else ''}"
            )
    return found


def figures(found: dict[str, list[Found]]) -> tuple[Figure, ...]:
    """Accuracy, collapse and contradictions of both searches."""
    papers = {
        "with the rule": ("68.0", None),
        "without it": (None, "all the same"),
    }
    lines: list[Figure] = []
    for name, runs in found.items():
        accuracy, commonest = papers[name]
        lines += [
            Figure(
                f"{name}: labels as people's",
                tuple(run.summary["accuracy"] for run in runs),
                accuracy,
                diagnosis_of(runs),
            ),
            Figure(
                f"{name}: rows with the commonest label", tuple(map(one_label, runs)), commonest
            ),
            Figure(
                f"{name}: pairs that contradict themselves",
                tuple(map(contradicting, runs)),
            ),
        ]
    return tuple(lines)


@click.command()
@click.argument("data", required=False, type=click.Path(path_type=Path))
@click.option(
    "--rows",
    type=click.IntRange(4),
    help=f"Pairs, a seeded sample. [default: {USUAL_PAIRS}; with --embedded {EMBEDDED_PAIRS}]",
)
@lab_options(preset="paper")
def check(data: Path | None, rows: int | None, lab: Lab) -> None:
    """Label the pairs of DATA with the rule and without it.

    DATA is AlpacaFarm's preferences or the paper's released JSON, as they are.
    """
    if data is None and not lab.embedded:
        raise click.UsageError("Missing argument 'DATA': which pairs? (--embedded for a test)")
    pairs = lab.rows(rows, usual=USUAL_PAIRS, embedded=EMBEDDED_PAIRS)
    job = both_orders(data or SAMPLE, pairs)
    result = anyio.run(ablation, lab, job)
    if result is not None:
        show(result, as_json=lab.as_json, out=lab.out)


async def ablation(lab: Lab, job: Job) -> Result | None:
    """Forecast, and run; None where the forecast was all that was wanted."""
    async with lab.opened() as endpoint:
        lab.say(told(await forecast_search(lab, job, endpoint), 2 * lab.seeds))
        if lab.forecast:
            return None
        found = await run_all(lab, job, endpoint)
        ran = {
            "pairs": len(job.dataset.rows) // 2,
            "seeds": lab.seeds,
            "preset": lab.preset,
            "model": endpoint.identity.model,
        }
    return Result(
        "Consistency ablation", figures(found), (OF_ACCURACY, OF_COLLAPSE), ran, lab.embedded
    )


if __name__ == "__main__":
    main(check)
