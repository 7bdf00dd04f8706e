"""A run for each value of a field, over one score store, and how far the values' labels agree.

read and check all rows; part them by the field's value
for each value: a run of its own, with what is left of the budget
match the rows that differ in nothing but the value; compare the labels of every two values
"""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Any, Final

from icm_client.data import Dataset, FileFormat, LabelledRow, write_labels
from icm_client.data.answer_text import exact
from icm_client.data.messages import listed, shown
from icm_client.data.rows import FEWEST_ROWS, FailedRow, check_field, path_of, refused_rows
from icm_client.data.values import Unusable, write_json
from icm_client.endpoints import Endpoint
from icm_client.errors import InputError, RunStopped
from icm_client.runs.label import label_prepared
from icm_client.runs.progress import OnProgress, left_of
from icm_client.runs.request import LabelRequest, PreparedRun
from icm_client.runs.result import Labels
from icm_client.runs.server import Server
from icm_client.scoring import ScoreStore
from icm_client.stats.agreement import Agreement, agreement

FEW: Final = 20
"""Rows of a value under which a notice says so."""


@dataclass(frozen=True, slots=True)
class PreparedGroups:
    """The runs of all values, read and checked.

    Attributes:
        field: that parts the rows.
        matched_by: the fields in which rows of two values are the same; empty where there are none.
        whole: all rows.
        skipped: rows that are in no run, by their lines.
        runs: value -> its run, in the order of the values' first rows.
        notices: sentences that the user should see.
        warnings: sentences on what the user should mend.
    """

    field: str
    matched_by: tuple[str, ...]
    whole: PreparedRun
    skipped: tuple[FailedRow, ...]
    runs: Mapping[str, PreparedRun]
    notices: tuple[str, ...]
    warnings: tuple[str, ...]


def prepare_groups(
    request: LabelRequest, field: str, *, match: Sequence[str] = ()
) -> PreparedGroups:
    """Read and check all rows, and part them by the values of a field; nothing is sent.

    Args:
        request: of all rows.
        field: has the value of each row, as text or a number.
        match: the fields in which rows of two values are the same; empty takes those of the
            template but `field`.

    Raises:
        InputError: no row has the field, or one of `match`; there is one value only; or as
            `LabelRequest.prepared`.
        RowError: rows without a value, or of a value that too few rows have, which are not to be
            skipped.
    """
    whole = replace(request, skip_bad_rows=True).read()
    dataset = whole.whole.dataset
    for name in (field, *match):
        _check_field(name, dataset)
    values, problems = _values(dataset, field)
    given = len(request.rows.skipped) if isinstance(request.rows, Dataset) else 0
    here = [dataset.rows[number].failed(why) for number, why in problems.items()]
    skipped = sorted((*dataset.skipped, *here), key=lambda row: row.number)
    if len(skipped) > given and not request.skip_bad_rows:
        usable = len(dataset.rows) - len(here)
        raise refused_rows(skipped, path=path_of(dataset), usable=usable)
    rows_of: dict[str, list[int]] = {}
    for number, value in enumerate(values):
        if value is not None and number not in problems:
            rows_of.setdefault(value, []).append(number)
    if len(rows_of) < 2:  # noqa: PLR2004 - to compare takes two
        raise InputError(
            f"all rows have one value in the field {shown(field)} ({listed(rows_of)}): there is "
            "nothing to compare. Label them without --by"
        )
    fields = match or [name for name in whole.whole.task.template_fields if name != field]
    whole = replace(whole, request=replace(whole.request, skip_bad_rows=request.skip_bad_rows))
    runs = {value: whole.only(rows, value).sampled() for value, rows in rows_of.items()}
    few = [f"{value} ({len(rows)} rows)" for value, rows in rows_of.items() if len(rows) < FEW]
    notice = f"a search of so few rows has little to compare: {', '.join(few)}"
    return PreparedGroups(
        field,
        tuple(fields),
        whole,
        tuple(skipped),
        runs,
        whole.whole.notices,
        (*whole.whole.warnings, *([notice] if few else [])),
    )


def _check_field(name: str, dataset: Dataset) -> None:
    if name == dataset.gold_field:
        raise InputError(f"{shown(name)} is the gold field, which no run may see: name another")
    check_field(dataset, name, "; the rows have")


def _values(dataset: Dataset, field: str) -> tuple[list[str | None], dict[int, str]]:
    """Each row's value of the field; and why some rows can be in no run, by their numbers."""
    values: list[str | None] = []
    problems: dict[int, str] = {}
    for number, row in enumerate(dataset.rows):
        value, problem = None, "nothing"
        try:
            value = exact(row.fields.get(field))
        except Unusable as unusable:
            problem = str(unusable)
        values.append(value)
        if value is None:
            problems[number] = f"the field {shown(field)}, which --by names, holds {problem}"
    sizes = Counter(value for value in values if value is not None)
    for number, value in enumerate(values):
        if value is not None and sizes[value] < FEWEST_ROWS:
            problems[number] = (
                f"no other row has {shown(value)} in the field {shown(field)}, and labels are "
                "found by comparing rows"
            )
    return values, problems


