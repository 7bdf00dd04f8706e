"""What looks wrong with task and rows before a run, though a search would take them.

What cannot be used at all is an error elsewhere: a label that is there twice, a cell that is empty,
a gold label that the task does not have.
"""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import combinations

from icm_client.data.messages import listed, shown
from icm_client.data.rows import Dataset, named_places
from icm_client.data.task import Task

_LONG = 48
"""Characters from which a label is long: it has then about ten tokens."""

_SHORTEST_ALIKE = 5
"""Letters from which two words that differ in one are probably the same: not `legal`, `regal`."""

_JOINED, _AROUND = re.compile(r"(?<=\w)[-_\s]+(?=\w)"), " \t\n.,;:!\"'"

_PLACEHOLDERS = frozenset("- -- . ? n/a #n/a <na> na nan nat nil none null tbd".split())  # noqa: SIM905
"""What stands for nothing in tables, without regard to case."""


def sanity_warnings(task: Task, dataset: Dataset) -> tuple[str, ...]:
    """Return sentences on labels and cells that the user should mend or mean."""
    return (*_alike(task.labels), *_long(task.labels), *_placeholders(task, dataset))


def gold_notices(task: Task, dataset: Dataset) -> tuple[str, ...]:
    """Return sentences on what the gold labels cover; none without gold."""
    counts = Counter(label for label in dataset.gold or () if label is not None)
    missing = [label for label in task.labels if label not in counts]
    if not counts or not missing:
        return ()
    return (f"no row has the gold label {listed(missing)}: of it, accuracy and recall say nothing",)


def _alike(labels: Sequence[str]) -> list[str]:
    return [
        f"the labels {shown(one)} and {shown(other)} are nearly the same: if one is a slip, "
        "correct it; if both are meant, take words that lie further apart"
        for one, other in combinations(labels, 2)
        if nearly_the_same(one, other)
    ]


def nearly_the_same(one: str, other: str) -> bool:
    """Whether two labels differ in case, spaces and hyphens alone, or in one slip of a letter.

    A slip is a letter more, another, or two exchanged, after the first two; never a digit.
    """
    a, b = (_JOINED.sub("", label.casefold()).strip(_AROUND) for label in (one, other))
    if a == b:
        return bool(a)
    if min(len(a), len(b)) < _SHORTEST_ALIKE:
        return False
    begins = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
    if begins is None:  # one is the other's beginning
        begins = min(len(a), len(b))
    a, b = a[begins:], b[begins:]
    while a and b and a[-1] == b[-1]:
        a, b = a[:-1], b[:-1]
    slip = max(len(a), len(b)) == 1 or (len(a) == len(b) == 2 and a == b[::-1])  # noqa: PLR2004
    return slip and begins > 1 and not any(map(str.isdigit, a + b))


def _long(labels: Sequence[str]) -> list[str]:
    long = [label for label in labels if len(label) > _LONG]
    if not long:
        return []
    each = "is" if len(long) == 1 else "are each"
    sentence = (
        f"{listed(long)} {each} longer than {_LONG} characters: long labels are read in many "
        "places, and the model may prefer the shorter ones. Take a word for each, and let the "
        "template say what it means"
    )
    return [sentence]


def _placeholders(task: Task, dataset: Dataset) -> list[str]:
    sentences = []
    for field in task.template_fields:
        held = [row.fields.get(field) for row in dataset.rows]
        empty = [
            number
            for number, value in enumerate(held)
            if isinstance(value, str) and value.strip().casefold() in _PLACEHOLDERS
        ]
        # In a column of short answers "none" or "unknown" is one of them.
        if not empty or len(set(map(str, held))) * 2 < len(held):
            continue
        where = named_places([(dataset.rows[empty[0]].place, "")])
        rows = "1 row has" if len(empty) == 1 else f"{len(empty):,} rows have"
        sentences.append(
            f"{rows} nothing but {shown(held[empty[0]])} or the like in the field {shown(field)}, "
            f"the first in {where}: the model is asked about it as about any text. Leave "
            "such rows out"
        )
    return sentences
