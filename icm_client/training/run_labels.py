"""From a run's folder to what a model is trained on: examples (prompt, label) and pairs."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from icm_client.data import Dataset, Row, Task
from icm_client.data.items import items_of, render_items
from icm_client.data.job import Job
from icm_client.data.messages import shown
from icm_client.data.values import read_json
from icm_client.errors import InputError, RunError, TrainingError
from icm_client.runs.trainer import Example

OUR_COLUMNS: Final = ("label", "confidence", "exactness")
"""Columns of labels.jsonl beside the row's own fields; the log-probs' names depend on the task."""


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


@dataclass(frozen=True, slots=True)
class RunLabels:
    """The labels that a run found.

    Attributes:
        name: of the run.
        task: as the run was given it.
        dataset: the rows that have a label, without label and gold.
        labels: the rows' label words, aligned with `dataset.rows`.
        records: the lines of labels.jsonl, aligned with them.
        result: the run's summary; empty where it cannot be read.
    """

    name: str
    task: Task
    dataset: Dataset
    labels: tuple[str, ...]
    records: tuple[Mapping[str, Any], ...]
    result: Mapping[str, Any]

    def only(self, numbers: Sequence[int]) -> "RunLabels":
        """Return some of the rows, by their numbers from 0."""
        rows = tuple(self.dataset.rows[n] for n in numbers)
        return replace(
            self,
            dataset=replace(self.dataset, rows=rows),
            labels=tuple(self.labels[n] for n in numbers),
            records=tuple(self.records[n] for n in numbers),
        )


def read_labels(folder: Path) -> RunLabels:
    """Read a finished run's labels from its folder.

    Raises:
        InputError: it is no run's folder, or the run has no labels yet.
        RunError: a file is damaged.
    """
    if not (folder / "run.json").is_file():
        raise InputError(
            f"{folder} is no run's folder: it has no run.json. List all runs: icm-client runs list"
        )
    if not (folder / "labels.jsonl").is_file():
        raise InputError(
            f"{folder}: this run has no labels yet. Continue it: icm-client runs resume"
        )
    try:
        task = Task.model_validate(orjson.loads((folder / "run.json").read_bytes())["task"])
        lines = (folder / "labels.jsonl").read_bytes().splitlines()
        records = tuple(read_json(line) for line in lines)
        labels = tuple(str(record["label"]) for record in records)
        rows = tuple(
            Row(record["id"], _fields(record, task), number)
            for number, record in enumerate(records, start=1)
        )
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise RunError(f"{folder}: labels or task cannot be read ({error!r})") from error
    if unknown := sorted(set(labels) - set(task.labels)):
        raise RunError(f"{folder}: {shown(unknown[0])} is not one of the task's labels")
    dataset = Dataset(str(folder / "labels.jsonl"), rows, None, None, ())
    return RunLabels(folder.name, task, dataset, labels, records, _summary(folder))


def examples_of(found: RunLabels) -> list[Example]:
    """Return an example for each row; for a pair one in each order, as the search saw them."""
    return task_examples(found.task, found.dataset, found.labels)


def task_examples(task: Task, dataset: Dataset, labels: tuple[str | None, ...]) -> list[Example]:
    """Return an example for each row that has a label; `labels` are aligned with the rows.

    Raises:
        RowError: a row lacks a field of the template.
    """
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


def _fields(record: Mapping[str, Any], task: Task) -> dict[str, Any]:
    """Return the row's own fields; one that has the name of our column is called `row_<name>`."""
    ours = {*OUR_COLUMNS, *(f"log_prob_{label}" for label in task.labels)}
    if "row_pinned" in record:  # there are pins, and rows with a field of that name
        ours.add("pinned")
    fields = {name: value for name, value in record.items() if name not in ours}
    for name in ours & {*task.template_fields}:
        longer = [other for other in record if other.endswith(name) and other != name]
        renamed = [other for other in longer if set(other[: -len(name)].split("row_")) == {""}]
        if renamed:
            fields[name] = record[max(renamed, key=len)]
    return fields


def _summary(folder: Path) -> Mapping[str, Any]:
    try:
        found = orjson.loads((folder / "result.json").read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return found if isinstance(found, dict) else {}
