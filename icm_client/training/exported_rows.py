"""A run's labelled rows as records of the formats that are trained on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from icm_client.data import Dataset, LabelledRow, Row, Task
from icm_client.errors import InputError, RunError
from icm_client.record.archive import Run
from icm_client.training.run_labels import read_labels, task_examples, task_pairs
from icm_client.verdict.findings import Verdict

LineFormat = Literal["sft", "chat", "dpo", "reward"]
"""`sft`: prompt and completion. `chat`: messages. `dpo`, `reward`: prompt, chosen and rejected."""

_OURS: Final = ("id", "label", "confidence", "exactness")
_LOG_PROB: Final = "log_prob_"

Record = dict[str, Any]
"""A JSON object."""


@dataclass(frozen=True, slots=True)
class LabelledRun:
    """A run's labels with what the run's file says of them beside, all aligned.

    Attributes:
        task: the run's.
        dataset: the rows.
        labels: their label words.
        records: the lines of labels.jsonl.
        gold: the columns that hold gold labels, what the run was compared with first.
    """

    task: Task
    dataset: Dataset
    labels: tuple[str, ...]
    records: tuple[Mapping[str, Any], ...]
    gold: tuple[str, ...]

    def only(self, numbers: Sequence[int]) -> "LabelledRun":
        """Return those rows alone, by their numbers from 0."""
        rows = tuple(self.dataset.rows[n] for n in numbers)
        return replace(
            self,
            dataset=replace(self.dataset, rows=rows),
            labels=tuple(self.labels[n] for n in numbers),
            records=tuple(self.records[n] for n in numbers),
        )


def read_run_labels(run: Run) -> LabelledRun:
    """Return what a finished run found.

    Raises:
        InputError: it has no labels.
        RunError: its files are damaged.
    """
    if run.result is None:
        raise InputError(
            f"the run {run.name} has no labels yet (it is {run.state}): icm-client runs resume "
            f"{run.name} goes on with it"
        )
    found = read_labels(run.path)
    records = found.records
    if not records or not all(
        isinstance(one.get("confidence", ""), float | int | None) for one in records
    ):
        raise RunError(
            f"{run.path / 'labels.jsonl'}: holds lines without confidence; the file was damaged"
        )
    gold = _gold_columns(run.result, found.task, records[0])
    return LabelledRun(found.task, found.dataset, found.labels, records, gold)


def _gold_columns(
    result: Mapping[str, Any], task: Task, record: Mapping[str, Any]
) -> tuple[str, ...]:
    """The columns of gold labels: the run's own, which is written last, and the task's."""
    ours = {*_OURS, *(f"{_LOG_PROB}{label}" for label in task.labels)}
    named = [name for name in (result.get("gold_field"), task.gold) if name is not None]
    columns = [f"row_{name}" if name in ours else name for name in named]
    if result.get("rows_with_gold"):
        columns.insert(0, list(record)[-1])
    there = (name for name in columns if name in record and name not in task.template_fields)
    return tuple(dict.fromkeys(there))


def confident(
    found: LabelledRun, least: float | None, verdict: Verdict
) -> tuple[LabelledRun, dict[str, int]]:
    """Leave out rows of less confidence; return how many and why.

    Raises:
        InputError: none is left, or the labels are not to be trusted: their confidence says
            nothing, and runs from before have one all the same.
    """
    if least is None:
        return found, {}
    if verdict == "do not trust":
        raise InputError(
            'the verdict on these labels is "do not trust": no row can be kept for its confidence. '
            "Without --min-confidence all rows are exported"
        )
    numbers = [n for n, record in enumerate(found.records) if record["confidence"] >= least]
    if not numbers:
        most = max(record["confidence"] for record in found.records)
        raise InputError(
            f"no row's label has a confidence of {least:g}: the most confident one has {most:.3f}"
        )
    missing = len(found.records) - len(numbers)
    return found.only(numbers), ({f"confidence under {least:g}": missing} if missing else {})


def comparable(kept: LabelledRun) -> tuple[LabelledRun, dict[str, int]]:
    """Leave out pairs that prefer nothing; return how many and why.

    All rows of a task that compares no two fields stay.
    """
    if kept.task.exchange is None:
        return kept, {}
    one, other = kept.task.exchange
    words = kept.task.holds_words
    numbers = [
        number
        for number, (row, label) in enumerate(zip(kept.dataset.rows, kept.labels, strict=True))
        if label in words and row.fields.get(one) != row.fields.get(other)
    ]
    missing = len(kept.labels) - len(numbers)
    why = "two responses that are the same, or a label that prefers neither"
    return kept.only(numbers), ({why: missing} if missing else {})


def lines_of(kept: LabelledRun, to: LineFormat) -> list[Record]:
    """Return the lines of a format that is trained on, in the order of the rows.

    Raises:
        RowError: a row lacks a field of the template.
    """
    task = kept.task
    if to in ("dpo", "reward") and task.exchange is not None:
        return [pair._asdict() for pair in task_pairs(task, kept.dataset, kept.labels)]
    examples = task_examples(task, kept.dataset, kept.labels)
    if to == "dpo":
        return [
            {"prompt": example.prompt, "chosen": example.label, "rejected": other}
            for example in examples
            for other in task.label_texts
            if other != example.label
        ]
    if to == "chat":
        return [
            {
                "messages": [
                    {"role": "user", "content": example.prompt},
                    {"role": "assistant", "content": example.label},
                ]
            }
            for example in examples
        ]
    return [{"prompt": example.prompt, "completion": example.label} for example in examples]


def table_of(kept: LabelledRun) -> list[LabelledRow]:
    """Return every row with its prompt, as it stands, and its label's text before its own fields.

    Raises:
        RowError: a row lacks a field of the template.
    """
    task = kept.task
    texts = dict(zip(task.labels, task.label_texts, strict=True))
    prompts = task.render_all(kept.dataset)
    ours = {*_OURS, *kept.gold, *(f"{_LOG_PROB}{label}" for label in task.labels)}
    rows = []
    for row, label, record, prompt in zip(
        kept.dataset.rows, kept.labels, kept.records, prompts, strict=True
    ):
        fields: Record = {"prompt": prompt, "completion": texts[label]}
        for name, value in record.items():
            if name not in ours:
                fields[_unused(name, fields, record)] = value
        log_probs = {
            name.removeprefix(_LOG_PROB): record[name]
            for name in record
            if name.startswith(_LOG_PROB) and name.removeprefix(_LOG_PROB) in texts
        }
        rows.append(
            LabelledRow(
                row=Row(row.id, fields, row.line),
                label=label,
                confidence=record["confidence"],
                log_probs=log_probs,
                exactness=record["exactness"],
            )
        )
    return rows


def _unused(name: str, taken: Record, record: Mapping[str, Any]) -> str:
    """The column for a row's field: its name, behind `row_` where the export has that one."""
    column = name
    while column in taken or (column != name and column in record):
        column = f"row_{column}"
    return column
