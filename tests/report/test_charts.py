"""Charts: what is drawn is what is there."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from icm_client.report.charts import (
    HEIGHT,
    WIDTH,
    histogram,
    line_chart,
    nice_ticks,
    reliability_chart,
)
from icm_client.report.run_course import Series
from icm_client.stats.calibration_curve import reliability

SVG = "{http://www.w3.org/2000/svg}"


def parsed(svg: str) -> ET.Element:
    return ET.fromstring(svg)  # noqa: S314 - ours


def titles(svg: str) -> list[str]:
    return [str(one.text) for one in parsed(svg).iter(f"{SVG}title")]


def texts(svg: str) -> list[str]:
    return [str(one.text) for one in parsed(svg).iter(f"{SVG}text")]


@pytest.mark.parametrize("n", [1, 7, 500])
def test_a_histogram_counts_every_row_and_no_bar_reaches_over_the_threshold(n: int) -> None:
    rng = np.random.default_rng(n)
    values = rng.normal(0.3, 2, n)
    groups = (values < 0).astype(int)
    svg = histogram(values, groups, ["yes", "no"], title="t", x_name="nats")
    said = [title.split() for title in titles(svg)]
    assert sum(int(words[1].replace(",", "")) for words in said) == n
    (threshold,) = (e for e in parsed(svg).iter(f"{SVG}line") if e.get("class") == "threshold")
    zero = float(str(threshold.get("x1")))
    for bar in parsed(svg).iter(f"{SVG}rect"):
        left, width = float(str(bar.get("x"))), float(str(bar.get("width")))
        assert left >= zero or left + width <= zero
        assert ("series-0" in str(bar.get("class"))) == (left >= zero)


def test_an_outlier_does_not_press_all_others_into_one_bar() -> None:
    values = np.append(np.linspace(-2, 2, 999), 1000.0)
    svg = histogram(values, np.zeros(1000, dtype=int), ["a"], title="t", x_name="nats")
    assert len(titles(svg)) >= 15


def test_lines_stay_within_the_picture_and_marks_say_their_figures() -> None:
    svg = line_chart(
        [Series("start 1", ((1, -0.2), (2, 0.5))), Series("start 2", ((1, 0.0),), kept=False)],
        title="U",
        x_name="sweep",
        y_name="U (nats)",
    )
    for dot in parsed(svg).iter(f"{SVG}circle"):
        assert 0 < float(str(dot.get("cx"))) < WIDTH
        assert 0 < float(str(dot.get("cy"))) < HEIGHT
    assert titles(svg) == [
        "start 1, sweep 1: \N{MINUS SIGN}0.2",
        "start 1, sweep 2: 0.5",
        "start 2, sweep 1: 0",
    ]
    assert {"sweep", "U (nats)", "1", "2"} <= set(texts(svg))


def test_the_reliability_chart_has_a_mark_and_an_interval_a_bin() -> None:
    confidence = np.linspace(0.5, 1, 60)
    found = reliability(confidence, confidence > 0.6)
    svg = reliability_chart(found, title="t", lowest=0.5)
    assert len(titles(svg)) == len(found.bins) == 4
    lines = [e.get("class") for e in parsed(svg).iter(f"{SVG}line")]
    assert lines.count("interval") == 4
    assert lines.count("ideal") == 1


def test_words_are_escaped() -> None:
    evil = '<script>"&'
    svg = histogram(np.array([1.0]), np.array([0]), [evil], title=evil, x_name=evil)
    assert "<script>" not in svg
    assert evil in texts(svg)


def test_ticks_are_round_and_within() -> None:
    assert nice_ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert nice_ticks(1, 5, whole=True) == [1, 2, 3, 4, 5]
    assert nice_ticks(1, 2, whole=True) == [1, 2]
    assert nice_ticks(-0.013, 0.4) == [0, 0.1, 0.2, 0.3, 0.4]
    assert nice_ticks(0, 3000, whole=True) == [0, 1000, 2000, 3000]
