"""The labels after each sweep in a run's journal: whole, small, and the same after a kill."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted_reviews import COLOURS, TASK, Failing, data, planted, reviews

from icm_client import Labels, SweepSettings, Task, label, rows_from
from icm_client.coherence.result import SweepRecord
from icm_client.data.job import Job
from icm_client.errors import IcmError, RunError
from icm_client.record.archive import read_run
from icm_client.record.journal import Journal
from icm_client.record.journal import read as events_of
from icm_client.record.run_labels import labels_by_sweep, packed, unpacked
from icm_client.runs.progress import ProgressMeter, SearchJournal
from icm_client.testing import PlantedConcept

SETTINGS = SweepSettings(min_sweeps=3, max_sweeps=5, restarts=2)


async def found_in(
    folder: Path, endpoint: PlantedConcept, task: Task = TASK, n: int = 32
) -> Labels:
    return await label(
        data(reviews(n, task)),
        task=task,
        endpoint=endpoint,
        store=folder / "store",
        runs=folder / "runs",
        settings=SETTINGS,
    )


def told_by(found: Labels) -> list[Any]:
    assert found.run is not None
    run = read_run(found.run.name, found.run.parent)
    assert run.result is not None
    return labels_by_sweep(run.path / "journal.jsonl", run.result["sweeps"], sorted(found.labels))


def whole(labels: list[Any]) -> list[list[int]]:
    assert all(one is not None for one in labels)
    return [one.tolist() for one in labels]


@pytest.mark.parametrize("task", [TASK, COLOURS])
async def test_each_sweep_s_labels_are_those_that_the_search_told(
    tmp_path: Path, task: Task
) -> None:
    found = await found_in(tmp_path, planted(32, task), task)
    told = whole(told_by(found))
    assert told == [record.labels.tolist() for record in found.history if record.labels is not None]
    for labels, record in zip(told, found.history, strict=True):
        counts = np.bincount([one for one in labels if one >= 0], minlength=len(task.labels))
        assert tuple(counts) == record.counts
    words = sorted(task.labels)
    assert [words[number] for number in told[-1]] == [row.label for row in found.rows]


async def test_a_run_that_was_cut_off_tells_the_same(tmp_path: Path) -> None:
    alone = await found_in(tmp_path / "alone", planted())
    with pytest.raises(IcmError):
        await found_in(tmp_path / "cut", Failing(allowed=70))
    again = await found_in(tmp_path / "cut", planted())
    assert again.run is not None
    events = [event["event"] for event in events_of(again.run / "journal.jsonl")]
    assert "sweep" in events[: events.index("resumed")]
    assert whole(told_by(again)) == whole(told_by(alone))


async def test_the_result_does_not_hold_them(tmp_path: Path) -> None:
    found = await found_in(tmp_path, planted())
    for sweep in found.summary()["sweeps"]:
        assert sweep.keys() == {
            "restart",
            "sweep",
            "utility",
            "coherence",
            "counts",
            "moved",
            "renamed",
        }


@pytest.mark.parametrize("n_labels", [2, 127, 128, 129, 1000])
def test_labels_come_back_whatever_their_number(n_labels: int) -> None:
    labels = np.random.default_rng(0).integers(-1, n_labels, size=5000)
    labels[:2] = -1, n_labels - 1
    np.testing.assert_array_equal(unpacked(packed(labels)), labels)
    record = SweepRecord(0, 0, 0.5, 0.5, (1,) * n_labels, 0, labels=labels)
    assert record.labels is not None
    np.testing.assert_array_equal(record.labels, labels)
    assert record.labels.itemsize == (1 if n_labels <= 128 else 2)


def test_a_sweep_of_100_000_rows_is_a_line_of_kilobytes() -> None:
    labels = np.random.default_rng(0).integers(2, size=100_000)
    assert len(packed(labels)) < 30_000


def test_a_record_is_the_same_whatever_labels_it_carries() -> None:
    one, other = (
        SweepRecord(0, 0, 0.5, 0.5, (1, 1), 0, labels=np.array(labels))
        for labels in ([0, 1], [1, 0])
    )
    assert one == other
    assert "labels" not in repr(one)


def sweep(utility: float, *labels: int, restart: int = 0) -> SweepRecord:
    counts = (labels.count(0), labels.count(1))
    after = np.array(labels) if labels else None
    return SweepRecord(restart, 0, utility, 0.5, counts, 1, labels=after)


def journalled(tmp_path: Path, *records: SweepRecord, n: int = 4) -> Path:
    job = Job.prepare(data(reviews(n)), TASK)
    path = tmp_path / "journal.jsonl"
    told = SearchJournal(job, None, len(job.dataset.rows), ProgressMeter(job.labels, None))
    with Journal.open(path) as journal, told.into(journal, SETTINGS, None):
        for record in records:
            told.observed(record)
    return path


def result_of(*records: SweepRecord) -> list[dict[str, Any]]:
    return [
        {"restart": r.restart, "sweep": 0, "utility": r.utility, "coherence": 0.5, "moved": 1}
        for r in records
    ]


def test_a_sweep_that_was_told_again_has_its_last_labels_and_another_s_none(
    tmp_path: Path,
) -> None:
    first, again, other = sweep(0.1, 0, 0, 1, 1), sweep(0.2, 1, 1, 0, 0), sweep(0.3, restart=1)
    path = journalled(tmp_path, first, again, other)
    found = labels_by_sweep(path, result_of(again, other, first), ["negative", "positive"])
    assert [None if one is None else one.tolist() for one in found] == [[1, 1, 0, 0], None, None]
    (exchanged, *_) = labels_by_sweep(path, result_of(again), ["positive", "negative"])
    assert exchanged is not None
    assert exchanged.tolist() == [0, 0, 1, 1]


def test_of_a_pair_in_both_orders_the_row_s_own_label_is_told(tmp_path: Path) -> None:
    task = Task(template="{a} or {b}?", labels=("first", "second"), exchange=("a", "b"))
    job = Job.prepare(rows_from([{"a": f"a{i}", "b": f"b{i}"} for i in range(3)]), task)
    assert [item.exchanged for item in job.items] == [False, True] * 3
    told = SearchJournal(job, None, len(job.dataset.rows), ProgressMeter(job.labels, None))
    path = tmp_path / "journal.jsonl"
    with Journal.open(path) as journal, told.into(journal, SETTINGS, None):
        told.observed(seen := sweep(0.1, 0, 1, 1, 0, 0, 1))
    (labels,) = labels_by_sweep(path, result_of(seen), ["first", "second"])
    assert labels is not None
    assert labels.tolist() == [0, 1, 0]


def test_a_batch_s_labels_are_not_taken_for_those_of_all_rows(tmp_path: Path) -> None:
    path = journalled(tmp_path, batch := sweep(0.1, 0, 1), n=4)
    assert labels_by_sweep(path, result_of(batch), ["negative", "positive"]) == [None]


@pytest.mark.parametrize("word", ["?", "AAAA", packed(np.array([0, 7]))])
def test_damaged_labels_are_an_error(tmp_path: Path, word: str) -> None:
    path = tmp_path / "journal.jsonl"
    (told,) = result_of(record := sweep(0.1, 0, 1))
    counts = {"negative": record.counts[0], "positive": record.counts[1]}
    with Journal.open(path) as journal:
        journal.append("sweep", **{**told, "counts": counts, "labels": word})
    with pytest.raises(RunError, match=r"journal\.jsonl: the labels of a sweep cannot be read"):
        labels_by_sweep(path, [told], ["negative", "positive"])


def test_without_a_journal_nothing_was_told(tmp_path: Path) -> None:
    assert labels_by_sweep(tmp_path / "none", result_of(sweep(0.1)), ["a", "b"]) == [None]
