"""Rows that cannot be used: all of them are named, each with its line and id."""

from collections.abc import Sequence
from dataclasses import dataclass

from icm_client.data.messages import named_lines, shown
from icm_client.errors import RowError

_MOST_REASONS = 10


@dataclass(frozen=True, slots=True)
class FailedRow:
    """A row that has no label.

    Attributes:
        id: the row's, or its number where it has none.
        line: where it stands in its file, as `Row.line`.
        reason: what is wrong with it, or what the server said; fit to be shown.
        has_id: whether the id is the row's own.
    """

    id: str | int
    line: int
    reason: str
    has_id: bool = False

    def summary(self) -> dict[str, str | int]:
        """Return id, line and reason as JSON values."""
        return {"id": self.id, "line": self.line, "reason": self.reason}


def refused_rows(bad: Sequence[FailedRow], *, path: str | None, usable: int) -> RowError:
    """Return the error that names all of these rows; rows with one reason are named together.

    Args:
        bad: at least one row.
        path: their file, or None for rows given from Python.
        usable: how many rows could be used without these.
    """
    alike: dict[str, list[FailedRow]] = {}
    for row in bad:
        alike.setdefault(row.reason, []).append(row)
    lines = []
    for reason, rows in list(alike.items())[:_MOST_REASONS]:
        first, *others = rows
        name = f" (id {shown(first.id)})" if first.has_id else ""
        lines.append(f"{path or 'rows'}:{first.line}: {reason}{name}")
        if others:
            lines.append(f"  the same in {_places(others)}")
    if unsaid := [row for rows in list(alike.values())[_MOST_REASONS:] for row in rows]:
        lines.append(f"  and, for other reasons, {_places(unsaid)}")
    if len(bad) > 1:
        lines.append(f"{len(bad):,} rows cannot be used")
    place = f"{path or 'rows'}:{bad[0].line}: "
    return RowError(
        "\n".join(lines).removeprefix(place),
        path=path,
        line=bad[0].line,
        skippable=usable >= 2,  # noqa: PLR2004 - a search compares rows
    )


def _places(rows: Sequence[FailedRow]) -> str:
    return named_lines(
        [f"{row.line} (id {shown(row.id)})" if row.has_id else row.line for row in rows]
    )
