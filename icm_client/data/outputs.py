"""Write the labels with the rows that they belong to: JSON Lines, CSV, Parquet or Arrow.

All of them hold the same columns: `id`, `label`, `confidence`, one `log_prob_<label>` a label,
`exactness`, `pinned` where some rows are, `cut_tokens` where long rows are cut, then the row's own
fields.
"""

import math
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO, Final, cast

from icm_client.data.formats import FileFormat, output_format_of, require_pyarrow
from icm_client.data.record_files import write_records
from icm_client.data.rows import Row
from icm_client.data.values import JsonValue
from icm_client.data.whole_files import replaced, temporary_beside
from icm_client.errors import InputError

STANDARD_OUTPUT: Final = "-"

_Record = dict[str, JsonValue]


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """A row with the label that was found for it.

    Attributes:
        row: the user's row.
        label: the label's word.
        confidence: how likely the label is right, 0 to 1, as the search estimates it without gold;
            None in all rows where the verdict is "do not trust".
        log_probs: label word -> log-prob in nats, the same labels in the same order in every row.
        exactness: the least reliable kind of log-prob that they come from: exact, top-k or floor.
        pinned: whether a person gave the label; confidence and log-probs are the model's.
        cut_tokens: by how many tokens the row was cut before the model read it, 0 for a row that is
            whole; None in all rows where none are cut.
    """

    row: Row
    label: str
    confidence: float | None
    log_probs: Mapping[str, float]
    exactness: str
    pinned: bool = False
    cut_tokens: int | None = None


def check_output(path: str | os.PathLike[str], format: FileFormat | None = None) -> None:  # noqa: A002
    """Return if labels can be written there; a file is created and removed to find out.

    Raises:
        InputError: no such folder, not a file, write-protected, a format that is not known, or one
            that is no text and would go to a terminal.
        SetupError: a Parquet or Arrow file, but pyarrow is not installed.
    """
    name = os.fspath(path)
    kind = output_format_of(name, format)
    if kind in ("parquet", "arrow"):
        require_pyarrow(name)
    if name == STANDARD_OUTPUT:
        if sys.stdout.isatty() and kind in ("parquet", "arrow"):
            raise InputError(
                f"standard output is a terminal, and {kind} is no text: pipe it into a command or "
                "a file"
            )
        _standard_output()
        return
    target = output_target(name)
    with explained(name):
        temporary = temporary_beside(target)
        temporary.touch(exist_ok=False)
        temporary.unlink()


def write_labels(
    path: str | os.PathLike[str],
    labelled: Sequence[LabelledRow],
    *,
    format: FileFormat | None = None,  # noqa: A002 - the word that users look for
    gold: Sequence[str | None] | None = None,
    gold_field: str | None = None,
) -> None:
    """Write one record a row, in order; a file that is there is replaced in one step.

    With the path `-` they go to standard output, as JSON Lines unless another format is named.

    The same rows give the same bytes. A field of the row that has one of our columns' names is
    written as `row_<name>`. Where a format cannot hold a list or object (CSV; Parquet and Arrow
    columns of mixed kinds), it is written as JSON text.

    Args:
        path: the file; its name shows the format, a `.json` file holds one array, and what ends in
            .gz, .zst, .bz2 or .xz after that is compressed.
        labelled: the rows with their labels; at least one.
        format: the format where the file's name does not show it.
        gold: the rows' gold labels, written back under `gold_field` as the last column.
        gold_field: the name of that column.

    Raises:
        InputError: the file cannot be written; what was there before is still there.
        SetupError: a Parquet or Arrow file, but pyarrow is not installed.
        ValueError: no rows, rows with different labels, or a number that is not finite.
    """
    columns, records = label_records(labelled, gold, gold_field)
    write_table(path, columns, records, format=format)


def write_table(
    path: str | os.PathLike[str],
    columns: Sequence[str],
    records: Sequence[Mapping[str, JsonValue]],
    *,
    format: FileFormat | None = None,  # noqa: A002 - the word that users look for
) -> None:
    """Write records as `write_labels` does.

    Args:
        path: the file, or `-`.
        columns: every key of the records, in the order of a table's columns.
        records: at least one.
        format: the format where the file's name does not show it.

    Raises:
        InputError: the file cannot be written; what was there before is still there.
        SetupError: a Parquet or Arrow file, but pyarrow is not installed.
    """
    name = os.fspath(path)
    if output_format_of(name, format) in ("parquet", "arrow"):
        require_pyarrow(name)
    if name == STANDARD_OUTPUT:
        with explained("standard output"):
            write_records(_standard_output(), name, format, columns, records)
            sys.stdout.flush()
        return
    target = output_target(name)
    with explained(name), replaced(target) as file:
        write_records(file, name, format, columns, records)


