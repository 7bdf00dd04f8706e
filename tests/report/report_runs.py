"""Runs that are done, with rows of the test's own: written as a run writes them."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from icm_client import Task, rows_from
from icm_client.data import JsonValue, LabelledRow, write_labels
from icm_client.data.job import Job
from icm_client.endpoints import ServerIdentity
from icm_client.record.archive import Run, read_run
from icm_client.record.description import RunDescription
from icm_client.record.folder import RunFolder

TASK = Task(template="Review: {text}\nSentiment:", labels=("positive", "negative"))
SERVER = ServerIdentity("vllm", "base-model", 4096, "f" * 32)

Rows = Sequence[Mapping[str, JsonValue]]

FINDINGS = [
    {
        "code": "settled",
        "message": "2 labels of 40 were decided after the search.",
        "advice": "More --steps leave fewer.",
        "severity": "note",
        "fatal": False,
    },
    {
        "code": "uneven-shares",
        "message": "The labels may be uneven.",
        "advice": "Say so with --prior.",
        "figures": "90% interval: 20% to 90%",
        "severity": "check",
        "fatal": False,
    },
]


def confidences(n: int, n_labels: int = 2) -> list[float]:
    """From barely over chance to nearly sure, in no order; no two alike."""
    chance = 1 / n_labels
    return [chance + 0.01 + (0.98 - chance) * (i * 7919 % n) / n for i in range(n)]


def write_run(
    base: Path,
    rows: Rows,
    *,
    task: Task = TASK,
    gold: str | None = None,
    seed: int = 0,
    result: Mapping[str, object] | None = None,
    events: Sequence[tuple[str, dict[str, Any]]] = (),
    labels: Sequence[str] | None = None,
) -> Run:
    """A run that gave row `i` label `i % K`, or `labels[i]`, with `confidences`."""
    job = Job.prepare(rows_from(rows, gold=gold), task)
    words = task.labels
    n = len(job.dataset.rows)
    labelled = []
    for i, (row, confidence) in enumerate(
        zip(job.dataset.rows, confidences(n, len(words)), strict=True)
    ):
        word = words[i % len(words)] if labels is None else labels[i]
        rest = float(np.log((1 - confidence) / (len(words) - 1)))
        log_probs = {w: float(np.log(confidence)) if w == word else rest for w in words}
        labelled.append(LabelledRow(row, word, confidence, log_probs, "exact"))
    known = sum(one is not None for one in job.dataset.gold or ())
    summary: dict[str, object] = {
        "preset": "fast",
        "rows_with_gold": known,
        "utility": 0.41,
        "coherence": 0.59,
        "findings": FINDINGS,
        "verdict": "check",
        "notices": ["a notice"],
        "restart": 1,
        "prior_source": "even",
        "exactness": {"exact": n},
        "sweeps": [
            sweep(0, 0, 0.01, (n // 2, n - n // 2), n),
            sweep(1, 0, 0.1, (n // 2, n // 2 - 4), n),
            sweep(1, 1, 0.41, (n // 4, n - n // 4), 3),
        ],
        "steps": 0,
        "cost": {
            "requests": 1000,
            "retries": 0,
            "from_server": 900,
            "from_store": 100,
            "computed_tokens": 12345,
            "cached_tokens": 67890,
            "seconds": 75.0,
        },
        **(result or {}),
    }
    write = partial(_write, labelled, job.dataset.gold, job.dataset.gold_field)
    with opened_run(base, job, seed) as folder:
        for event, fields in events:
            folder.journal.append(event, **fields)
        folder.finish(summary, write)
    return read_run(folder.name, base)


def opened_run(base: Path, job: Job, seed: int = 0) -> RunFolder:
    """The folder of a run that this process works on, until the `with` block ends."""
    described = RunDescription.of(job, {"preset": "fast", "demos": 64}, seed, SERVER)
    return RunFolder.open(described, base=base, command=["label", "rows.jsonl"])


def sweep(
    restart: int, number: int, utility: float, counts: Sequence[int], moved: int
) -> dict[str, object]:
    return {
        "restart": restart,
        "sweep": number,
        "utility": utility,
        "coherence": 0.5,
        "counts": list(counts),
        "moved": moved,
    }


def step(number: int, item: str, proposal: str, *, accepted: bool = True) -> dict[str, Any]:
    return {
        "n": number,
        "T": 1.0,
        "alpha": 50.0,
        "item": item,
        "proposal": proposal,
        "fix": [],
        "U": -10.0 + number,
        "Delta": 1.0,
        "accepted": accepted,
        "batch": 0,
    }


def _write(
    labelled: Sequence[LabelledRow],
    gold: Sequence[str | None] | None,
    gold_field: str | None,
    path: Path,
) -> None:
    write_labels(path, labelled, format="jsonl", gold=gold, gold_field=gold_field)


def reviews(n: int) -> list[dict[str, JsonValue]]:
    """Rows with gold in `label`; every fifth gold label is another than `write_run` gives."""
    words = TASK.labels
    return [
        {"id": f"r{i}", "text": f"words of row {i}", "label": words[(i + (i % 5 == 0)) % 2]}
        for i in range(n)
    ]
