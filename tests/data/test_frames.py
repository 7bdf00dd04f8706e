"""Tables of other libraries are rows."""

import pandas as pd
import pyarrow as pa

from icm_client import rows_from


def test_a_pandas_frame_is_rows() -> None:
    frame = pd.DataFrame(
        {
            "text": ["good", "bad", None],
            "year": [1999.0, None, 2001.0],
            "seen": pd.to_datetime(["2020-01-01", None, "2020-01-03"]),
            "kind": pd.Categorical(["film", None, "film"]),
        }
    )
    rows = rows_from(frame, gold="kind")
    assert [row.fields["text"] for row in rows.rows] == ["good", "bad", None]
    assert [row.fields["year"] for row in rows.rows] == [1999.0, None, 2001.0]
    assert [row.fields["seen"] for row in rows.rows] == [
        "2020-01-01T00:00:00",
        None,
        "2020-01-03T00:00:00",
    ]
    assert rows.gold == ("film", None, "film")


def test_a_pyarrow_table_is_rows() -> None:
    table = pa.table({"text": ["good", "bad"], "stars": [5, None]})
    assert [dict(row.fields) for row in rows_from(table).rows] == [
        {"text": "good", "stars": 5},
        {"text": "bad", "stars": None},
    ]
    assert len(rows_from(table.to_batches()[0]).rows) == 2
