"""Where a search starts: `--init`, for the paper's Figure 9."""

import os
from pathlib import Path
from typing import get_args

import numpy as np

from icm_client.coherence.contexts import UNLABELLED
from icm_client.coherence.problem import IntArray, Score
from icm_client.coherence.starts import Start, first_labels
from icm_client.data.job import Job
from icm_client.data.messages import did_you_mean, listed, shown
from icm_client.errors import InputError
from icm_client.runs.labels_file import labels_said, put
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
    for said in labels_said(name, job, numbered=True):
        put(said.item, said.label, labels, job)
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
