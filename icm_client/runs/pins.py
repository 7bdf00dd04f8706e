"""Labels that a person has checked: `--pin`. The search keeps them, and they help it."""

from collections.abc import Mapping

import numpy as np

from icm_client.coherence.assignment import JointAssignment
from icm_client.coherence.batches import Within
from icm_client.coherence.constraints import inconsistent_pairs
from icm_client.coherence.contexts import UNLABELLED
from icm_client.coherence.pins import held
from icm_client.coherence.problem import IntArray
from icm_client.data.job import Job
from icm_client.errors import InputError
from icm_client.runs.labels_file import Source, labels_said, other_order, put

Pins = Source
"""What may be given as pins: row id -> label, or a labels file."""


def read_pins(pins: Pins, job: Job) -> IntArray | None:
    """Return the pinned labels, shape `[N]`, `UNLABELLED` where an item is free.

    Of a pair that is shown in both orders, the other order is pinned to the label that agrees.

    Args:
        pins: id -> label, of which nothing may be pinned; or a file of rows with `id` and `label`,
            at least one.
        job: whose rows and labels they are.

    Returns:
        None where nothing is pinned.

    Raises:
        InputError: the file cannot be read, its labels are not the task's or its rows not the
            job's, or the rule forbids them; with file and line.
    """
    pinned = np.full(len(job.items), UNLABELLED)
    where_of: dict[int, str] = {}
    for said in labels_said(pins, job):
        if said.item in where_of:  # 7 and "7" are one id
            raise InputError(f"{said.where}: the row is pinned already, by {where_of[said.item]}")
        put(said.item, said.label, pinned, job)
        where_of[said.item] = said.where
        if (other := other_order(said.item, job)) is not None:
            where_of[other] = said.where
    _refuse_contradictions(pinned, where_of, job)
    return pinned if where_of else None


def _refuse_contradictions(pinned: IntArray, where_of: Mapping[int, str], job: Job) -> None:
    """Raise `InputError` where the rule allows no labels that have all pins."""
    groups = tuple(
        tuple(group) for group in job.constraint.groups if (pinned[list(group)] != UNLABELLED).any()
    )
    if not groups:
        return
    rule = Within(job.constraint, groups)
    for i, j in inconsistent_pairs(pinned, rule):
        raise InputError(
            f"{where_of[j]}: the label {job.labels[pinned[j]]!r} contradicts "
            f"{job.labels[pinned[i]]!r} of {where_of[i]} by the constraint of the task: correct "
            "one of them, or change the constraint"
        )
    free = np.zeros((len(pinned), len(job.labels)))
    found = JointAssignment(rule, len(job.labels))(held(free, pinned)).labels
    for group in groups:
        said = [item for item in group if pinned[item] != UNLABELLED]
        if any(found[item] != pinned[item] for item in said):
            where = ", ".join(dict.fromkeys(where_of[item] for item in said))
            raise InputError(
                f"{where}: the constraint of the task allows the related rows no labels that have "
                "these: correct one of them, or change the constraint"
            )
