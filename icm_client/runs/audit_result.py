"""What an audit ends with: suspects, how many labels are wrong, and the files made of these."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from icm_client.coherence.problem import FloatArray, IntArray
from icm_client.data import Row, Task
from icm_client.data.formats import FileFormat
from icm_client.data.outputs import explained, output_target, own_columns, write_table
from icm_client.data.rows import FailedRow
from icm_client.data.values import JsonValue
from icm_client.data.whole_files import replaced
from icm_client.endpoints import ServerIdentity
from icm_client.errors import InputError
from icm_client.report.audit_report import AuditPage, write_audit_page
from icm_client.report.label_table import LabelTable
from icm_client.runs.progress import Cost
from icm_client.stats.label_noise import LabelNoise

_COLUMNS = ("id", "given", "read_as", "wrong", "rank")


@dataclass(frozen=True, slots=True)
class AuditedRow:
    """A row whose given label was read.

    Attributes:
        row: the user's row.
        given: its label.
        read_as: the label that is likeliest by the reads alone.
        wrong: the probability that the given label is wrong.
        rank: its place among the suspects, from 1.
        predicted: label -> how probable it is by the reads alone, in alphabetical order.
        exactness: the least reliable kind of log-prob that they come from.
    """

    row: Row
    given: str
    read_as: str
    wrong: float
    rank: int
    predicted: Mapping[str, float]
    exactness: str

    def summary(self) -> dict[str, Any]:
        """Everything but the row's fields, as JSON values."""
        return {
            **dict(zip(_COLUMNS, self._values(), strict=True)),
            "pred_probs": dict(self.predicted),
        }

    def record(self, own: Mapping[str, str]) -> dict[str, JsonValue]:
        """A line of `Audit.write`; `own` has the columns of the row's fields."""
        fields = {own[name]: held for name, held in self.row.fields.items() if name != "id"}
        return {**dict(zip(_COLUMNS, self._values(), strict=True)), **fields}

    def _values(self) -> tuple[JsonValue, ...]:
        return (self.row.id, self.given, self.read_as, self.wrong, self.rank)


