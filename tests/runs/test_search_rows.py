"""Of many rows a sample is searched, and the others are predicted from its labels."""

from pathlib import Path

import numpy as np
from planted_reviews import TASK, data, planted, reviews

from icm_client import Labels, Task, label
from icm_client.record.archive import read_folder
from icm_client.record.journal import read
from icm_client.record.run_labels import labels_by_sweep
from icm_client.runs.predictor import Predictor
from icm_client.runs.request import LabelRequest

PAIRED = Task(**{**TASK.model_dump(), "constraint": {"kind": "at-most-one", "group": "pair"}})


async def labelled(tmp_path: Path, n: int = 400, **options: object) -> Labels:
    return await label(
        data(reviews(n)),
        task=TASK,
        endpoint=planted(n),
        search_rows=100,
        store=tmp_path / "scores.sqlite3",
        runs=tmp_path / "runs",
        **options,  # type: ignore[arg-type]
    )


async def test_a_sample_is_searched_and_the_others_are_read_once(tmp_path: Path) -> None:
    found = await labelled(tmp_path)
    assert found.accuracy == 1.0
    assert found.predicted == 300
    assert [row.row.line for row in found.rows] == list(range(1, 401))
    assert any("100 of 400 rows were searched" in notice for notice in found.notices)
    assert found.cost.from_server < 100 * 12 + 50 + 300 + 10
    assert found.run is not None
    assert (found.run / "predictor.json").is_file()
    kept = Predictor.load(found.run).kept()
    assert kept is not None
    assert len(kept.prompts) <= 50  # of the rows that were searched
    again = await labelled(tmp_path)
    assert (again.rows, again.run, again.cost.from_server) == (found.rows, found.run, 0)


async def test_report_and_journal_say_which_rows_were_searched(tmp_path: Path) -> None:
    found = await labelled(tmp_path)
    assert found.run is not None
    run = read_folder(found.run)
    assert run.result is not None
    assert run.result["predicted"] == 300
    journal = found.run / "journal.jsonl"
    (searched,) = (event for event in read(journal) if event["event"] == "searched")
    assert searched["of"] == 400
    last = labels_by_sweep(journal, run.result["sweeps"], sorted(TASK.labels))[-1]
    assert last is not None
    assert np.flatnonzero(last != -1).tolist() == searched["rows"]
    page = (found.run / "report.html").read_text()
    assert "100 of 400 rows were searched" in page
    assert "300 predicted, not searched" in page


async def test_fewer_rows_are_all_searched_and_the_run_keeps_its_name(tmp_path: Path) -> None:
    small = await labelled(tmp_path, 100)
    assert small.predicted == 0
    assert small.run is not None
    assert "search_rows" not in read_folder(small.run).record["settings"]


def test_related_rows_stay_together_and_pinned_ones_are_searched() -> None:
    rows = [
        {"text": row["text"], "id": f"r{i}", "pair": i % 200} for i, row in enumerate(reviews(400))
    ]
    pins = {"r7": "positive", "r399": "negative"}
    prepared = LabelRequest(rows, PAIRED, search_rows=50, pins=pins).prepared()
    assert prepared.searched is not None
    chosen = set(prepared.searched)
    assert len(chosen) == 50
    assert {7, 399} <= chosen
    assert all((i in chosen) == ((i + 200) % 400 in chosen) for i in range(400))
    assert prepared.pinned is not None
    assert (prepared.pinned != -1).sum() == 2
    rest = [row.fields["pair"] for row in prepared.rest.rows]
    assert len(rest) == 350
    assert rest[::2] == rest[1::2]
    other = LabelRequest(rows, PAIRED, search_rows=50, seed=1).prepared()
    assert other.searched != prepared.searched
