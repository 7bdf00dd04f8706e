"""What people have said about a run's labels, kept beside them in `checked.jsonl`.

Every answer is a line: which row, its label, who gave it and when. Lines are appended and never
changed, so that two people lose nothing to each other, and the last answer of a row counts. An
answer without a label takes those before it back. `icm-client label --pin checked.jsonl` keeps the
labels that count (`icm_client.runs.annotations` reads them).

Rows can be checked while the run goes on: the file has a lock of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icm_client.data.whole_files import locked
from icm_client.errors import RunError
from icm_client.record.journal import Journal, read
from icm_client.record.layout import CHECKED

CHECK = "check"
"""The event of a line."""

_LOCK = "checked.lock"
_LOCK_TIMEOUT_S = 10.0  # it is held for as long as it takes to write one line


@dataclass(frozen=True, slots=True)
class Check:
    """A person's answer.

    Attributes:
        id: of the row; 7 and "7" are one row.
        label: the row's label, or None where an earlier answer was taken back.
        by: who gave it; empty where nobody said.
        at: when, UTC, ISO 8601.
    """

    id: str | int
    label: str | None
    by: str
    at: str


class Checks:
    """The answers in a run's folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / CHECKED

    def add(self, row_id: str | int, label: str | None, by: str = "") -> Check:
        """Write an answer, and return it once it is on the disk.

        Args:
            row_id: of the row. Whether the run has such a row and such a label is the caller's to
                know.
            label: the row's label; None takes back what was said of the row before.
            by: who says so.

        Raises:
            RunError: it cannot be written, and nothing of it is; or it is written, and the disk
                does not say that it is kept.
        """
        busy = RunError(f"{self.path}: another process has been writing it for long: try again")
        try:
            lock = locked(self.path.with_name(_LOCK), busy, timeout_s=_LOCK_TIMEOUT_S)
        except OSError as error:
            raise RunError(f"{self.path}: cannot be written: {error.strerror}") from error
        try:
            with Journal.open(self.path) as journal:
                written = journal.append(CHECK, id=row_id, label=label, by=by)
        finally:
            lock.release()
        return _check(written)

    def read(self) -> tuple[Check, ...]:
        """Return the answer that counts of each row that has one, in the order they were given.

        Raises:
            RunError: the file cannot be read, or is damaged.
        """
        counting: dict[str, Check] = {}
        for event in read(self.path):
            try:
                check = _check(event)
            except KeyError as error:
                raise RunError(
                    f"{self.path}: an answer has no {error}: the file was damaged"
                ) from None
            counting.pop(str(check.id), None)
            if check.label is not None:
                counting[str(check.id)] = check
        return tuple(counting.values())


def _check(event: Mapping[str, Any]) -> Check:
    return Check(event["id"], event["label"], str(event["by"]), str(event["at"]))