@dataclass(frozen=True, slots=True, repr=False)
class Audit:
    """What was found of given labels.

    Attributes:
        rows: the audited rows, in the order of the data; none where the labels are beyond audit.
        labels: the label words, in alphabetical order, as `noise` numbers them.
        noise: how many labels are wrong, and which are taken for which; None where the labels are
            beyond audit.
        beyond: why the labels are beyond audit for this model; None where they are not.
        read: how many rows were read.
        given_field: the field that held the labels.
        task: the question.
        data: the data's name.
        coherence: how far the reads follow the given labels, as `Labels.coherence`.
        unlabelled: ids of the rows without a given label, which are not audited.
        failed: rows that could not be read.
        warnings: sentences on what the user should mend.
        notices: sentences on what is worth knowing.
        server: who answered.
        cost: requests, tokens, seconds.
        seed: of the audit.
    """

    rows: tuple[AuditedRow, ...]
    labels: tuple[str, ...]
    noise: LabelNoise | None
    beyond: str | None
    read: int
    given_field: str
    task: Task
    data: str
    coherence: float
    unlabelled: tuple[str | int, ...]
    failed: tuple[FailedRow, ...]
    warnings: tuple[str, ...]
    notices: tuple[str, ...]
    server: ServerIdentity
    cost: Cost
    seed: int

    def __repr__(self) -> str:
        """Return a line: the rows themselves may be thousands."""
        return f"<Audit of {self.read:,} labels: {self.sentence()}>"

    @property
    def suspects(self) -> tuple[AuditedRow, ...]:
        """The audited rows, the most suspect first."""
        return tuple(sorted(self.rows, key=lambda row: row.rank))

    @property
    def probably_wrong(self) -> int:
        """Rows whose given label is more probably wrong than right."""
        return sum(row.wrong > 0.5 for row in self.rows)  # noqa: PLR2004

    def sentence(self) -> str:
        """Say what was found."""
        if self.noise is None:
            return f"Beyond audit: {self.beyond}"
        low, high = self.noise.interval
        return (
            f"About {self.noise.share:.1%} of the {self.read:,} given labels are wrong "
            f"(95% interval {low:.1%} to {high:.1%})."
        )

    def write(self, path: str | os.PathLike[str], *, format: FileFormat | None = None) -> None:  # noqa: A002 - the word that users know
        """Write one line a row: id, given, read_as, wrong, rank, then the row's own fields.

        Args:
            path: where to; the extension says the format, as for labels.
            format: which one, where the extension does not say it.

        Raises:
            InputError: the labels are beyond audit, or the file cannot be written.
        """
        names = dict.fromkeys(name for one in self._there() for name in one.row.fields)
        own = own_columns((name for name in names if name != "id"), _COLUMNS)
        records = [one.record(own) for one in self.rows]
        write_table(path, [*_COLUMNS, *own.values()], records, format=format)

    def pred_probs(self) -> tuple[IntArray, FloatArray]:
        """Return what cleanlab reads: `find_label_issues(*audit.pred_probs())`.

        Returns:
            1. Given labels as numbers, shape `[N]`, in alphabetical order of the words.
            2. How probable each label is by the reads, shape `[N, K]`, whatever was given.

        Raises:
            InputError: the labels are beyond audit.
        """
        rows = self._there()
        given = np.array([self.labels.index(one.given) for one in rows], dtype=np.int64)
        return given, np.array([list(one.predicted.values()) for one in rows])

    def write_pred_probs(self, path: str | os.PathLike[str]) -> None:
        """Write `pred_probs`, one line an audited row: an array where the name ends in .npy.

        Any other file is a table: id, given, and a column `p_<label>` for each label.

        Raises:
            InputError: the labels are beyond audit, or the file cannot be written.
        """
        name = os.fspath(path)
        if name.endswith(".npy"):
            probabilities = self.pred_probs()[1]
            with explained(name), replaced(output_target(name)) as file:
                np.save(file, probabilities)
            return
        columns = ["id", "given", *(f"p_{word}" for word in self.labels)]
        records: list[dict[str, JsonValue]] = [
            dict(zip(columns, (one.row.id, one.given, *one.predicted.values()), strict=True))
            for one in self._there()
        ]
        write_table(path, columns, records)

    def write_report(self, path: str | os.PathLike[str]) -> None:
        """Write a page of the suspects, on which a person checks them.

        What is checked there is downloaded as a file for `icm-client label --pin`.

        Raises:
            InputError: the labels are beyond audit.
            RunError: the file cannot be written.
        """
        rows, noise = self._there(), self.noise
        assert noise is not None  # noqa: S101 - there are rows
        given, predicted = self.pred_probs()
        fields = self.task.template_fields
        table = LabelTable(
            words=self.labels,
            ids=tuple(one.row.id for one in rows),
            held=given,
            log_probs=np.log(np.maximum(predicted, np.finfo(float).tiny)),
            confidence=np.array([1 - one.wrong for one in rows]),
            exactness=tuple(one.exactness for one in rows),
            fields=fields,
            texts=tuple(tuple(f"{one.row.fields.get(name)}" for name in fields) for one in rows),
            gold=np.array([self.labels.index(one.read_as) for one in rows]),
            gold_field="read as",
        )
        facts = {
            "data": self.data,
            "given labels": f"the field {self.given_field}",
            "template": self.task.template,
            "model": f"{self.server.model} ({self.server.kind})",
            "coherence": f"{self.coherence:.0%}",
            "seed": str(self.seed),
        }
        page = AuditPage(
            table, self.data, self.sentence(), self.probably_wrong, noise, facts, self.notices
        )
        write_audit_page(page, Path(path))

    def summary(self) -> dict[str, Any]:
        """Everything but the rows' fields, as JSON values, the suspects first."""
        noise = self.noise
        return {
            "data": self.data,
            "given_field": self.given_field,
            "read": self.read,
            "beyond_audit": self.beyond,
            "labels": list(self.labels),
            "share_wrong": None if noise is None else noise.share,
            "interval": None if noise is None else list(noise.interval),
            "noise_matrix": None if noise is None else noise.matrix.tolist(),
            "noise_matrix_interval": None if noise is None else noise.matrix_interval.tolist(),
            "coherence": self.coherence,
            "suspects": [one.summary() for one in self.suspects],
            "unlabelled": list(self.unlabelled),
            "failed": [row.summary() for row in self.failed],
            "warnings": list(self.warnings),
            "notices": list(self.notices),
            "server": asdict(self.server),
            "seed": self.seed,
            "cost": asdict(self.cost),
        }

    def _there(self) -> tuple[AuditedRow, ...]:
        if self.noise is None:
            raise InputError(f"there is nothing to write: {self.sentence()}")
        return self.rows
