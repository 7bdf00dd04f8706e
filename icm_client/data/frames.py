"""Read tables of pandas, polars, pyarrow, DuckDB and datasets as rows.

narwhals knows these libraries' tables, and imports none of them. `datasets` has types of its own,
which Arrow tables and Parquet files that it wrote keep.
"""

import datetime as dt
import json
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final, NamedTuple, Protocol, TypeGuard, runtime_checkable

import narwhals as nw
import numpy as np
from narwhals.exceptions import DuplicateError
from narwhals.typing import IntoDataFrame, IntoLazyFrame, IntoSeries

from icm_client.data.csv_rows import repeated_names
from icm_client.data.formats import require_pyarrow
from icm_client.data.messages import listed
from icm_client.data.values import Unusable, as_written

_HUGGING_FACE: Final = b"huggingface"
_UNKNOWN: Final = -1  # what datasets writes where a class is not known
_ROWS_AT_ONCE: Final = 4096
_SHORT_FLOATS: Final[Mapping[str, type[np.floating[Any]]]] = {
    "float32": np.float32,
    "float16": np.float16,
}
# What Arrow gives otherwise than a person would write it: DuckDB's sums are decimals there.
_READ_ANEW: Final = (*_SHORT_FLOATS, "int128", "map")

Record = Mapping[str, Any]


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
class ArrowStream(Protocol):
    """What gives its rows in Arrow's batches, such as a reader of these or DuckDB's results."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return the batches."""
        ...


Frame = HubDataset | ArrowStream | IntoDataFrame | IntoLazyFrame | IntoSeries


class FrameRows(NamedTuple):
    """A table's rows.

    Attributes:
        rows: by column; what is missing is None.
        warnings: sentences that the user should see.
    """

    rows: Iterable[Record]
    warnings: tuple[str, ...] = ()


def is_frame(rows: object) -> TypeGuard[Frame]:
    """Return whether `rows_of` reads it: a table or one column, in memory or still to be made."""
    if isinstance(rows, (HubDataset, ArrowStream, nw.LazyFrame)):
        return True
    return nw.from_native(rows, pass_through=True, allow_series=True) is not rows


def rows_of(frame: Frame) -> FrameRows:
    """Return a table's rows.

    Classes of `datasets` are given by name, not by number. The index of a pandas data frame becomes
    the rows' `id`, unless they have one; where it cannot, its levels become fields. What DuckDB or
    a reader of Arrow's batches has is taken as the rows are; any other query (polars' lazy frames)
    is made at once.

    Raises:
        Unusable: two columns have one name.
        SetupError: Arrow's batches, and pyarrow is not installed.
    """
    if isinstance(frame, HubDataset):
        described = None if frame.features is None else frame.features.to_dict()
        return FrameRows(read_by(described, frame.with_format(None)))
    try:
        table = nw.from_native(frame, pass_through=True, allow_series=True)
    except DuplicateError:
        _refuse_repeated(getattr(frame, "column_names", getattr(frame, "columns", ())))
        raise
    types: Mapping[str, Any] = {}
    if isinstance(table, nw.LazyFrame):
        types = _types(table.collect_schema())
        table = frame if isinstance(frame, ArrowStream) else table.collect()
    if isinstance(table, nw.Series):
        table = table.alias("text").to_frame()
    if not isinstance(table, nw.DataFrame) or table.implementation.is_pyarrow():
        return FrameRows(_streamed(table, types))
    warnings: tuple[str, ...] = ()
    if (index := nw.maybe_get_index(table)) is not None:
        table, warnings = _with_index(table, index)
    return FrameRows(read_by(_types(table.schema), _slices(table)), warnings)


