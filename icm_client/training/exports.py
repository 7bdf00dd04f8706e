"""A run's labels as files that other programs train on, each with a card that says what they are.

Formats: trl's prompt-completion and preference types
(https://huggingface.co/docs/trl/dataset_formats), OpenAI's chat examples, which axolotl reads too
(https://platform.openai.com/docs/guides/supervised-fine-tuning), tables, and a dataset folder.
"""

import os
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

import orjson

from icm_client.data import FileFormat, LabelledRow, check_output, write_labels
from icm_client.data.formats import format_of, require_pyarrow
from icm_client.data.json_text import write_json
from icm_client.errors import InputError
from icm_client.record.archive import Run
from icm_client.record.folder import replace_file
from icm_client.training.card import CardFacts, dataset_card, export_card
from icm_client.training.exported_rows import (
    LabelledRun,
    LineFormat,
    Record,
    comparable,
    confident,
    lines_of,
    read_run_labels,
    table_of,
)
from icm_client.verdict.findings import Verdict, recorded_verdict

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
