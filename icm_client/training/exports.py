"""A run's labels as files that other programs train on, each with a card that describes it.

Formats: trl's prompt-completion and preference types
(https://huggingface.co/docs/trl/dataset_formats), OpenAI's chat examples, which axolotl reads too
(https://platform.openai.com/docs/guides/supervised-fine-tuning), tables, a dataset folder, and what
Label Studio and Argilla read (`icm_client.training.annotation_tools`).
"""

import os
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

import orjson

from icm_client.data import FileFormat, LabelledRow, Row, check_output, write_labels
from icm_client.data.formats import format_of, packed, require_pyarrow
from icm_client.data.outputs import STANDARD_OUTPUT, columns_before_fields, explained
from icm_client.data.values import write_json
from icm_client.data.whole_files import replace_file, replaced
from icm_client.errors import InputError, RunError
from icm_client.record.archive import Run, resume_command
from icm_client.record.run_labels import RunLabels, read_labels
from icm_client.training.annotation_tools import (
    argilla_files,
    label_studio_interface,
    label_studio_tasks,
)
from icm_client.training.card import CardFacts, dataset_card, export_card
from icm_client.training.examples import chat_messages, examples_of, preferences_of
from icm_client.verdict.findings import Verdict, recorded_verdict

LineFormat = Literal["sft", "chat", "dpo", "reward"]
"""`sft`: prompt and completion. `chat`: messages. `dpo`, `reward`: prompt, chosen and rejected."""

TableFormat = Literal["csv", "parquet", "hf"]
"""All columns of a row; `hf` is a dataset folder."""

ToolFormat = Literal["label-studio", "argilla"]
"""The labels as predictions, for people to check; `argilla` is a folder."""

ExportFormat = LineFormat | TableFormat | ToolFormat

EXPORT_FORMATS: Final[tuple[ExportFormat, ...]] = (
    *get_args(LineFormat),
    *get_args(TableFormat),
    *get_args(ToolFormat),
)

OPENAI_FEWEST: Final = 10
"""OpenAI's fine-tuning API accepts no fewer examples."""

_FOLDERS: Final = ("hf", "argilla")
_TABLES: Final[Mapping[str, FileFormat]] = {"csv": "csv", "parquet": "parquet", "hf": "parquet"}
_DATA_FILE: Final = "data/train.parquet"
_CARD: Final = "README.md"
_LOG_PROB: Final = "log_prob_"

_Record = dict[str, Any]
_Write = Callable[[Path], None]
# What an export writes: each by its path in the folder, or by what its name adds to the file's.
_Parts = Mapping[str, _Write]


@dataclass(frozen=True, slots=True)
class Export:
    """What was written.

    Attributes:
        path: the file, or the folder of `hf` and `argilla`.
        card: the Markdown file that says how the labels were made.
        format: as requested.
        rows: of the run that are in it.
        records: lines or table rows; more than `rows` where a row makes several.
        left_out: why rows are missing, and how many.
        verdict: on the labels.
        warnings: sentences that the user must see, the worst first.
        shares: of several runs, run -> label -> rows.
    """

    path: Path
    card: Path
    format: ExportFormat
    rows: int
    records: int
    left_out: Mapping[str, int]
    verdict: Verdict
    warnings: tuple[str, ...]
    shares: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def summary(self) -> dict[str, object]:
        """Return everything as JSON values."""
        return {**asdict(self), "path": str(self.path), "card": str(self.card)}


def export_run(
    run: Run,
    to: ExportFormat,
    path: str | os.PathLike[str],
    *,
    min_confidence: float | None = None,
    with_gold: bool = False,
    only: Sequence[str | int] | None = None,
) -> Export:
    """Write a finished run's labels and a card beside them; an existing file is replaced at once.

    Args:
        run: from `icm_client.record.archive.read_run`.
        to: the format.
        path: where to; for `hf` and `argilla` a new or empty folder. The labeling interface of
            Label Studio is written beside the file, as `path` + `.xml`.
        min_confidence: leave out rows whose label has less confidence (`LabelledRow`).
        with_gold: also write the gold labels that the run was compared with, as a column.
        only: the rows that people are to be asked about, by their ids, in this order: they alone
            are written, and for Label Studio without the label found, which people would repeat.

    Raises:
        InputError: the run has no labels; no row is confident enough; rows were requested by
            confidence although the labels are not to be trusted; `reward` of a task that compares
            no two fields; gold where the format has no place for it or the run knows none; or a
            path that cannot be written. Nothing has been written then.
        SetupError: the format is Parquet, and pyarrow is not installed.
        RunError: the run's files are damaged.
    """
    name = os.fspath(path)
    found = labels_of(run)
    gold = _gold_columns(run.result or {}, found)
    check_request(found, to, name, min_confidence=min_confidence, gold=gold if with_gold else None)
    kept, left_out = kept_rows(run, found, to, min_confidence)
    if only is not None:
        numbers = {row.id: number for number, row in enumerate(kept.dataset.rows)}
        left_out |= {"not asked about": len(numbers) - len(only)}
        kept = kept.only([numbers[row_id] for row_id in only])
    parts, records = _parts(to, kept, gold, with_gold=with_gold, blind=only is not None)
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
        verdict=recorded_verdict(run.result or {}),
    )
    return Export(
        path=Path(name),
        card=_written(name, to, facts, parts),
        format=to,
        rows=len(kept.labels),
        records=records,
        left_out=left_out,
        verdict=facts.verdict,
        warnings=warnings_of(facts),
    )


