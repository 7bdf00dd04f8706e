"""A run's labels as files that other programs train on, each with a card that says what they are.

Formats: trl's prompt-completion and preference types
(https://huggingface.co/docs/trl/dataset_formats), OpenAI's chat examples, which axolotl reads too
(https://platform.openai.com/docs/guides/supervised-fine-tuning), tables, and a dataset folder.

A run's labelled rows as records of the formats that are trained on.
"""

import os
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, get_args

import orjson

from icm_client.data import Dataset, FileFormat, LabelledRow, Row, Task, check_output, write_labels
from icm_client.data.formats import format_of, require_pyarrow
from icm_client.data.values import write_json
from icm_client.errors import InputError, RunError
from icm_client.record.archive import Run
from icm_client.record.folder import replace_file
from icm_client.training.card import CardFacts, dataset_card, export_card
from icm_client.training.run_labels import read_labels, task_examples, task_pairs
from icm_client.verdict.findings import Verdict, recorded_verdict

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


TableFormat = Literal["csv", "parquet", "hf"]
"""All that is known of a row; `hf` is a dataset folder."""

ExportFormat = LineFormat | TableFormat

EXPORT_FORMATS: Final[tuple[ExportFormat, ...]] = (*get_args(LineFormat), *get_args(TableFormat))

OPENAI_FEWEST: Final = 10
"""Examples without which OpenAI's fine-tuning API does not begin."""

_TABLES: Final[Mapping[str, FileFormat]] = {"csv": "csv", "parquet": "parquet", "hf": "parquet"}
_DATA_FILE: Final = "data/train.parquet"

_Write = Callable[[Path], None]


@dataclass(frozen=True, slots=True)
class Export:
    """What was written.

    Attributes:
        path: the file, or the folder of `hf`.
        card: the Markdown file that says how the labels were made.
        format: what was asked for.
        rows: of the run that are in it.
        records: lines or table rows; more than `rows` where a row makes several.
        left_out: why rows are missing, and how many.
        verdict: on the labels.
        warnings: sentences that the user must see, the worst first.
    """

    path: Path
    card: Path
    format: ExportFormat
    rows: int
    records: int
    left_out: Mapping[str, int]
    verdict: Verdict
    warnings: tuple[str, ...]

    def summary(self) -> dict[str, object]:
        """Return everything as JSON values."""
        return {
            "path": str(self.path),
            "card": str(self.card),
            "format": self.format,
            "rows": self.rows,
            "records": self.records,
            "left_out": dict(self.left_out),
            "verdict": self.verdict,
            "warnings": list(self.warnings),
        }


def export_run(
    run: Run,
    to: ExportFormat,
    path: str | os.PathLike[str],
    *,
    min_confidence: float | None = None,
    with_gold: bool = False,
) -> Export:
    """Write a finished run's labels, and a card beside them; a file there is replaced in one step.

    Args:
        run: as `icm_client.record.archive.read_run` gives it.
        to: the format.
        path: where to; for `hf` a folder that is not there yet, or is empty.
        min_confidence: leaves out rows whose label has less confidence (`LabelledRow`).
        with_gold: write the gold labels that the run was compared with as a column too.

    Raises:
        InputError: the run has no labels; no row is confident enough, or labels that are not to be
            trusted were asked for by confidence; `reward` of a task that compares no two fields;
            gold where the format has no place for it or the run knows none; a path that cannot be
            written. Nothing has been written then.
        SetupError: Parquet, but pyarrow is not installed.
        RunError: the run's files are damaged.
    """
    name = os.fspath(path)
    found = read_run_labels(run)
    _check_request(run, found, to, name, min_confidence=min_confidence, with_gold=with_gold)
    verdict = recorded_verdict(run.result or {})
    kept, left_out = confident(found, min_confidence, verdict)
    if to == "dpo" or to == "reward":  # noqa: PLR1714 - mypy does not narrow `in`
        kept, same = comparable(kept)
        left_out |= same
    if not kept.labels:
        raise InputError(f"the run {run.name}: no row is left to export ({_said(left_out)})")
    if to == "csv" or to == "parquet" or to == "hf":  # noqa: PLR1714
        rows = table_of(kept)
        write, records = _table_writer(to, rows, kept, with_gold=with_gold), len(rows)
    else:
        lines = lines_of(kept, to)
        write, records = _lines_writer(lines), len(lines)
    facts = CardFacts(
        run=run,
        to=to,
        task=found.task,
        found=Counter(found.labels),
        exported=Counter(kept.labels),
        records=records,
        left_out=left_out,
        min_confidence=min_confidence,
        with_gold=with_gold,
        verdict=verdict,
    )
    card = _written(name, to, facts, write)
    return Export(
        path=Path(name),
        card=card,
        format=to,
        rows=len(kept.labels),
        records=records,
        left_out=left_out,
        verdict=verdict,
        warnings=_warnings(run, facts),
    )


