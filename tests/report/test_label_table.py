"""What a run wrote is read back as it was."""

from pathlib import Path

import numpy as np
import pytest
from report_runs import TASK, confidences, reviews, write_run

from icm_client import Task, label, rows_from
from icm_client.data import JsonValue
from icm_client.errors import InputError, RunError
from icm_client.record.archive import read_run
from icm_client.record.run_labels import read_labels
from icm_client.report.label_table import NO_GOLD, read_label_table
from icm_client.report.report_data import page_rows
from icm_client.testing import PlantedConcept


async def test_a_run_s_own_labels_and_gold_come_back(tmp_path: Path) -> None:
    rows = rows_from(reviews(32), gold="label")
    classes = [TASK.labels.index(str(gold)) for gold in rows.gold or ()]
    concept = PlantedConcept(
        dict(zip(TASK.render_all(rows), classes, strict=True)), TASK.label_texts
    )
    found = await label(rows, task=TASK, endpoint=concept, runs=tmp_path, store=tmp_path / "s")
    assert found.run is not None
    table = read_label_table(read_run(found.run.name, tmp_path))
    assert table.ids == tuple(row.row.id for row in found.rows)
    assert [table.words[k] for k in table.held] == [row.label for row in found.rows]
    assert table.confidence.tolist() == [row.confidence for row in found.rows]
    assert table.texts[3] == ("words of row 3",)
    assert table.right.mean() == found.accuracy
    assert table.gold_field == "row_label"


def test_without_gold_a_field_can_be_named(tmp_path: Path) -> None:
    run = write_run(tmp_path, reviews(20))
    assert read_label_table(run).gold_field is None
    assert not read_label_table(run).judged.any()
    table = read_label_table(run, gold="label")
    assert table.judged.all()
    assert table.right.sum() == 16
    with pytest.raises(InputError, match=r"no row .* has a field 'labell'.*Did you mean"):
        read_label_table(run, gold="labell")
    with pytest.raises(InputError, match="'words of row 0', which is none of the labels"):
        read_label_table(run, gold="text")


def test_rows_without_gold_are_not_judged(tmp_path: Path) -> None:
    rows = [{**row, "label": None if i == 2 else row["label"]} for i, row in enumerate(reviews(8))]
    table = read_label_table(write_run(tmp_path, rows, gold="label"))
    assert table.gold[2] == NO_GOLD
    assert table.judged.sum() == 7


def test_ids_past_what_json_readers_and_browsers_hold_keep_their_digits(tmp_path: Path) -> None:
    ids: list[int | str] = [7, 2**53 + 1, 36893488147419103233, "a"]
    rows: list[dict[str, JsonValue]] = [
        {**row, "id": name} for row, name in zip(reviews(4), ids, strict=True)
    ]
    run = write_run(tmp_path, rows)
    table = read_label_table(run)
    assert table.ids == tuple(ids)
    assert [shown[0] for shown in page_rows(table)["rows"]] == [7, *map(str, ids[1:])]
    assert [row.id for row in read_labels(run.path).dataset.rows] == ids


def test_a_margin_is_over_the_likeliest_other_label(tmp_path: Path) -> None:
    table = read_label_table(write_run(tmp_path, reviews(30)))
    expected = np.log(confidences(30)) - np.log1p(-np.array(confidences(30)))
    assert table.margins == pytest.approx(expected)


def test_fields_with_our_names_are_found_again(tmp_path: Path) -> None:
    task = Task(template="{id} {label} {n}:", labels=("yes", "no"))
    rows: list[dict[str, JsonValue]] = [
        {"id": f"k{i}", "label": f"own {i}", "row_label": "x", "n": i} for i in range(4)
    ]
    table = read_label_table(write_run(tmp_path, rows, task=task))
    assert table.fields == ("id", "label", "n")
    assert table.texts[2] == ("k2", "own 2", "2")


def test_a_run_without_labels_and_a_damaged_one_are_told_apart(tmp_path: Path) -> None:
    run = write_run(tmp_path, reviews(4))
    path = run.path / "labels.jsonl"
    path.write_bytes(b'{"id":1,"label":"maybe"}\n')
    with pytest.raises(RunError, match="damaged"):
        read_label_table(run)
    path.write_bytes(b"{\n")
    with pytest.raises(RunError, match="some lines hold no label: the file was damaged"):
        read_label_table(run)
    path.write_bytes(b"")
    with pytest.raises(RunError, match="holds no labels"):
        read_label_table(run)
    (run.path / "result.json").unlink()
    with pytest.raises(InputError, match=r"no labels yet .*runs resume"):
        read_label_table(read_run(run.name, tmp_path))
