"""Explanations that a run's folder keeps, on the page of its report."""

from pathlib import Path
from typing import Any

import pytest
from report_runs import reviews, write_run

from icm_client import Task
from icm_client.errors import RunError
from icm_client.record.explanations import keep_explanation
from icm_client.report.report import render_report
from icm_client.report.report_data import read_report

TASK = Task(template="Review: {text}\nSentiment:", labels=("positive", "negative"))


def explanation(row: str | int, label: str, text: str = "fine") -> dict[str, Any]:
    return {
        "row": row,
        "label": label,
        "other": "negative",
        "log_odds": 1.25,
        "shown": 12,
        "demos": [
            {"row": 3, "label": "positive", "left_out": 0.5, "relabelled": 1.5, "text": text}
        ],
        "unread": 11,
        "spans": [
            {"field": "text", "start": 0, "end": 4, "text": "dull", "effect": -0.75},
            {"field": "text", "start": 5, "end": 9, "text": "plot", "effect": None},
        ],
        "beside": [{"run": "others", "label": None, "confidence": None, "kappa": None}],
        "notices": ["a notice"],
    }


def test_explained_rows_are_on_the_page_and_texts_are_only_texts(tmp_path: Path) -> None:
    run = write_run(tmp_path, reviews(8), task=TASK)
    assert "Why these labels" not in render_report(read_report(run))
    first = read_report(run).table
    row, word = first.ids[0], first.words[first.held[0]]
    hostile = "<script>alert(1)</script>{{ 7 * 7 }}"
    keep_explanation(run.path, explanation(row, word, "earlier"))
    keep_explanation(run.path, explanation(row, word, hostile))
    page = render_report(read_report(run))
    assert "Why these labels" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;{{ 7 * 7 }}" in page
    assert hostile not in page
    assert "earlier" not in page  # a row is explained once
    assert "+1.50" in page
    assert "dull <small>-0.75</small>" in page
    assert "others: no label." in page


def test_a_row_that_has_another_label_by_now_is_not_explained(tmp_path: Path) -> None:
    run = write_run(tmp_path, reviews(8), task=TASK)
    table = read_report(run).table
    other = table.words[1 - table.held[0]]
    keep_explanation(run.path, explanation(table.ids[0], other))
    assert read_report(run).explained == []
    (run.path / "why.jsonl").write_bytes(b"{")
    with pytest.raises(RunError, match="explain no row"):
        read_report(run)
