"""From a run's labels to what a model is trained on: examples (prompt, label) and pairs."""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from icm_client.data import Dataset, Task
from icm_client.data.items import items_of, render_items
from icm_client.data.job import Job
from icm_client.data.messages import shown
from icm_client.errors import InputError, TrainingError
from icm_client.record.run_labels import RunLabels
from icm_client.runs.trainer import Example


class Pair(NamedTuple):
    """Two responses to the same prompt, the better one first.

    Attributes:
        prompt: what both respond to; a response follows it directly.
        chosen: the response that the label prefers.
        rejected: the other one.
    """

    prompt: str
    chosen: str
    rejected: str


def examples_of(found: RunLabels) -> list[Example]:
    """Return an example for each row; for a pair one in each order, as the search saw them."""
    return task_examples(found.task, found.dataset, found.labels)


def task_examples(task: Task, dataset: Dataset, labels: tuple[str | None, ...]) -> list[Example]:
    """Return an example for each row that has a label; `labels` are aligned with the rows."""
    texts = dict(zip(task.labels, task.label_texts, strict=True))
    items = items_of(task, dataset)
    other: dict[str, str] = {}
    if task.exchange:
        one, two = task.holds_words
        other = {one: two, two: one}
    examples = []
    for item, prompt in zip(items, render_items(task, dataset, items), strict=True):
        label = labels[item.row]
        if label is not None and item.exchanged:
            label = other.get(label)
        if label is not None:
            examples.append(Example(prompt, texts[label]))
    return examples


def pairs_of(found: RunLabels) -> list[Pair]:
    """Return each row as a pair, the response that its label prefers first; see `task_pairs`."""
    return task_pairs(found.task, found.dataset, found.labels)


def task_pairs(task: Task, dataset: Dataset, labels: tuple[str | None, ...]) -> list[Pair]:
    """Return the rows that have a label as pairs; `labels` are aligned with the rows.

    The label that says "holds" prefers the first of the two exchanged fields. The prompt is the
    template's other fields, a line each.

    Raises:
        InputError: the task does not compare two fields.
        RowError: a row lacks a field of the template.
    """
    if task.exchange is None:
        raise InputError(
            "a reward model is trained on pairs, and this task does not say which two fields are "
            'compared: exchange = ["response_1", "response_2"] in the task file does'
        )
    first, second = task.exchange
    holds, holds_not = task.holds_words
    context = [name for name in task.template_fields if name not in task.exchange]
    task.render_all(dataset)  # raises where a row lacks a field
    pairs = []
    for row, label in zip(dataset.rows, labels, strict=True):
        prompt = "".join(f"{row.fields[name]}\n" for name in context)
        one, two = str(row.fields[first]), str(row.fields[second])
        if label == holds:
            pairs.append(Pair(prompt, one, two))
        elif label == holds_not:
            pairs.append(Pair(prompt, two, one))
    return pairs


def preferences_of(found: RunLabels) -> list[list[dict[str, str]]]:
    """Return for each row the records that prefer its label, with `prompt`, `chosen`, `rejected`.

    Of a pair that is the better response against the other; else the label's text against that of
    each other label.
    """
    task = found.task
    if task.exchange is not None:
        return [[pair._asdict()] for pair in pairs_of(found)]
    return [
        [
            {"prompt": example.prompt, "chosen": example.label, "rejected": other}
            for other in task.label_texts
            if other != example.label
        ]
        for example in examples_of(found)
    ]


def gold_pairs(test: Job) -> list[Pair]:
    """Return the rows that have a gold label as pairs, the better response first.

    Raises:
        InputError: none has one, or the task does not compare two fields.
    """
    pairs = task_pairs(
        test.task, test.dataset, test.dataset.gold or (None,) * len(test.dataset.rows)
    )
    if not pairs:
        raise InputError(
            f"{test.dataset.name}: no pair has a gold label: name the field that has it (--gold)"
        )
    return pairs


def refuse_trained_on(test: Job, trained_on: Collection[str]) -> None:
    """Do nothing if none of the test rows' prompts is trained on.

    Raises:
        InputError: some are; accuracy on these says nothing about others.
    """
    known, own = set(trained_on), test.row_items.tolist()
    seen = [test.prompts[item] for item in own if test.prompts[item] in known]
    if seen:
        raise InputError(
            f"{test.dataset.name}: {len(seen)} of its {len(own)} rows are among those to train on, "
            f"such as {shown(seen[0][:60])}. Test on rows that the model does not see in training"
        )


def check_examples(examples: Sequence[Example], name: str) -> None:
    """Do nothing if a training can learn something from the examples.

    Raises:
        TrainingError: they have fewer than two different labels.
    """
    if len({example.label for example in examples}) < 2:  # noqa: PLR2004
        raise TrainingError(
            f"{name}: nothing can be learned from {len(examples)} examples with fewer than two "
            "different labels"
        )


def chat_messages(example: Example) -> dict[str, Any]:
    """Return the example as OpenAI's chat format has it."""
    asked = {"role": "user", "content": example.prompt}
    return {"messages": [asked, {"role": "assistant", "content": example.label}]}
