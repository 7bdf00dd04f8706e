"""What `eval` and `ablate` share: the rows that take part."""

from dataclasses import replace

import numpy as np

from icm_client.coherence.contexts import in_units
from icm_client.data import Dataset
from icm_client.data.job import Job
from icm_client.errors import InputError


def some_rows(job: Job, count: int) -> Dataset:
    """A seeded sample of at most `count` rows, in their order; a rule's groups come whole.

    Raises:
        InputError: fewer than two rows would be left.
    """
    units = in_units(np.random.default_rng(0).permutation(len(job.items)), job.constraint.groups)
    chosen: set[int] = set()
    for unit in units:
        rows = {job.items[item].row for item in unit} - chosen
        if len(chosen) + len(rows) <= count:
            chosen |= rows
    if len(chosen) < 2:  # noqa: PLR2004
        raise InputError(
            f"{len(chosen)} of the rows, in whole groups, fit into {count}: ask for more"
        )
    data = job.dataset
    kept = sorted(chosen)
    return replace(
        data,
        rows=tuple(data.rows[row] for row in kept),
        gold=None if data.gold is None else tuple(data.gold[row] for row in kept),
    )
