"""Runs of every preset on planted concepts, as they were once recorded: `recorded_runs.json`.

    python tests/runs/recorded_runs.py      # record them anew

A change of structure must leave each of them as it is, label by label and request by request. One
that is meant to change labels records them anew, and says why.
"""

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

import anyio
import numpy as np

from icm_client import FewShotSettings, SweepSettings, Task, ZeroShotSettings, label
from icm_client.coherence.anneal import AnnealSettings
from icm_client.coherence.anneal_official import OfficialSettings
from icm_client.coherence.folds import FoldSettings
from icm_client.coherence.iterate import IterateSettings
from icm_client.data.constraint_spec import ConstraintSpec
from icm_client.data.job import Job
from icm_client.endpoints import Answer, Read
from icm_client.errors import TrainingError
from icm_client.testing import PlantedConcept, PlantedTrainer

RECORDED = Path(__file__).with_suffix(".json")
SEEDS = range(5)

WORDS = ("red", "green", "dark blue", "grey", "white")
PRESETS: dict[str, Any] = {
    "fast": SweepSettings(),
    "paper": AnnealSettings(iterations=50),
    "official": OfficialSettings(iterations=50),
    "zero-shot": ZeroShotSettings(),
    "zero-shot-calibrated": ZeroShotSettings(calibrated=True),
    "random": FewShotSettings(rounds=0),
    "bootstrap": FewShotSettings(),
    "folds": FoldSettings(passes=2),
    "iterate": IterateSettings(batch=32),
}
EITHER = ConstraintSpec(kind="exactly-one", group=("pair",), true="red")
BOTH_WAYS = ConstraintSpec(kind="asymmetry", group=("pair",), true="red", false="green")


@dataclass(frozen=True, slots=True)
class Case:
    """What a run is asked.

    Attributes:
        n_labels: `K`.
        rows: `N`.
        shares: of the planted classes, for `prior` too where `told`.
        meaning: what the label words say, nats; 0 for neutral ones, under 0 for exchanged ones.
        rule: on pairs of rows.
        pinned: rows whose label is given.
        settings: of the search, besides the preset's.
    """

    n_labels: int = 2
    rows: int = 48
    shares: tuple[float, ...] = ()
    told: bool = False
    meaning: float = 1.0
    bias: float = 0.5
    rule: ConstraintSpec | None = None
    pinned: int = 0
    settings: dict[str, Any] = field(default_factory=dict)


CASES: dict[str, dict[str, Case]] = {
    "fast": {
        "two": Case(rows=64),
        "three": Case(3, rows=60),
        "four": Case(4, rows=80),
        "five": Case(5, rows=90),
        "a rule": Case(rule=EITHER),
        "a rule on two orders": Case(rule=BOTH_WAYS, meaning=0.3),
        "pins": Case(meaning=0.0, pinned=6),
        "a prior": Case(rows=60, shares=(0.2, 0.8), told=True),
        "uneven shares": Case(rows=100, shares=(0.25, 0.75)),
        "uneven shares of three": Case(3, rows=90, shares=(0.6, 0.3, 0.1)),
        "neutral words": Case(rows=64, meaning=0.0),
        "neutral words of three": Case(3, rows=60, meaning=0.0),
        "exchanged words": Case(rows=64, meaning=-1.0),
        "exchanged words of four": Case(4, rows=80, meaning=-0.6),
        "weak words of four, pins": Case(4, rows=80, meaning=0.1, pinned=12),
    },
    "paper": {
        "two": Case(rows=32),
        "three, pins": Case(3, rows=30, pinned=5),
        "a rule": Case(rows=32, rule=EITHER),
        "batches": Case(rows=40, rule=BOTH_WAYS, settings={"batch": 20, "layout": "fixed"}),
        "few demos": Case(4, rows=40, settings={"max_demos": 12}),
    },
    "official": {
        "two": Case(rows=32),
        "three, pins": Case(3, rows=30, pinned=5),
        "a rule": Case(rows=32, rule=EITHER, meaning=0.2),
        "batches": Case(rows=40, rule=BOTH_WAYS, settings={"batch": 20, "layout": "tree"}),
    },
    "zero-shot": {"two": Case(), "a rule, pins": Case(rule=EITHER, pinned=6)},
    "zero-shot-calibrated": {
        "three": Case(3, rows=60, shares=(0.6, 0.3, 0.1)),
        "a prior": Case(rows=60, shares=(0.2, 0.8), told=True),
    },
    "random": {"two": Case(rows=64), "four, pins": Case(4, rows=80, pinned=6)},
    "bootstrap": {
        "two": Case(rows=64, meaning=0.3),
        "five": Case(5, rows=90),
        "a rule on two orders, pins": Case(rule=BOTH_WAYS, meaning=0.3, pinned=6),
        "a prior": Case(rows=60, shares=(0.2, 0.8), told=True),
    },
    "folds": {
        "two": Case(rows=48),
        "two, a prior": Case(rows=60, shares=(0.7, 0.3), told=True),
        "three": Case(3, rows=60, meaning=2.0),
        "a rule, pins": Case(rows=48, rule=EITHER, pinned=6),
    },
    "iterate": {
        "two": Case(rows=72),
        "three": Case(3, rows=72),
        "a rule, pins": Case(rows=64, rule=BOTH_WAYS, pinned=6),
    },
}


