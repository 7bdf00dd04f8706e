"""Tables of other libraries are labelled, and labels become tables of theirs."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import duckdb
import orjson
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from planted_reviews import TASK, planted, reviews
from predictions import NEW, concept, labelled, new_rows, run_in

from icm_client import Client, Labels, label
from icm_client.data.row_batches import row_batches
from icm_client.errors import RowError, SetupError

Make = Callable[[list[dict[str, Any]]], Any]

TABLES: dict[str, Make] = {
    "pandas.DataFrame": pd.DataFrame,
    "polars.DataFrame": pl.DataFrame,
    "polars.LazyFrame": pl.LazyFrame,
    "pyarrow.Table": pa.Table.from_pylist,
    "pyarrow.RecordBatch": pa.RecordBatch.from_pylist,
    "pyarrow.RecordBatchReader": lambda rows: pa.Table.from_pylist(rows).to_reader(10),
    "duckdb.DuckDBPyRelation": lambda rows: duckdb.connect().from_arrow(pa.Table.from_pylist(rows)),
    "datasets.Dataset": lambda rows: datasets.Dataset.from_list(rows).class_encode_column("label"),
    "datasets.IterableDataset": lambda rows: datasets.Dataset.from_list(rows).to_iterable_dataset(),
}
COLUMNS: dict[str, Callable[[list[str]], Any]] = {
    "pandas.Series": pd.Series,
    "polars.Series": pl.Series,
}


def test_the_page_has_these_tables() -> None:
    page = (Path(__file__).parents[2] / "docs" / "rows.md").read_text("utf-8")
    (section,) = re.findall(r"^## Tables from Python\n(.*?)^## ", page, re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE))
    assert named == {*TABLES, *COLUMNS}
    for name, make in TABLES.items():
        assert type(make(reviews(2))).__name__ == name.partition(".")[2]


@pytest.mark.parametrize("name", COLUMNS)
async def test_a_column_of_texts_is_labelled(name: str, store: Path) -> None:
    texts = [row["text"] for row in reviews(32)]
    expected = await label(texts, task=TASK, endpoint=planted(), store=store)
    found = await label(COLUMNS[name](texts), task=TASK, endpoint=planted(), store=store)
    assert [row.label for row in found.rows] == [row.label for row in expected.rows]


@pytest.fixture(params=TABLES)
def table(request: pytest.FixtureRequest) -> Make:
    return TABLES[request.param]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


async def test_a_table_is_labelled_as_its_rows_are(table: Make, store: Path) -> None:
    rows = [{"id": f"r{n}", **row} for n, row in enumerate(reviews(32))]
    expected = await label(rows, task=TASK, endpoint=planted(), gold="label", store=store)
    found = await label(table(rows), task=TASK, endpoint=planted(), gold="label", store=store)
    assert found.rows == expected.rows
    assert found.accuracy == expected.accuracy
    async with Client(planted(), store=store) as client:
        assert (
            await client.start(table(rows), task=TASK, gold="label").result()
        ).rows == found.rows


async def test_new_rows_of_a_table_are_labelled(table: Make, tmp_path: Path) -> None:
    predictor = (await run_in(tmp_path)).predictor()
    expected = await labelled(predictor, new_rows(), concept(), tmp_path / "store")
    found = await labelled(predictor, table(new_rows()), concept(), tmp_path / "store", batch=7)
    assert found == expected
    assert len(found) == NEW


def test_batches_of_a_table_are_those_of_its_rows(table: Make) -> None:
    rows = [{"id": f"r{n}", **row} for n, row in enumerate(reviews(10))]
    expected = list(row_batches(rows, size=4, task=TASK, gold="label"))
    assert list(row_batches(table(rows), size=4, task=TASK, gold="label")) == expected


async def test_of_several_splits_one_is_to_be_picked(tmp_path: Path) -> None:
    splits = datasets.DatasetDict({"test": datasets.Dataset.from_list(reviews(32))})
    with pytest.raises(
        RowError, match=r"these are splits by name, 'test': pick one, such as rows\['test'\]"
    ):
        await label(splits, task=TASK, endpoint=planted(), store=tmp_path / "store")


@pytest.fixture
async def found(store: Path) -> Labels:
    rows = [
        {"film": f"f{n}", "stars": n % 5 if n % 3 else None, "tags": ["a", f"{n}"], **row}
        for n, row in enumerate(reviews(32))
    ]
    frame = pd.DataFrame(rows).set_index("film")
    return await label(frame, task=TASK, endpoint=planted(), gold="label", store=store)


async def test_labels_become_a_table_of_each_library(found: Labels, tmp_path: Path) -> None:
    found.write(tmp_path / "labels.parquet")
    found.write(tmp_path / "labels.jsonl")
    written = pq.read_table(tmp_path / "labels.parquet")
    assert found.to_arrow().equals(written)
    assert found.to_polars().equals(pl.read_parquet(tmp_path / "labels.parquet"))
    dataset = found.to_dataset()
    assert dataset.to_list() == written.to_pylist()
    frame = found.to_pandas()
    assert list(frame.columns) == dataset.column_names == written.column_names
    lines = [orjson.loads(line) for line in (tmp_path / "labels.jsonl").read_bytes().splitlines()]
    assert list(lines[0]) == list(frame.columns)
    assert frame.astype(object).where(frame.notna(), None).to_dict("records") == lines


async def test_labels_are_joined_to_the_frame_that_they_are_of(store: Path) -> None:
    rows = pd.DataFrame(reviews(32), index=[f"r{n}" for n in range(32)])
    found = await label(rows[["text"]], task=TASK, endpoint=planted(), store=store)
    joined = rows[["text"]].join(found.to_pandas().set_index("id")["label"])
    assert joined["label"].to_list() == [row.label for row in found.rows]


@pytest.mark.parametrize(
    ("method", "package", "installed"),
    [
        ("to_pandas", "pandas", "pandas"),
        ("to_polars", "polars", "polars"),
        ("to_arrow", "pyarrow", "'icm-client[parquet]'"),
        ("to_dataset", "datasets", "datasets"),
    ],
)
async def test_a_library_that_is_missing_is_named(
    found: Labels, method: str, package: str, installed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [package, f"{package}.parquet"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        SetupError, match=re.escape(f"this needs {package}: pip install {installed}")
    ):
        getattr(found, method)()
