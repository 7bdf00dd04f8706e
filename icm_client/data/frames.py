"""Read tables of pandas, pyarrow and datasets as rows, without importing any of these."""

import datetime as dt
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

import numpy as np

from icm_client.data.messages import listed
from icm_client.data.values import Unusable, as_written

_HUGGING_FACE: Final = b"huggingface"
_UNKNOWN: Final = -1  # what datasets writes where a class is not known
_SHORT_FLOATS: Final[Mapping[str, type[np.floating[Any]]]] = {
    "float32": np.float32,
    "float16": np.float16,
}
_ARROWS_NAMES: Final = {"float": "float32", "halffloat": "float16"}

Record = Mapping[str, Any]


@runtime_checkable
class ArrowTable(Protocol):
    """A `pyarrow.Table`, or a record batch."""

    def to_pylist(self) -> list[dict[str, Any]]:
        """Return the rows."""
        ...

    @property
    def schema(self) -> Any:
        """Return the columns' types, with the metadata that their writer added."""
        ...


@runtime_checkable
class HubDataset(Protocol):
    """A `datasets.Dataset` or `IterableDataset`."""

    @property
    def features(self) -> Any:
        """Return the columns' types, or None where they are not known."""
        ...

    def with_format(self, kind: str | None, /) -> Any:
        """Return it with rows of another kind."""
        ...


@runtime_checkable
class PandasFrame(Protocol):
    """A `pandas.DataFrame`, or one of its columns."""

    index: Any

    def astype(self, dtype: Any, /) -> Any:
        """Return it with columns of another kind."""
        ...

    def notna(self) -> Any:
        """Return where there are values."""
        ...


Frame = ArrowTable | HubDataset | PandasFrame


class FrameRows(NamedTuple):
    """A table's rows.

    Attributes:
        rows: by column; what is missing is None.
        warnings: sentences that the user should see.
    """

    rows: Iterable[Record]
    warnings: tuple[str, ...] = ()


def rows_of(frame: Frame) -> FrameRows:
    """Return a table's rows.

    Classes of `datasets` are given by name, not by number. The index of a data frame becomes the
    rows' `id`, unless they have one; where it cannot, its levels become fields.

    Raises:
        Unusable: two columns have one name.
    """
    if isinstance(frame, HubDataset):
        described = None if frame.features is None else frame.features.to_dict()
        return FrameRows(read_by(described, frame.with_format(None)))
    if isinstance(frame, ArrowTable):
        return FrameRows(read_by(features_of(frame.schema), frame.to_pylist()))
    return _pandas_rows(frame)


def features_of(schema: Any) -> Mapping[str, Any]:
    """Return the types that `datasets` wrote into the schema, and those of 16 and 32 bit floats."""
    floats = {
        field.name: {"_type": "Value", "dtype": _ARROWS_NAMES[str(field.type)]}
        for field in schema
        if str(field.type) in _ARROWS_NAMES
    }
    written = (schema.metadata or {}).get(_HUGGING_FACE)
    try:
        features = {} if written is None else json.loads(written)["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return floats
    return floats | features if isinstance(features, dict) else floats


def read_by(features: Mapping[str, Any] | None, rows: Iterable[Record]) -> Iterable[Record]:
    """Return the rows with the names of classes, and with floats as short as their type allows.

    Args:
        features: the columns' types, as `datasets.Features.to_dict` gives them; with None the rows
            stay as they are.
        rows: with classes by number, and every float with the digits of 64 bits.
    """
    changing = {name: feature for name, feature in (features or {}).items() if _changes(feature)}
    return (_read_fields(changing, row) for row in rows) if changing else rows


def _changes(feature: Any) -> bool:
    """Whether values of the feature may be read as something else than they are."""
    plain = isinstance(feature, Mapping) and feature.get("_type") == "Value"
    return not plain or str(feature.get("dtype")) in _SHORT_FLOATS


def _read_fields(features: Mapping[str, Any], row: Record) -> Record:
    return {
        name: _read(features[name], value) if name in features else value
        for name, value in row.items()
    }


def _read(feature: Any, value: Any) -> Any:
    """Return the value with the names of classes and with short floats."""
    if isinstance(feature, list) and len(feature) == 1:
        feature = {"_type": "List", "feature": feature[0]}
    if not isinstance(feature, Mapping):
        return value
    match feature.get("_type"):
        case None:
            return _read_fields(feature, value) if isinstance(value, Mapping) else value
        case "ClassLabel":
            return _class_name(feature.get("names"), value)
        case "Value":  # a float of 32 or 16 bits as it was written: 0.1, not 0.10000000149
            short = _SHORT_FLOATS.get(str(feature.get("dtype")))
            return as_written(short(value)) if short and isinstance(value, float) else value
        case _ if "feature" in feature and isinstance(value, list):
            return [_read(feature["feature"], one) for one in value]
        case _:
            return value


def _class_name(names: Any, number: Any) -> Any:
    if not isinstance(names, list):
        return number
    if number == _UNKNOWN:
        return None
    return names[number] if isinstance(number, int) and 0 <= number < len(names) else number


def _pandas_rows(frame: Any) -> FrameRows:
    if not hasattr(frame, "itertuples"):  # a series
        frame = frame.to_frame("text")
    columns = list(frame.columns)
    if repeated := sorted({str(name) for name in columns if columns.count(name) > 1}):
        raise Unusable(f"more than one column is called {listed(repeated)}")
    types = {name: str(dtype).lower() for name, dtype in frame.dtypes.items()}
    plain = frame.astype(object).where(frame.notna(), None).to_dict("records")
    short = {name: {"_type": "Value", "dtype": dtype} for name, dtype in types.items()}
    rows = [dict(row) for row in read_by(short, plain)]
    index = frame.index
    if "id" not in columns and index.nlevels == 1:
        ids = [_id_of(value) for value in index.tolist()]
        if None not in ids and len(set(map(str, ids))) == len(ids):
            return FrameRows([{"id": name, **row} for name, row in zip(ids, rows, strict=True)])
    if index.nlevels == 1 and type(index).__name__ == "RangeIndex" and index.name is None:
        return FrameRows(rows)  # the index is the order
    levels = {
        name: index.get_level_values(level).tolist()
        for level, name in enumerate(_level_names(index))
        if name not in columns
    }
    with_index = [
        {**{name: values[number] for name, values in levels.items()}, **row}
        for number, row in enumerate(rows)
    ]
    if "id" in columns or not levels:
        return FrameRows(with_index)
    warning = (
        "the data frame's index cannot be the rows' ids, so they are numbered; it is kept in "
        f"{listed(levels)}"
    )
    return FrameRows(with_index, (warning,))


def _id_of(value: object) -> object:
    """Return the value as an id, or None where it cannot be one."""
    if isinstance(value, dt.date):
        return value.isoformat()
    is_id = isinstance(value, str | int | np.integer) and not isinstance(value, bool)
    return value if is_id and str(value).strip() else None


def _level_names(index: Any) -> list[str]:
    if index.nlevels == 1:
        return ["index" if index.name is None else str(index.name)]
    return [
        f"level_{level}" if name is None else str(name) for level, name in enumerate(index.names)
    ]
