"""Read rows from Parquet and Arrow files, a batch of columns at a time."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, BinaryIO, Final

from icm_client.data.csv_rows import repeated_names
from icm_client.data.frames import features_of, read_by
from icm_client.data.messages import listed, shown
from icm_client.errors import RowError

if TYPE_CHECKING:
    import pyarrow as pa

ARROW_FILE: Final = b"ARROW1"
ARROW_STREAM: Final = b"\xff\xff\xff\xff"
PARQUET: Final = b"PAR1"


def parquet_rows(file: BinaryIO, path: str) -> Iterator[tuple[int, object]]:
    """Yield each row with its 1-based number.

    Raises:
        RowError: the file is no Parquet file, is damaged, or two columns have one name.
    """
    import pyarrow as pa  # noqa: PLC0415 - an optional extra, and slow to load
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        with pq.ParquetFile(file) as parquet:
            yield from _numbered(parquet.schema_arrow, parquet.iter_batches(), path)
    except (pa.ArrowException, OSError, ValueError) as problem:
        raise _unreadable("a Parquet", problem, path) from None


def arrow_rows(file: BinaryIO, path: str) -> Iterator[tuple[int, object]]:
    """Yield each row with its 1-based number; of a file (Feather, too) or of a stream.

    Raises:
        RowError: the file is no Arrow file, is damaged, or two columns have one name.
    """
    import pyarrow as pa  # noqa: PLC0415

    try:
        is_file = file.read(len(ARROW_FILE)) == ARROW_FILE
        file.seek(0)
        if is_file:
            with pa.ipc.open_file(file) as arrow:
                batches = (arrow.get_batch(number) for number in range(arrow.num_record_batches))
                yield from _numbered(arrow.schema, batches, path)
        else:
            with pa.ipc.open_stream(file) as stream:
                yield from _numbered(stream.schema, stream, path)
    except (pa.ArrowException, OSError, ValueError) as problem:
        raise _unreadable("an Arrow", problem, path) from None


def _numbered(
    schema: "pa.Schema", batches: "Iterable[pa.RecordBatch]", path: str
) -> Iterator[tuple[int, object]]:
    if repeated := repeated_names(schema.names):
        raise RowError(f"more than one column is called {listed(repeated)}", path=path)
    features = features_of(schema)
    number = 0
    for batch in batches:
        for record in read_by(features, batch.to_pylist()):
            number += 1
            yield number, record


def _unreadable(kind: str, problem: Exception, path: str) -> RowError:
    return RowError(f"not {kind} file that can be read: {shown(str(problem))}", path=path)
