"""Tables of pandas and pyarrow as rows, without importing either."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class ArrowTable(Protocol):
    """A `pyarrow.Table`, or a record batch."""

    def to_pylist(self) -> list[dict[str, Any]]:
        """Return the rows."""
        ...


@runtime_checkable
class PandasFrame(Protocol):
    """A `pandas.DataFrame`."""

    def astype(self, dtype: Any, /) -> Any:
        """Return it with columns of another kind."""
        ...

    def notna(self) -> Any:
        """Return where there are values."""
        ...

    def itertuples(self) -> Iterable[Any]:
        """A frame has these, and a series has not."""
        ...


Frame = ArrowTable | PandasFrame


def rows_of(frame: Frame) -> Iterable[Mapping[str, Any]]:
    """Return a table's rows by column; what is missing is None."""
    if isinstance(frame, ArrowTable):
        return frame.to_pylist()
    rows: list[dict[str, Any]] = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return rows
