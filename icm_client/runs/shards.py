"""A folder of labels, one file a shard: what is in it, and what is missing.

    part-0001.parquet                 labels, one file a shard
    _shards/part-0001.parquet.json    a shard's record: its source, what has become of its rows
    _shards/_job.json                 which run and model the labels are of
    _manifest.json                    counts, verdict and shards: there once nothing is missing

A shard's labels are put in their place whole, and its record is written after them. So what has a
record is done, and what has none is labelled again, to the same bytes.
"""

import glob
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from icm_client.data import FileFormat
from icm_client.data.formats import (
    NO_OPTIONS,
    FileOptions,
    format_of,
    output_format_of,
    require_pyarrow,
    unpacked_name,
)
from icm_client.data.messages import listed
from icm_client.data.readers import opened_rows
from icm_client.data.values import write_json
from icm_client.data.whole_files import replace_file
from icm_client.endpoints import ServerIdentity
from icm_client.errors import InputError, RunError
from icm_client.runs.frozen import Frozen
from icm_client.runs.predict import MOST_LISTED, Totals, findings_on
from icm_client.runs.predict_file import Predicted
from icm_client.runs.predictor import Predictor
from icm_client.runs.progress import Cost

FORMAT: Final = 1
"""The version of `_job.json`, of the shards' records and of the manifest."""

MANIFEST: Final = "_manifest.json"

# Readers of whole folders (Spark, Arrow, Ray) pass over names that begin so.
_RECORDS: Final = "_shards"
_JOB: Final = "_job.json"


class Shard(NamedTuple):
    """A file of rows, and where its labels go.

    Attributes:
        name: of the labels' file, relative to the output's folder.
        source: the rows' file.
        output: the labels' file.
        record: what has become of it, once the labels are whole.
    """

    name: str
    source: Path
    output: Path
    record: Path

    def version(self) -> list[int]:
        """Size in bytes and time of the last change in nanoseconds, of the rows' file."""
        found = self.source.stat()
        return [found.st_size, found.st_mtime_ns]

    def recorded(self) -> dict[str, Any] | None:
        """Its record, if its labels are there and its rows have not changed since.

        Raises:
            InputError: the labels there are of another file.
            RunError: the record is damaged.
        """
        record = _read(self.record)
        if record is None:
            return None
        if record["source"] != str(self.source):
            raise InputError(
                f"{self.output} has the labels of {record['source']}, and those of {self.source} "
                "would take their place: name another folder"
            )
        there = record["empty"] or self.output.exists()
        return record if there and record["version"] == self.version() else None

    def is_empty(self, file: FileOptions = NO_OPTIONS) -> bool:
        """Whether there are no rows: of many shards some often have none."""
        with opened_rows(self.source, [], file=file, fewest=0) as rows:
            return next(rows, None) is None


def find_shards(
    data: str,
    output: str | os.PathLike[str],
    *,
    data_format: FileFormat | None = None,
    output_format: FileFormat | None = None,
) -> list[Shard]:
    """The files that a pattern names, in the order of their names.

    A shard's labels have its path below the folder that stands before the first wildcard, so the
    name does not change with the other files.

    Args:
        data: a path with `*`, `?`, `[...]`, and `**` for folders within folders; or one file.
        output: the folder of the labels.
        data_format: of the shards, where their names do not show it.
        output_format: of the labels; None takes each shard's own.

    Raises:
        InputError: no file, files of more than one format, or files in the output's folder.
    """
    parts = Path(data).parts
    fixed = [*takewhile(lambda part: not glob.has_magic(part), parts[:-1])]
    root = Path(*fixed).absolute()
    pattern = Path(*parts[len(fixed) :])
    sources = sorted(path for path in root.glob(f"{pattern}") if path.is_file())
    if not sources:
        tip = f"; for a folder's files: '{data.rstrip('/')}/*.parquet'"
        raise InputError(f"{data}: there is no such file{tip if Path(data).is_dir() else ''}")
    by_format = {format_of(str(source), data_format): source.name for source in sources}
    if len(by_format) > 1:
        raise InputError(
            f"{data}: shards must be of one format, and these are of {len(by_format)}: for "
            f"example {listed(by_format.values())}. Narrow the pattern"
        )
    (own,) = by_format
    wanted = output_format_of(f"labels.{output_format or own}", output_format)
    folder = Path(output).absolute()
    shards: dict[str, Shard] = {}
    for source in sources:
        if folder.resolve() in source.resolve().parents:
            raise InputError(f"{source} lies in {output}, where the labels go: name another folder")
        path = source.relative_to(root)
        if not _shows(path, wanted):
            path = Path(unpacked_name(str(path))).with_suffix(f".{wanted}")
        name = path.as_posix()
        if name in shards:
            raise InputError(
                f"the labels of {shards[name].source} and of {source} would both be {name}"
            )
        shards[name] = Shard(name, source, folder / name, folder / _RECORDS / f"{name}.json")
    if wanted in ("parquet", "arrow"):
        require_pyarrow(data)
    return list(shards.values())


