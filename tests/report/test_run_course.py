"""How a run went, from its sweeps and from its steps."""

from pathlib import Path

import pytest
from report_runs import TASK, reviews, step, sweep, write_run

from icm_client import label, rows_from
from icm_client.coherence.anneal import AnnealSettings
from icm_client.record.archive import read_run
from icm_client.report.label_table import read_label_table
from icm_client.report.run_course import MOST_POINTS, Course, read_course
from icm_client.testing import PlantedConcept


def course_of(tmp_path: Path, **own: object) -> Course:
    run = write_run(tmp_path, reviews(40), gold="label", **own)  # type: ignore[arg-type]
    return read_course(run, read_label_table(run))


def test_sweeps_are_series_of_their_restarts(tmp_path: Path) -> None:
    course = course_of(tmp_path)
    assert course.unit == "sweep"
    assert [(one.name, one.kept, one.points) for one in course.utility] == [
        ("start 1", False, ((1, 0.01),)),
        ("start 2", True, ((1, 0.1), (2, 0.41))),
    ]
    assert course.moved[1].points == ((1, 1.0), (2, 3 / 40))


def test_counts_are_in_the_search_s_order_of_labels_which_is_sorted(tmp_path: Path) -> None:
    # counts are of negative, positive; the task names positive first
    shares = {one.name: one.points for one in course_of(tmp_path).shares}
    assert shares["negative"][1] == (2, 0.25)
    assert shares["positive"][1] == (2, 0.75)


def test_passes_of_trained_models_go_on_behind_the_sweeps(tmp_path: Path) -> None:
    sweeps = [
        sweep(0, 0, 0.1, (20, 20), 40),
        sweep(0, 1, 0.2, (20, 20), 4),
        {**sweep(0, 0, 0.3, (10, 30), 10), "trained_on": 20},
        {**sweep(0, 1, 0.4, (12, 28), 2), "utility": None, "trained_on": 20},
    ]
    course = course_of(tmp_path, result={"sweeps": sweeps, "restart": 0})
    assert [(one.name, one.kept, one.points) for one in course.utility] == [
        ("start 1", True, ((1, 0.1), (2, 0.2))),
        ("trained models", True, ((3, 0.3),)),
    ]
    assert course.moved[1].points == ((3, 0.25), (4, 0.05))
    assert course.shares[1].points == ((1, 0.5), (2, 0.5), (3, 0.25), (4, 0.3))


def test_steps_are_replayed(tmp_path: Path) -> None:
    # gold: r1 negative, r2 positive, r5 is wrong in `labels` and right as gold says: positive
    steps = [
        step(1, "r1", "negative"),
        step(2, "r2", "negative"),
        step(3, "r9 (exchanged)", "positive"),
        step(4, "r2", "positive", accepted=False),
        step(5, "r2", "positive"),
    ]
    steps[4]["fix"] = [{"item": "r1", "before": "negative", "after": "positive"}]
    course = course_of(
        tmp_path, result={"sweeps": [], "steps": 5}, events=[("step", one) for one in steps]
    )
    assert course.unit == "step"
    assert course.utility[0].points == ((1, -9), (2, -8), (3, -7), (4, -6), (5, -5))
    shares = {one.name: [y for _, y in one.points] for one in course.shares}
    assert shares["positive"] == pytest.approx([0, 0, 1 / 3, 1 / 3, 1])
    assert [y for _, y in course.accuracy[0].points] == [1, 0.5, 0.5, 0.5, 0.5]
    assert [y for _, y in course.moved[0].points] == pytest.approx([1, 1, 1, 0.75, 0.8])


async def test_the_steps_of_a_real_run_are_read(tmp_path: Path) -> None:
    rows = rows_from(reviews(16), gold="label")
    classes = [TASK.labels.index(str(gold)) for gold in rows.gold or ()]
    concept = PlantedConcept(
        dict(zip(TASK.render_all(rows), classes, strict=True)), TASK.label_texts
    )
    settings = AnnealSettings(iterations=20)
    found = await label(
        rows, task=TASK, endpoint=concept, settings=settings, runs=tmp_path, store=tmp_path / "s"
    )
    assert found.run is not None
    run = read_run(found.run.name, tmp_path)
    course = read_course(run, read_label_table(run))
    assert course.unit == "step"
    assert [x for x, _ in course.utility[0].points] == list(range(1, 21))
    assert [y for _, y in course.utility[0].points] == [step.U for step in found.steps]
    assert course.accuracy[0].points[-1][1] > 0.5
    for one, other in zip(*(series.points for series in course.shares), strict=True):
        assert one[1] + other[1] == pytest.approx(1)


def test_thousands_of_steps_are_thinned_and_keep_both_ends(tmp_path: Path) -> None:
    events = [("step", step(n, f"r{n % 40}", "positive")) for n in range(1, 3001)]
    (utility,) = course_of(tmp_path, result={"sweeps": [], "steps": 3000}, events=events).utility
    assert len(utility.points) == MOST_POINTS
    assert utility.points[0] == (1, -9)
    assert utility.points[-1] == (3000, 2990)
