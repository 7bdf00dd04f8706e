"""What people said of each row, from a field of the rows: a label word, ratings, or several.

It is another person's label, and no gold: it is read apart, and nothing that builds a prompt sees
it.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from icm_client.coherence.contexts import UNLABELLED
from icm_client.coherence.problem import IntArray
from icm_client.data import JsonValue
from icm_client.data.job import Job
from icm_client.data.messages import did_you_mean, listed, shown
from icm_client.data.rows import path_of
from icm_client.data.values import Unusable, kind_of
from icm_client.errors import InputError, RowError

Raters = tuple[tuple[int, ...], ...]
"""For each row the label number that each of its raters gave; nothing for one who gave none."""

_TWO = 2


def read_raters(job: Job, field: str, positive: str | None = None) -> Raters:
    """Return what the field says of each row.

    It holds a label word, a rating, or a list of words or ratings, one a rater. A rating above 0
    stands for the label `positive`, below 0 for the other one, and 0 or null for none.

    Args:
        job: rows and labels.
        field: which field.
        positive: the label that ratings above 0 stand for; None takes the task's first one.

    Raises:
        InputError: the field is the gold one, stands in the prompt, or is in no row; ratings where
            there are more than two labels; `positive` is no label.
        RowError: a value that is neither.
    """
    _check_field(job, field)
    if positive is not None and positive not in job.labels:
        raise InputError(
            f"{shown(positive)}, which ratings above 0 are to stand for, is none of the labels "
            f"{listed(job.labels)}.{did_you_mean(positive, job.labels)}"
        )
    numbered = {word: number for number, word in enumerate(job.labels)}
    words = {word.casefold(): number for word, number in numbered.items()} | numbered
    above = job.labels.index(positive or job.task.labels[0])
    raters = []
    for row in job.dataset.rows:
        try:
            raters.append(tuple(_given(row.fields.get(field), job.labels, words, above)))
        except Unusable as problem:
            raise RowError(
                f"the field {shown(field)}, which people's labels are read from, holds {problem}",
                path=path_of(job.dataset),
                line=row.line,
            ) from None
    if not any(raters):
        raise InputError(f"no row has a person's label in the field {shown(field)}")
    return tuple(raters)


def one_rater_each(raters: Raters, rng: np.random.Generator) -> IntArray:
    """For each row the label of one of its raters, drawn; `UNLABELLED` where it has none."""
    drawn = [rng.integers(len(given)) if given else 0 for given in raters]
    return np.array(
        [given[one] if given else UNLABELLED for given, one in zip(raters, drawn, strict=True)],
        dtype=np.int64,
    )


def rater_agreement(job: Job, raters: Raters) -> float:
    """Mean over rows of the share of a row's raters who gave its gold label."""
    shares = [
        sum(job.labels[one] == word for one in given) / len(given)
        for given, word in zip(raters, job.dataset.gold or (), strict=True)
        if given
    ]
    return sum(shares) / len(shares)


def _check_field(job: Job, field: str) -> None:
    if field == job.dataset.gold_field:
        raise InputError(
            f"{shown(field)} is the gold field: people's labels must come from another one"
        )
    if field in job.task.template_fields:
        raise InputError(
            f"the template shows {shown(field)}: the model would read people's labels. Take it "
            "out of the template, or name another field"
        )
    fields = dict.fromkeys(name for row in job.dataset.rows for name in row.fields)
    if field not in fields:
        raise InputError(
            f"no row has the field {shown(field)}, which people's labels are to be read from; "
            f"there are {listed(fields)}.{did_you_mean(field, fields)}"
        )


def _given(
    value: JsonValue, labels: tuple[str, ...], words: Mapping[str, int], above: int
) -> Iterable[int]:
    """The label numbers that a field's value stands for."""
    for one in value if isinstance(value, list) else [value]:
        if one is None or one == "":
            continue
        if isinstance(one, str):
            label = words.get(one, words.get(one.strip().casefold()))
            if label is None:
                raise Unusable(
                    f"{shown(one)}, which is none of the labels {listed(labels)}."
                    f"{did_you_mean(one, labels)}"
                )
            yield label
        elif isinstance(one, int | float) and not isinstance(one, bool):
            if len(labels) != _TWO:
                raise Unusable(
                    f"the rating {one}: ratings stand for two labels by their sign, and there are "
                    f"{len(labels)}. Write label words instead"
                )
            if one:
                yield above if one > 0 else 1 - above
        else:
            raise Unusable(
                f"{kind_of(one)} ({shown(one)}): it must be a label word, a rating, or a list of "
                "either"
            )
