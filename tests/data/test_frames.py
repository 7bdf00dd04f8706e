"""Tables of other libraries are rows."""

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icm_client import read_rows, rows_from
from icm_client.data.rows import numbered_rows
from icm_client.errors import RowError

datasets = pytest.importorskip("datasets")


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


POLARS = pl.DataFrame(
    {
        "text": ["good", "bad"],
        "price": [0.1, None],
        "prices": [[0.1], None],
        "seen": [dt.date(2020, 1, 1), None],
        "cost": [Decimal("1.20"), None],
        "mood": ["up", None],
        "by": [{"name": "Ann", "age": None, "size": 0.1}, None],
    },
    schema_overrides={
        "price": pl.Float32,
        "prices": pl.List(pl.Float32),
        "mood": pl.Enum(["up", "down"]),
        "by": pl.Struct({"name": pl.String, "age": pl.Int8, "size": pl.Float32}),
    },
)


@pytest.mark.parametrize(
    "frame",
    [
        POLARS,
        POLARS.lazy(),
        POLARS.to_arrow(),
        POLARS.to_arrow().to_reader(),
        duckdb.connect().from_arrow(POLARS.to_arrow()),
    ],
    ids=["polars", "lazy", "arrow", "reader", "duckdb"],
)
def test_every_kind_of_column_is_read_as_a_person_would_write_it(frame: Any) -> None:
    first, second = rows_from(frame).rows
    assert first.fields == {
        "text": "good",
        "price": 0.1,
        "prices": [0.1],
        "seen": "2020-01-01",
        "cost": "1.20",
        "mood": "up",
        "by": {"name": "Ann", "age": None, "size": 0.1},
    }
    assert second.fields == {**dict.fromkeys(first.fields), "text": "bad"}
    assert (first.id, second.id) == (1, 2)


def test_duckdbs_own_types_are_read() -> None:
    query = """
        SELECT 'ab'[n:n] AS text, n::HUGEINT AS total, MAP {'k': n} AS counts
        FROM range(1, 3) t(n)
    """
    rows = rows_from(duckdb.connect().sql(query)).rows
    # DuckDB's sums are HUGEINT, which Arrow keeps as decimals: they are whole numbers all the same.
    assert [row.fields for row in rows] == [
        {"text": "a", "total": 1, "counts": {"k": 1}},
        {"text": "b", "total": 2, "counts": {"k": 2}},
    ]


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ([b"x", b"y"], "field 'v' holds a value of type bytes, which is not JSON"),
        ([float("nan"), 1.0], "field 'v' holds NaN, which is not JSON: use null"),
        (pl.Series([object(), object()], dtype=pl.Object), "holds a value of type object"),
    ],
)
def test_a_column_that_json_cannot_hold_is_refused_by_name(column: Any, said: str) -> None:
    with pytest.raises(RowError, match=said):
        rows_from(pl.DataFrame({"text": ["a", "b"], "v": column}))


@pytest.mark.parametrize(
    "column", [pl.Series(["a", "b"]), pd.Series(["a", "b"]), pa.chunked_array([["a", "b"]])]
)
def test_one_column_of_texts_is_rows(column: Any) -> None:
    assert [row.fields["text"] for row in rows_from(column).rows] == ["a", "b"]


def test_rows_of_a_stream_are_taken_one_batch_at_a_time() -> None:
    taken = []

    def batches() -> Any:
        for number in range(3):
            taken.append(number)
            yield pa.record_batch({"text": [f"{number}a", f"{number}b"]})

    schema = pa.schema([("text", pa.string())])
    numbered, _ = numbered_rows(pa.RecordBatchReader.from_batches(schema, batches()))
    assert next(numbered)[1] == {"text": "0a"}
    assert taken == [0]
    assert len(list(numbered)) == 5


def test_several_tables_are_refused() -> None:
    sheets = {"May": pd.DataFrame({"text": ["a", "b"]}), "June": pd.DataFrame({"text": ["c", "d"]})}
    with pytest.raises(RowError, match=r"these are tables by name, 'May', 'June': pick one"):
        rows_from(sheets)


CLASSES = ["negative", "positive"]


def hub_dataset() -> Any:
    label = datasets.ClassLabel(names=CLASSES)
    return datasets.Dataset.from_dict(
        {
            "text": ["a", "b", "c"],
            "label": [1, 0, -1],
            "tags": [[0, 1], [], None],
            "seen": [{"by": 1, "n": 7}] * 3,
        },
        features=datasets.Features(
            {
                "text": datasets.Value("string"),
                "label": label,
                "tags": datasets.List(label),
                "seen": {"by": label, "n": datasets.Value("int64")},
            }
        ),
    )


@pytest.mark.parametrize(
    "made",
    [
        "whole",
        "numpy",
        "iterable",
        "arrow",
        "parquet",
    ],
)
def test_classes_of_datasets_have_their_names(made: str, tmp_path: Path) -> None:
    whole = hub_dataset()
    path = tmp_path / "rows.parquet"
    if made == "parquet":
        pq.write_table(whole.data.table, path)
        rows = read_rows(path, gold="label")
    else:
        rows = rows_from(
            {
                "whole": whole,
                "numpy": whole.with_format("numpy"),
                "iterable": whole.to_iterable_dataset(),
                "arrow": whole.data.table,
            }[made],
            gold="label",
        )
    assert rows.gold == ("positive", "negative", None)
    assert [row.fields for row in rows.rows] == [
        {"text": "a", "tags": CLASSES, "seen": {"by": "positive", "n": 7}},
        {"text": "b", "tags": [], "seen": {"by": "positive", "n": 7}},
        {"text": "c", "tags": None, "seen": {"by": "positive", "n": 7}},
    ]