def kept_rows(
    run: Run, found: RunLabels, to: ExportFormat, min_confidence: float | None
) -> tuple[RunLabels, dict[str, int]]:
    """Return the rows that are exported, and why others are not, with their numbers.

    Raises:
        InputError: none is left, or rows were requested by confidence although the labels are not
            to be trusted.
    """
    kept, left_out = _confident(found, min_confidence, recorded_verdict(run.result or {}))
    if to in ("dpo", "reward"):
        kept, same = _comparable(kept)
        left_out |= same
    if not kept.labels:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in left_out.items())
        raise InputError(f"the run {run.name}: no row is left to export ({reasons})")
    return kept, left_out


def _parts(
    to: ExportFormat, kept: RunLabels, gold: tuple[str, ...], *, with_gold: bool, blind: bool
) -> tuple[_Parts, int]:
    """Return what is to be written, and how many records it holds."""
    match to:
        case "csv" | "parquet" | "hf":
            rows = _table(kept, gold)
            write = _table_writer(to, rows, kept, gold[0] if with_gold else None)
            return {_DATA_FILE if to == "hf" else "": write}, len(rows)
        case "label-studio":
            tasks = label_studio_tasks(kept, _own_fields(kept, gold))
            if blind:
                tasks = [{"data": task["data"]} for task in tasks]
            interface = label_studio_interface(kept.task).encode()
            return {"": _json_writer(tasks), ".xml": _writer(interface)}, len(tasks)
        case "argilla":
            files = argilla_files(kept)
            return {name: _json_writer(part) for name, part in files.items()}, len(kept.labels)
        case _:
            lines = _lines(kept, to)
            return {"": lambda path: write_lines(path, lines)}, len(lines)


def labels_of(run: Run) -> RunLabels:
    """Return the run's labels.

    Raises:
        InputError: it has none yet.
        RunError: they are damaged.
    """
    if run.result is None:
        raise InputError(
            f"the run {run.name} has no labels yet (it is {run.state}). Continue it: "
            f"{resume_command(run)}"
        )
    found = read_labels(run.path)
    confidences = [record.get("confidence", "") for record in found.records]
    if not confidences or not all(isinstance(one, float | int | None) for one in confidences):
        raise RunError(f"{run.path / 'labels.jsonl'} is damaged: it has lines without a confidence")
    return found


def _gold_columns(result: Mapping[str, Any], found: RunLabels) -> tuple[str, ...]:
    """The columns of gold labels: the run's own first, which is written last, then the task's."""
    task, record = found.task, found.records[0]
    named = [name for name in (result.get("gold_field"), task.gold) if name is not None]
    columns = [
        f"row_{name}" if name in columns_before_fields(task.labels) else name for name in named
    ]
    if result.get("rows_with_gold"):
        columns.insert(0, list(record)[-1])
    there = (name for name in columns if name in record and name not in task.template_fields)
    return tuple(dict.fromkeys(there))


def check_request(
    found: RunLabels,
    to: ExportFormat,
    name: str,
    *,
    min_confidence: float | None,
    gold: tuple[str, ...] | None,
) -> None:
    """Refuse what cannot be written, before anything is."""
    if min_confidence is not None and not 0 <= min_confidence <= 1:
        raise InputError(f"a confidence lies between 0 and 1: {min_confidence:g} does not")
    if to == "reward" and found.task.exchange is None:
        raise InputError(
            f"the run {found.name}: a reward model is trained on pairs of responses, and this "
            "run's task compares none (no `exchange`). --to dpo takes the label as chosen and the "
            "other labels as rejected"
        )
    if gold is not None and to not in _TABLES:
        raise InputError(f"--to {to} has no place for gold labels: csv, parquet and hf have")
    if gold == ():
        raise InputError(f"the run {found.name} has no gold labels to write")
    _check_name(name, to)


def _check_name(name: str, to: ExportFormat) -> None:
    if name == STANDARD_OUTPUT:
        raise InputError("a card is written beside the labels: name a file, not -")
    if to in _FOLDERS:
        if to == "hf":
            require_pyarrow(name)
        _check_folder(Path(name))
        return
    if to == "label-studio" and not name.endswith(".json"):
        raise InputError(f"{name}: Label Studio imports files that end in .json: name one")
    wanted = _TABLES.get(to, "jsonl")
    try:
        named = format_of(name, None)
    except InputError:
        named = wanted  # a name without a known ending suits every format
    if named != wanted:
        raise InputError(f"{name}: --to {to} writes {wanted}, but the name says {named}")
    check_output(name, wanted)
    check_output(f"{name}.md", "jsonl")


