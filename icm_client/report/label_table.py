"""The labels of a run that has ended, read back from its folder as columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from icm_client.coherence.problem import BoolArray, FloatArray, IntArray
from icm_client.data.messages import did_you_mean, listed, shown
from icm_client.data.outputs import column_of, columns_before_fields
from icm_client.data.task import parse_template
from icm_client.data.values import write_json
from icm_client.errors import InputError, RunError
from icm_client.record.archive import Run, resume_command
from icm_client.record.comparison import label_records
from icm_client.record.layout import LABELS

NO_GOLD = -1
"""The gold label of a row that has none."""

_LONG_ID = 8


@dataclass(frozen=True, slots=True)
class LabelTable:
    """Rows with their labels, `N` rows and `K` labels.

    Attributes:
        words: the task's labels in its order, shape `[K]`.
        ids: of the rows, in the order of the data.
        held: each row's label, as a number in `words`, shape `[N]`.
        log_probs: nats, shape `[N, K]`.
        confidence: how likely each label is right, as the run estimated it, 0 to 1, shape `[N]`;
            NaN in all rows of a run that is not to be trusted.
        exactness: the least reliable kind of log-prob that each row's label follows from.
        fields: the fields of a row that the model was shown.
        texts: what each row holds in them, shape `[N, len(fields)]`.
        gold: each row's gold label, as a number in `words`, or `NO_GOLD`, shape `[N]`.
        gold_field: the column of the labels file that holds gold; None where none does.
    """

    words: tuple[str, ...]
    ids: tuple[str | int, ...]
    held: IntArray
    log_probs: FloatArray
    confidence: FloatArray
    exactness: tuple[str, ...]
    fields: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    gold: IntArray
    gold_field: str | None

    @property
    def margins(self) -> FloatArray:
        """Log-prob of each row's label minus that of the likeliest other, nats, shape `[N]`.

        It is negative where a rule that binds rows decided against the likeliest label.
        """
        rows = np.arange(len(self.held))
        others = self.log_probs.copy()
        others[rows, self.held] = -np.inf
        found: FloatArray = self.log_probs[rows, self.held] - others.max(axis=1)
        return found

    @property
    def long_ids(self) -> bool:
        """Whether the column of ids is a wide one."""
        return max(len(str(row)) for row in self.ids) > _LONG_ID

    @property
    def judged(self) -> BoolArray:
        """Which rows have gold, shape `[N]`."""
        return np.not_equal(self.gold, NO_GOLD)

    @property
    def right(self) -> BoolArray:
        """Which labels are the gold ones, shape `[N]`; False where there is no gold."""
        return np.equal(self.held, self.gold)


def read_label_table(run: Run, *, gold: str | None = None) -> LabelTable:
    """Return the labels of a run.

    Args:
        run: one that is done.
        gold: the field of the rows that holds gold labels; None for the one that the run knew.

    Raises:
        InputError: the run has no labels yet; no row has the gold field, or it holds no labels.
        RunError: the labels file cannot be read.
    """
    path = run.path / LABELS
    if run.result is None or not path.is_file():
        raise InputError(
            f"the run {run.name} has no labels yet (it is {run.state}): "
            f"{resume_command(run)} goes on with it"
        )
    records = label_records(run)
    if not records:
        raise RunError(f"{path}: holds no labels: the file was damaged")
    task = run.record["task"]
    words = tuple(map(str, task["labels"]))
    fields = tuple(
        dict.fromkeys(p.field for p in parse_template(task["template"]) if p.field is not None)
    )
    try:
        held = np.array([words.index(record["label"]) for record in records])
        log_probs = np.array(
            [[float(record[f"log_prob_{word}"]) for word in words] for record in records]
        )
        confidence = np.array(
            [
                np.nan if record["confidence"] is None else record["confidence"]
                for record in records
            ],
            dtype=np.float64,
        )
        ids = tuple(record["id"] for record in records)
        exactness = tuple(str(record["exactness"]) for record in records)
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{path}: a row lacks what a run writes ({error}): the file was damaged"
        ) from None
    column = _gold_column(run, records, gold, words)
    ours = {*columns_before_fields(words)} - {"id"}
    moved = any(field in ours for field in fields)  # rarely, and then each record says where to
    return LabelTable(
        words=words,
        ids=ids,
        held=held,
        log_probs=log_probs,
        confidence=confidence,
        exactness=exactness,
        fields=fields,
        texts=tuple(
            _texts(record, [column_of(one, record, words) for one in fields] if moved else fields)
            for record in records
        ),
        gold=_gold(records, column, words, path),
        gold_field=column,
    )


def _texts(record: Mapping[str, Any], columns: Sequence[str]) -> tuple[str, ...]:
    values = (record.get(column) for column in columns)
    return tuple(
        value if isinstance(value, str) else write_json(value).decode() for value in values
    )


def _gold_column(
    run: Run, records: Sequence[Mapping[str, Any]], field: str | None, words: Sequence[str]
) -> str | None:
    if field is None:
        # `write_labels` puts the gold that a run knew last, in every row.
        known = (run.result or {}).get("rows_with_gold")
        return list(records[0])[-1] if known else None
    column = column_of(field, records[0], words)
    if not any(column in record for record in records):
        ours = columns_before_fields(words)
        own = [name for name in records[0] if name not in ours]
        raise InputError(
            f"no row of the run {run.name} has a field {shown(field)}: its rows have {listed(own)}."
            f"{did_you_mean(field, own)}"
        )
    return column


def _gold(
    records: Sequence[Mapping[str, Any]], column: str | None, words: Sequence[str], path: Path
) -> IntArray:
    found = np.full(len(records), NO_GOLD)
    if column is None:
        return found
    by_case = {word.casefold(): number for number, word in enumerate(words)}
    exact = {word: number for number, word in enumerate(words)}
    for line, record in enumerate(records, start=1):
        value = record.get(column)
        text = "" if value is None else str(value)
        if not text.strip():
            continue
        number = exact.get(text, by_case.get(text.strip().casefold()))
        if number is None:
            raise InputError(
                f"{path}:{line}: the field {shown(column)} holds {shown(text)}, which is none of "
                f"the labels {listed(words)}: name the field that holds gold labels"
            )
        found[line - 1] = number
    return found
