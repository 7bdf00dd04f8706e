"""Items: what the model is asked about. A row is one, or two where a pair is shown in both orders.

The search knows an item by its number among these.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from icm_client.coherence.problem import IntArray
from icm_client.data.rows import Dataset
from icm_client.data.task import Task

_SPACES = " \t"


class Item(NamedTuple):
    """A row as the model is shown it.

    Attributes:
        row: the row's number, from 0.
        exchanged: whether the two fields that the task exchanges are exchanged in it.
    """

    row: int
    exchanged: bool


def items_of(task: Task, dataset: Dataset) -> tuple[Item, ...]:
    """Return the items in the rows' order, a row's own order before the exchanged one."""
    orders = (False, True) if task.exchange else (False,)
    return tuple(Item(row, order) for row in range(len(dataset.rows)) for order in orders)


def render_items(
    task: Task, dataset: Dataset, items: Sequence[Item], own: Sequence[str] | None = None
) -> tuple[str, ...]:
    """Return every item's prompt, which a label's text may follow.

    Spaces and tabs at the end of a row's last text are left out, as `Task.label_texts` leaves out
    the template's: a tokenizer would join them and the label's own space into another token.

    Args:
        task: its template makes the prompts.
        dataset: the rows.
        items: as `items_of` gives them.
        own: `task.render_all(dataset)`, where that has been called already.
    """
    prompts = {False: task.render_all(dataset) if own is None else own}
    if task.exchange is not None:
        one, other = task.exchange
        rows = tuple(
            # Both fields are there: the row's own order has been rendered.
            replace(row, fields={**row.fields, one: row.fields[other], other: row.fields[one]})
            for row in dataset.rows
        )
        prompts[True] = task.render_all(replace(dataset, rows=rows))
    return tuple(prompts[item.exchanged][item.row].rstrip(_SPACES) for item in items)


def prompt_warnings(items: Sequence[Item], prompts: Sequence[str]) -> tuple[str, ...]:
    """Return sentences on prompts that repeat another's, and on pairs of the same two texts."""
    same = {
        item.row
        for before, item in enumerate(items[1:])
        if item.exchanged and prompts[before] == prompts[before + 1]
    }
    different = [
        prompt
        for item, prompt in zip(items, prompts, strict=True)
        if not (item.exchanged and item.row in same)
    ]
    warnings = [duplicate_warning(different)]
    if same:
        rows = "1 row compares" if len(same) == 1 else f"{len(same)} rows compare"
        warnings.append(f"{rows} a text with itself, so no label is right: leave such rows out")
    return tuple(sentence for sentence in warnings if sentence)


def duplicate_warning(prompts: Sequence[str]) -> str | None:
    """Return a sentence on rows that have the same prompt as an earlier row, or None."""
    twins = len(prompts) - len(set(prompts))
    if not twins:
        return None
    rows = "1 row has" if twins == 1 else f"{twins} rows have"
    return (
        f"{rows} the same prompt as an earlier row; such a twin in the context gives a row's label "
        "away. Remove the repeated rows, or let the template show how they differ"
    )


def connected(n: int, groups: Iterable[Sequence[int]]) -> IntArray:
    """Number `n` things so that those of one group share a number, across groups that overlap.

    Returns:
        Shape `[n]`: the smallest of all that each is connected with, itself among them.
    """
    numbers, members = np.arange(n), [list(group) for group in groups]
    while True:
        before = numbers.copy()
        for group in members:
            numbers[group] = numbers[group].min()
        if np.array_equal(numbers, before):
            return numbers