def _check_folder(folder: Path) -> None:
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise InputError(f"{folder} is there already: name a new folder, or remove it")
    # An empty folder is replaced, so its parent must be writable, as for a new one.
    check_output(folder.with_name(f"{folder.name}.tmp") if folder.is_dir() else folder, "jsonl")


def _confident(
    found: RunLabels, least: float | None, verdict: Verdict
) -> tuple[RunLabels, dict[str, int]]:
    """Leave out rows of less confidence; return how many, and why.

    Labels that are not to be trusted have no meaningful confidence; older runs have one all the
    same.
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


def _comparable(kept: RunLabels) -> tuple[RunLabels, dict[str, int]]:
    """Leave out pairs without a preference; return how many, and why.

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


def _lines(kept: RunLabels, to: LineFormat) -> Sequence[Mapping[str, Any]]:
    if to in ("dpo", "reward"):
        return [record for row in preferences_of(kept) for record in row]
    examples = examples_of(kept)
    if to == "chat":
        return list(map(chat_messages, examples))
    return [{"prompt": example.prompt, "completion": example.label} for example in examples]


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON Lines in one step, compressed where the name ends so (.gz, .zst, ...)."""
    with replaced(path) as file, packed(file, path.name) as out:
        out.writelines(write_json(line, orjson.OPT_APPEND_NEWLINE) for line in lines)


def _writer(content: bytes) -> _Write:
    return lambda path: replace_file(path, content)


def _json_writer(value: object) -> _Write:
    return _writer(write_json(value, orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def _own_fields(kept: RunLabels, gold: Sequence[str]) -> list[_Record]:
    """Each row's own fields by the names of their columns, without gold."""
    ours = {*columns_before_fields(kept.task.labels), *gold}
    return [
        {name: value for name, value in record.items() if name not in ours}
        for record in kept.records
    ]


def _table(kept: RunLabels, gold: Sequence[str]) -> list[LabelledRow]:
    """Each row with its prompt, as it stands, and its label's text, then its own fields."""
    task = kept.task
    texts = dict(zip(task.labels, task.label_texts, strict=True))
    prompts = task.render_all(kept.dataset)
    rows = []
    for row, label, record, prompt, own in zip(
        kept.dataset.rows, kept.labels, kept.records, prompts, _own_fields(kept, gold), strict=True
    ):
        fields: _Record = {"prompt": prompt, "completion": texts[label]}
        for name, value in own.items():
            fields[_unused(name, fields, record)] = value
        log_probs = {
            label: record[f"{_LOG_PROB}{label}"]
            for label in task.labels
            if f"{_LOG_PROB}{label}" in record
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


def _unused(name: str, taken: _Record, record: Mapping[str, Any]) -> str:
    """The column for a row's field: its name, or `row_<name>` where that column is taken."""
    column = name
    while column in taken or (column != name and column in record):
        column = f"row_{column}"
    return column


def _table_writer(
    to: TableFormat, rows: Sequence[LabelledRow], kept: RunLabels, column: str | None
) -> _Write:
    gold = None if column is None else [record.get(column) for record in kept.records]

    def write(path: Path) -> None:
        write_labels(path, rows, format=_TABLES[to], gold=gold, gold_field=column)

    return write


def _written(name: str, to: ExportFormat, facts: CardFacts, parts: _Parts) -> Path:
    """Write the card, then the data: labels never lie there without a card."""
    with explained(name):
        if to in _FOLDERS:
            content = dataset_card(facts, _DATA_FILE) if to == "hf" else export_card(facts)
            return _write_folder(Path(name), parts, content.encode("utf-8", "replace"))
        card = Path(f"{name}.md")
        replace_file(card, export_card(facts).encode("utf-8", "replace"))
        for added, write in parts.items():
            write(Path(os.path.realpath(f"{name}{added}")))
    return card


def _write_folder(folder: Path, parts: _Parts, card: bytes) -> Path:
    """The folder is complete or missing: it is moved into place once it has been written."""
    temporary = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.tmp"
    try:
        for name, write in parts.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            write(temporary / name)
        replace_file(temporary / _CARD, card)
        temporary.replace(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return folder / _CARD


def warnings_of(facts: CardFacts) -> tuple[str, ...]:
    """Return what the user must see before the export is used, the worst first."""
    checked = facts.to in get_args(ToolFormat)  # by people, before anything is trained
    found = []
    if facts.verdict == "do not trust":
        why = " ".join(facts.reasons) or "The run's report says why."
        found.append(f"DO NOT TRUST THESE LABELS. {why} What is trained on them learns that too.")
    elif facts.verdict == "check" and not checked:
        found.append(f"check these labels before you train on them. {' '.join(facts.reasons)}")
    if stopped := facts.result.get("stopped"):
        found.append(f"the search was stopped by {stopped}: these are the best labels until then")
    if len(facts.exported) == 1 and not checked:
        (label,) = facts.exported
        found.append(f"every exported row has the label {label!r}: nothing can be learned from it")
    if facts.to == "chat" and facts.records < OPENAI_FEWEST:
        found.append(f"OpenAI's fine-tuning API takes no fewer than {OPENAI_FEWEST} examples")
    return tuple(found)
