"""A run's figures: which there are, and that they are pictures of it."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from report_runs import reviews, step, write_run

from icm_client import Task
from icm_client.errors import RunError
from icm_client.report.report_data import read_report
from icm_client.report.run_figures import draw_run


def texts(path: Path) -> str:
    svg = ET.parse(path)  # noqa: S314 - ours
    return " ".join(text for element in svg.iter() for text in element.itertext())


def test_sweeps_with_gold_have_five_figures_the_same_each_time(tmp_path: Path) -> None:
    data = read_report(write_run(tmp_path / "runs", reviews(60), gold="label"))
    paths = draw_run(data, tmp_path / "new" / "a")
    assert sorted({path.stem for path in paths}) == [
        "balance",
        "flips",
        "log_odds",
        "reliability",
        "utility",
    ]
    for path in paths:
        begins = path.read_bytes()[:8]
        assert begins.startswith(b"\x89PNG" if path.suffix == ".png" else b"<?xml")
    assert "U (nats an item)" in texts(tmp_path / "new" / "a" / "utility.svg")
    assert "ECE " in texts(tmp_path / "new" / "a" / "reliability.svg")
    for one, other in zip(paths, draw_run(data, tmp_path / "b"), strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_steps_and_three_labels_have_their_own(tmp_path: Path) -> None:
    events = [("step", step(n, f"r{n % 40}", "positive")) for n in range(1, 100)]
    steps = write_run(
        tmp_path, reviews(40), gold="label", result={"sweeps": [], "steps": 99}, events=events
    )
    names = {path.stem for path in draw_run(read_report(steps), tmp_path / "steps")}
    assert {"acceptance", "accuracy"} <= names
    assert "flips" not in names
    task = Task(template="Thing: {text}\nColour:", labels=("red", "green", "blue"))
    three = write_run(
        tmp_path, [{"text": f"row {i}"} for i in range(30)], task=task, result={"sweeps": []}
    )
    names = {path.stem for path in draw_run(read_report(three), tmp_path / "three")}
    assert names == {"margins"}


def test_a_label_word_is_text_and_no_formula(tmp_path: Path) -> None:
    task = Task(template="Price: {text}\nBand:", labels=("$5 to $9", "_more"))
    run = write_run(tmp_path, [{"text": f"row {i}"} for i in range(30)], task=task)
    draw_run(read_report(run), tmp_path)
    shown = texts(tmp_path / "balance.svg")
    assert "$5 to $9" in shown
    assert "_more" in shown


def test_a_folder_that_is_a_file_is_said(tmp_path: Path) -> None:
    data = read_report(write_run(tmp_path / "runs", reviews(8)))
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"cannot be written: .* --out"):
        draw_run(data, tmp_path / "file")