@dataclass(frozen=True, repr=False)
class GroupLabels:
    """The labels of all values' rows, and how far they agree.

    Attributes:
        prepared: what was asked for.
        runs: value -> what its run has found, of the values whose runs have begun.
        stopped: the limit that has ended one of them, after which none has begun.
    """

    prepared: PreparedGroups
    runs: Mapping[str, Labels]
    stopped: str | None

    def __repr__(self) -> str:
        """Return a line: the rows themselves may be thousands."""
        return f"<Labels by {self.prepared.field}: {listed(self.runs)}>"

    @cached_property
    def rows(self) -> tuple[LabelledRow, ...]:
        """All rows that have a label, in the order of the data."""
        return tuple(row for row, _ in self._in_order)

    @cached_property
    def _in_order(self) -> list[tuple[LabelledRow, str | None]]:
        """Rows with their gold labels, in the order of the data."""
        every = [
            (row, None if found.dataset.gold is None else found.dataset.gold[number])
            for found in self.runs.values()
            for number, row in enumerate(found.rows)
        ]
        return sorted(every, key=lambda one: one[0].row.number)

    @property
    def failed(self) -> tuple[FailedRow, ...]:
        """The rows that have no label, by their lines."""
        failed = [*self.prepared.skipped]
        for value, run in self.prepared.runs.items():
            if value in self.runs:
                failed += self.runs[value].failed
            else:
                why = f"its run was not begun: a limit was reached ({self.stopped})"
                failed += [row.failed(why) for row in run.whole.dataset.rows]
        return tuple(sorted(failed, key=lambda row: row.number))

    @cached_property
    def agreements(self) -> dict[tuple[str, str], Agreement]:
        """How far the labels of every two values agree, where these have rows that are the same."""
        fields = self.prepared.matched_by
        labels = {
            value: _by_content(found.rows, fields) for value, found in self.runs.items() if fields
        }
        return {
            (one, other): agreement(labels[one], labels[other])
            for one, other in combinations(labels, 2)
            if not labels[one].keys().isdisjoint(labels[other])
        }

    def write(self, path: str | os.PathLike[str], *, format: FileFormat | None = None) -> None:  # noqa: A002 - the word that users know
        """Write all rows into one file, in the order of the data; else as `Labels.write`."""
        gold = self.prepared.whole.whole.dataset.gold_field
        write_labels(
            path,
            self.rows,
            format=format,
            gold=None if gold is None else [label for _, label in self._in_order],
            gold_field=gold,
        )

    def summary(self) -> dict[str, Any]:
        """Everything but the rows, as JSON values."""
        return {
            "data": self.prepared.whole.whole.dataset.name,
            "by": self.prepared.field,
            "rows": len(self.rows),
            "values": {value: found.summary() for value, found in self.runs.items()},
            "matched_by": list(self.prepared.matched_by),
            "agreement": [
                {"first": one, "second": other, **asdict(found)}
                for (one, other), found in self.agreements.items()
            ],
            "notices": list(self.prepared.notices),
            "warnings": list(self.prepared.warnings),
            "failed": [row.summary() for row in self.failed],
            "stopped": self.stopped,
        }


async def label_groups(
    prepared: PreparedGroups,
    *,
    endpoint: Endpoint | Server | str | None,
    store: ScoreStore,
    began: Callable[[str, int], None] = lambda _, __: None,
    progress: OnProgress | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> GroupLabels:
    """Label the rows of each value in a run of its own, one after the other.

    The budget is that of all runs together: where it ends one, no further one is begun. `began` is
    called with a value and how many rows it has, before its run; else as `icm_client.label`.
    """
    runs: dict[str, Labels] = {}
    stopped: str | None = None
    for value, run in prepared.runs.items():
        budget, spent = left_of(run.request.budget, [found.cost for found in runs.values()])
        if spent is not None:
            stopped = spent
            break
        began(value, len(run.whole.dataset.rows))
        try:
            runs[value] = await label_prepared(
                replace(run, request=replace(run.request, budget=budget)),
                endpoint=endpoint,
                store=store,
                progress=progress,
                stopping=stopping,
            )
        except RunStopped as ended:
            if stopping() or not runs:
                ended.labels = None  # of one value alone
                raise
            stopped = str(ended)
            break
        stopped = runs[value].stopped
        if stopped is not None:
            stopped += f", in the rows of {shown(value)}"
            break
    return GroupLabels(prepared, runs, stopped)


def _by_content(rows: Sequence[LabelledRow], fields: Sequence[str]) -> dict[str, str]:
    """The labels of rows that have the fields, by what these hold; equal ones are numbered."""
    found: dict[str, str] = {}
    times = Counter[str]()
    for row in rows:
        values = [row.row.fields.get(name) for name in fields]
        if None in values:
            continue
        content = write_json([str(value) for value in values]).decode()
        times[content] += 1
        found[f"{content}.{times[content]}"] = row.label
    return found