def test_a_split_must_be_named() -> None:
    both = datasets.DatasetDict({"train": hub_dataset(), "test": hub_dataset()})
    with pytest.raises(
        RowError,
        match=r"these are splits by name, 'train', 'test': pick one, such as rows\['train'\]",
    ):
        rows_from(both)


@pytest.mark.parametrize(
    ("index", "ids"),
    [
        (["x", "y", "z"], ["x", "y", "z"]),
        ([7, 3, 40], [7, 3, 40]),
        (None, [0, 1, 2]),
        (pd.RangeIndex(10, 16, 2), [10, 12, 14]),
        (
            pd.to_datetime(["2020-01-01", "2020-01-02", "2020-01-03"]),
            [f"2020-01-0{day}T00:00:00" for day in (1, 2, 3)],
        ),
    ],
)
def test_labels_can_be_joined_by_the_index_of_a_frame(index: object, ids: list[object]) -> None:
    frame = pd.DataFrame({"text": ["a", "b", "c"]}, index=index)
    rows = rows_from(frame)
    assert [row.id for row in rows.rows] == ids
    assert rows.warnings == ()
    if not isinstance(frame.index, pd.DatetimeIndex):
        labels = pd.Series([row.fields["text"] for row in rows.rows], [row.id for row in rows.rows])
        assert frame.join(labels.rename("label")).eval("text == label").all()


def test_lists_that_pandas_read_from_parquet_are_lists(tmp_path: Path) -> None:
    table = pa.table({"text": ["a", "b"], "scores": [[0.5, 1.0], [2.0]], "by": [{"n": [1]}] * 2})
    pq.write_table(table, tmp_path / "rows.parquet")
    frame = pd.read_parquet(tmp_path / "rows.parquet")
    assert isinstance(frame["scores"][0], np.ndarray)
    assert [dict(row.fields) for row in rows_from(frame).rows] == [
        {"id": n, **row} for n, row in enumerate(table.to_pylist())
    ]


def test_a_filtered_frame_keeps_its_index() -> None:
    frame = pd.DataFrame({"text": list("abcdef")})
    assert [row.id for row in rows_from(frame[frame.text > "c"]).rows] == [3, 4, 5]


def test_rows_with_ids_keep_them_and_the_index_is_a_field() -> None:
    frame = pd.DataFrame({"id": ["p", "q"], "text": ["a", "b"]})
    assert rows_from(frame).rows[0].fields == {"id": "p", "text": "a"}
    named = rows_from(frame.set_index(pd.Index([5, 6], name="page")))
    assert [(row.id, row.fields["page"]) for row in named.rows] == [("p", 5), ("q", 6)]
    assert named.warnings == ()


@pytest.mark.parametrize(
    ("index", "fields"),
    [
        ([1, 1, 2], {"index": 1}),
        ([0.5, 1.5, 2.5], {"index": 0.5}),
        (pd.DatetimeIndex(["2020-01-01", None, "2020-01-03"]), {"index": "2020-01-01T00:00:00"}),
        (["a", None, "c"], {"index": "a"}),
        (
            pd.MultiIndex.from_product([["x"], [1, 2, 3]], names=["page", None]),
            {"page": "x", "level_1": 1},
        ),
    ],
)
def test_an_index_that_is_no_id_is_kept_in_fields_and_said(
    index: object, fields: dict[str, object]
) -> None:
    rows = rows_from(pd.DataFrame({"text": ["a", "b", "c"]}, index=index))
    assert [row.id for row in rows.rows] == [1, 2, 3]
    assert rows.rows[0].fields == {**fields, "text": "a"}
    (said,) = rows.warnings
    assert said.startswith("the data frame's index cannot be the rows' ids, so they are numbered")


def test_a_column_of_texts_is_rows_with_its_index() -> None:
    rows = rows_from(pd.Series(["a", None, "c"], index=["x", "y", "z"], name="review"))
    assert [(row.id, row.fields["text"]) for row in rows.rows] == [
        ("x", "a"),
        ("y", None),
        ("z", "c"),
    ]


def test_columns_of_one_name_are_refused() -> None:
    frame = pd.DataFrame([["a", "b"], ["c", "d"]], columns=["text", "text"])
    arrow = pa.table([["a", "c"], ["b", "d"]], names=["text", "text"])
    query = duckdb.connect().sql("SELECT 'a' AS text, 'b' AS text")
    for table in (frame, arrow, arrow.to_reader(), query):
        with pytest.raises(RowError, match="more than one column is called 'text'"):
            rows_from(table)


def test_floats_of_32_bits_are_read_as_they_were_written(tmp_path: Path) -> None:
    # As 64 bits, 19.99 is 19.989999771118164: the model read that, and so did the labels file.
    prices = np.array([19.99, 0.1, np.nan], dtype="float32")
    texts = ["a", "b", "c"]
    table = pa.table({"text": texts, "price": pa.array(prices, from_pandas=True)})
    pq.write_table(table, tmp_path / "rows.parquet")
    hub = datasets.Dataset(table)
    frame = pd.DataFrame({"text": texts, "price": prices})
    found = [
        rows_from(table),
        rows_from(frame),
        rows_from(frame.astype({"price": "Float32"})),
        rows_from(hub),
        rows_from(hub.to_iterable_dataset()),
        read_rows(tmp_path / "rows.parquet"),
    ]
    for made in found:
        assert [row.fields["price"] for row in made.rows] == [19.99, 0.1, None]
    plain = rows_from([{"text": "a", "v": np.float32(19.99)}, {"text": "b", "v": np.float16(0.1)}])
    assert [row.fields["v"] for row in plain.rows] == [19.99, 0.1]