@contextmanager
def written_to(path: str | os.PathLike[str], format: FileFormat | None) -> Iterator[str]:  # noqa: A002
    """Give the file to write to: that one; or for `-` a temporary one, printed at the block's end.

    Nothing is printed of what is not there then, or where the block raises.
    """
    if os.fspath(path) != STANDARD_OUTPUT:
        yield os.fspath(path)
        return
    with TemporaryDirectory(prefix="icm-client-") as folder:
        file = Path(folder) / f"labels.{output_format_of(STANDARD_OUTPUT, format)}"
        yield str(file)
        if file.exists():
            with explained("standard output"), file.open("rb") as written:
                shutil.copyfileobj(written, _standard_output())
                sys.stdout.flush()


def _standard_output() -> BinaryIO:
    """Return standard output for bytes, after the text that was printed before."""
    sys.stdout.flush()
    if not hasattr(sys.stdout, "buffer"):  # a notebook's
        raise InputError("standard output takes text alone here: name a file")
    return cast("BinaryIO", sys.stdout.buffer)


def columns_before_fields(labels: Iterable[str]) -> tuple[str, ...]:
    """Return the columns before the rows' own fields; `pinned` and `cut_tokens` may follow."""
    return ("id", "label", "confidence", *(f"log_prob_{label}" for label in labels), "exactness")


def column_of(field: str, record: Mapping[str, object], labels: Iterable[str]) -> str:
    """Return the column of a row's own field in a record that was written by `write_labels`."""
    if field == "id" or field not in columns_before_fields(labels):
        return field
    column = f"row_{field}"
    while f"row_{column}" in record:
        column = f"row_{column}"
    return column


def label_records(
    labelled: Sequence[LabelledRow], gold: Sequence[str | None] | None, gold_field: str | None
) -> tuple[list[str], list[dict[str, JsonValue]]]:
    """Return the columns' names and the records; a record has no key for a field it lacks."""
    if not labelled:
        raise ValueError("no rows to write")
    golds = None if gold is None else len(gold)
    if golds != (None if gold_field is None else len(labelled)):
        raise ValueError("gold needs a gold_field, and a label or None for every row")
    labels = tuple(labelled[0].log_probs)
    ours = [*columns_before_fields(labels)]
    may_follow = {
        "pinned": any(item.pinned for item in labelled),
        "cut_tokens": any(item.cut_tokens is not None for item in labelled),
    }
    following = [name for name, there in may_follow.items() if there]
    ours += following
    own = dict.fromkeys(name for item in labelled for name in item.row.fields if name != "id")
    if gold_field is not None:
        own[gold_field] = None
    names = own_columns(own, ours)
    records = []
    for index, item in enumerate(labelled):
        values = (*found_values(item, labels), *(getattr(item, name) for name in following))
        record = dict(zip(ours, values, strict=True))
        for field, value in item.row.fields.items():
            if field != "id":
                record[names[field]] = value
        if gold is not None and gold_field is not None:
            record[names[gold_field]] = gold[index]
        records.append(record)
    return [*ours, *names.values()], records


def found_values(item: LabelledRow, labels: tuple[str, ...]) -> tuple[JsonValue, ...]:
    """Return what stands in `columns_before_fields(labels)` of a row.

    Raises:
        ValueError: the row has other labels, or a number that is not finite.
    """
    if tuple(item.log_probs) != labels:
        raise ValueError(f"row {item.row.id!r} has log-probs of other labels than the first")
    confidence = None if item.confidence is None else float(item.confidence)
    log_probs = tuple(map(float, item.log_probs.values()))
    if not all(map(math.isfinite, (confidence or 0.0, *log_probs))):
        raise ValueError(f"row {item.row.id!r} has a log-prob or confidence that is not finite")
    return (item.row.id, item.label, confidence, *log_probs, item.exactness)


def own_columns(own: Iterable[str], ours: Sequence[str]) -> dict[str, str]:
    """Return the column of each of the row's fields: its name, after `row_` if that is ours."""
    fields = list(own)
    taken = {*ours, *fields}
    names = {}
    for field in fields:
        column = field
        if field in ours:
            while column in taken:
                column = f"row_{column}"
            taken.add(column)
        names[field] = column
    return names


def output_target(name: str) -> Path:
    """Return the file that the name leads to, links followed; refuse what cannot be written."""
    target = Path(os.path.realpath(name))
    if target.is_dir():
        raise InputError(f"{name}: this is a folder: name a file in it")
    if not target.parent.is_dir():
        raise InputError(f"{name}: there is no folder {target.parent}: create it first (mkdir -p)")
    if target.exists():
        if not target.is_file():
            raise InputError(f"{name}: not an ordinary file: name another")
        if not os.access(target, os.W_OK):
            raise InputError(f"{name}: the file is write-protected: name another, or chmod u+w it")
    return target


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Within the block, an `OSError` becomes an `InputError` about the output."""
    try:
        yield
    except OSError as problem:
        raise InputError(
            f"{name}: cannot be written ({problem.strerror}): name a file in a folder where you "
            "may write and there is space"
        ) from None