def _check_request(
    run: Run,
    found: LabelledRun,
    to: ExportFormat,
    name: str,
    *,
    min_confidence: float | None,
    with_gold: bool,
) -> None:
    if min_confidence is not None and not 0 <= min_confidence <= 1:
        raise InputError(f"a confidence lies between 0 and 1: {min_confidence:g} does not")
    if to == "reward" and found.task.exchange is None:
        raise InputError(
            f"the run {run.name}: a reward model is trained on pairs of responses, and this run's "
            "task compares none (no `exchange`). --to dpo takes the label as chosen and the other "
            "labels as rejected"
        )
    if with_gold and to not in _TABLES:
        raise InputError(f"--to {to} has no place for gold labels: csv, parquet and hf have")
    if with_gold and not found.gold:
        raise InputError(f"the run {run.name} was compared with no gold labels: there are none")
    if to == "hf":
        _check_folder(Path(name))
        return
    wanted = _TABLES.get(to, "jsonl")
    try:
        told = format_of(name, None)
    except InputError:
        told = wanted  # a name that says nothing is the user's business
    if told != wanted:
        raise InputError(f"{name}: --to {to} writes {wanted}, which the name says it is not")
    check_output(name, wanted)
    check_output(f"{name}.md", "jsonl")


def _check_folder(folder: Path) -> None:
    require_pyarrow(str(folder))
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise InputError(f"{folder} is there already: name a new folder, or remove it")
    # An empty folder is replaced, which its parent must allow as for a new one.
    check_output(folder.with_name(f"{folder.name}.tmp") if folder.is_dir() else folder, "parquet")


def _table_writer(
    to: TableFormat, rows: Sequence[LabelledRow], kept: LabelledRun, *, with_gold: bool
) -> _Write:
    column = kept.gold[0] if with_gold else None
    gold = None if column is None else [record.get(column) for record in kept.records]

    def write(path: Path) -> None:
        write_labels(path, rows, format=_TABLES[to], gold=gold, gold_field=column)

    return write


def _lines_writer(lines: Sequence[Record]) -> _Write:
    content = b"".join(write_json(line, orjson.OPT_APPEND_NEWLINE) for line in lines)
    return lambda path: replace_file(path, content)


def _written(name: str, to: ExportFormat, facts: CardFacts, write: _Write) -> Path:
    """Write the card, then the data, so that there are no labels without one."""
    try:
        if to == "hf":
            return _write_folder(Path(name), facts, write)
        target = Path(os.path.realpath(name))
        card = Path(f"{name}.md")
        replace_file(card, export_card(facts).encode("utf-8", "replace"))
        write(target)
    except OSError as error:
        raise InputError(
            f"{name}: cannot be written ({error.strerror}): name a place where you may write and "
            "there is space"
        ) from None
    return card


def _write_folder(folder: Path, facts: CardFacts, write: _Write) -> Path:
    """The folder is whole or not there: it is moved into place when it has been written."""
    temporary = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.tmp"
    try:
        (temporary / _DATA_FILE).parent.mkdir(parents=True)
        write(temporary / _DATA_FILE)
        content = dataset_card(facts, _DATA_FILE).encode("utf-8", "replace")
        replace_file(temporary / "README.md", content)
        temporary.replace(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return folder / "README.md"


def _warnings(run: Run, facts: CardFacts) -> tuple[str, ...]:
    said = []
    if facts.verdict == "do not trust":
        why = " ".join(facts.reasons) or "The run's report says why."
        said.append(f"DO NOT TRUST THESE LABELS. {why} What is trained on them learns that too.")
    elif facts.verdict == "check":
        said.append(f"check these labels before you train on them. {' '.join(facts.reasons)}")
    if stopped := (run.result or {}).get("stopped"):
        said.append(f"the search was stopped by {stopped}: the labels are the best so far")
    if len(facts.exported) == 1:
        (label,) = facts.exported
        said.append(f"every row that is exported has the label {label!r}: nothing can be learnt")
    if facts.to == "chat" and facts.records < OPENAI_FEWEST:
        said.append(f"OpenAI's fine-tuning API takes no fewer than {OPENAI_FEWEST} examples")
    return tuple(said)


def _said(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{reason}: {count}" for reason, count in left_out.items())
