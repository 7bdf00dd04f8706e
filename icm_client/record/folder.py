"""The folder of a run: `runs/NAME/`, where the same command finds it again.

    run.json       what the run is: frozen settings, versions, server, command
    journal.jsonl  what happened
    labels.jsonl   the labels; of a run that was stopped, those found so far
    result.json    the summary, with `stopped` if the run can go on
    report.html    the report
    why.jsonl      explanations of rows, where they were asked for
    checked.jsonl  what people say about the labels (`checks.py`)
    lock           held by the process at work: a run without that process has ended or died

NAME is the data file's name and a digest of everything that can change the labels: other settings
are another run. The scores are in the score store, which all runs share.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import orjson
from filelock import FileLock

from icm_client.data.values import write_json
from icm_client.data.whole_files import locked, replace_file
from icm_client.errors import RunError, RunStopped
from icm_client.record.description import RunDescription, installed_versions, without_secrets
from icm_client.record.journal import FAILED, FINISHED, STOPPED, Journal
from icm_client.record.layout import (
    DEFAULT_BASE,
    FORMAT,
    JOURNAL,
    LABELS,
    LOCK,
    RECORD,
    REPORT,
    RESULT,
    WHY,
)

_LOCK_TIMEOUT_S = 1.0  # who only looks whether a run is under way holds the lock for less


class RunFolder:
    """One run's folder, while this process works on it; made with `RunFolder.open`.

    As a context manager it records how the run ended: an exception that leaves the block is
    recorded as `failed` (cancellation and Ctrl-C as `stopped`) before the lock is released.

    Attributes:
        name: of the run.
        path: of the folder.
        journal: to append events to.
        resumed: whether an earlier process has worked on the run.
    """

    def __init__(self, path: Path, journal: Journal, lock: FileLock, *, resumed: bool) -> None:
        self.name = path.name
        self.path = path
        self.journal = journal
        self.resumed = resumed
        self._lock = lock
        self._ended = False

    @classmethod
    def open(
        cls,
        description: RunDescription,
        *,
        base: Path = DEFAULT_BASE,
        command: Sequence[str] | None = None,
        fresh: bool = False,
    ) -> Self:
        """Open the run's folder, and make it if the run is new.

        Args:
            description: what the run is; the name follows from it.
            base: the folder of all runs.
            command: the arguments that start the run again, without the program's name; options
                that carry keys are not recorded. None for a run from Python, which keeps the
                recorded command of an earlier process.
            fresh: delete journal, labels and result of an earlier process. The score store keeps
                its answers, so nothing is asked again.

        Raises:
            RunError: the folder cannot be made or written, another process works on the run, or
                something else has the run's name.
        """
        path = base / description.name
        with _explained(path):
            path.mkdir(parents=True, exist_ok=True)
            (path / LOCK).touch(exist_ok=True)
        lock = _locked(
            path,
            f"another process works on the run {path.name} (in {path}): wait for it, or end it "
            "and run the same command again",
        )
        try:
            with _explained(path):
                for torn in path.glob(".*.tmp"):  # of a process that was killed as it wrote
                    torn.unlink()
                if fresh:
                    for name in (JOURNAL, LABELS, REPORT, WHY, RESULT, RECORD):
                        (path / name).unlink(missing_ok=True)
                earlier = _earlier(path / RECORD)
                record = _record(description, command, earlier)
                replace_file(path / RECORD, orjson.dumps(record, option=orjson.OPT_INDENT_2))
            resumed = earlier is not None
            journal = Journal.open(path / JOURNAL)
            event = "resumed" if resumed else "started"
            journal.append(event, process=os.getpid(), versions=installed_versions())
        except BaseException:
            lock.release()
            raise
        return cls(path, journal, lock, resumed=resumed)

    def finish(
        self, summary: Mapping[str, object], write_labels: Callable[[Path], None] | None = None
    ) -> None:
        """Write what was found: the labels first, then the summary, with which the run is done.

        A run whose summary has `stopped` can go on.

        Raises:
            RunError: the folder cannot be written.
        """
        with _explained(self.path):
            if write_labels is not None:
                write_labels(self.path / LABELS)
            document = write_json(dict(summary), orjson.OPT_INDENT_2)
            replace_file(self.path / RESULT, document)
        if summary.get("stopped") is None:
            self._end(FINISHED)
        else:
            self.stop(str(summary["stopped"]))

    def stop(self, reason: str) -> None:
        """Record that the run stopped before its end, and why; the same command goes on."""
        self._end(STOPPED, reason=reason)

    def fail(self, error: BaseException) -> None:
        """Record that the run failed, and with which error."""
        self._end(FAILED, error=type(error).__name__, reason=str(error))

    def close(self) -> None:
        """Close the journal and release the lock; a second call does nothing."""
        try:
            self.journal.close()
        finally:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        try:
            if error is not None and not self._ended:
                if isinstance(error, Exception) and not isinstance(error, RunStopped):
                    self.fail(error)
                else:  # stopped on request, KeyboardInterrupt, SystemExit, a cancelled task
                    self.stop("interrupted")
        finally:
            self.close()

    def _end(self, event: str, **fields: object) -> None:
        self._ended = True
        self.journal.append(event, **fields)
        self.journal.sync()


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Keep other processes out of the folder within the block; the folder is made if needed.

    Raises:
        RunError: another process works in it, or it cannot be used.
    """
    busy = f"another process works in {folder}: wait for it, or name another folder"
    lock = _locked(folder, busy)
    try:
        yield
    finally:
        lock.release()


def _locked(folder: Path, busy: str) -> FileLock:
    """Return the folder's lock, held; `busy` is the message if another process holds it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return locked(folder / LOCK, RunError(busy), timeout_s=_LOCK_TIMEOUT_S)
    except OSError as error:
        raise RunError(f"{folder}: cannot be used: {error.strerror}") from error


def _earlier(path: Path) -> dict[str, Any] | None:
    """The record of an earlier process; None where there was none."""
    try:
        record: dict[str, Any] = orjson.loads(path.read_bytes())
        newer, _ = record["icm_client_run"] > FORMAT, record["created"]
    except FileNotFoundError:
        return None
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise RunError(f"{path}: describes no run: move the folder away, or use --fresh") from None
    if newer:
        raise RunError(f"{path}: written by a newer icm-client: upgrade, or use --fresh")
    return record


def _record(
    description: RunDescription, command: Sequence[str] | None, earlier: Mapping[str, Any] | None
) -> dict[str, Any]:
    record = {
        "icm_client_run": FORMAT,
        "name": description.name,
        "created": _now(),
        "command": None,
        "left_out": [],
        "folder": str(Path.cwd()),
        **(earlier or {}),
        **description.document(),
        "versions": installed_versions(),
    }
    if command is not None:  # the latest one: it may write its labels elsewhere
        kept = without_secrets(command)
        record["command"] = list(kept.arguments)
        record["left_out"] = list(kept.left_out)
        record["folder"] = str(Path.cwd())
    return record


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(
            f"the run's folder {path} cannot be written: {error.strerror}. Make room or make it "
            "writable, or name another folder for runs with --runs."
        ) from error