def features_of(schema: Any) -> Mapping[str, Any]:
    """Return an Arrow schema's types as `read_by` takes them; those that `datasets` wrote first."""
    types = _types(nw.Schema.from_arrow(schema))
    written = (schema.metadata or {}).get(_HUGGING_FACE)
    try:
        features = {} if written is None else json.loads(written)["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return types
    return types | features if isinstance(features, dict) else types


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
    return not plain or str(feature.get("dtype")) in _READ_ANEW


def _read_fields(features: Mapping[str, Any], row: Record) -> Record:
    return {
        name: _read(features[name], value) if name in features else value
        for name, value in row.items()
    }


def _read(feature: Any, value: Any) -> Any:
    """Return the value with the names of classes and with short floats."""
    if isinstance(feature, list) and len(feature) == 1:
        feature = {"_type": "List", "feature": feature[0]}
    if not isinstance(feature, Mapping) or value is None:
        return value
    match feature.get("_type"):
        case None:
            return _read_fields(feature, value) if isinstance(value, Mapping) else value
        case "ClassLabel":
            return _class_name(feature.get("names"), value)
        case "Value":
            return _plain(str(feature.get("dtype")), value)
        case _ if "feature" in feature and isinstance(value, list):
            return [_read(feature["feature"], one) for one in value]
        case _:
            return value


def _plain(dtype: str, value: Any) -> Any:
    if isinstance(value, float) and dtype in _SHORT_FLOATS:  # 0.1, not 0.10000000149
        return as_written(_SHORT_FLOATS[dtype](value))
    if isinstance(value, Decimal) and dtype == "int128":
        return int(value)
    return dict(value) if dtype == "map" else value


def _class_name(names: Any, number: Any) -> Any:
    if not isinstance(names, list):
        return number
    if number == _UNKNOWN:
        return None
    return names[number] if isinstance(number, int) and 0 <= number < len(names) else number


def _feature(dtype: Any) -> Any:
    """Return a type of narwhals as `datasets` describes it, as far as `_read` asks."""
    match dtype:
        case nw.List() | nw.Array():
            return {"_type": "List", "feature": _feature(dtype.inner)}
        case nw.Struct():
            return {field.name: _feature(field.dtype) for field in dtype.fields}
        case _:
            return {"_type": "Value", "dtype": str(dtype).partition("(")[0].lower()}


def _types(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _feature(dtype) for name, dtype in schema.items()}


def _streamed(frame: Any, types: Mapping[str, Any]) -> Iterable[Record]:
    """Return the rows of Arrow's batches, of which one is in memory at a time.

    Args:
        frame: an Arrow stream.
        types: of its columns, as far as they say more than Arrow's.
    """
    require_pyarrow("rows of Arrow and DuckDB")
    import pyarrow as pa  # noqa: PLC0415 - an optional extra, and slow to load

    reader = pa.RecordBatchReader.from_stream(frame)
    _refuse_repeated(reader.schema.names)
    rows = (row for batch in reader for row in batch.to_pylist())
    return read_by({**features_of(reader.schema), **types}, rows)


def _slices(table: nw.DataFrame[Any]) -> Iterator[Record]:
    """Yield the rows; what is missing in pandas, NaN as well, is None."""
    for start in range(0, len(table), _ROWS_AT_ONCE):
        part = table[start : start + _ROWS_AT_ONCE]
        columns = [
            [None if missing else value for value, missing in zip(column, nulls, strict=True)]
            for column, nulls in ((one.to_list(), one.is_null()) for one in part.iter_columns())
        ]
        yield from (dict(zip(part.columns, row, strict=True)) for row in zip(*columns, strict=True))


def _refuse_repeated(names: Iterable[object]) -> None:
    if repeated := repeated_names([str(name) for name in names]):
        raise Unusable(f"more than one column is called {listed(repeated)}")


def _with_index(table: nw.DataFrame[Any], index: Any) -> tuple[nw.DataFrame[Any], tuple[str, ...]]:
    """Return a pandas table with its index as the column `id`, or else a column for each level."""
    frame = table.to_native()
    if "id" not in table.columns and index.nlevels == 1:
        ids = index.tolist()
        if all(map(_is_id, ids)) and len({str(one) for one in ids}) == len(ids):
            return nw.from_native(frame.reset_index(names="id")), ()
    if index.nlevels == 1 and type(index).__name__ == "RangeIndex" and index.name is None:
        return table, ()  # the index is the order
    levels = [n for n, name in enumerate(index.names) if name is None or name not in table.columns]
    if not levels:
        return table, ()
    made = nw.from_native(frame.reset_index(level=levels))
    if "id" in table.columns:
        return made, ()
    warning = (
        "the data frame's index cannot be the rows' ids, so they are numbered; it is kept in "
        f"{listed(map(str, made.columns[: len(levels)]))}"
    )
    return made, (warning,)


def _is_id(value: object) -> bool:
    known = isinstance(value, str | int | np.integer | dt.date) and not isinstance(value, bool)
    return known and str(value).strip() not in ("", "NaT")  # a missing time is a date to Python