class ShardFolder:
    """The output's folder: what is in it, and of which run.

    Args:
        path: its absolute path; it need not be there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = path / MANIFEST
        self._records = path / _RECORDS

    def check(self) -> None:
        """Refuse a folder with files that are not ours.

        Raises:
            InputError: there are some, or it is no folder.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file: the labels of shards go to a folder")
        ours = (self._records / _JOB).exists() or not self.path.exists()
        if not ours and next(self.path.iterdir(), None) is not None:
            raise InputError(
                f"{self.path} has files that are no labels of shards: name a new or an empty folder"
            )

    def begin(self, job: Mapping[str, object], *, fresh: bool) -> None:
        """Note which labels it has.

        Raises:
            InputError: it has those of another run, or with other options.
            RunError: it cannot be written, or is damaged.
        """
        with explained(self.path):
            before = _read(self._records / _JOB)
            if fresh:
                self._clear()
            elif before is not None and before != job:
                differ = [name for name in job if before.get(name) != job[name]]
                raise InputError(
                    f"{self.path} has labels of the run {before.get('run')}, and this call differs "
                    f"in {listed(differ)}: name another folder, or label all again with --fresh"
                )
            self._records.mkdir(parents=True, exist_ok=True)
            replace_file(self._records / _JOB, write_json(dict(job)))

    def finish(
        self, predictor: Predictor, frozen: Frozen, server: ServerIdentity, cost: Cost
    ) -> Predicted:
        """Write the manifest, of all shards that have labels here, and return what is in it."""
        with explained(self.path):
            records = [
                record
                for record in self._recorded()
                if record["empty"] or (self.path / record["name"]).exists()
            ]
            totals = _added(records)
            whole = Predicted(
                predictor.found.run,
                predictor.found.task.labels,
                totals,
                findings_on(frozen, totals),
                server,
                sum_of(Cost(**record["cost"]) for record in records),
                str(self.path),
                predictor.found.row_limit,
            )
            shards = [
                {
                    "file": None if record["empty"] else record["name"],
                    "source": record["source"],
                    "rows": record["totals"]["rows"],
                    "without_label": record["totals"]["without_label"],
                }
                for record in records
            ]
            document = {"icm_client_shards": FORMAT, **whole.summary(), "shards": shards}
            replace_file(self.manifest, write_json(document, orjson.OPT_INDENT_2))
        return replace(whole, cost=cost)

    def _clear(self) -> None:
        """Remove the labels and all that is known of them, the manifest first."""
        self.manifest.unlink(missing_ok=True)
        for record in self._recorded():
            (self.path / record["name"]).unlink(missing_ok=True)
            (self._records / f"{record['name']}.json").unlink()
        for partial in self.path.rglob("*.partial*"):
            partial.unlink()

    def _recorded(self) -> list[dict[str, Any]]:
        """The records of all shards, in the order of their names."""
        files = sorted(path for path in self._records.rglob("*.json") if path.name != _JOB)
        return [record for path in files if (record := _read(path)) is not None]


def job_of(
    predictor: Predictor, server: ServerIdentity, contexts: int, gold: str | None
) -> dict[str, object]:
    """What all labels in a folder depend on, beside the rows."""
    return {
        "icm_client_shards": FORMAT,
        "run": predictor.found.run,
        "labels": predictor.found.digest,
        "model": server.model,
        "fingerprint": server.fingerprint,
        "contexts": contexts,
        "gold": gold,
    }


NO_COST: Final = Cost(0, 0, 0, 0, 0, 0, 0.0)


def sum_of(costs: Iterable[Cost]) -> Cost:
    """What they are together, their seconds added up."""
    return Cost(*map(sum, zip(*map(astuple, [NO_COST, *costs]), strict=True)))


def _added(records: Iterable[Mapping[str, Any]]) -> Totals:
    """The totals of all shards; rows without a label have their shard's name in the reason."""
    whole = Totals()
    for record in records:
        part = Totals.of(record["totals"])
        whole.rows += part.rows
        for word, count in part.counts.items():
            whole.counts[word] = whole.counts.get(word, 0) + count
        whole.sure += part.sure
        whole.cut += part.cut
        whole.right += part.right
        whole.with_gold += part.with_gold
        for gold, given in part.confused.items():
            added = whole.confused.setdefault(gold, {})
            for word, count in given.items():
                added[word] = added.get(word, 0) + count
        whole.without_label += part.without_label
        whole.without_score += part.without_score
        for signal, counts in part.shift.items():
            before = whole.shift.get(signal, [0] * len(counts))
            whole.shift[signal] = [sum(pair) for pair in zip(before, counts, strict=True)]
        whole.failed += [
            replace(row, reason=f"{record['name']}: {row.reason}")
            for row in part.failed[: MOST_LISTED - len(whole.failed)]
        ]
    return whole


def _shows(path: Path, wanted: FileFormat) -> bool:
    try:
        return format_of(path.name, None) == wanted
    except InputError:
        return False


def _read(path: Path) -> dict[str, Any] | None:
    """A document that this module has written, or None where it is not there."""
    try:
        document = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, orjson.JSONDecodeError) as error:
        raise RunError(f"{path}: cannot be read ({error}): delete it") from error
    if not isinstance(document, dict):
        raise RunError(f"{path}: not what icm-client wrote: delete it")
    return document


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Let what a file system says be a `RunError`, from which the same call goes on."""
    try:
        yield
    except OSError as error:
        stopped = RunError(f"{error.filename or path}: {error.strerror or error}")
        stopped.goes_on = True
        raise stopped from error
