"""Accuracy by sweep: it ends where the result's is, and where nothing is known there is none."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from report_runs import TASK, reviews, sweep, write_run

from icm_client import Dataset, Labels, SweepSettings, Task, label, rows_from
from icm_client.coherence.folds import FoldSettings
from icm_client.coherence.iterate import IterateSettings
from icm_client.data.job import Job
from icm_client.endpoints import Answer, Read
from icm_client.errors import RequestRefused
from icm_client.record.archive import Run, read_run
from icm_client.record.run_labels import packed
from icm_client.report.label_table import read_label_table
from icm_client.report.report import render_report
from icm_client.report.report_data import read_report
from icm_client.report.run_course import Course, final_names, read_course
from icm_client.report.run_figures import draw_run
from icm_client.testing import PlantedConcept, PlantedTrainer

COLOURS = Task(template="Thing: {text}\nColour:", labels=("red", "green", "blue"))
SHORT = SweepSettings(min_sweeps=3, max_sweeps=4, restarts=2)


class Refusing(PlantedConcept):
    """Refuses one row wherever it stands."""

    async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
        word = (await self.tokenize(" 7", add_special=False))[0]
        if any(word in read.prompt for read in reads):
            raise RequestRefused("400: content policy")
        return await super().read(reads, lane=lane)


def exchanged_start(base: Path, data: Dataset, words: Sequence[str]) -> Path:
    """A file of all gold labels, the first two names exchanged."""
    wrong = {words[0]: words[1], words[1]: words[0]}
    golds = zip(data.rows, map(str, data.gold or ()), strict=True)
    rows = [{"id": row.id, "label": wrong.get(word, word)} for row, word in golds]
    path = base / "start.jsonl"
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    return path


async def labelled(
    base: Path,
    task: Task = TASK,
    *,
    n: int = 48,
    gold: bool = True,
    model: type[PlantedConcept] = PlantedConcept,
    exchanged: bool = False,
    **own: float,
) -> tuple[Labels, Run]:
    """A real run over a planted concept; row `i` is of class `i * 7 % 5 % K`.

    `exchanged` starts it from all labels with two names exchanged, which the demos then teach.
    """
    words = task.labels
    classes = [i * 7 % 5 % len(words) for i in range(n)]
    rows = [{"text": f"row {i}", "label": words[k]} for i, k in enumerate(classes)]
    data = rows_from(rows, gold="label")
    concept = model(
        dict(zip(task.render_all(data), classes, strict=True)),
        task.label_texts,
        **{"strength": 8.0, "noise": 2.5, **own},  # type: ignore[arg-type]
    )
    found = await label(
        data if gold else rows_from([{"text": row["text"]} for row in rows]),
        task=task,
        endpoint=concept,
        settings=SHORT,
        start=exchanged_start(base, data, words) if exchanged else None,
        seed=int(own.get("seed", 0)),
        runs=base / "runs",
        store=base / "store",
    )
    assert found.run is not None
    return found, read_run(found.run.name, found.run.parent)


def course_of(run: Run, gold: str | None = None) -> Course:
    return read_course(run, read_label_table(run, gold=gold))


def as_told(found: Labels) -> float:
    """Share of the rows that have the label of the last sweep before names were exchanged."""
    last = next(r for r in found.history[::-1] if r.restart == found.restart and not r.renamed)
    assert last.labels is not None
    words = sorted(found.labels)
    same = [words[k] == row.label for k, row in zip(last.labels, found.rows, strict=True)]
    return float(np.mean(same))


@pytest.mark.parametrize("task", [TASK, COLOURS])
@pytest.mark.parametrize("seed", [0, 1, 2, 4])
async def test_the_kept_start_s_line_ends_at_the_result_s_accuracy(
    tmp_path: Path, task: Task, seed: int
) -> None:
    found, run = await labelled(tmp_path, task, seed=seed)
    course = course_of(run)
    assert [one.name for one in course.accuracy] == [one.name for one in course.utility]
    (kept,) = (one for one in course.accuracy if one.kept)
    assert [x for x, _ in kept.points] == [
        record.sweep + 1 for record in found.history if record.restart == found.restart
    ]
    assert course.renamed == (as_told(found) < 0.9)
    assert kept.points[-1][1] == pytest.approx(found.accuracy)


@pytest.mark.parametrize("task", [TASK, COLOURS])
async def test_names_exchanged_at_the_end_are_so_in_the_whole_line(
    tmp_path: Path, task: Task
) -> None:
    found, run = await labelled(tmp_path, task, exchanged=True, meaning=1.5, noise=1.0)
    assert found.accuracy is not None
    assert as_told(found) < 0.5, "the search did not exchange names"
    course = course_of(run)
    (kept,) = (one for one in course.accuracy if one.kept)
    assert course.renamed
    assert kept.points[-1][1] == pytest.approx(found.accuracy)
    assert min(y for _, y in kept.points) > 0.5
    assert "Label names are the final ones" in render_report(read_report(run))


@pytest.mark.parametrize(
    "settings", [FoldSettings(passes=3), IterateSettings(batch=32)], ids=["folds", "iterate"]
)
async def test_a_line_of_trained_models_ends_at_the_result_s_accuracy(
    tmp_path: Path, settings: FoldSettings | IterateSettings
) -> None:
    rows = [{"text": f"row {i}", "label": TASK.labels[i * 7 % 5 % 2]} for i in range(64)]
    job = Job.prepare(rows_from(rows, gold="label"), TASK)
    classes = [job.labels.index(row["label"]) for row in rows]
    concept = dict(zip(job.prompts, classes, strict=True))
    found = await label(
        job.dataset,
        task=TASK,
        endpoint=PlantedConcept(concept, job.label_texts, meaning=2.0),
        settings=settings,
        trainer=PlantedTrainer(
            concept, job.label_texts, folder=tmp_path / "trained", half=12.0, noise=1.0
        ),
        store=tmp_path / "store",
        runs=tmp_path / "runs",
    )
    assert found.run is not None
    course = course_of(read_run(found.run.name, found.run.parent))
    trained = course.accuracy[-1]
    assert trained.name == "trained models"
    assert [x for x, _ in trained.points] == [x for x, _ in course.utility[-1].points]
    assert trained.points[-1][1] == pytest.approx(found.accuracy)


async def test_a_row_that_was_refused_shifts_no_other(tmp_path: Path) -> None:
    found, run = await labelled(tmp_path, model=Refusing)
    assert [row.line for row in found.failed] == [8]
    (kept,) = (one for one in course_of(run).accuracy if one.kept)
    assert kept.points[-1][1] == pytest.approx(found.accuracy)


async def test_without_gold_there_is_no_line(tmp_path: Path) -> None:
    _, run = await labelled(tmp_path, gold=False)
    assert course_of(run).accuracy == ()
    assert "Accuracy by sweep" not in render_report(read_report(run))


async def test_it_is_drawn(tmp_path: Path) -> None:
    _, run = await labelled(tmp_path)
    data = read_report(run)
    text = render_report(data)
    assert "Accuracy by sweep" in text
    assert "Label names are the final ones" not in text
    assert tmp_path / "accuracy.svg" in draw_run(data, tmp_path)


RECORD = [
    sweep(0, 0, 0.1, (20, 20), 40),
    sweep(1, 0, 0.2, (20, 20), 40),
    sweep(1, 1, 0.3, (20, 20), 40),
    {**sweep(0, 0, 0.4, (20, 20), 4), "trained_on": 20},
]


def written(tmp_path: Path, *wrong: int | None, ended: int = 0, names: int = 0) -> Course:
    """A run whose sweeps of `RECORD` had so many labels wrong; None tells none."""
    gold = np.array([TASK.labels.index(str(row["label"])) for row in reviews(40)])
    events = []
    for told, errors in zip(RECORD, wrong, strict=True):
        event: dict[str, Any] = {**told, "counts": {"negative": 20, "positive": 20}}
        if errors is not None:
            flipped = np.arange(40) < errors
            event["labels"] = packed(1 - np.where(flipped, 1 - gold, gold))  # sorted: 0 is negative
        events.append(("pass" if "trained_on" in told else "sweep", event))
    held = [TASK.labels[k if i >= ended else 1 - k] for i, k in enumerate(gold)]
    if names:
        held = [TASK.labels[1 - TASK.labels.index(word)] for word in held]
    run = write_run(
        tmp_path,
        reviews(40),
        gold="label",
        labels=held,
        result={"sweeps": RECORD, "restart": 1},
        events=events,
    )
    return course_of(run)


def points(course: Course) -> dict[str, list[tuple[float, float]]]:
    return {one.name: list(one.points) for one in course.accuracy}


def test_starts_and_trained_models_have_their_own_lines(tmp_path: Path) -> None:
    course = written(tmp_path, 30, 10, 4, 2, ended=2)
    assert points(course) == {
        "start 1": [(1, 0.25)],
        "start 2": [(1, 0.75), (2, 0.9)],
        "trained models": [(3, 0.95)],
    }
    assert not course.renamed


def test_another_start_keeps_its_names(tmp_path: Path) -> None:
    course = written(tmp_path, 10, 30, 36, 38, ended=2)
    assert course.renamed
    assert points(course) == {
        "start 1": [(1, 0.75)],
        "start 2": [(1, 0.75), (2, 0.9)],
        "trained models": [(3, 0.95)],
    }


def test_gold_does_not_choose_the_names(tmp_path: Path) -> None:
    course = written(tmp_path, 30, 30, 36, 38, ended=38)
    assert not course.renamed
    ((_, share),) = points(course)["trained models"]
    assert share == pytest.approx(0.05)


def test_a_record_without_labels_has_no_line_and_one_with_some_has_those(tmp_path: Path) -> None:
    assert written(tmp_path / "old", None, None, None, None).accuracy == ()
    partly = written(tmp_path / "partly", None, None, 4, None, ended=4)
    assert points(partly) == {"start 2": [(2, 0.9)]}


def test_sweeps_that_tell_of_other_rows_than_the_file_are_left_out(tmp_path: Path) -> None:
    event = {
        **RECORD[0],
        "counts": {"negative": 3, "positive": 3},
        "labels": packed(np.arange(6) % 2),
    }
    run = write_run(
        tmp_path,
        reviews(40),
        gold="label",
        result={"sweeps": RECORD[:1], "restart": 0},
        events=[("sweep", event)],
    )
    assert course_of(run).accuracy == ()


def test_gold_named_later_has_a_line_too(tmp_path: Path) -> None:
    labels = np.array([1 - TASK.labels.index(str(row["label"])) for row in reviews(40)])
    event = {**RECORD[0], "counts": {"negative": 20, "positive": 20}, "labels": packed(labels)}
    run = write_run(
        tmp_path,
        [{"id": row["id"], "text": row["text"], "mine": row["label"]} for row in reviews(40)],
        result={"sweeps": RECORD[:1], "restart": 0},
        events=[("sweep", event)],
    )
    assert course_of(run).accuracy == ()
    assert course_of(run, gold="mine").accuracy[0].points == ((1, 1.0),)


def test_names_of_the_end_are_an_exchange_only_where_it_agrees_better() -> None:
    ended = np.array([0, 1, 2, 0, 1, 2, -1])
    assert final_names(ended, ended, 3) == (0, 1, 2)
    exchanged = np.array([0, 2, 1, 0, 2, 1, -1])
    assert final_names(exchanged, ended, 3) == (0, 2, 1)
    assert final_names(np.full(7, -1), ended, 3) == (0, 1, 2)