class Watched(PlantedConcept):
    """Remembers what it was asked."""

    asked: list[bytes]

    async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
        self.asked += [repr((tuple(read.prompt), tuple(read.wanted))).encode() for read in reads]
        return await super().read(reads, lane=lane)


def all_cases() -> Iterator[tuple[str, str, int]]:
    """Preset, name of the case, seed."""
    for preset, cases in CASES.items():
        yield from ((preset, name, seed) for name, seed in product(cases, SEEDS))


def rows_of(case: Case, seed: int) -> list[dict[str, str]]:
    """Rows in pairs of the first label and another, where a rule binds them."""
    chance = np.random.default_rng(seed + 1000)
    shares = case.shares or (1 / case.n_labels,) * case.n_labels
    classes = chance.choice(case.n_labels, size=case.rows, p=shares)
    if case.rule is not None:
        classes[1::2] = 1 - classes[::2]
    return [
        {"id": f"r{n}", "text": f"words of row {n}", "pair": f"p{n // 2}", "class": WORDS[y]}
        for n, y in enumerate(classes.tolist())
    ]


async def outcome(preset: str, name: str, seed: int, folder: Path) -> dict[str, Any]:
    """What must stay of one run: labels and requests as they are, `U` but for the last digits."""
    case = CASES[preset][name]
    rows = rows_of(case, seed)
    words = WORDS[: case.n_labels]
    task = Task(template="Thing: {text}\nColour:", labels=words)
    told = [{key: row[key] for key in ("id", "text", "pair")} for row in rows]
    job = Job.prepare(told, task)
    classes = [words.index(row["class"]) for row in rows]
    concept = dict(zip(job.prompts, classes, strict=True))
    bias = [case.bias, *[0.0] * (case.n_labels - 1)]
    endpoint = Watched(concept, job.label_texts, meaning=case.meaning, bias=bias, seed=seed)
    endpoint.asked = []
    settings = replace(PRESETS[preset], **case.settings)
    pinned = np.random.default_rng(seed).choice(case.rows, case.pinned, replace=False).tolist()
    trains = preset in ("folds", "iterate")
    labelled = partial(
        label,
        told,
        task=task,
        endpoint=endpoint,
        settings=settings,
        constraint=case.rule,
        prior=dict(zip(words, case.shares, strict=True)) if case.told else None,
        pins={f"r{n}": rows[n]["class"] for n in pinned} or None,
        trainer=PlantedTrainer(concept, job.label_texts, half=5, noise=0.5, seed=seed)
        if trains
        else None,
        seed=seed,
        store=folder / "scores.sqlite3",
        runs=folder / "runs",
    )
    try:
        found = await labelled()
    except TrainingError as error:
        return {**_asked(endpoint), "error": str(error)}
    return {
        **_asked(endpoint),
        "labels": "".join(str(words.index(row.label)) for row in found.rows),
        "sweeps": len(found.history),
        "steps": len(found.steps),
        "coherence": round(found.coherence, 6),
        "verdict": found.verdict,
        "findings": [finding.code for finding in found.findings],
    }


def _asked(endpoint: Watched) -> dict[str, Any]:
    digest = sha256(b"\n".join(sorted(endpoint.asked))).hexdigest()
    return {"requests": len(endpoint.asked), "asked": digest[:16]}


def main() -> None:
    """Record them all."""
    recorded = {}
    for preset, name, seed in all_cases():
        with tempfile.TemporaryDirectory() as folder:
            found = anyio.run(partial(outcome, preset, name, seed, Path(folder)))
        recorded[f"{preset}, {name}, seed {seed}"] = found
    lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in recorded.items())
    RECORDED.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")
    sys.stderr.write(f"{len(recorded)} runs\n")


if __name__ == "__main__":
    main()
