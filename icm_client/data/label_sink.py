"""Write labels as they are found, so that memory does not grow and little is lost by a kill.

Until the output is whole, there are beside it

    OUT.partial        the labelled rows so far, as JSON Lines
    OUT.partial.json   how much of it counts, and where the caller was
    OUT.partial.lock   held by the process that writes

Rows are on the disk before OUT.partial.json says so, and what it does not say is cut off when the
output is opened again. OUT itself is put in its place in one step: it is never half of one.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Self

import orjson
from filelock import FileLock
from pydantic import BaseModel, ValidationError

from icm_client.data.formats import FileFormat, is_compressed, output_format_of, require_pyarrow
from icm_client.data.outputs import (
    LabelledRow,
    columns_before_fields,
    explained,
    found_values,
    output_target,
    own_columns,
)
from icm_client.data.record_files import Record, is_array, write_records
from icm_client.data.values import JsonValue, read_json, write_json
from icm_client.data.whole_files import locked, put_in_place, replaced
from icm_client.errors import InputError, RunError


class _Committed(BaseModel):
    """OUT.partial.json.

    Attributes:
        identity: what the labels are of, as the caller says.
        rows_done: rows of the input, labelled and skipped.
        rows_labelled: rows of the output.
        size: bytes of OUT.partial that count.
        labels: the label words, once a row has been written.
        fields: the rows' own fields so far, each with its key in OUT.partial.
        gold_field: the field with the known labels, once there was one.
        pinned: whether a row is pinned.
        cut: whether rows say by how much they were cut.
        whole: whether every row is there, and OUT has been or will be made.
        state: the caller's.
    """

    identity: str
    rows_done: int = 0
    rows_labelled: int = 0
    size: int = 0
    labels: tuple[str, ...] | None = None
    fields: dict[str, str] = {}
    gold_field: str | None = None
    pinned: bool = False
    cut: bool = False
    whole: bool = False
    state: dict[str, Any] = {}


class LabelSink:
    """An output that labels are appended to, in order; made with `LabelSink.open`.

    As a context manager it is closed at the block's end. Unless `finish` was called, what has been
    appended waits beside the output, to be gone on with by the next process.
    """

    def __init__(
        self,
        name: str,
        asked: FileFormat | None,
        files: "_Files",
        lock: FileLock,
        committed: _Committed,
    ) -> None:
        self._name = name
        self._asked = asked
        self._files = files
        self._lock = lock
        self._committed = committed

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        format: FileFormat | None = None,  # noqa: A002 - the word that users look for
        identity: str,
        fresh: bool = False,
    ) -> Self:
        """Open an output, and go on with what an earlier process has left of it.

        Args:
            path: the output; its name shows the format. Where it is a link, the file that it leads
                to is written, and the partial one lies beside that.
            format: the format where the file's name does not show it.
            identity: a digest of all that the labels depend on: run, data, options.
            fresh: remove what an earlier process has left.

        Raises:
            InputError: the output cannot be written; or what an earlier process has left of it is
                of another identity, or damaged.
            RunError: another process writes it.
            SetupError: a Parquet or Arrow file, but pyarrow is not installed.
        """
        name = os.fspath(path)
        if output_format_of(name, format) in ("parquet", "arrow"):
            require_pyarrow(name)
        files = _Files.beside(output_target(name))
        with explained(name):
            busy = f"{name}: another process writes it: wait for it, or name another output"
            lock = locked(files.lock, RunError(busy))
            try:
                files.temporary.unlink(missing_ok=True)  # of a process killed as it wrote
                if fresh:
                    files.partial.unlink(missing_ok=True)
                    files.committed.unlink(missing_ok=True)
                committed = _earlier(files, name, identity)
                if committed is None:
                    committed = _Committed(identity=identity)
                    _write(files, committed)
                if not committed.size:
                    files.partial.touch()
                if files.partial.exists():
                    os.truncate(files.partial, committed.size)
            except BaseException:
                lock.release()
                raise
        return cls(name, format, files, lock, committed)

    @property
    def rows_done(self) -> int:
        """How many rows of the input need not be read again: those labelled, and those skipped."""
        return self._committed.rows_done

    @property
    def rows_labelled(self) -> int:
        """How many rows of the output are on the disk."""
        return self._committed.rows_labelled

    @property
    def state(self) -> dict[str, JsonValue]:
        """What the caller gave with the latest rows; empty before the first."""
        return self._committed.state

    def append(
        self,
        labelled: Sequence[LabelledRow],
        *,
        rows_read: int,
        state: Mapping[str, JsonValue] | None = None,
        gold: Sequence[str | None] | None = None,
        gold_field: str | None = None,
    ) -> None:
        """Write rows, all of them or none: when this returns, they are on the disk.

        Args:
            labelled: the rows that have a label, in order; perhaps none.
            rows_read: rows of the input that these are of, with those that have no label.
            state: JSON values that the next process is to get back, small; None keeps the latest.
            gold: the rows' gold labels, written back under `gold_field` as the last column.
            gold_field: the name of that column, the same in every call that has one.

        Raises:
            InputError: the file cannot be written; what was appended before is still there.
            ValueError: rows with other labels than the first, a number that is not finite, more
                rows than were read, gold without its field, or an output that is whole already.
        """
        earlier = self._committed
        if rows_read < len(labelled):
            raise ValueError(f"{len(labelled)} rows to write, but only {rows_read} read")
        if (None if gold is None else len(gold)) != (None if gold_field is None else len(labelled)):
            raise ValueError("gold needs a gold_field, and a label or None for every row")
        if gold_field is not None and earlier.gold_field not in (None, gold_field):
            raise ValueError(f"the gold field was {earlier.gold_field!r}, and is {gold_field!r}")
        if not self._files.partial.exists():
            raise ValueError(f"{self._name} is whole already")
        labels = earlier.labels
        if labels is None and labelled:
            labels = tuple(labelled[0].log_probs)
        fields = dict(earlier.fields)
        lines = []
        for number, item in enumerate(labelled):
            known = {gold_field: gold[number]} if gold is not None and gold_field else {}
            record = _record(item, labels or (), fields, known)
            lines.append(write_json(record, orjson.OPT_APPEND_NEWLINE))
        content = b"".join(lines)
        with explained(self._name):
            with self._files.partial.open("r+b") as file:
                file.truncate(earlier.size)  # where an earlier call has failed
                file.seek(earlier.size)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            self._commit(
                rows_done=earlier.rows_done + rows_read,
                rows_labelled=earlier.rows_labelled + len(labelled),
                size=earlier.size + len(content),
                labels=labels,
                fields=fields,
                gold_field=earlier.gold_field or gold_field,
                pinned=earlier.pinned or any(item.pinned for item in labelled),
                cut=earlier.cut or any(item.cut_tokens is not None for item in labelled),
                whole=False,
                state=earlier.state if state is None else dict(state),
            )

    def finish(self) -> None:
        """Put the output in its place, in its own format, remove what was beside it, and close.

        The bytes are those that `write_labels` writes for the same rows. A process that is killed
        here leaves the old output or the new one, and the next process finishes.

        Raises:
            InputError: the file cannot be written; what was there before is still there.
            ValueError: no row has been written.
        """
        if not self.rows_labelled:
            raise ValueError("no rows to write")
        files = self._files
        with explained(self._name):
            self._commit(whole=True)
            if files.partial.exists():
                self._put_in_place()
            files.committed.unlink()
            # Still held: no process takes the lock in between. Windows removes no open file.
            with suppress(PermissionError):
                files.lock.unlink()
        self.close()

    def _put_in_place(self) -> None:
        files, committed = self._files, self._committed
        ours = [*columns_before_fields(committed.labels or ())]
        ours += ["pinned"] if committed.pinned else []
        ours += ["cut_tokens"] if committed.cut else []
        gold = committed.gold_field
        own = [field for field in committed.fields if field != gold]
        own += [] if gold is None else [gold]
        columns = own_columns(own, ours)
        names = {key: columns[field] for field, key in committed.fields.items()}
        is_lines = output_format_of(self._name, self._asked) == "jsonl"
        is_lines &= not is_array(self._name, self._asked) and not is_compressed(self._name)
        if is_lines and not committed.pinned and all(key == name for key, name in names.items()):
            put_in_place(files.partial, files.target)
            return
        records = _Records(files.partial, names, pinned=committed.pinned)
        with replaced(files.target, files.temporary) as file:
            write_records(file, self._name, self._asked, [*ours, *columns.values()], records)
        files.partial.unlink()

    def close(self) -> None:
        """Let other processes write; a second call does nothing."""
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _commit(self, **changes: object) -> None:
        committed = self._committed.model_copy(update=changes)
        _write(self._files, committed)
        self._committed = committed


class _Files(NamedTuple):
    """The output, and what lies beside it until it is whole."""

    target: Path
    partial: Path
    committed: Path
    lock: Path
    temporary: Path

    @classmethod
    def beside(cls, target: Path) -> Self:
        endings = (".partial", ".partial.json", ".partial.lock", ".partial.tmp")
        return cls(target, *(target.with_name(target.name + ending) for ending in endings))


class _Records:
    """The records of OUT.partial as they are in the output, read one by one."""

    def __init__(self, path: Path, names: Mapping[str, str], *, pinned: bool) -> None:
        self._path = path
        self._names = names
        self._pinned = pinned

    def __iter__(self) -> Iterator[Record]:
        with self._path.open("rb") as file:
            for line in file:
                kept = read_json(line)
                is_pinned = kept.pop("pinned", False)
                record = {}
                for key, value in kept.items():
                    record[self._names.get(key, key)] = value
                    if self._pinned and key == "exactness":
                        record["pinned"] = is_pinned
                yield record


def _record(
    item: LabelledRow,
    labels: tuple[str, ...],
    fields: dict[str, str],
    gold: Mapping[str, str | None],
) -> dict[str, JsonValue]:
    """Return a row's record in OUT.partial; keys of fields that are new are added to `fields`."""
    ours = columns_before_fields(labels)
    record = dict(zip(ours, found_values(item, labels), strict=True))
    if item.pinned:
        record["pinned"] = True
    if item.cut_tokens is not None:
        record["cut_tokens"] = item.cut_tokens
    for field, value in chain(item.row.fields.items(), gold.items()):
        if field != "id":
            record[_key(field, fields, ours)] = value
    return record


