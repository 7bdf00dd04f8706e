"""Where a search starts: `--init`, for the paper's Figure 9."""

import os
from pathlib import Path
from typing import get_args

import numpy as np

from icm_client.coherence.contexts import UNLABELLED
from icm_client.coherence.problem import IntArray, Score
from icm_client.coherence.starts import Start, first_labels
from icm_client.data import read_rows
from icm_client.data.messages import did_you_mean, listed, shown
from icm_client.errors import InputError
from icm_client.runs.job import Job
from icm_client.runs.presets import Settings

KINDS = get_args(Start)


def read_start(start: str | os.PathLike[str], job: Job) -> Start | IntArray:
    """Return the kind of start, or the first labels that a file holds.

    Args:
        start: one of `KINDS`, or a file of rows with `id` and `label` such as a run writes; rows
            that it leaves out start without a label.
        job: whose rows and labels they are.

    Raises:
        InputError: neither; or the file's labels are not the task's, or its rows not the job's.
    """
    kinds: dict[str, Start] = {kind: kind for kind in KINDS}
    if start in kinds:
        return kinds[str(start)]
    name = os.fspath(start)
    if not Path(name).exists():
        raise InputError(
            f"no first labels are called {shown(name)}: there are {listed(KINDS)}, or name a file "
            f"of labels.{did_you_mean(name, KINDS)}"
        )
    labels = np.full(len(job.prompts), UNLABELLED)
    places = {str(job.dataset.rows[job.items[item].row].id): int(item) for item in job.row_items}
    for row in read_rows(name).rows:
        word = row.fields.get("label")
        where = f"{name}:{row.line}"
        if word not in job.labels:
            raise InputError(
                f"{where}: {shown(word)} is none of the labels {listed(job.labels)}: first labels "
                "are read from the field 'label'"
            )
        if str(row.id) not in places:
            raise InputError(f"{where}: no row of {job.dataset.name} has the id {shown(row.id)}")
        item = places[str(row.id)]
        labels[item] = job.labels.index(str(word))
        _label_exchanged(labels, item, job)
    return labels


async def start_labels(
    start: Start | IntArray, job: Job, settings: Settings, score: Score, *, seed: int
) -> IntArray:
    """Return first labels, shape `[N]`; drawn apart from the search's own chance.

    Raises:
        EndpointError, ScoreError, StoreError: whatever `score` raises, for "zero-shot".
    """
    if not isinstance(start, str):
        return start
    return await first_labels(
        start,
        len(job.prompts),
        len(job.labels),
        score,
        K=settings.initial,
        rng=np.random.default_rng((seed, 1)),
        constraint=job.constraint,
    )


def _label_exchanged(labels: IntArray, item: int, job: Job) -> None:
    """Give the other order of a pair the label that agrees."""
    other = item + 1
    if other < len(job.items) and job.items[other].exchanged:
        agreeing = (
            label
            for label in range(len(job.labels))
            if job.constraint.consistent(item, int(labels[item]), other, label)
        )
        labels[other] = next(agreeing, UNLABELLED)