def _key(field: str, known: dict[str, str], ours: Sequence[str]) -> str:
    """Return a field's key in OUT.partial, which no other field has, nor a column of ours.

    In the output `row_` stands in front of a field only where its name is taken, which is not known
    before all rows are. Here it does wherever a field's name is ours, after any number of `row_`.
    """
    if field not in known:
        name = field
        while name.startswith("row_"):
            name = name.removeprefix("row_")
        known[field] = f"row_{field}" if name in (*ours, "pinned", "cut_tokens") else field
    return known[field]


def _earlier(files: _Files, name: str, identity: str) -> _Committed | None:
    """Return what an earlier process has left, or None where there is nothing."""
    partial = files.partial
    anew = f"To begin anew, use --fresh, or remove {partial} and {files.committed}"
    try:
        committed = _Committed.model_validate(read_json(files.committed.read_bytes()))
    except FileNotFoundError:
        if partial.exists():
            raise InputError(
                f"{name}: there is a file {partial}, but none that says what it is of. {anew}"
            ) from None
        return None
    except (orjson.JSONDecodeError, ValidationError):
        raise InputError(f"{files.committed}: not what icm-client wrote. {anew}") from None
    if committed.identity != identity and not committed.rows_done:
        return None
    if committed.identity != identity:
        raise InputError(
            f"{name}: {partial} holds {committed.rows_labelled:,} labels of another run, other "
            f"rows or other options. {anew}; or name another output"
        )
    size = partial.stat().st_size if partial.exists() else 0
    in_place = committed.whole and not partial.exists() and files.target.exists()
    if size < committed.size and not in_place:
        raise InputError(
            f"{name}: {partial} has {size:,} of the {committed.size:,} bytes that were written. "
            f"{anew}"
        )
    return committed


def _write(files: _Files, committed: _Committed) -> None:
    with replaced(files.committed, files.temporary) as file:
        file.write(write_json(committed.model_dump(), orjson.OPT_INDENT_2))
